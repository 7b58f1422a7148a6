"""
What the joiner does untuned with every usual pair of lists: BM25, a bi-encoder and a cross-encoder, whose scores may
come as logits, as probabilities or with our own record.

    python benchmarks/fusion.py bm25_dense reranker_dense given_as other_scores choice

Parts of `fusion.py`, which prints and keeps them. The scores are files (`join-scores` in the folder of the
collections), so that nothing is computed but joins. Tables show each half of a collection's queries: what the first
half would choose, and what that gives on the second.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from unittest import mock

import numpy as np
from haystack import Document
from haystack.components.joiners import DocumentJoiner

from common import CannotRun, Report, collection_folder
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.fusion import scales
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, measure, split
from haystack_ce_ranker.fusion.normalizers import FloatArray, parse_normalizations, sigmoid

COLLECTIONS = ("dl19", "vaswani", "med", "cacm", "stackfaq")
BM25, DENSE, RERANKER = "bm25", "dense", "reranker"
NAMES = (BM25, DENSE, RERANKER)
SHARES = (0.8, 0.5)
UNITS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SPANS = (1.0, 1.5, 2.0, 2.5, 3.0)

Scores = Mapping[str, float]
Change = Callable[[Scores], ScoredList]


class Given(dict[str, Scores]):
    """The scores of one query by list, with its judgments."""

    def __init__(self, query_id: str, entry: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__({BM25: entry["bm25"], DENSE: entry["dense"], RERANKER: entry["ce"]})
        self.id, self.judgments = query_id, {document: int(grade) for document, grade in entry["rel"].items()}


def plain(scores: Scores) -> ScoredList:
    return ScoredList(list(scores), list(scores.values()))


def as_logits(scores: Scores) -> ScoredList:
    """As a ranker with `scale_score=False` gives them."""
    return ScoredList(list(scores), list(scores.values()), reranked=True)


def as_probabilities(scores: Scores, form: type = np.float32) -> ScoredList:
    """As most rankers give them: through a sigmoid, in single precision."""
    return ScoredList(list(scores), sigmoid(np.array(list(scores.values()))).astype(form), reranked=True)


def by_record(scores: Scores) -> ScoredList:
    """As the joiner reads them out of a CrossEncoderRanker's records."""
    return ScoredList(list(scores), list(scores.values()), reranked=True, scale="logits")


def given(arguments: argparse.Namespace, report: Report) -> dict[str, list[Given]]:
    """Return the queries of each collection that is there."""
    found = {}
    limit = arguments.queries
    for name in COLLECTIONS:
        with report.or_left_out(name):
            path = collection_folder(arguments, "join-scores") / f"{name}.json"
            if not path.is_file():
                raise CannotRun(f"there is no {path}")
            entries = json.loads(path.read_text(encoding="utf-8"))
            found[name] = [Given(query_id, entry) for query_id, entry in entries.items()][:limit]
    if not found:
        raise CannotRun("there are no scores to join")
    return found


def joined(
    queries: Sequence[Given],
    weights: Mapping[str, float],
    *,
    normalize: object = None,
    method: str = "weighted_sum",
    changes: Mapping[str, Change] | None = None,
    within: str | None = None,
) -> FloatArray:
    """
    Return nDCG@10 by query.

    :param changes: By input, how its scores are given; as they are if it is not named.
    :param within: Only documents of this list are re-ranked.
    """
    how = {RERANKER: as_logits} | dict(changes or {})
    judged = []
    for query in queries:
        lists = {name: query[name] for name in weights}
        if within is not None and RERANKER in lists:
            lists[RERANKER] = {key: score for key, score in query[RERANKER].items() if key in query[within]}
        scored = {name: how.get(name, plain)(scores) for name, scores in lists.items() if scores}
        judged.append(JudgedQuery(query.id, scored, query.judgments))
    frame = Frame("", parse_normalizations(normalize, list(weights)), method=method)
    return measure(judged, Setting(frame, weights))


def haystack_rrf(queries: Sequence[Given], names: Sequence[str]) -> FloatArray:
    """Return nDCG@10 by query of Haystack's own reciprocal rank fusion."""
    values = []
    for query in queries:
        ordered = [sorted(query[name].items(), key=lambda pair: -pair[1]) for name in names]
        lists = [[Document(id=key, score=float(score)) for key, score in pairs] for pairs in ordered]
        found = DocumentJoiner("reciprocal_rank_fusion").run(lists)["documents"]
        run = {query.id: ranked_scores([document.id for document in found])}
        values.append(ndcg_at_10(run, {query.id: query.judgments})[query.id])
    return np.array(values)


def halves(values: FloatArray) -> str:
    """Return the means over one half of the queries and over the other."""
    return " / ".join(f"{values[part].mean():.4f}" for part in split(values.size, 2)) if values.size > 1 else ""


def differences(values: FloatArray) -> str:
    return " / ".join(f"{values[part].mean():+.4f}" for part in split(values.size, 2)) if values.size > 1 else ""


def show_bm25_dense(arguments: argparse.Namespace, report: Report) -> None:
    """The join that most people make: BM25 and a bi-encoder, without labels."""
    headings = ("bm25", "dense", "none", "min_max", "z_score", "Haystack's RRF", "default", "default, by half")
    report.table("BM25 and a bi-encoder, 0.5 / 0.5, untuned (nDCG@10)", "collection", *headings)
    weights = {BM25: 0.5, DENSE: 0.5}
    for name, queries in given(arguments, report).items():
        alone = [joined(queries, {one: 1.0}).mean() for one in (BM25, DENSE)]
        others = [joined(queries, weights, normalize=norm).mean() for norm in ("none", "min_max", "z_score")]
        others.append(haystack_rrf(queries, (BM25, DENSE)).mean())
        default = joined(queries, weights)
        figures = [*alone, *others, default.mean()]
        report.row(f"{name} ({len(queries)})", *(f"{figure:.4f}" for figure in figures), halves(default))
        best = max(others[1:])
        label = f"BM25 + dense on {name}: within 0.01 of the best of min-max, z-score and RRF"
        report.target(label, default.mean() >= best - 0.01, f"{default.mean() - best:+.4f}")


def show_reranker_dense(arguments: argparse.Namespace, report: Report) -> None:
    """A cross-encoder's ranking joined with a bi-encoder's and with BM25."""
    report.table(
        "A cross-encoder's logits joined untuned with other lists (nDCG@10, and the difference to the cross-encoder)",
        *("collection", "cross-encoder", "+ dense .8 / .2", "by half", "as it was: dense as it is"),
        *("+ bm25 .8 / .2", "+ dense + bm25 .8 / .1 / .1"),
    )
    pair, three = {RERANKER: 0.8, DENSE: 0.2}, {RERANKER: 0.8, DENSE: 0.1, BM25: 0.1}
    gains = []
    for name, queries in given(arguments, report).items():
        alone = joined(queries, {RERANKER: 1.0})
        found = joined(queries, pair)
        gains.append(float((found - alone).mean()))
        others = [
            joined(queries, pair, normalize="none"),
            joined(queries, {RERANKER: 0.8, BM25: 0.2}),
            joined(queries, three),
        ]
        cells = [f"{values.mean():.4f} ({(values - alone).mean():+.4f})" for values in (found, *others)]
        report.row(f"{name} ({len(queries)})", f"{alone.mean():.4f}", cells[0], differences(found - alone), *cells[1:])
        label = f"cross-encoder + dense on {name}: at most 0.015 below the cross-encoder"
        report.target(label, gains[-1] >= -0.015, f"{gains[-1]:+.4f}")
    label = "cross-encoder + dense: on average at least 0.01 above the cross-encoder"
    report.at_least(label, statistics.fmean(gains), 0.01, "{:+.4f}")


def show_given_as(arguments: argparse.Namespace, report: Report) -> None:
    """One ranking, given in several ways, joined with BM25 and with dense."""
    ways: dict[str, Change] = {
        "logits": as_logits,
        "probabilities": as_probabilities,
        "float16": lambda scores: as_probabilities(scores, np.float16),
        "4 decimals": lambda scores: ScoredList(
            list(scores), np.round(as_probabilities(scores).scores, 4), reranked=True
        ),
    }
    report.table(
        "One ranking given in several ways, joined .8 / .2 (nDCG@10); reranked: which documents the reranker scored",
        *("collection", "joined with", "reranked", "our record", *ways, "probabilities with normalize='none'"),
    )
    for name, queries in given(arguments, report).items():
        worst = 0.0
        for other in (BM25, DENSE):
            for within in (other, None):
                for share in SHARES:
                    weights = {RERANKER: share, other: 1.0 - share}
                    record = joined(queries, weights, changes={RERANKER: by_record}, within=within)
                    found = {
                        way: joined(queries, weights, changes={RERANKER: change}, within=within)
                        for way, change in ways.items()
                    }
                    means = [values.mean() for way, values in found.items() if way in ("logits", "probabilities")]
                    worst = max(worst, *(abs(mean - record.mean()) for mean in means), abs(means[0] - means[1]))
                    if share == SHARES[0]:
                        was = joined(
                            queries, weights, normalize="none", changes={RERANKER: as_probabilities}, within=within
                        )
                        whose = f"{within}'s" if within else "both lists'"
                        cells = [f"{values.mean():.4f}" for values in (record, *found.values(), was)]
                        report.row(name, other, whose, *cells)
        label = f"one ranking on {name}, as logits, probabilities or by our record: within 0.005"
        report.at_most(label, worst, 0.005, "{:.4f}")


def _on(function: Callable[[FloatArray], FloatArray]) -> Change:
    return lambda scores: ScoredList(list(scores), function(np.array(list(scores.values()))))


def _with_duplicates(values: FloatArray) -> FloatArray:
    """The two best are all but equal to the query, as where queries are documents."""
    return np.where(np.argsort(np.argsort(-values)) < 2, np.array([1.0, 0.999999])[values.size % 2], values)


OTHER_SCORES: Mapping[str, Change] = {
    "(1 + cosine) / 2": _on(lambda x: (1 + x) / 2),
    "dot products": _on(lambda x: 90 * x),
    "negative distances": _on(lambda x: -np.sqrt(np.maximum(2 - 2 * x, 0))),
    "high cosines": _on(lambda x: 0.7 + 0.3 * x),
    "reciprocal ranks": _on(lambda x: 1 / (61 + np.argsort(np.argsort(-x)))),
    "with two duplicates": _on(_with_duplicates),
}


def show_other_scores(arguments: argparse.Namespace, report: Report) -> None:
    """Dense scores as other stores and embedders give them, beside BM25 and beside a cross-encoder."""
    report.table(
        "The bi-encoder's scores in other forms: nDCG@10 over that of cosines; BM25 .5 / .5, then logits .8 / .2",
        *("form", *COLLECTIONS),
    )
    data = given(arguments, report)
    pairs = ({BM25: 0.5, DENSE: 0.5}, {RERANKER: 0.8, DENSE: 0.2})
    base = {name: [joined(queries, weights) for weights in pairs] for name, queries in data.items()}
    for form, change in OTHER_SCORES.items():
        cells, worst = [], 0.0
        for name, queries in data.items():
            found = [joined(queries, weights, changes={DENSE: change}) for weights in pairs]
            lost = [float((values - was).mean()) for values, was in zip(found, base[name], strict=True)]
            worst = min(worst, *lost)
            cells.append(" / ".join(f"{value:+.4f}" for value in lost))
        report.row(form, *cells)
        if form not in ("reciprocal ranks", "with two duplicates"):  # these say something else than the cosines
            report.at_least(f"dense scores as {form}: at most 0.01 below cosines", worst, -0.01, "{:+.4f}")


def show_choice(arguments: argparse.Namespace, report: Report) -> None:
    """What other rules would give: on the first half of the queries, and on the second."""
    data = given(arguments, report)
    report.table(
        "How many logits a deviation of a foreign list counts: cross-encoder + dense .8 / .2 over the cross-encoder",
        *("logits", "lowest, first half", "mean, first half", "lowest, second half", "mean, second half"),
    )
    for unit in UNITS:
        scaled = _on(lambda x, unit=unit: unit * (x - x.mean()) / x.std())
        lost = {
            name: joined(queries, {RERANKER: 0.8, DENSE: 0.2}, normalize="none", changes={DENSE: scaled})
            - joined(queries, {RERANKER: 1.0})
            for name, queries in data.items()
        }
        report.row(f"{unit:g}", *_by_half(lost.values()))
    report.table(
        "Logits that the middle of a list must span to count as logits: the largest loss of any collection",
        *("span", "probabilities against our record, first half", "cosines against z_score, first half"),
        *("probabilities, second half", "cosines, second half"),
    )
    for span in SPANS:
        with mock.patch.object(scales, "SPAN", span):
            probable = [_against_record(queries, other) for queries in data.values() for other in (BM25, DENSE)]
            cosines = [_against_z_score(queries) for queries in data.values()]
        report.row(f"{span:g}", *(_worst(found, half) for half in (0, 1) for found in (probable, cosines)))


def _against_record(queries: Sequence[Given], other: str) -> FloatArray:
    weights = {RERANKER: 0.8, other: 0.2}
    record = joined(queries, weights, changes={RERANKER: by_record}, within=other)
    return joined(queries, weights, changes={RERANKER: as_probabilities}, within=other) - record


def _against_z_score(queries: Sequence[Given]) -> FloatArray:
    weights = {BM25: 0.5, DENSE: 0.5}
    return joined(queries, weights) - joined(queries, weights, normalize="z_score")


def _by_half(found: Iterable[FloatArray]) -> list[str]:
    cells = []
    parts = [[float(values[half].mean()) for half in split(values.size, 2)] for values in found]
    for half in (0, 1):
        means = [part[half] for part in parts]
        cells += [f"{min(means):+.4f}", f"{statistics.fmean(means):+.4f}"]
    return cells


def _worst(found: Iterable[FloatArray], half: int) -> str:
    means = [float(values[split(values.size, 2)[half]].mean()) for values in found]
    return f"{max(means, key=abs):+.4f}"


DEFAULT_PARTS = {
    "bm25_dense": show_bm25_dense,
    "reranker_dense": show_reranker_dense,
    "given_as": show_given_as,
    "other_scores": show_other_scores,
    "choice": show_choice,
}
