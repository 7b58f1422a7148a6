"""
Joins several scored lists into one ranking: normalise, weigh, add up, and a stated rule for what a list lacks.

Pure: ids and numbers in, ids and numbers out. Where the scores come from (documents, provenance, reports) is the
joiner's business, which weights to use is the business of `tuning`.

Why logits are joined as they are, and BM25 by its logarithm (`DEFAULT_NORMALIZERS`): a cross-encoder's logit is a
log-odds of relevance by training, and a BM25 score is a sum of Robertson / Sparck Jones weights, each a log-odds ratio
(Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", section 3). Log-odds add, but BM25's terms are no
independent evidence, so that a sum of many overstates; its logarithm does not. Anything computed from one query's list
(minimum, maximum, deviation) throws away whether the list was sure or not, and a probability has saturated. All of this
is measured in `benchmarks/fusion.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METHODS = ("weighted_sum", "reciprocal_rank")
MISSING_RULES = ("min", "zero", "drop", "impute")
RANK_CONSTANT = 60.0
"""The k of 1 / (k + rank): Cormack, Clarke & Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet"."""

LOG_SCALE = 5.0
"""From `benchmarks/fusion.py`: at 3 it helps less where the cross-encoder is bad, at 6 it harms where it is good."""

_PROBABILITY_MARGIN = 1e-7  # what float32 can still tell from 1; the logit of such a score is 16.1
_IMPUTE_AT_LEAST = 3  # shared documents; a line through two points fits anything


def _none(_known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    return values


def _min_max(known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    low, high = known.min(), known.max()
    if high <= low:
        return np.full(values.shape, 0.5)
    return np.asarray((values - low) / (high - low), dtype=np.float64)


def _theoretical(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    low = params["low"]
    high = params.get("high", float(known.max()))
    if high <= low:
        return np.full(values.shape, 0.5)
    return np.asarray((values - low) / (high - low), dtype=np.float64)


def _z_score(known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    deviation = known.std()
    if known.max() <= known.min() or deviation == 0.0:
        return np.zeros(values.shape)
    return np.asarray((values - known.mean()) / deviation, dtype=np.float64)


def _rank(known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    higher = known.size - np.searchsorted(np.sort(known), values, side="right")
    return np.asarray(1.0 / (params["k"] + 1.0 + higher), dtype=np.float64)


def _logit(known: FloatArray, values: FloatArray, _params: Mapping[str, float]) -> FloatArray:
    if known.min() < 0.0 or known.max() > 1.0:
        raise ValueError(
            f"normalize 'logit' undoes a sigmoid and needs probabilities in [0, 1], but got scores from "
            f"{known.min():g} to {known.max():g}; use 'none' for logits or BM25 scores"
        )
    clipped = np.clip(values, _PROBABILITY_MARGIN, 1.0 - _PROBABILITY_MARGIN)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def _logistic(_known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    return sigmoid(params["slope"] * values + params["intercept"])


def _log(_known: FloatArray, values: FloatArray, params: Mapping[str, float]) -> FloatArray:
    return np.asarray(params["scale"] * np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)


class _Normalizer(NamedTuple):
    apply: Callable[[FloatArray, FloatArray, Mapping[str, float]], FloatArray]
    required: tuple[str, ...] = ()
    optional: Mapping[str, float | None] = {}


NORMALIZERS: Mapping[str, _Normalizer] = {
    "none": _Normalizer(_none),
    "min_max": _Normalizer(_min_max),
    "theoretical": _Normalizer(_theoretical, required=("low",), optional={"high": None}),
    "z_score": _Normalizer(_z_score),
    "rank": _Normalizer(_rank, optional={"k": RANK_CONSTANT}),
    "log": _Normalizer(_log, optional={"scale": LOG_SCALE}),
    "logit": _Normalizer(_logit),
    "logistic": _Normalizer(_logistic, required=("slope", "intercept")),
}
"""
Every normaliser: `(known, values, params) -> normalised`, where `known` are the list's finite scores and `values` what
to normalise. None clips, so none can make two different scores equal. What each does with its edges:

===========================  ==============================================  =================================
name                         value                                           one document, or all scores equal
===========================  ==============================================  =================================
`none`                       x                                               x
`min_max`                    (x - min) / (max - min)                         0.5: no information
`theoretical` low, high      (x - low) / (high - low); high: the list's max  as usual; 0.5 where high <= low
`z_score`                    (x - mean) / population deviation               0.0, the mean: no information
`rank` k=60                  1 / (k + rank); equal scores share a rank       all share rank 1
`log` scale=5                scale log(1 + x); of x < 0: -scale log(1 - x)   as usual
`logit`                      log(x / (1 - x)), held 1e-7 away from 0 and 1   as usual
`logistic` slope, intercept  1 / (1 + exp(-(slope x + intercept)))           as usual
===========================  ==============================================  =================================
"""


class Normalization(NamedTuple):
    """A normaliser's name with its parameters, as `parse_normalization` has checked them."""

    name: str
    params: Mapping[str, float]

    def apply(self, known: FloatArray, values: FloatArray) -> FloatArray:
        """
        Normalise `values` by what `known` says about the list.

        :param known: The list's finite scores, at least one.
        :param values: Finite scores, any shape of one dimension.
        """
        return NORMALIZERS[self.name].apply(known, values, self.params)

    def spec(self) -> str | dict[str, Any]:
        """Return the plain value that `parse_normalization` reads back."""
        return {"name": self.name, **self.params} if self.params else self.name


NONE = Normalization("none", {})
DEFAULT_NORMALIZERS: Mapping[str, str] = {"bm25": "log"}
"""By an input's name, where nothing else is asked for; all others keep their scores."""


@dataclass(frozen=True)
class ScoredList:
    """
    One input: documents by id with their raw scores, in the order they came.

    :param ids: Document ids; an id that comes twice counts once, with its highest score.
    :param scores: As long as `ids`. None and NaN: not scored. Infinite: the list's highest or lowest finite score.
    :param floor: The lowest score in a longer list of which these are the best, where it is known.
    :param reranked: The scores were given to documents that something else had chosen, so that a document's absence
        says nothing about it (`impute` then does not hold it below the list's lowest).
    """

    ids: Sequence[str]
    scores: Sequence[float | None] | FloatArray
    floor: float | None = None
    reranked: bool = False


@dataclass(frozen=True)
class Aligned:
    """
    The lists of one query over one set of documents: arrays of shape `[inputs, documents]`.

    :param raw: Scores, NaN where a list has none.
    :param ranks: 1 for a list's best, 0 where it does not hold the document.
    :param known: For each input the finite scores of its whole list, `floor` among them.
    """

    names: tuple[str, ...]
    ids: list[str]
    raw: FloatArray
    ranks: IntArray
    known: tuple[FloatArray, ...]
    reranked: tuple[bool, ...]
    unusable: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fused:
    """
    One ranking, best first. The arrays have the shape `[inputs, documents]`, the documents in the order of `ids`.

    :param scores: Each the correctly rounded sum (`math.fsum`) of its column of `contributions`.
    :param raw: NaN where the list has no score.
    :param ranks: 0 where the list does not hold the document.
    :param weights: What each input in use counted with; they add up to 1.
    :param dropped: Ids left out by the rule `drop`.
    :param unusable: How many scores of an input were None, NaN or infinite.
    :param duplicates: How many entries of an input repeated an id.
    """

    names: tuple[str, ...]
    ids: list[str]
    scores: list[float]
    raw: FloatArray
    ranks: IntArray
    normalised: FloatArray
    contributions: FloatArray
    weights: dict[str, float]
    dropped: list[str]
    unusable: dict[str, int]
    duplicates: dict[str, int]


def parse_normalization(spec: object, *, where: str = "normalize") -> Normalization:
    """
    Check a normaliser given as a name or as `{"name": ..., <parameter>: ...}`.

    :param where: The parameter that an error names.
    :raises ValueError: If the name or a parameter is unknown, a required parameter lacks, or one is not a finite
        number.
    """
    params: dict[str, Any]
    if isinstance(spec, Normalization):
        return spec
    if isinstance(spec, str):
        name, params = spec, {}
    elif isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        name = spec["name"]
        params = {key: value for key, value in spec.items() if key != "name"}
    else:
        raise ValueError(f"{where} must be a name or {{'name': ..., parameters}}, but got {spec!r}")
    if name not in NORMALIZERS:
        raise ValueError(f"{where} must be one of {', '.join(NORMALIZERS)}, but got {name!r}")
    known = NORMALIZERS[name]
    for key, value in params.items():
        if key not in known.required and key not in known.optional:
            allowed = ", ".join([*known.required, *known.optional]) or "none"
            raise ValueError(f"{where} {name!r} has no parameter {key!r}; its parameters: {allowed}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where} {name!r}: {key} must be a finite number, but got {value!r}")
    lacking = [key for key in known.required if key not in params]
    if lacking:
        raise ValueError(f"{where} {name!r} needs {', '.join(lacking)}: give {{'name': {name!r}, {lacking[0]!r}: ...}}")
    if name == "theoretical" and params.get("high", math.inf) <= params["low"]:
        raise ValueError(
            f"{where} 'theoretical': high must be above low, but got {params['low']!r} and {params['high']!r}"
        )
    if name == "log" and params.get("scale", LOG_SCALE) <= 0:
        raise ValueError(f"{where} 'log': scale must be > 0, but got {params['scale']!r}")
    if name == "rank" and params.get("k", RANK_CONSTANT) < 0:
        raise ValueError(f"{where} 'rank': k must be >= 0, but got {params['k']!r}")
    defaults = {key: value for key, value in known.optional.items() if value is not None}
    return Normalization(name, {key: float(value) for key, value in {**defaults, **params}.items()})


def parse_normalizations(normalize: object, inputs: Sequence[str]) -> dict[str, Normalization]:
    """
    Check one normaliser for all inputs, or normalisers by input; an input that is not named keeps its scores.

    :param normalize: None for `DEFAULT_NORMALIZERS`.
    :raises ValueError: If a normaliser is wrong, or one is given for what is not an input.
    """
    if normalize is None:
        normalize = {name: spec for name, spec in DEFAULT_NORMALIZERS.items() if name in inputs}
    if isinstance(normalize, str):
        return dict.fromkeys(inputs, parse_normalization(normalize))
    if not isinstance(normalize, Mapping):
        raise ValueError(f"normalize must be a name or {{input: name}}, but got {normalize!r}")
    unknown = sorted(str(name) for name in normalize if name not in inputs)
    if unknown:
        raise ValueError(f"normalize names {', '.join(unknown)}, but the inputs are {', '.join(sorted(inputs))}")
    return {name: parse_normalization(normalize.get(name, "none"), where=f"normalize[{name!r}]") for name in inputs}


def check_weights(weights: object, *, inputs: Sequence[str] | None = None) -> dict[str, float]:
    """
    Return the weights as plain floats.

    :param inputs: The names that must be there, all of them; None takes any.
    :raises ValueError: If there is none, one is negative or not finite, all are 0, or the names are not those of
        `inputs`.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"weights must map input names to numbers, such as {{'bm25': 0.2}}, but got {weights!r}")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"weights: the weight of {name!r} must be a number >= 0, but got {weight!r}")
    if inputs is not None and set(weights) != set(inputs):
        raise ValueError(
            f"weights must give each input a number (0.0 switches it off): the inputs are {', '.join(sorted(inputs))}, "
            f"but got weights for {', '.join(sorted(map(str, weights)))}"
        )
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"weights must not all be 0, but got {dict(weights)!r}")
    return {str(name): float(weight) for name, weight in weights.items()}


def sigmoid(values: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow for any finite x."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float64)


def shares(weights: Mapping[str, float], present: Sequence[str]) -> dict[str, float]:
    """
    Return what each present input counts with; the shares add up to 1.

    The weight of an absent input goes to the others, in proportion. Inputs of weight 0 are left out; only where every
    input that has a weight is absent (a router skipped the ranker) do the others share equally.
    """
    weighted = {name: weights[name] for name in present if weights[name] > 0}
    if not weighted:
        return {name: 1.0 / len(present) for name in present}
    total = math.fsum(weighted.values())
    return {name: weight / total for name, weight in weighted.items()}


def align(lists: Mapping[str, ScoredList], candidates: Sequence[str] | None = None) -> Aligned:
    """
    Bring lists over the same documents together; their order, and the order of the mapping, do not matter.

    :param candidates: The ids to rank; None: all that any list holds. A list may know scores of documents that are not
        candidates: they count in what its normaliser sees and in the ranks.
    :raises ValueError: If a list has not as many scores as ids.
    """
    names = tuple(sorted(lists))
    if candidates is None:
        ids = list(dict.fromkeys(identifier for name in names for identifier in lists[name].ids))
    else:
        ids = list(dict.fromkeys(candidates))
    column = {identifier: i for i, identifier in enumerate(ids)}
    raw = np.full((len(names), len(ids)), np.nan)
    ranks = np.zeros((len(names), len(ids)), dtype=np.int64)
    known: list[FloatArray] = []
    unusable: dict[str, int] = {}
    duplicates: dict[str, int] = {}
    for row, name in enumerate(names):
        listed = lists[name]
        members, scores = list(listed.ids), np.asarray(listed.scores, dtype=np.float64).reshape(-1)
        if len(members) != scores.size:
            raise ValueError(f"input {name!r} has {len(members)} ids but {scores.size} scores")
        odd = int(scores.size - np.isfinite(scores).sum())
        if odd:
            unusable[name] = odd
            scores = _without_infinities(scores, listed.floor)
        if len(set(members)) < len(members):
            duplicates[name] = len(members) - len(set(members))
            members, scores = _highest_of_each(members, scores)
        places = np.array([column.get(identifier, -1) for identifier in members], dtype=np.int64)
        order = np.argsort(-scores, kind="stable")  # NaN comes last, in the order it came
        rank = np.empty(len(members), dtype=np.int64)
        rank[order] = np.arange(1, len(members) + 1)
        inside = places >= 0
        raw[row, places[inside]] = scores[inside]
        ranks[row, places[inside]] = rank[inside]
        finite = scores[np.isfinite(scores)]
        if finite.size and listed.floor is not None and math.isfinite(listed.floor) and listed.floor < finite.min():
            finite = np.append(finite, listed.floor)
        known.append(finite)
    reranked = tuple(lists[name].reranked for name in names)
    return Aligned(names, ids, raw, ranks, tuple(known), reranked, unusable, duplicates)


def normalise(
    aligned: Aligned, normalizations: Mapping[str, Normalization], missing: str = "min"
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """
    Normalise every list and fill in what it lacks.

    An input without any finite score says nothing about any document: its values are 0.

    :param normalizations: By input; one that is not named keeps its scores.
    :param missing: What a document counts with that a list lacks. `min`: that list's lowest score (its `floor`, where
        known). `zero`: a normalised value of 0. `drop`: the document is left out. `impute`: the value on the line
        fitted by least squares, over the documents both lists hold, from the scores in the other lists (the mean over
        those whose slope is positive), at most the list's lowest score - or its highest, where it was `reranked`; `min`
        where fewer than three documents are shared.
    :returns: Values of shape `[inputs, documents]`, and which documents stay.
    """
    values = np.zeros(aligned.raw.shape)
    keep = np.ones(len(aligned.ids), dtype=np.bool_)
    for row, name in enumerate(aligned.names):
        known = aligned.known[row]
        if known.size == 0:
            continue
        scores = aligned.raw[row]
        lacking = np.isnan(scores)
        if lacking.any():
            if missing == "drop":
                keep &= ~lacking
            filled = _imputed(aligned, row) if missing == "impute" else float(known.min())
            scores = np.where(lacking, filled, scores)
        values[row] = normalizations.get(name, NONE).apply(known, scores)
        if missing == "zero":
            values[row, lacking] = 0.0
    return values, keep


def fuse(
    lists: Mapping[str, ScoredList],
    weights: Mapping[str, float],
    *,
    method: str = "weighted_sum",
    normalizations: Mapping[str, Normalization] | None = None,
    missing: str = "min",
    rank_constant: float = RANK_CONSTANT,
    candidates: Sequence[str] | None = None,
) -> Fused:
    """
    Join lists into one ranking.

    Neither the order of the inputs, nor their names, nor the order in which the lists came can change the result: sums
    are correctly rounded, and documents of equal score stand by their best rank in any list, then by id.

    :param lists: By input name. An input that is absent, empty, or (for `weighted_sum`) without a finite score gives
        its weight to the others.
    :param weights: For at least every name in `lists`; see `shares`. The documents of an input of weight 0 are left
        out.
    :param method: `weighted_sum` of normalised scores, or `reciprocal_rank`: the sum of weight / (rank_constant +
        rank), where a list that lacks a document adds nothing - `missing` matters only as `drop` - and scores only give
        the order.
    :param normalizations: By input, for `weighted_sum`; one that is not named keeps its scores.
    :param missing: See `normalise`.
    :param candidates: See `align`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, but got {method!r}")
    if missing not in MISSING_RULES:
        raise ValueError(f"missing must be one of {', '.join(MISSING_RULES)}, but got {missing!r}")
    by_rank = method == "reciprocal_rank"
    held = {name: listed for name, listed in lists.items() if len(listed.ids)}
    speaking = [name for name in held if by_rank or _says_something(held[name])]
    used = shares(weights, speaking or list(held))
    if candidates is not None:
        inside = {identifier for name in used for identifier in held[name].ids}
        candidates = [identifier for identifier in candidates if identifier in inside]
    aligned = align({name: held[name] for name in used}, candidates)
    share = np.array([used[name] for name in aligned.names], dtype=np.float64)
    if by_rank:
        here = aligned.ranks > 0
        values = np.where(here, 1.0 / (rank_constant + np.maximum(aligned.ranks, 1)), 0.0)
        keep = np.asarray(here.all(axis=0) if missing == "drop" else np.ones(len(aligned.ids)), dtype=np.bool_)
    else:
        values, keep = normalise(aligned, normalizations or {}, missing)
    contributions = values * share[:, None]
    scores = [math.fsum(column) for column in contributions.T.tolist()]
    order = _ranking(aligned, scores, keep)
    return Fused(
        names=aligned.names,
        ids=[aligned.ids[i] for i in order],
        scores=[scores[i] for i in order],
        raw=aligned.raw[:, order],
        ranks=aligned.ranks[:, order],
        normalised=values[:, order],
        contributions=contributions[:, order],
        weights=used,
        dropped=[identifier for identifier, kept in zip(aligned.ids, keep.tolist(), strict=True) if not kept],
        unusable=aligned.unusable,
        duplicates=aligned.duplicates,
    )


def best_ranks(ranks: IntArray) -> IntArray:
    """Return each document's best rank in any list, from ranks of shape `[inputs, documents]` with 0 for "not held"."""
    if ranks.shape[0] == 0:
        return np.zeros(ranks.shape[1], dtype=np.int64)
    return np.asarray(np.where(ranks > 0, ranks, np.iinfo(np.int64).max).min(axis=0), dtype=np.int64)


def _ranking(aligned: Aligned, scores: list[float], keep: npt.NDArray[np.bool_]) -> list[int]:
    best = best_ranks(aligned.ranks).tolist()
    stay = np.flatnonzero(keep).tolist()
    ids = aligned.ids
    return sorted(stay, key=lambda i: (-scores[i], best[i], ids[i]))


def _says_something(listed: ScoredList) -> bool:
    return bool(np.isfinite(np.asarray(listed.scores, dtype=np.float64)).any())


def _without_infinities(scores: FloatArray, floor: float | None) -> FloatArray:
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return np.full(scores.shape, np.nan)
    low = finite.min() if floor is None or not math.isfinite(floor) else min(float(finite.min()), floor)
    return np.where(np.isposinf(scores), finite.max(), np.where(np.isneginf(scores), low, scores))


def _highest_of_each(ids: list[str], scores: FloatArray) -> tuple[list[str], FloatArray]:
    best: dict[str, int] = {}
    for i, identifier in enumerate(ids):
        held = best.get(identifier)
        if held is None or scores[i] > scores[held] or (math.isnan(scores[held]) and not math.isnan(scores[i])):
            best[identifier] = i
    places = sorted(best.values())
    return [ids[i] for i in places], scores[places]


def _imputed(aligned: Aligned, row: int) -> FloatArray:
    """Return for every document the score that the other lists suggest for list `row`; see `normalise`."""
    own, known = aligned.raw[row], aligned.known[row]
    suggestions = np.full((len(aligned.names), own.size), np.nan)
    for other in range(len(aligned.names)):
        theirs = aligned.raw[other]
        shared = ~np.isnan(own) & ~np.isnan(theirs)
        if other == row or int(shared.sum()) < _IMPUTE_AT_LEAST:
            continue
        x, y = theirs[shared], own[shared]
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0.0 else 0.0
        if slope > 0.0:
            suggestions[other] = y.mean() + slope * (theirs - x.mean())
    there = ~np.isnan(suggestions)
    count = there.sum(axis=0)
    mean = np.where(there, suggestions, 0.0).sum(axis=0) / np.maximum(count, 1)
    limit = known.max() if aligned.reranked[row] else known.min()
    return np.asarray(np.where(count > 0, np.minimum(mean, limit), known.min()), dtype=np.float64)
