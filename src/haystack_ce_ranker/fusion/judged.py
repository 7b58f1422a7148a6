"""
Judged queries, and how well ways to fuse rank them: nDCG@10 of a setting, or of many weights at once.

The caller computes every query's scores once. Here they are only normalized, weighed and measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.fusion.adaptive import Adaptation
from haystack_ce_ranker.fusion.fuse import (
    Fused,
    IntArray,
    ScoredList,
    align,
    fuse,
    normalize,
    reciprocal_ranks,
    speaking,
    tie_order,
)
from haystack_ce_ranker.fusion.normalizers import RANK_CONSTANT, FloatArray, Normalization

CUTOFF = 10

MEASURE = f"nDCG@{CUTOFF}"
"""What is measured, by its name on pictures and in files."""


@dataclass(frozen=True)
class JudgedQuery:
    """
    What one query gave: the lists that would be joined, and which documents are relevant.

    :param lists: By input name; an input may be absent or empty.
    :param judgments: Grades by document id. A document that is not listed counts as not relevant.
    :param candidates: The documents to rank; None: all that any list holds.
    """

    id: str
    lists: Mapping[str, ScoredList]
    judgments: Mapping[str, int]
    candidates: Sequence[str] | None = None

    @cached_property
    def ideal(self) -> float:
        """The DCG of a perfect first page."""
        best = sorted((grade for grade in self.judgments.values() if grade > 0), reverse=True)[:CUTOFF]
        return math.fsum(grade / math.log2(place + 2) for place, grade in enumerate(best))


@dataclass(frozen=True)
class Frame:
    """
    How lists are made comparable: everything about a fusion but the weights.

    :param adaptation: How the weights follow the query; None: they do not.
    """

    label: str
    normalizations: Mapping[str, Normalization]
    missing: str = "min"
    method: str = "weighted_sum"
    rank_constant: float = RANK_CONSTANT
    adaptation: Adaptation | None = None


class Setting(NamedTuple):
    """One way to fuse: a frame and the weights by input."""

    frame: Frame
    weights: Mapping[str, float]


def simplex(inputs: int, steps: int) -> FloatArray:
    """
    Return all weights that add up to 1 in multiples of 1 / steps.

    :returns: Shape `[C(steps + inputs - 1, inputs - 1), inputs]`; the corners (one input alone) are among them.
    """
    whole_number("inputs", inputs)
    whole_number("steps", steps)
    rows = []
    for bars in combinations(range(steps + inputs - 1), inputs - 1):
        edges = (-1, *bars, steps + inputs - 1)
        rows.append([edges[i + 1] - edges[i] - 1 for i in range(inputs)])
    return np.array(rows, dtype=np.float64) / steps


def default_steps(inputs: int) -> int:
    """Return steps that keep the grid at a few hundred points: 20 for two inputs, 10 for three or four, 5 for more."""
    return 20 if inputs <= 2 else 10 if inputs <= 4 else 5


@dataclass(frozen=True)
class WeightGrid:
    """
    The weights that are tried: a grid over the simplex of a setting's inputs, and the setting's own.

    :param names: The inputs, sorted.
    :param rows: Shape `[weights, inputs]`.
    :param distance: How far each row is from the setting's own weights.
    """

    names: list[str]
    rows: FloatArray
    distance: FloatArray

    @classmethod
    def around(cls, weights: Mapping[str, float], steps: int | None = None) -> "WeightGrid":
        """Return the grid for these weights; `steps` None: see `default_steps`."""
        names = sorted(weights)
        own = np.array([weights[name] for name in names])
        own = own / own.sum()
        rows = simplex(len(names), default_steps(len(names)) if steps is None else steps)
        if not (np.abs(rows - own).max(axis=1) < 1e-9).any():
            rows = np.vstack([rows, own])
        return cls(names, rows, np.abs(rows - own).sum(axis=1))

    def best(self, values: FloatArray) -> int:
        """
        Return the row with the highest mean; of equal rows, the one nearest to the setting's own weights.

        :param values: Shape `[weights, queries]`.
        """
        means = values.mean(axis=1)
        equal = np.flatnonzero(means >= means.max() - 1e-12)
        return int(equal[np.argmin(self.distance[equal])])

    def weights(self, row: int) -> dict[str, float]:
        """Return one row by input."""
        return dict(zip(self.names, self.rows[row].tolist(), strict=True))


def ndcg(queries: Sequence[JudgedQuery], names: Sequence[str], frame: Frame, weights: FloatArray) -> FloatArray:
    """
    Measure a frame under many weights at once, as `fuse` would rank (equal scores by best rank, then id).

    This is trec_eval's nDCG@10: the gain is the grade, and the ideal is taken over all judgments. A query without a
    relevant document, or for which no input returned anything, counts as 0. A frame whose weights follow the query has
    none to try: see `measure`.

    :param names: The inputs, in the order of the columns of `weights`.
    :param weights: Shape `[weights, inputs]`. No weight is negative, and no row is all 0.
    :returns: Shape `[weights, queries]`.
    """
    values = np.zeros((len(weights), len(queries)))
    discounts = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    supports = _rows_by_support(weights)
    for column, query in enumerate(queries):
        if query.ideal == 0.0:
            continue
        given = {name: query.lists[name] for name in names if name in query.lists}
        heard = [names.index(name) for name in speaking(given, frame.method)]
        if not heard:
            continue
        silent = {names.index(name) for name, listed in given.items() if len(listed.ids)}.difference(heard)
        for support, rows in supports.items():
            used = [i for i in support if i in heard]
            share = weights[rows][:, used] if used else np.ones((len(rows), len(heard)))
            spoken = [names[i] for i in used or heard]
            prepared = _prepare(query, spoken, [names[i] for i in support if i in silent], frame)
            values[rows, column] = prepared.dcg(share, discounts) / query.ideal
    return values


def measure(queries: Sequence[JudgedQuery], setting: Setting) -> FloatArray:
    """Return nDCG@10 by query."""
    if setting.frame.adaptation is not None:
        return np.array([_ndcg_of(query, fused(query, setting).ids) for query in queries], dtype=np.float64)
    names = sorted(setting.weights)
    row = np.array([[setting.weights[name] for name in names]])
    return np.asarray(ndcg(queries, names, setting.frame, row)[0], dtype=np.float64)


def _ndcg_of(query: JudgedQuery, ids: Sequence[str]) -> float:
    gains = (max(query.judgments.get(identifier, 0), 0) for identifier in ids[:CUTOFF])
    found = math.fsum(gain / math.log2(place + 2) for place, gain in enumerate(gains))
    return found / query.ideal if query.ideal else 0.0


def fused(query: JudgedQuery, setting: Setting) -> Fused:
    """Return the ranking that a setting makes of a query's lists."""
    return fuse(
        query.lists,
        setting.weights,
        method=setting.frame.method,
        normalizations=setting.frame.normalizations,
        missing=setting.frame.missing,
        rank_constant=setting.frame.rank_constant,
        candidates=query.candidates,
        adaptation=setting.frame.adaptation,
    )


def joined_scores(queries: Sequence[JudgedQuery], setting: Setting) -> tuple[FloatArray, FloatArray]:
    """Return the joined scores of all documents of all queries, and 1 or 0 for relevant or not (unjudged: not)."""
    scores: list[float] = []
    labels: list[float] = []
    for query in queries:
        found = fused(query, setting)
        scores += found.scores
        labels += [float(query.judgments.get(identifier, 0) > 0) for identifier in found.ids]
    return np.array(scores), np.array(labels)


def split(count: int, folds: int, seed: int = 0) -> list[IntArray]:
    """Return the members of each fold: `count` numbers, shuffled, dealt to at most `count` folds."""
    whole_number("folds", folds, least=2)
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[i :: min(folds, count)]) for i in range(min(folds, count))]


@dataclass(frozen=True)
class _Prepared:
    """One query under one frame and one set of inputs: documents in the order that breaks ties."""

    values: FloatArray
    gains: FloatArray

    def dcg(self, weights: FloatArray, discounts: FloatArray) -> FloatArray:
        order = np.argsort(-_joined(weights, self.values), axis=1, kind="stable")[:, : discounts.size]
        return np.asarray(self.gains[order] @ discounts[: order.shape[1]], dtype=np.float64)


def _joined(weights: FloatArray, values: FloatArray) -> FloatArray:
    """
    Return the scores that `fuse` gives under many weights, with its rounding, so that ties are the same.

    A matrix product rounds otherwise. What a sum loses is added up beside it (Ogita, Rump and Oishi, "Accurate sum and
    dot product", SIAM J. Sci. Comput. 2005).

    :param weights: Shape `[weights, inputs]`.
    :param values: Shape `[inputs, documents]`.
    :returns: Shape `[weights, documents]`.
    """
    shares = weights / np.array([[math.fsum(row)] for row in weights.tolist()])
    total = lost = np.zeros((len(weights), values.shape[1]))
    for share, value in zip(shares.T, values, strict=True):
        term = share[:, None] * value
        longer = total + term
        taken = longer - total
        lost = lost + ((total - (longer - taken)) + (term - taken))
        total = longer
    return np.asarray(total + lost, dtype=np.float64)


def _prepare(query: JudgedQuery, heard: Sequence[str], silent: Sequence[str], frame: Frame) -> _Prepared:
    aligned = align({name: query.lists[name] for name in (*heard, *silent)}, query.candidates)
    if frame.method == "reciprocal_rank":
        values, keep = reciprocal_ranks(aligned, frame.rank_constant, frame.missing)
    else:
        values, keep = normalize(aligned, frame.normalizations, frame.missing)
    ties = tie_order(aligned)
    order = sorted(np.flatnonzero(keep).tolist(), key=lambda i: ties[i])
    gains = np.array([max(query.judgments.get(aligned.ids[i], 0), 0) for i in order], dtype=np.float64)
    rows = [aligned.names.index(name) for name in heard]  # `align` sorts by name
    return _Prepared(values[np.ix_(rows, order)], gains)


def _rows_by_support(weights: FloatArray) -> dict[tuple[int, ...], IntArray]:
    """Group the rows by the inputs that they use: an input of weight 0 takes no part in the fusion."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, used in enumerate((weights > 0).tolist()):
        groups.setdefault(tuple(i for i, here in enumerate(used) if here), []).append(row)
    return {support: np.array(rows, dtype=np.int64) for support, rows in groups.items()}
