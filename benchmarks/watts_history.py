"""
Whether weights that follow the query gain if they look at the last queries, too, and what that does to rankings.

    python benchmarks/watts.py last_queries

A part of `watts.py`, which prints and keeps it. What the joiner's rule sees of a query (its doubt, and how far the
lists agree) is replaced by the mean over the last queries of a stream, this one among them. A stream is one collection
in its order, or two collections mixed at random, as a pipeline that serves both would see them.
"""

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from common import Report
from fusion_defaults import BM25, DENSE, RERANKER, by_record
from haystack_ce_ranker.fusion.adaptive import LOGITS, Adaptation, Agreement, Logits, worth_of
from haystack_ce_ranker.fusion.fuse import fuse
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, fused, ndcg
from haystack_ce_ranker.fusion.normalizers import AUTO, NONE, FloatArray, parse_normalization
from haystack_ce_ranker.significance import bootstrap
from watts_blend import (
    BM25_ALONE,
    BM25_BESIDE,
    MORE,
    OWN,
    OWN_ALONE,
    Queries,
    all_scores,
    difference,
    judged_queries,
    worth_choosing,
)

LAST = (1, 8, 32)
"""Over how many queries a mean is taken; 1 is what the joiner does."""

_FIRST_PAGE = 10
_LEAST = 1e-9  # a weight of 0 would take the list's documents out of the ranking
_Z_SCORE = parse_normalization("z_score")


class Join(NamedTuple):
    """
    Lists that are joined.

    :ivar tried: The constants among which a fit chooses.
    :ivar means: What a mean is taken of: each set of signals in turn.
    """

    names: tuple[str, ...]
    title: str
    tried: tuple[Logits, ...]
    means: tuple[str, ...]


DOUBT, AGREEMENT, BOTH = "doubt", "agreement", "doubt and agreement"

JOINS = (
    Join(
        (RERANKER, BM25, DENSE),
        "a cross-encoder, BM25 and embeddings",
        tuple(LOGITS._replace(own=own, bm25=bm25) for own, bm25 in product(OWN, BM25_BESIDE)),
        (DOUBT, BOTH),
    ),
    Join(
        (RERANKER, BM25),
        "a cross-encoder and BM25",
        tuple(LOGITS._replace(bm25_alone=worth) for worth in BM25_ALONE),
        (AGREEMENT,),
    ),
    Join(
        (RERANKER, DENSE),
        "a cross-encoder and embeddings",
        tuple(LOGITS._replace(own_alone=worth) for worth in OWN_ALONE),
        (DOUBT, BOTH),
    ),
)


@dataclass(frozen=True)
class Seen:
    """A query, and what the rule sees of it."""

    query: JudgedQuery

    @cached_property
    def decision(self) -> tuple[float, Mapping[str, Agreement], Mapping[str, str | None]] | None:
        """The doubt, and by list its agreement and scale; None where the rule cannot decide."""
        auto = dict.fromkeys(self.query.lists, AUTO)
        found = fused(self.query, Setting(Frame("", auto, adaptation=Adaptation()), dict.fromkeys(auto, 1.0))).decision
        if found is None or found.by is None or found.doubt is None:
            return None
        return found.doubt, found.agreement, {name: found.assumed[name].scale for name in found.agreement}

    @cached_property
    def signals(self) -> FloatArray | None:
        """The doubt, and of each other list, by name, the correlation and the overlap; None where there are none."""
        if self.decision is None:
            return None
        doubt, agreement, _ = self.decision
        by_list = [
            # without shared documents a list counts for nothing
            (0.0 if one.correlation is None else one.correlation, 1.0 if one.overlap is None else one.overlap)
            for _, one in sorted(agreement.items())
        ]
        return np.array([doubt, *np.ravel(by_list)])

    def weights(self, signals: FloatArray | None, constants: Logits) -> FloatArray:
        """Return the weights by the name of the list that these signals make, shape `[lists]`."""
        names = sorted(self.query.lists)
        if signals is None or self.decision is None:
            return np.array([1.0 if name == RERANKER else _LEAST for name in names])
        scales = self.decision[2]
        worth = {RERANKER: 1.0}
        for place, name in enumerate(sorted(scales)):
            agreement = Agreement(*map(float, signals[1 + 2 * place : 3 + 2 * place]))
            found = worth_of(scales[name], float(signals[0]), agreement, others=len(scales), logits=constants)
            worth[name] = max(found, _LEAST)
        return np.array([worth.get(name, _LEAST) for name in names])

    def quality(self, weights: Sequence[FloatArray]) -> FloatArray:
        """Return nDCG@10 for each of several weights."""
        names = sorted(self.query.lists)
        frame = Frame("", {name: NONE if name == RERANKER else _Z_SCORE for name in names})
        return ndcg([self.query], names, frame, np.array(weights))[:, 0]

    def first_page(self, weights: FloatArray) -> list[str]:
        """Return the first ten documents."""
        names = sorted(self.query.lists)
        normalizations = {name: NONE if name == RERANKER else _Z_SCORE for name in names}
        by_name = dict(zip(names, weights.tolist(), strict=True))
        return fuse(self.query.lists, by_name, normalizations=normalizations).ids[:_FIRST_PAGE]


Stream = Sequence[tuple[str, int]]
"""Which query of which collection comes next."""

Signals = Mapping[tuple[str, int], FloatArray | None]
"""What the rule is told of each query."""


def last_queries(arguments: argparse.Namespace, report: Report) -> None:
    """Means over the last queries in place of one query's signals, for each of the three joins."""
    scores = all_scores(MORE, arguments, report)
    for join in JOINS:
        data = seen_of(scores, join.names)
        for means in join.means:
            show_gains(data, join, means, report)
            show_left_out(data, join, means, report)
        show_history(data, join, report)


def seen_of(scores: Queries, names: Sequence[str]) -> dict[str, list[Seen]]:
    return {name: [Seen(one) for one in judged_queries(queries, names, by_record)] for name, queries in scores.items()}


def alone(data: Mapping[str, Sequence[Seen]], name: str) -> Stream:
    """A collection's queries in their order."""
    return [(name, place) for place in range(len(data[name]))]


def mixed(data: Mapping[str, Sequence[Seen]], name: str, other: str) -> Stream:
    """The queries of two collections, each in its order, drawn at random one from the other."""
    first, second = sorted((name, other))
    random = np.random.default_rng(sorted(data).index(first) * len(data) + sorted(data).index(second))
    turns = random.permutation([first] * len(data[first]) + [second] * len(data[second])).tolist()
    places = {first: iter(range(len(data[first]))), second: iter(range(len(data[second])))}
    return [(turn, next(places[turn])) for turn in turns]


def told(data: Mapping[str, Sequence[Seen]], stream: Stream, last: int, means: str) -> Signals:
    """Return each query's signals, those of `means` as the mean over the last queries that had any."""
    kept: list[FloatArray] = []
    found: dict[tuple[str, int], FloatArray | None] = {}
    for name, place in stream:
        own = data[name][place].signals
        found[name, place] = own
        if own is None:
            continue
        kept = [*kept, own][-last:]
        averaged = np.mean(kept, axis=0)
        steady = own.copy()
        if means in (DOUBT, BOTH):
            steady[0] = averaged[0]
        if means in (AGREEMENT, BOTH):
            steady[1:] = averaged[1:]
        found[name, place] = steady
    return found


def gains(
    data: Mapping[str, Sequence[Seen]], name: str, signals: Sequence[Signals], constants: Sequence[Logits]
) -> FloatArray:
    """Return nDCG@10 over the cross-encoder, shape `[signals, constants, queries]`."""
    shape = len(signals), len(constants)
    found = np.zeros((*shape, len(data[name])))
    for place, one in enumerate(data[name]):
        rows = [one.weights(told[name, place], some) for told in signals for some in constants]
        values = one.quality([*rows, one.weights(None, LOGITS)])
        found[:, :, place] = (values[:-1] - values[-1]).reshape(shape)
    return found


def show_gains(data: Mapping[str, Sequence[Seen]], join: Join, means: str, report: Report) -> None:
    """Show each collection by itself and mixed with each of the others."""
    longer = LAST[1:]
    report.table(
        f"Over the cross-encoder, {join.title}: mean {means} of the last queries",
        *(
            "collection",
            *(f"last {last}" for last in LAST),
            *(f"last {last}, two collections mixed" for last in longer),
        ),
        *(f"last {last}, mixed, less last 1 [95 %]" for last in longer),
    )
    rows = []
    for name, queries in data.items():
        streams = [mixed(data, name, other) for other in data if other != name]
        signals = [told(data, alone(data, name), last, means) for last in LAST]
        signals += [told(data, stream, last, means) for last in longer for stream in streams]
        values = gains(data, name, signals, [LOGITS])[:, 0]
        by_itself, together = values[: len(LAST)], values[len(LAST) :]
        together = together.reshape(len(longer), -1, len(queries)).mean(axis=1) if streams else by_itself[1:]
        row = [*by_itself.mean(axis=1), *together.mean(axis=1)]
        less = [difference(bootstrap(one - by_itself[0])) for one in together]
        report.row(f"{name} ({len(queries)})", *(f"{value:+.4f}" for value in row), *less)
        rows.append(row)
    report.row("mean", *(f"{value:+.4f}" for value in np.mean(rows, axis=0)), *[""] * len(longer))


def show_left_out(data: Mapping[str, Sequence[Seen]], join: Join, means: str, report: Report) -> None:
    """Show each collection with constants that were chosen on the others for means of this length, as `watts_blend`."""
    found = {
        name: gains(data, name, [told(data, alone(data, name), last, means) for last in LAST], join.tried)
        for name in data
    }
    average = {name: values.mean(axis=2) for name, values in found.items()}
    report.table(
        f"Every collection left out in turn when the constants are chosen ({join.title}; mean {means})",
        *("collection", *(f"last {last}" for last in LAST)),
    )
    held = []
    for name in data:
        rest = [average[other] for other in data if other != name]
        if not rest:
            continue
        row = []
        for place in range(len(LAST)):
            best = max(range(len(join.tried)), key=lambda one: worth_choosing([some[place, one] for some in rest]))
            row.append(float(average[name][place, best]))
        report.row(name, *(f"{value:+.4f}" for value in row))
        held.append(row)
    report.row("mean", *(f"{statistics.fmean(column):+.4f}" for column in zip(*held, strict=True)))


def show_history(data: Mapping[str, Sequence[Seen]], join: Join, report: Report) -> None:
    """Show how many first pages are others where the same queries come after other queries."""
    means, longer = join.means[-1], LAST[1:]
    report.table(
        f"First pages that depend on the queries before ({join.title}; mean {means})",
        *("collection", *(f"last {last}: the order turned round" for last in longer)),
        *(f"last {last}: with one other collection or with another" for last in longer),
    )
    for name in data:
        row = [pages_changed(data, name, reversed_orders(data, name, last, means)) for last in longer]
        row += [pages_changed(data, name, other_neighbours(data, name, last, means)) for last in longer]
        report.row(name, *(f"{share:.0%}" for share in row))


def reversed_orders(
    data: Mapping[str, Sequence[Seen]], name: str, last: int, means: str
) -> list[tuple[Signals, Signals]]:
    stream = alone(data, name)
    return [(told(data, stream, last, means), told(data, stream[::-1], last, means))]


def other_neighbours(
    data: Mapping[str, Sequence[Seen]], name: str, last: int, means: str
) -> list[tuple[Signals, Signals]]:
    return list(pairwise(told(data, mixed(data, name, other), last, means) for other in data if other != name))


def pages_changed(data: Mapping[str, Sequence[Seen]], name: str, pairs: Iterable[tuple[Signals, Signals]]) -> float:
    """Return the share of first pages that differ between two ways to tell the rule of the queries."""
    changed = [
        one.first_page(one.weights(before[name, place], LOGITS))
        != one.first_page(one.weights(after[name, place], LOGITS))
        for before, after in pairs
        for place, one in enumerate(data[name])
    ]
    return statistics.fmean(changed) if changed else 0.0


HISTORY_PARTS = {"last_queries": last_queries}
