"""How one parameter of another component becomes one of ours: the terms in which the equivalences are written."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from haystack_ce_ranker.checks import is_number


class CannotMove(ValueError):  # noqa: N818 - it is no fault of the pipeline, but the answer to a question
    """A component stays as it is; the message says why, and what its owner can do."""


@dataclass(frozen=True)
class Required:
    """The default of a parameter that has none."""


REQUIRED = Required()

NO_LIMIT = 10_000
"""The `top_k` that stands for "all documents" where ours needs a number."""


def as_it_is(value: Any) -> Any:
    """Return the value: most parameters are moved like this."""
    return value


@dataclass(frozen=True)
class Parameter:
    """
    One parameter of a component, and what becomes of it.

    :ivar name: Its name there.
    :ivar default: Its default there; `REQUIRED` if it has none.
    :ivar to: Its name here, with a dot for a key inside a dictionary; None if it has no counterpart.
    :ivar note: What becomes of it, for the manual and for the list of changes; empty if it is moved as it is.
    :ivar convert: Makes the value here from the one there. It may raise `CannotMove`.
    :ivar written: Whether the value is written even where the pipeline has the default, because ours is another.
    :ivar of_server: Whether it says how a server is asked, and so has no meaning for a model of one's own.
    """

    name: str
    default: Any
    to: str | None
    note: str = ""
    convert: Callable[[Any], Any] = as_it_is
    written: bool = False
    of_server: bool = False


def same(name: str, default: Any, note: str = "", *, written: bool = False) -> Parameter:
    """Return a parameter that has the same name and meaning here."""
    return Parameter(name, default, name, note, written=written)


def is_open(value: Any) -> bool:
    """Tell whether a text is filled in only later, as `${MODEL}` is, so that nothing can be computed from it."""
    return isinstance(value, str) and "${" in value


def nothing(_given: Mapping[str, Any]) -> dict[str, Any]:
    """Return no further values."""
    return {}


@dataclass(frozen=True)
class Equivalence:
    """
    A component of another package, and what it becomes.

    :ivar name: Its class.
    :ivar types: The paths that a pipeline's file may name it by.
    :ivar to: The path of ours.
    :ivar parameters: All its parameters.
    :ivar added: What is written beside them, by name here.
    :ivar changes: What is different afterwards, in one sentence.
    :ivar derived: Makes further values here from all parameters there. It may raise `CannotMove`.
    :ivar served: Whether it asks a server, so that another model means another place to compute.
    """

    name: str
    types: tuple[str, ...]
    to: str
    parameters: tuple[Parameter, ...]
    added: Mapping[str, Any]
    changes: str
    derived: Callable[[Mapping[str, Any]], dict[str, Any]] = nothing
    served: bool = False

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of a name, or None."""
        return next((one for one in self.parameters if one.name == name), None)


# Values that change on the way.


def needs(kind: str, value: Any, name: str) -> CannotMove:
    """Return why a value cannot be used: it is not of the kind that it must be, or filled in only later."""
    later = "is filled in only later" if is_open(value) else f"is {value!r:.60}"
    return CannotMove(f"{name} must be {kind} to be moved, but {later}: write it out, and adopt again")


def negated(value: Any) -> Any:
    """Return the opposite of a boolean."""
    if not isinstance(value, bool):
        raise needs("true or false", value, "raw_scores")
    return not value


def retries(value: Any) -> int:
    """Return how often a request is tried again, from how often it is tried."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise needs("a whole number above 0", value, "max_retries")
    return value - 1


def seconds(value: Any) -> Any:
    """Return a timeout; None, which waits for ever there, is refused."""
    if value is None:
        raise CannotMove("timeout: null waits for ever, which has no counterpart: set it to a number of seconds")
    return value


def server(value: Any) -> Any:
    """Return a server's address as far as the old ranker used it: it put its own path in place of any other."""
    if is_open(value):
        return value
    if not isinstance(value, str) or not urlsplit(value).hostname:
        raise needs("the address of a server", value, "url")
    parts = urlsplit(value)
    return value if parts.path in ("", "/") else f"{parts.scheme}://{parts.netloc}"


def all_or(value: Any) -> Any:
    """Return `top_k`, where None stands for all documents."""
    return NO_LIMIT if value is None else value


def uncalibrated(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the `score_threshold` that keeps the same documents when the sigmoid's slope becomes 1.

    `sigmoid(slope * logit) >= t` says the same as `sigmoid(logit) >= sigmoid(logit(t) / slope)`.
    """
    slope, threshold = given.get("calibration_factor", 1.0), given.get("score_threshold")
    if not given.get("scale_score", True) or slope == 1:
        return {}
    if not is_number(slope) or not slope > 0:
        raise needs("a number above 0", slope, "calibration_factor")
    if threshold is None:
        return {}
    if not is_number(threshold):
        raise needs("a number", threshold, "score_threshold")
    if not 0 < threshold < 1:  # all documents pass it, or none, with any slope
        return {}
    moved = math.log(threshold / (1 - threshold)) / float(slope)
    return {"score_threshold": float(f"{1 / (1 + math.exp(-moved)):.12g}")}
