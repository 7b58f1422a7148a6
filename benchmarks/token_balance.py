"""
What the model reads of a pair, and what that is worth: nDCG@10 and tokens per query.

    python benchmarks/token_balance.py                # all: an hour
    python benchmarks/token_balance.py strategies     # head, passages, every window: the table of docs/reading.md
    python benchmarks/token_balance.py positions      # who is found by where in the document the answer stands
    python benchmarks/token_balance.py finding        # evidence by tokens or stems, whose idf, aligned to what
    python benchmarks/token_balance.py choices        # the same by the ranking that comes of it
    python benchmarks/token_balance.py places         # what the marked place of an answer would give
    python benchmarks/token_balance.py sweep          # window, passages, evidence, aggregate: why the defaults
    python benchmarks/token_balance.py mixed          # short documents among long ones: is either favoured
    python benchmarks/token_balance.py queries        # which part of a query to keep when it is too long
    python benchmarks/token_balance.py shares         # how much of a pair a long query may take
    python benchmarks/token_balance.py time           # tokenising and choosing windows, beside scoring

Every setting re-ranks the same candidates with the same model in one process. A pair that several settings share is
scored once and kept in `--cache`, so that a long run may be stopped and continued. Needs the extras `evaluate` and
`onnx`.
"""

import argparse
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

import common
from common import Report, collection_folder
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import REDUCTIONS
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from token_places import places
from token_scoring import (
    AGGREGATES,
    DEFAULT,
    DEPTHS,
    Found,
    Scores,
    aggregated,
    backend_of,
    collections,
    logits,
    mean_of,
    plain_logits,
    quality,
    requests,
    score,
)
from token_windows import choices, finding

HEAD_LABEL = "first 512 tokens (head)"
DEFAULT_LABEL = "best passages (default)"
ALONE_LABEL = "the passages alone"
POLICIES = {
    HEAD_LABEL: ReadingPolicy(long_documents="head"),
    "best passage": ReadingPolicy(passages_per_document=1),
    "two best passages": ReadingPolicy(passages_per_document=2),
    DEFAULT_LABEL: DEFAULT,
}
EVERY_WINDOW = ReadingPolicy(long_documents="windows")


def only(found: Found, queries: int) -> dict[str, Sequence[str]]:
    return dict(list(found.items())[:queries])


def strategies(arguments: argparse.Namespace, report: Report) -> None:
    """The first 512 tokens, the best passages, every window: the table of the README."""
    report.table(None, "collection", "queries", "what is read", "nDCG@10", "tokens / query", "share of head's")
    figures = {}
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long,dl19", None):
        figures[name] = policies_of(name, collection, found, arguments, report)
    if "covidqa" in figures:
        (head, tokens), (ours, cost) = (figures["covidqa"][label] for label in (HEAD_LABEL, DEFAULT_LABEL))
        report.target(
            "covidqa: default >= head + 0.10 at <= 85 % of its tokens",
            ours >= head + 0.10 and cost <= 0.85 * tokens,
            f"{ours - head:+.4f} at {cost / tokens:.0%}",
        )
        label, figure, cost = best_within(figures["covidqa"], 0.3 * tokens)
        report.target(
            "covidqa: a setting >= head + 0.06 at <= 30 %",
            figure >= head + 0.06,
            f"{label}, {figure - head:+.4f} at {cost / tokens:.0%}",
        )
    if {"dl19", "dl19-long"} <= set(figures):
        (_, tokens), (alone, _) = figures["dl19-long"][HEAD_LABEL], figures["dl19"][DEFAULT_LABEL]
        ours, cost = figures["dl19-long"][DEFAULT_LABEL]
        report.target(
            "dl19-long: default >= 93 % of the passages alone at no more tokens than head",
            ours >= 0.93 * alone and cost <= tokens,
            f"{ours / alone:.1%} at {cost / tokens:.0%}",
        )
        label, figure, cost = best_within(figures["dl19-long"], 0.3 * tokens)
        report.target(
            "dl19-long: a setting >= 95 % of the passages alone at <= 30 %",
            figure >= 0.95 * alone,
            f"{label}, {figure / alone:.1%} at {cost / tokens:.0%}",
        )


def policies_of(
    name: str, collection: Collection, found: Found, arguments: argparse.Namespace, report: Report
) -> dict[str, tuple[float, float]]:
    """Print the rows of a collection and return quality and tokens per query by what is read."""
    backend = backend_of(arguments)
    head = 0.0

    def row(of: Found, label: str, figure: float, tokens: float = 0.0) -> None:
        share = f"{tokens / head:.0%}" if tokens else None
        report.row(name, len(of), label, f"{figure:.4f}", f"{tokens:,.0f}", share)

    first_stage = {query_id: ranked_scores(ids) for query_id, ids in found.items()}
    row(found, "nothing (BM25)", mean(ndcg_at_10(first_stage, collection.judgments)))
    by_policy, figures = {}, {}
    for label, policy in POLICIES.items():
        scores, stats = score(backend, policy, collection, found)
        by_policy[label] = logits(found, scores)
        figures[label] = quality(by_policy[label], collection), stats.tokens / len(found)
        head = figures[HEAD_LABEL][1]
        row(found, label, *figures[label])
    if name == "dl19":
        plain = plain_logits(backend, collection, found)
        ours = by_policy[DEFAULT_LABEL].items()
        worst = max(abs(plain[query][one] - logit) for query, of in ours for one, logit in of.items())
        report.target("dl19: scores identical to plain scoring", worst == 0.0, f"largest difference {worst:g}")
        return figures
    few = dict(list(found.items())[: arguments.windows_queries])
    sample = quality({query_id: by_policy[DEFAULT_LABEL][query_id] for query_id in few}, collection)
    row(few, "default, on the sample", sample)
    scores, stats = score(backend, EVERY_WINDOW, collection, few)
    every = {join: quality(aggregated(few, scores, AGGREGATES[join]), collection) for join in ("max", "logsumexp")}
    for join, figure in every.items():
        row(few, f"every window ({join}), on the sample", figure, stats.tokens / len(few))
    label = f"{name}: the default does not lose to every window (same {len(few)} queries)"
    best = max(every.values())
    report.target(label, sample >= best, f"{sample:.4f} against {best:.4f}")
    return figures


def best_within(figures: Mapping[str, tuple[float, float]], most: float) -> tuple[str, float, float]:
    """Return the setting of best quality among those within so many tokens, with its quality and tokens."""
    within = {label: figure for label, figure in figures.items() if figure[1] <= most}
    if not within:
        return "no setting is that cheap", 0.0, 0.0
    label = max(within, key=lambda one: within[one][0])
    return label, *within[label]


def time_of_steps(arguments: argparse.Namespace, report: Report) -> None:
    """Medians over queries; each first time with a scorer whose cache is empty."""
    backend = backend_of(arguments).forgetful
    headings = ("tokenising, ms", "choosing, ms", "scoring, ms", "both of scoring", "again, cached")
    report.table(None, "collection", "queries", *headings)
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long,dl19", 15):
        wanted = requests(collection, found)
        warm = CrossEncoderScorer(backend)
        warm.score(*wanted[0])  # numpy and onnxruntime have their first time here
        first, again = [], []
        for request in wanted:
            fresh = CrossEncoderScorer(backend)
            first.append(fresh.score(*request)[1])
            again.append(fresh.score(*request)[1])
        shares = [float(np.median([(s.tokenise + s.select) / s.score for s in of])) for of in (first, again)]
        steps = [1000 * float(np.median([getattr(s, step) for s in first])) for step in ("tokenise", "select", "score")]
        cells = (f"{share:.1%}" for share in shares)
        report.row(name, len(wanted), *(f"{step:.1f}" for step in steps), *cells)
        report.target(
            f"{name}: tokenising and choosing < 15 % of scoring, < 5 % cached",
            shares[0] < 0.15 and shares[1] < 0.05,
            " and ".join(f"{share:.1%}" for share in shares),
        )


EVIDENCE_OF_PASSAGES = {1: (0.8,), 2: (0.0, 0.8), 4: (0.6, 0.8, 0.9), 8: (0.6, 0.8)}
"""The shares of the best window's evidence that the sweep tries, by how many windows a document may have."""


def sweep(arguments: argparse.Namespace, report: Report) -> None:
    """Settings that read no more of a document than the head does."""
    backend = backend_of(arguments)
    report.table(None, "collection", "queries", "window", "passages", "evidence", "tokens / query", *AGGREGATES)
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long", 16):
        for label in ("head", "head_tail"):
            scores, stats = score(backend, ReadingPolicy(long_documents=label), collection, found)
            figure = quality(logits(found, scores), collection)
            tokens = f"{stats.tokens / len(found):,.0f}"
            report.row(name, len(found), label, None, None, tokens, f"{figure:.3f}", None, None, None)
        for window, passages, share in settings():
            policy = replace(
                DEFAULT,
                passage_tokens=window,
                passage_stride=window // 2,
                passages_per_document=passages,
                passage_evidence=share,
            )
            scores, stats = score(backend, policy, collection, found)
            figures = [quality(aggregated(found, scores, join), collection) for join in AGGREGATES.values()]
            tokens = f"{stats.tokens / len(found):,.0f}"
            cells = (f"{figure:.3f}" for figure in figures)
            report.row(name, len(found), window, passages, str(share), tokens, *cells)


def settings() -> list[tuple[int, int, float]]:
    """Return windows, passages and shares of evidence that read at most 512 tokens."""
    return [
        (window, passages, share)
        for window in (64, 128, 256)
        for passages in (1, 2, 4, 8)
        if window * passages <= 512
        for share in EVIDENCE_OF_PASSAGES[passages]
    ]


def mixed(arguments: argparse.Namespace, report: Report) -> None:
    """Half of dl19-long's candidates are shown as the passage alone, then the other half."""
    backend = backend_of(arguments)
    passages = load_collection(collection_folder(arguments, "dl19")).documents
    headings = (text for name in AGGREGATES for text in (name, "long in top 10"))
    report.table(None, "window", "passages", "tokens / query", *headings)
    for _, collection, found in collections(arguments, report, "dl19-long", 20):
        for window, most in ((64, 1), (64, 2), (64, 4), (128, 4)):
            policy = replace(DEFAULT, passage_tokens=window, passage_stride=window // 2, passages_per_document=most)
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in AGGREGATES}
            tokens = 0.0
            for parity in (0, 1):
                shown = {
                    one: document if is_long(one, parity) else passages[one.split("@")[0]]
                    for one, document in collection.documents.items()
                }
                scores, stats = score(backend, policy, replace(collection, documents=shown), found)
                tokens += stats.tokens / len(found) / 2
                for name, join in AGGREGATES.items():
                    of_queries = aggregated(found, scores, join)
                    long = mean_of(is_long(one, parity) for of in of_queries.values() for one in first_ten(of))
                    figures[name].append((quality(of_queries, collection), long))
            means = (np.mean(pairs, axis=0) for pairs in figures.values())
            cells = (cell for figure, long in means for cell in (f"{figure:.3f}", f"{long:.0%}"))
            report.row(window, most, f"{tokens:,.0f}", *cells)


def is_long(document_id: str, parity: int) -> bool:
    """Whether a document is among the half that is shown whole."""
    return zlib.crc32(document_id.encode()) % 2 == parity


def first_ten(scores: Mapping[str, float]) -> list[str]:
    """Return the ten best documents."""
    return sorted(scores, key=lambda one: -scores[one])[:10]


def positions(arguments: argparse.Namespace, report: Report) -> None:
    """
    Of the relevant documents (grade 2 and up) among the candidates, the share in the top 10, by needle position.

    The passages alone, which have no position, stand beside: how uneven chance made the groups of documents.
    """
    passages = load_collection(collection_folder(arguments, "dl19")).documents
    shares: dict[str, list[tuple[int, int]]] = {}
    for _, collection, found in collections(arguments, report, "dl19-long", None):
        alone = replace(collection, documents={one: passages[one.split("@")[0]] for one in collection.documents})
        shown = {HEAD_LABEL: collection, DEFAULT_LABEL: collection, ALONE_LABEL: alone}
        for label, documents in shown.items():
            policy = POLICIES.get(label, DEFAULT)
            scores = logits(found, score(backend_of(arguments), policy, documents, found)[0])
            shares[label] = by_position(scores, collection)
    report.table(None, "needle position", *(f"{label}: top 10 (95 % interval)" for label in shares))
    for place in range(PLACES):
        cells = []
        for of_label in shares.values():
            low, high = wilson(*of_label[place])
            cells.append(f"{of_label[place][0]} of {of_label[place][1]} ({low:.0%} - {high:.0%})")
        report.row(place + 1, *cells)
    position_targets(shares, report)
    draw(shares, report.picture("token_balance.svg"))


def by_position(scores: Scores, collection: Collection) -> list[tuple[int, int]]:
    """Return for each place of the needle how many relevant documents are in the top 10, of how many."""
    hits, all_ = Counter[int](), Counter[int]()
    for query_id, of_query in scores.items():
        best = set(first_ten(of_query))
        for one in of_query:
            if collection.judgments[query_id].get(one, 0) >= 2:
                place = int(collection.documents[one].metadata["needle_position"])
                all_[place] += 1
                hits[place] += one in best
    return [(hits[place], all_[place]) for place in range(PLACES)]


def position_targets(shares: Mapping[str, Sequence[tuple[int, int]]], report: Report) -> None:
    """Note whether the default finds relevant documents wherever the answer stands, and the head does not."""
    report.say()
    for label, of_label in shares.items():
        hit, total = sum(h for h, _ in of_label), sum(n for _, n in of_label)
        share = hit / max(total, 1)
        chi = sum((h - n * share) ** 2 / (n * share * (1 - share)) for h, n in of_label if n and 0 < share < 1)
        figures = f"{share:.0%} of {total} over all positions, chi-square {chi:.1f} (5 % level with 11 degrees: 19.7)"
        if label == DEFAULT_LABEL:
            report.target("flat within its interval by default", chi < 19.7, figures)
        else:
            report.say(f"- {label}: {figures}")
    unread = shares[HEAD_LABEL][UNREAD_BY_HEAD:]
    low, high = wilson(sum(h for h, _ in unread), sum(n for _, n in unread))
    chance = 10 / DEPTHS["dl19-long"]
    label = f"the head is no better than chance ({chance:.0%}) from position {UNREAD_BY_HEAD + 1} on"
    report.target(label, low <= chance, f"{low:.0%} - {high:.0%}")


PLACES = 12
"""The passages of a document of dl19-long."""
UNREAD_BY_HEAD = 7
"""The first of the twelve passages (from 0) that the first 512 tokens do not reach, mostly."""


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not total:
        return 0.0, 1.0
    found = binomtest(hits, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def draw(shares: Mapping[str, Sequence[tuple[int, int]]], file: Path) -> None:
    """Draw the shares: a line with intervals for each of what is read."""
    with common.svg(file, width=7.5, height=4) as axes:
        for number, (label, of_label) in enumerate(shares.items()):
            heights = np.array([hits / total if total else 0.0 for hits, total in of_label])
            low, high = np.transpose([wilson(*of_place) for of_place in of_label])
            places = np.arange(1, PLACES + 1) + 0.1 * number  # side by side, so that intervals can be told apart
            errors = np.clip((heights - low, high - heights), 0.0, None)
            axes.errorbar(places, 100 * heights, yerr=100 * errors, marker="o", label=label)
        axes.set_title("Relevant documents in the top 10, by the answer's position in the document", fontsize=10)
        axes.set_xlabel("passage of twelve that holds the answer")
        axes.set_ylabel("%")
        axes.set_xticks(range(1, PLACES + 1))


def queries(arguments: argparse.Namespace, report: Report) -> None:
    """Short documents, so that only the query's part matters; only queries longer than the limit count."""
    backend = backend_of(arguments)
    report.table(None, "collection", "limit", "queries cut", "whole", *REDUCTIONS, "rarest in the collection")
    for name, collection, found in collections(arguments, report, "cacm,med,stackfaq", 30):
        texts = [document.content for document in collection.documents.values()]
        seen = Counter(token for encoded in backend.tokenizer.encode(texts) for token in set(encoded.ids.tolist()))
        lengths = query_lengths(backend, collection, found)

        def rarest(query: Any, tokens: int, seen: Mapping[int, int] = seen) -> Any:
            order = sorted(range(len(query)), key=lambda place: (seen.get(int(query[place]), 0), place))
            return np.array(sorted(order[:tokens]))

        for limit in (8, 16, 32):
            long = {query_id: ids for query_id, ids in found.items() if lengths[query_id] > limit}
            if len(long) < arguments.least_queries:
                continue
            cells = [quality(logits(long, score(backend, DEFAULT, collection, long)[0]), collection)]
            for reduction, function in {**REDUCTIONS, "of_collection": rarest}.items():
                REDUCTIONS[reduction] = function
                policy = replace(DEFAULT, max_query_tokens=limit, query_reduction=reduction)
                cells.append(quality(logits(long, score(backend, policy, collection, long)[0]), collection))
            REDUCTIONS.pop("of_collection")
            report.row(name, limit, f"{len(long)} of {len(found)}", *(f"{cell:.3f}" for cell in cells))


def query_lengths(backend: Any, collection: Collection, found: Found) -> dict[str, int]:
    """Return the tokens of each query."""
    encoded = backend.tokenizer.encode([collection.queries[query_id] for query_id in found])
    return dict(zip(found, (len(tokens.ids) for tokens in encoded), strict=True))


def shares(arguments: argparse.Namespace, report: Report) -> None:
    """Queries and documents that do not fit together: which side gives way."""
    backend = backend_of(arguments)
    headings = ("max_length", "queries over a quarter", "the rule (default)", "1/4", "1/2", "3/4")
    report.table(None, "collection", *headings)
    special = backend.tokenizer.format.special_tokens
    for name, collection, found in collections(arguments, report, "cacm,med", 60):
        lengths = query_lengths(backend, collection, found)
        for limit in (64, 128):
            room = limit - special
            long = {query_id: ids for query_id, ids in found.items() if lengths[query_id] > room // 4}
            if len(long) < arguments.least_queries:
                continue
            cells = []
            for most in (None, room // 4, room // 2, 3 * room // 4):
                policy = replace(DEFAULT, max_length=limit, max_query_tokens=most)
                scores, stats = score(backend, policy, collection, long)
                cells.append(f"{quality(logits(long, scores), collection):.4f} ({stats.tokens / len(long):,.0f})")
            report.row(name, limit, f"{len(long)} of {len(found)}", *cells)


PARTS = {
    "strategies": strategies,
    "positions": positions,
    "finding": finding,
    "choices": choices,
    "places": places,
    "sweep": sweep,
    "mixed": mixed,
    "queries": queries,
    "shares": shares,
    "time": time_of_steps,
}
QUICK = {"queries": 2, "windows_queries": 1, "least_queries": 1}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--collections", help="separated by commas, in place of those of the part")
    parser.add_argument("--windows-queries", type=int, default=10, help="queries for reading every window")
    parser.add_argument("--least-queries", type=int, default=5, help="the fewest long queries that make a row")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
