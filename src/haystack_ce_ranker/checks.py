"""
Checks of parameters: a value in, the plain value out, or an error that names the parameter, the value and the rule.

Numpy's scalars are taken as numbers and become plain ones, so that a component can be serialised. Booleans and texts
are not numbers.
"""

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import overload

_PLAIN = frozenset({int, float})  # checked first: the abstract classes of `numbers` take ten times as long


def is_number(value: object) -> bool:
    """Tell whether a value is a number. NaN and infinity are numbers, a boolean is not."""
    if type(value) in _PLAIN:
        return True
    return isinstance(value, Real) and not isinstance(value, bool) and type(value).__name__ != "bool"


def is_finite(value: object) -> bool:
    """Tell whether a value is a finite number."""
    if type(value) is float:
        return math.isfinite(value)
    return isinstance(value, Real) and is_number(value) and math.isfinite(value)


@overload
def whole_number(name: str, value: object, *, least: int = 1) -> int: ...
@overload
def whole_number(name: str, value: object, *, least: int = 1, optional: bool) -> int | None: ...
def whole_number(name: str, value: object, *, least: int = 1, optional: bool = False) -> int | None:
    """
    Return a whole number.

    :param name: The parameter, for the error.
    :param least: The smallest value allowed.
    :param optional: Whether None is allowed, too.
    :raises ValueError: If the value is something else.
    """
    if type(value) is int and value >= least:
        return value
    if value is None and optional:
        return None
    if not isinstance(value, Integral) or not is_number(value) or int(value) < least:
        raise ValueError(f"{name} must be a whole number >= {least}{_or_none(optional)}, but got {value!r}.")
    return int(value)


@overload
def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    infinite: bool = False,
) -> float: ...
@overload
def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    infinite: bool = False,
    optional: bool,
) -> float | None: ...
def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    infinite: bool = False,
    optional: bool = False,
) -> float | None:
    """
    Return a number.

    :param name: The parameter, for the error.
    :param least: The smallest value allowed.
    :param most: The largest value allowed.
    :param above: The value must be larger than this.
    :param infinite: Whether infinity is allowed.
    :param optional: Whether None is allowed, too.
    :raises ValueError: If the value is something else. NaN is never allowed.
    """
    if value is None and optional:
        return None
    if isinstance(value, Real) and is_number(value):
        plain = int(value) if isinstance(value, Integral) else float(value)
        within = (least is None or plain >= least) and (most is None or plain <= most) and not math.isnan(plain)
        if within and (above is None or plain > above) and (infinite or math.isfinite(plain)):
            return plain
    limits = [f"{sign} {limit:g}" for sign, limit in ((">=", least), (">", above), ("<=", most)) if limit is not None]
    kind = "a number" if infinite else "a finite number"
    allowed = " ".join([kind, " and ".join(limits)]).strip()
    raise ValueError(f"{name} must be {allowed}{_or_none(optional)}, but got {value!r}.")


@overload
def choice(name: str, value: object, choices: Collection[str]) -> str: ...
@overload
def choice(name: str, value: object, choices: Collection[str], *, optional: bool) -> str | None: ...
def choice(name: str, value: object, choices: Collection[str], *, optional: bool = False) -> str | None:
    """
    Return one of some names.

    :param name: The parameter, for the error.
    :param choices: What is allowed; any collection of names, such as the keys of a table.
    :param optional: Whether None is allowed, too.
    :raises ValueError: If the value is none of them.
    """
    if value is None and optional:
        return None
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {listed}{_or_none(optional)}, but got {value!r}.")
    return value


def text(name: str, value: object) -> str:
    """
    Return a text; it may be empty.

    :raises ValueError: If the value is not a text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, but got {value!r:.100}.")
    return value


def names(name: str, value: object) -> list[str] | None:
    """
    Return a list of names, or None.

    :raises ValueError: If the value is a single text, or holds anything but texts.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        listed: list[str] = [one for one in value if isinstance(one, str)]
        if len(listed) == len(value):
            return listed
    raise ValueError(f"{name} must be a list of names or None, but got {value!r}.")


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
