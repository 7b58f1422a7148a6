"""
The normalizers, which make the scores of one list comparable with those of another.

Each is a function and an entry in `NORMALIZERS`, which also names its parameters and their limits.

By default (`AUTO`), `scales` chooses one for each list. Beside logits, BM25 is joined by its logarithm. A
cross-encoder's logit is a log-odds of relevance by training. A BM25 score is a sum of Robertson / Sparck Jones weights,
each a log-odds ratio (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", section 3). Log-odds add up.
But BM25's terms are not independent evidence, so a sum of many overstates; its logarithm does not. A value computed
from one query's list (minimum, maximum, deviation) no longer tells whether the list was sure, but where no scale is
known it is all there is. A probability has saturated. `benchmarks/fusion.py` measures all of this.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from haystack_ce_ranker.checks import choice, number, text

FloatArray = npt.NDArray[np.float64]

RANK_CONSTANT = 60.0
"""The k of 1 / (k + rank): Cormack, Clarke & Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet"."""

LOG_SCALE = 5.0
"""From `benchmarks/fusion.py`: at 3 it helps less where the cross-encoder is bad, at 6 it harms where it is good."""

_PROBABILITY_MARGIN = 1e-7  # float32 can still tell this much from 1; the logit of such a score is 16.1
_FLAT = 1e-6  # of the largest score: a deviation below it is rounding in float32


def _none(_known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    return values


def _min_max(known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    return _between(float(known.min()), float(known.max()), values)


def _theoretical(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    return _between(params["low"], params.get("high", float(known.max())), values)


def _between(low: float, high: float, values: FloatArray) -> FloatArray:
    if high <= low:
        return np.full(values.shape, 0.5)
    return np.asarray((values - low) / (high - low), dtype=np.float64)


def _z_score(known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    deviation = known.std()
    if known.max() <= known.min() or deviation <= _FLAT * np.abs(known).max():
        return np.zeros(values.shape)
    return np.asarray((values - known.mean()) / deviation, dtype=np.float64)


def _rank(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    higher = known.size - np.searchsorted(np.sort(known), values, side="right")
    return np.asarray(1.0 / (params["k"] + 1.0 + higher), dtype=np.float64)


def _logit(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    if known.min() < 0.0 or known.max() > 1.0:
        raise ValueError(
            f"normalize 'logit' undoes a sigmoid and needs probabilities in [0, 1], but got scores from "
            f"{known.min():g} to {known.max():g}; use 'none' for logits or BM25 scores"
        )
    margin = min(params["margin"], 0.5)
    clipped = np.clip(values, margin, 1.0 - margin)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def _logistic(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    of_the_list = params["best"] * float(known.max()) if "best" in params else 0.0
    return sigmoid(params["slope"] * values + of_the_list + params["intercept"])


def _log(_known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    return np.asarray(params["scale"] * np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)


class Parameter(NamedTuple):
    """
    A number that a normalizer takes.

    :ivar default: Its value if it is not given; None omits it.
    :ivar required: Whether it must be given.
    :ivar least: The smallest value allowed.
    :ivar above: The value must be larger than this number, or than the parameter of this name, which comes first.
    """

    default: float | None = None
    required: bool = False
    least: float | None = None
    above: float | str | None = None


class Normalizer(NamedTuple):
    """
    A normalizer and what it takes.

    :ivar apply: `(known, values, params) -> normalized`: `known` are the list's finite scores, `values` what to
        normalize.
    :ivar parameters: By name.
    :ivar steady: The parameters that must be given for a score to mean the same on every query. None: it never does,
        because `apply` looks at the query's own list.
    """

    apply: Callable[[FloatArray, FloatArray, Mapping[str, float]], FloatArray]
    parameters: Mapping[str, Parameter] = {}
    steady: tuple[str, ...] | None = None


_REQUIRED = Parameter(required=True)

NORMALIZERS: Mapping[str, Normalizer] = {
    "none": Normalizer(_none, steady=()),
    "min_max": Normalizer(_min_max),
    "theoretical": Normalizer(_theoretical, {"low": _REQUIRED, "high": Parameter(above="low")}, steady=("high",)),
    "z_score": Normalizer(_z_score),
    "rank": Normalizer(_rank, {"k": Parameter(RANK_CONSTANT, least=0.0)}),
    "log": Normalizer(_log, {"scale": Parameter(LOG_SCALE, above=0.0)}, steady=()),
    "logit": Normalizer(_logit, {"margin": Parameter(_PROBABILITY_MARGIN, above=0.0)}, steady=()),
    "logistic": Normalizer(_logistic, {"slope": _REQUIRED, "intercept": _REQUIRED, "best": Parameter()}, steady=()),
}
"""
Every normalizer by name. No normalizer clips, so none can make two different scores equal. Their edges:

===========================  ==============================================  =================================
name                         value                                           one document, or all scores equal
===========================  ==============================================  =================================
`none`                       x                                               x
`min_max`                    (x - min) / (max - min)                         0.5: no information
`theoretical` low, high      (x - low) / (high - low); high: the list's max  as usual; 0.5 where high <= low
`z_score`                    (x - mean) / population deviation               0.0, the mean: no information
`rank` k=60                  1 / (k + rank); equal scores share a rank       all share rank 1
`log` scale=5                scale log(1 + x); of x < 0: -scale log(1 - x)   as usual
`logit` margin=1e-7          log(x / (1 - x)), held away from 0 and 1        as usual
`logistic` slope, intercept  1 / (1 + exp(-(slope x + intercept)))           as usual
===========================  ==============================================  =================================

`logistic` can take `best`, too: it adds `best` times the list's highest score to slope x + intercept. A document far
below the best one of its list is less likely to be relevant than its own score says. `fitted_on` names what scored the
lists that it was fitted on.

To `z_score`, scores are equal if their deviation is below a millionth of the largest: that is rounding. Two different
scores are 1 and -1, however close they are.
"""


class Normalization(NamedTuple):
    """
    A normalizer's name with its parameters, as `parse_normalization` has checked them.

    :ivar fitted_on: What scored the lists that a `logistic` was fitted on; None if that is not known. It changes no
        score: the joiner warns if something else has scored a list.
    """

    name: str
    params: Mapping[str, float]
    fitted_on: str | None = None

    def apply(self, known: FloatArray, values: FloatArray) -> FloatArray:
        """
        Normalize `values` by what `known` says about the list.

        :param known: The list's finite scores, at least one.
        :param values: Finite scores, any shape of one dimension.
        """
        return NORMALIZERS[self.name].apply(known, values, self.params)

    @property
    def steady(self) -> bool:
        """Whether a normalized score means the same on every query."""
        needed = NORMALIZERS[self.name].steady if self != AUTO else None
        return needed is not None and all(key in self.params for key in needed)

    def spec(self) -> str | dict[str, Any]:
        """Return the plain value that `parse_normalization` reads back."""
        fitted = {} if self.fitted_on is None else {"fitted_on": self.fitted_on}
        return {"name": self.name, **self.params, **fitted} if self.params else self.name


NONE = Normalization("none", {})
AUTO = Normalization("auto", {})
"""The default: `scales.assume` chooses by what the list looks like and what it is joined with."""


def parse_normalization(spec: object, *, where: str = "normalize") -> Normalization:
    """
    Check a normalizer given as a name or as `{"name": ..., <parameter>: ...}`.

    :param where: The parameter that an error names.
    :raises ValueError: If the name or a parameter is unknown, a required parameter is missing, or one is out of its
        range.
    """
    if isinstance(spec, Normalization):
        spec = spec.spec()  # one that was made by hand is checked, too
    given = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(f"{where} must be a name or {{'name': ..., parameters}}, but got {spec!r}")
    name = choice(where, given["name"], (*NORMALIZERS, AUTO.name))
    parameters = NORMALIZERS[name].parameters if name != AUTO.name else {}
    texts = ("fitted_on",) if name == "logistic" else ()
    if unknown := [key for key in given if key != "name" and key not in (*parameters, *texts)]:
        allowed = ", ".join((*parameters, *texts)) or "none"
        raise ValueError(f"{where} {name!r} has no parameter {unknown[0]!r}; its parameters: {allowed}")
    if lacking := [key for key, parameter in parameters.items() if parameter.required and key not in given]:
        raise ValueError(f"{where} {name!r} needs {', '.join(lacking)}: give {{'name': {name!r}, {lacking[0]!r}: ...}}")
    params: dict[str, float] = {}
    for key, (default, _, least, above) in parameters.items():
        if key in given:
            lowest = params[above] if isinstance(above, str) else above
            params[key] = float(number(f"{where} {name!r}: {key}", given[key], least=least, above=lowest))
        elif default is not None:
            params[key] = default
    return Normalization(name, params, text(f"{where} {name!r}: fitted_on", given.get("fitted_on"), optional=True))


def parse_normalizations(normalize: object, inputs: Sequence[str]) -> dict[str, Normalization]:
    """
    Check one normalizer for all inputs, or normalizers by input. An input that is not named keeps its scores.

    :param normalize: None for `AUTO`.
    :raises ValueError: If a normalizer is wrong, or a name is not an input.
    """
    if normalize is None:
        return dict.fromkeys(inputs, AUTO)
    if isinstance(normalize, Mapping) and isinstance(normalize.get("name"), str) and "name" not in inputs:
        return dict.fromkeys(inputs, parse_normalization(normalize))  # one, with its parameters, for all
    if isinstance(normalize, str | Normalization):
        return dict.fromkeys(inputs, parse_normalization(normalize))
    if not isinstance(normalize, Mapping):
        raise ValueError(f"normalize must be a name or {{input: name}}, but got {normalize!r}")
    unknown = sorted(str(name) for name in normalize if name not in inputs)
    if unknown:
        raise ValueError(f"normalize names {', '.join(unknown)}, but the inputs are {', '.join(sorted(inputs))}")
    return {name: parse_normalization(normalize.get(name, "none"), where=f"normalize[{name!r}]") for name in inputs}


def sigmoid(values: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow for any finite x."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float64)
