"""
Joins several scored lists into one ranking: align them, fill in what a list lacks, weigh, and add up.

Ids and numbers in, ids and numbers out. The joiner finds the scores (documents, provenance, reports), `tuning` finds
the weights, and `normalizers` makes scores comparable.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from haystack_ce_ranker.checks import choice, number
from haystack_ce_ranker.fusion.adaptive import Adaptation, Decision, decide
from haystack_ce_ranker.fusion.normalizers import RANK_CONSTANT, FloatArray, Normalization
from haystack_ce_ranker.fusion.scales import Assumed, Scale, assume

IntArray = npt.NDArray[np.int64]

METHODS = ("weighted_sum", "reciprocal_rank")
MISSING_RULES = ("min", "zero", "drop", "impute")
_IMPUTE_AT_LEAST = 3  # shared documents; a line through two points fits anything


@dataclass(frozen=True)
class ScoredList:
    """
    One input: documents by id with their raw scores, in the order they came.

    :param ids: Document ids. An id that comes twice counts once, with its highest score.
    :param scores: One for each id. None and NaN: not scored. Infinite: the list's highest or lowest finite score.
    :param floor: If these are the best of a longer list, that list's lowest score, if it is known.
    :param reranked: Whether something else had chosen the documents that were scored. A document's absence then says
        nothing about it, and `impute` does not hold it below the list's lowest score.
    :param scale: The scale of the scores, if it is known; see `scales`.
    :param scored_by: What made the scores, if it is known: model, precision and how long documents are read.
    """

    ids: Sequence[str]
    scores: Sequence[float | None] | FloatArray
    floor: float | None = None
    reranked: bool = False
    scale: Scale | None = None
    scored_by: str | None = None


@dataclass(frozen=True)
class Aligned:
    """
    The lists of one query over one set of documents: arrays of shape `[inputs, documents]`.

    :param raw: Scores, NaN where a list has none.
    :param ranks: 1 for a list's best document, 0 for one that it lacks.
    :param known: For each input the finite scores of its whole list, `floor` included.
    """

    names: tuple[str, ...]
    ids: list[str]
    raw: FloatArray
    ranks: IntArray
    known: tuple[FloatArray, ...]
    reranked: tuple[bool, ...]
    scales: tuple[Scale | None, ...]
    unusable: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fused:
    """
    One ranking, best first. The arrays have the shape `[inputs, documents]`, the documents in the order of `ids`.

    :param scores: Each the correctly rounded sum (`math.fsum`) of its column of `contributions`.
    :param raw: NaN where the list has no score.
    :param ranks: 0 if the list lacks the document.
    :param weights: The share that each input in use counted with; they add up to 1. It is 0 for an input that has
        documents but no finite score.
    :param dropped: Ids that the rule `drop` omitted.
    :param unusable: How many scores of an input were None, NaN or infinite.
    :param assumed: What each input's scores were taken for, and how they were counted; empty if ranks were joined.
    :param decision: How the weights were adapted to the query; None if they were not to be.
    """

    names: tuple[str, ...]
    ids: list[str]
    scores: list[float]
    raw: FloatArray
    ranks: IntArray
    normalized: FloatArray
    contributions: FloatArray
    weights: dict[str, float]
    dropped: list[str]
    unusable: dict[str, int]
    assumed: dict[str, Assumed]
    decision: Decision | None = None


def check_weights(weights: object, *, inputs: Sequence[str] | None = None) -> dict[str, float]:
    """
    Return the weights as plain floats.

    :param inputs: The names that `weights` must have, no others. None takes any.
    :raises ValueError: If there is no weight, one is negative or not finite, all are 0, or the names are not those of
        `inputs`.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"weights must map input names to numbers, such as {{'bm25': 0.2}}, but got {weights!r}")
    plain = {
        str.__str__(name) if isinstance(name, str) else str(name): float(
            number(f"weights: the weight of {name!r}", weight, least=0.0)
        )
        for name, weight in weights.items()
    }
    if inputs is not None and set(weights) != set(inputs):
        raise ValueError(
            f"weights must give each input a number (0.0 switches it off): the inputs are {', '.join(sorted(inputs))}, "
            f"but got weights for {', '.join(sorted(map(str, weights)))}"
        )
    if not any(weight > 0 for weight in plain.values()):
        raise ValueError(f"weights must not all be 0, but got {dict(weights)!r}")
    return plain


def shares(weights: Mapping[str, float], present: Sequence[str]) -> dict[str, float]:
    """
    Return the share that each present input counts with; the shares add up to 1.

    The weight of an absent input goes to the others, in proportion. Inputs of weight 0 are omitted. But if every input
    that has a weight is absent (a router skipped the ranker), the others share equally.
    """
    weighted = {name: weights[name] for name in present if weights[name] > 0}
    if not weighted:
        return {name: 1.0 / len(present) for name in present}
    total = math.fsum(weighted.values())
    return {name: weight / total for name, weight in weighted.items()}


def in_use(lists: Mapping[str, ScoredList], weights: Mapping[str, float], method: str) -> dict[str, float]:
    """
    Return the share of each input that takes part; see `shares`.

    An input of which no score is finite says nothing, so its share is 0. But its documents are in the result.
    """
    heard = speaking(lists, method)
    silent = [name for name, listed in lists.items() if len(listed.ids) and weights[name] > 0 and name not in heard]
    return shares(weights, heard) | dict.fromkeys(silent, 0.0)


def align(lists: Mapping[str, ScoredList], candidates: Sequence[str] | None = None) -> Aligned:
    """
    Bring lists over the same documents together. Their order, and the order of the mapping, do not matter.

    :param candidates: The ids to rank, as far as any list holds them. None: all that any list holds. A list may have
        scores of documents that are not candidates: its normalizer sees them, and they count in the ranks.
    :raises ValueError: If a list has not as many scores as ids.
    """
    names = tuple(sorted(lists))
    held = dict.fromkeys(identifier for name in names for identifier in lists[name].ids)
    ids = list(held if candidates is None else dict.fromkeys(one for one in candidates if one in held))
    column = {identifier: i for i, identifier in enumerate(ids)}
    raw = np.full((len(names), len(ids)), np.nan)
    ranks = np.zeros((len(names), len(ids)), dtype=np.int64)
    known: list[FloatArray] = []
    unusable: dict[str, int] = {}
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
    scales = tuple(lists[name].scale for name in names)
    return Aligned(names, ids, raw, ranks, tuple(known), reranked, scales, unusable)


def normalize(
    aligned: Aligned, normalizations: Mapping[str, Normalization], missing: str = "min"
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """
    Normalize every list and fill in what it lacks.

    An input without any finite score says nothing about any document: its values are 0.

    :param normalizations: By input. An input that is not named keeps its scores.
    :param missing: The score of a document that a list lacks. `min`: that list's lowest score (its `floor`, if known).
        `zero`: a normalized value of 0. `drop`: the document is omitted. `impute`: what the scores in the other lists
        suggest. A line is fitted to each other list by least squares, over the documents that both hold. The mean of
        the lines with a positive slope counts, but at most the list's lowest score (its highest, if it was
        `reranked`). If fewer than three documents are shared, `impute` is `min`.
    :returns: Values of shape `[inputs, documents]`, and which documents stay.
    """
    values = np.zeros(aligned.raw.shape)
    keep = np.ones(len(aligned.ids), dtype=np.bool_)
    for row, (known, assumed) in enumerate(zip(aligned.known, assumptions(aligned, normalizations), strict=True)):
        if known.size == 0:
            continue
        scores = aligned.raw[row]
        lacking = np.isnan(scores)
        if lacking.any():
            if missing == "drop":
                keep &= ~lacking
            filled = _imputed(aligned, row) if missing == "impute" else float(known.min())
            scores = np.where(lacking, filled, scores)
        values[row] = assumed.normalization.apply(known, scores)
        if missing == "zero":
            values[row, lacking] = 0.0
    return values, keep


def assumptions(aligned: Aligned, normalizations: Mapping[str, Normalization]) -> list[Assumed]:
    """Return what each list is taken for, and how it is normalized; see `scales`."""
    return assume(aligned.names, aligned.known, aligned.scales, normalizations)


def reciprocal_ranks(
    aligned: Aligned, rank_constant: float, missing: str = "min"
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return 1 / (rank_constant + rank), or 0 where a list lacks the document, and which documents `missing` keeps."""
    here = aligned.ranks > 0
    keep = here.all(axis=0) if missing == "drop" else np.ones(len(aligned.ids))
    values = np.where(here, 1.0 / (rank_constant + np.maximum(aligned.ranks, 1)), 0.0)
    return values, np.asarray(keep, dtype=np.bool_)


def speaking(lists: Mapping[str, ScoredList], method: str) -> list[str]:
    """
    Return the inputs with a finite score. If there is none, return those that hold any document.

    Ranks need no scores: every list that is not empty counts for `reciprocal_rank`.
    """
    held = [name for name, listed in lists.items() if len(listed.ids)]
    if method == "reciprocal_rank":
        return held
    heard = [name for name in held if np.isfinite(np.asarray(lists[name].scores, dtype=np.float64)).any()]
    return heard if heard else held


def fuse(
    lists: Mapping[str, ScoredList],
    weights: Mapping[str, float],
    *,
    method: str = "weighted_sum",
    normalizations: Mapping[str, Normalization] | None = None,
    missing: str = "min",
    rank_constant: float = RANK_CONSTANT,
    candidates: Sequence[str] | None = None,
    adaptation: Adaptation | None = None,
) -> Fused:
    """
    Join lists into one ranking.

    Neither an order nor a name can change the result. Sums are correctly rounded. For equal scores see `tie_order`.

    :param lists: By input name. An input that is absent, empty, or (for `weighted_sum`) without a finite score gives
        its weight to the others. The documents of a list without a finite score are in the result all the same; the
        other lists count them by `missing`.
    :param weights: For at least every name in `lists`; see `shares`. The documents of an input of weight 0 are omitted.
    :param method: `weighted_sum` of normalized scores, or `reciprocal_rank`: the sum of weight / (rank_constant +
        rank). For ranks, scores only give the order, and a list that lacks a document adds nothing: of the rules for
        `missing`, only `drop` has an effect.
    :param normalizations: By input, for `weighted_sum`. An input that is not named keeps its scores.
    :param missing: See `normalize`.
    :param candidates: See `align`.
    :param adaptation: For `weighted_sum`, how the weights follow the query; see `adaptive`. None: they do not.
    """
    choice("method", method, METHODS)
    choice("missing", missing, MISSING_RULES)
    used = in_use(lists, weights, method)
    aligned = align({name: lists[name] for name in used}, candidates)
    assumed: dict[str, Assumed] = {}
    decision: Decision | None = None
    if method == "reciprocal_rank":
        values, keep = reciprocal_ranks(aligned, rank_constant, missing)
    else:
        specs = {} if normalizations is None else normalizations
        assumed = dict(zip(aligned.names, assumptions(aligned, specs), strict=True))
        used, assumed, decision = _decided(adaptation, aligned, used, assumed)
        values, keep = normalize(aligned, {name: one.normalization for name, one in assumed.items()}, missing)
    share = np.array([used[name] for name in aligned.names], dtype=np.float64)
    contributions = values * share[:, None]
    scores = [math.fsum(column) for column in contributions.T.tolist()]
    order = _ranking(aligned, scores, keep)
    return Fused(
        names=aligned.names,
        ids=[aligned.ids[i] for i in order],
        scores=[scores[i] for i in order],
        raw=aligned.raw[:, order],
        ranks=aligned.ranks[:, order],
        normalized=values[:, order],
        contributions=contributions[:, order],
        weights=used,
        dropped=[identifier for identifier, kept in zip(aligned.ids, keep.tolist(), strict=True) if not kept],
        unusable=aligned.unusable,
        assumed=assumed,
        decision=decision,
    )


def _decided(
    adaptation: Adaptation | None, aligned: Aligned, used: dict[str, float], assumed: dict[str, Assumed]
) -> tuple[dict[str, float], dict[str, Assumed], Decision | None]:
    """Return the shares and how the lists are counted, for this query; as they are if they do not follow the query."""
    if adaptation is None:
        return used, assumed, None
    known = dict(zip(aligned.names, aligned.known, strict=True))
    scales = dict(zip(aligned.names, aligned.scales, strict=True))
    found = decide(adaptation, aligned.raw, known, scales, assumed, used)
    return found.weights, found.assumed, found


def tie_order(aligned: Aligned) -> list[tuple[bool, int, str]]:
    """
    Return for each document what orders it among documents of an equal score, lowest first.

    That is whether no list has a score for it, its best rank in any list, and its id.
    """
    if not aligned.names:
        return []
    unscored: list[bool] = np.all(np.isnan(aligned.raw), axis=0).tolist()
    best: list[int] = np.where(aligned.ranks > 0, aligned.ranks, np.iinfo(np.int64).max).min(axis=0).tolist()
    return list(zip(unscored, best, aligned.ids, strict=True))


def _ranking(aligned: Aligned, scores: list[float], keep: npt.NDArray[np.bool_]) -> list[int]:
    ties = tie_order(aligned)
    return sorted(np.flatnonzero(keep).tolist(), key=lambda i: (-scores[i], ties[i]))


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
    """Return for every document the score that the other lists suggest for list `row`; see `normalize`."""
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
