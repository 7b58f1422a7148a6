"""
Checks of parameters: a value in, the plain value out, or an error that names the parameter, the value and the rule.

What counts as what:

- Scalars of numpy are numbers, booleans or texts, and become plain ones, so that a component can be serialised. So do
  members of an enumeration of numbers or texts.
- Booleans and texts are not numbers, and numbers and texts are not booleans: `"false"` would count as true.
- A float is never a whole number, not even 5.0: what gives 5.0 today may give 5.5 tomorrow.
- A list of names may be a tuple, and a path may be a `pathlib.Path`.
"""

import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, overload

import numpy as np

_PLAIN = frozenset({int, float})  # checked first: the abstract classes of `numbers` take ten times as long
_MOST_VALUES, _DEEPEST = 100_000, 100  # of what a YAML gives to one parameter
_WRITABLE = frozenset({type(None), bool, int, float, str})


def is_number(value: object) -> bool:
    """Tell whether a value is a number. NaN and infinity are numbers, a boolean is not."""
    if type(value) in _PLAIN:
        return True
    return isinstance(value, Real) and not isinstance(value, bool) and type(value).__name__ != "bool"


def text_or_none(value: object, show: Callable[[object], str] = str) -> str | None:
    """Return the text of any value; None if it has none: its own method fails, or it is nested too deeply."""
    try:
        return show(value)
    except Exception:
        return None


def is_finite(value: object) -> bool:
    """Tell whether a value is a finite number."""
    if type(value) is float:
        return math.isfinite(value)
    if not isinstance(value, Real) or not is_number(value):
        return False
    return abs(int(value)) <= sys.float_info.max if isinstance(value, Integral) else math.isfinite(value)


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
        raise ValueError(
            f"{name} must be a whole number >= {least}{_or_none(optional)}, but got {_told(value, whole=True)}."
        )
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
        within = (least is None or plain >= least) and (most is None or plain <= most)
        possible = is_finite(plain) or (infinite and isinstance(plain, float) and math.isinf(plain))
        if possible and within and (above is None or plain > above):
            return plain
    limits = [f"{sign} {limit:g}" for sign, limit in ((">=", least), (">", above), ("<=", most)) if limit is not None]
    kind = "a number" if infinite else "a finite number"
    allowed = " ".join([kind, " and ".join(limits)]).strip()
    raise ValueError(f"{name} must be {allowed}{_or_none(optional)}, but got {_told(value)}.")


@overload
def flag(name: str, value: object) -> bool: ...
@overload
def flag(name: str, value: object, *, optional: bool) -> bool | None: ...
def flag(name: str, value: object, *, optional: bool = False) -> bool | None:
    """
    Return a boolean.

    :param name: The parameter, for the error.
    :param optional: Whether None is allowed, too.
    :raises ValueError: If the value is something else. Texts such as `"false"`, 0 and 1 are not booleans.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if value is None and optional:
        return None
    raise ValueError(f"{name} must be True or False{_or_none(optional)}, but got {_told(value)}.")


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
        raise ValueError(f"{name} must be one of {listed}{_or_none(optional)}, but got {value!r:.100}.")
    return str.__str__(value)


@overload
def text(name: str, value: object, *, empty: bool = True) -> str: ...
@overload
def text(name: str, value: object, *, empty: bool = True, optional: bool) -> str | None: ...
def text(name: str, value: object, *, empty: bool = True, optional: bool = False) -> str | None:
    """
    Return a text.

    :param name: The parameter, for the error.
    :param empty: Whether it may be empty.
    :param optional: Whether None is allowed, too.
    :raises ValueError: If the value is something else.
    """
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text{_or_none(optional)}, but got {value!r:.100}.")
    if not empty and not value.strip():
        raise ValueError(f"{name} must not be empty, but got {value!r:.100}.")
    return str.__str__(value)


def path(name: str, value: object) -> str | None:
    """
    Return a path as text, or None.

    :param name: The parameter, for the error.
    :raises ValueError: If the value is no text and no `pathlib.Path`, or is empty.
    """
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if plain is None or (isinstance(plain, str) and plain.strip()):
        return None if plain is None else str.__str__(plain)
    raise ValueError(f"{name} must be a path (a text or a pathlib.Path) or None, but got {value!r:.100}.")


def names(name: str, value: object) -> list[str] | None:
    """
    Return a list of names, or None.

    :raises ValueError: If the value is a single text, or holds anything but texts that are not empty.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        listed = [str.__str__(one) for one in value if isinstance(one, str) and one]
        if len(listed) == len(value):
            return listed
    raise ValueError(f"{name} must be a list of names or None, but got {value!r:.100}.")


def options(name: str, value: object) -> dict[str, Any] | None:
    """
    Return a dictionary of options as a deep copy with plain values, or None.

    Scalars of numpy become plain ones, and paths become texts. What has no plain form stays as it is: a library may
    want it, and `writable` says that it cannot be saved.

    :param name: The parameter, for the error.
    :raises ValueError: If the value is no dictionary, or a key of it no text.
    """
    if value is None:
        return None
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): _plain(one) for key, one in value.items()}
    raise ValueError(f"{name} must be a dictionary with texts as keys or None, but got {value!r:.100}.")


def require_plain(parameters: Mapping[str, Any], *, but: Collection[str] = ()) -> None:
    """
    Check that what a pipeline's YAML says of a component is plain and of a sensible size.

    Haystack imports and creates the class that a parameter names, whichever parameter it is. So it may be named only
    where an object is wanted. An alias that holds itself, or many that hold each other, would never end.

    :param parameters: What the YAML says, by the parameter's name.
    :param but: The parameters that take an object.
    :raises ValueError: If a parameter names a class, or holds too much. The error names it.
    """
    for name, value in parameters.items():
        kind = value.get("type") if isinstance(value, Mapping) else None
        if name not in but and isinstance(kind, str) and "." in kind:
            raise ValueError(f"{name} must hold plain values, but names the class {kind!r:.100}: remove its type.")
        require_size(name, value)


def require_queries(what: str, count: int, least: int = 10) -> None:
    """
    Check that there are enough judged queries.

    :param what: What they are for.
    :param least: For what is chosen on one half of them and tried on the other, halves of fewer than ten say nothing.
    :raises ValueError: If there are fewer than `least`.
    """
    if count < least:
        raise ValueError(f"{what} needs at least {least} judged queries, but got {count}.")


def require_size(name: str, value: Any) -> None:
    """
    Check that a value out of a YAML has an end, as one that holds itself by an alias has not.

    :param name: The parameter, for the error.
    :raises ValueError: If it holds too many values, or too many levels of them.
    """
    left, count = [(value, 0)], 0
    while left:
        one, depth = left.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError(
                f"{name} must hold at most {_MOST_VALUES:,} values, {_DEEPEST} levels deep, but holds more. (Does an "
                "alias hold itself?)"
            )
        if isinstance(one, Mapping):
            left += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list | tuple | set):
            left += [(inner, depth + 1) for inner in one]


def writable(name: str, value: Any) -> Any:
    """
    Return a deep copy of a value that a pipeline's YAML can hold.

    A `torch.dtype` in a dictionary becomes its name, which Haystack's `deserialize_hf_model_kwargs` turns back.

    :param name: The parameter, for the error.
    :raises ValueError: If it holds something else than texts, numbers, booleans, None, and lists and dictionaries of
        these. The error names the place and the value.
    """
    if type(value) in _WRITABLE:
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise ValueError(
                    f"{name} has the key {key!r:.80}, but keys in a pipeline's YAML are texts: use {str(key)!r:.80}."
                )
        return {key: str(one) if _is_dtype(one) else writable(f"{name}[{key!r}]", one) for key, one in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)([writable(f"{name}[{place}]", one) for place, one in enumerate(value)])
    raise ValueError(
        f"{name} is {value!r:.80}, and a pipeline's YAML cannot hold {type(value).__name__}: give it as texts, "
        "numbers, lists and dictionaries, or create the component in Python, where it works as it is."
    )


def _is_dtype(value: object) -> bool:
    return (type(value).__module__, type(value).__name__) == ("torch", "dtype")


def _plain(value: Any) -> Any:
    """Return a deep copy in which scalars, paths and containers are plain; see `options`."""
    if type(value) in _WRITABLE:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Real) and is_number(value):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    return value


def _told(value: object, *, whole: bool = False) -> str:
    """Return a value as an error shows it: with its kind, if it looks like what was wanted; `whole`: no float."""
    shown = f"{value!r:.100}"
    if isinstance(value, str):
        return f"{shown}, a text"
    if isinstance(value, bool | np.bool_):
        return f"{shown}, a boolean"
    if whole and isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer():
        return f"{shown}, a float: write {float(value):.0f}"
    return shown


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
