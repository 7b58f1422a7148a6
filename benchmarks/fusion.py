"""
What fusion is worth: normalizers and weights by collection, the default blend against the cross-encoder alone, what a
cut list does, tuning on half of the queries, how many labelled queries it takes, and how long joining takes.

    python benchmarks/fusion.py

Every score is computed once, through BM25Retriever, CrossEncoderRanker and HybridScoreJoiner, and kept in `--cache` as
ids and numbers; a second run only joins. The targets are what the project promises of its fusion. Needs the extras
`evaluate` and `onnx`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from haystack import Document
from haystack.components.joiners import DocumentJoiner

import common
from common import CannotRun, Report, milliseconds
from fusion_defaults import DEFAULT_PARTS
from fusion_scores import ALONE, BM25, CE, DEFAULT, INPUTS, QUICK, TASKS, UNSEEN, Task, scores
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.fusion.fuse import ScoredList, fuse
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, default_steps, measure, ndcg, simplex
from haystack_ce_ranker.fusion.normalizers import LOG_SCALE, parse_normalization, parse_normalizations, sigmoid
from haystack_ce_ranker.fusion.tuning import learning_curve, tune
from haystack_ce_ranker.significance import Interval, bootstrap
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner

LOGIT_BOUNDS = {"name": "theoretical", "low": -12, "high": 12}
PLAIN = Setting(Frame("none", {}), DEFAULT.weights)
"""The same with `normalize="none"`."""
FRAMES = {
    f"the default (logits + {LOG_SCALE:g} log(1 + BM25))": DEFAULT.frame,
    "none (logits + BM25)": PLAIN.frame,
    "theoretical (logits on [-12, 12], BM25 on [0, max])": Frame(
        "theoretical", parse_normalizations({CE: LOGIT_BOUNDS, BM25: {"name": "theoretical", "low": 0}}, INPUTS)
    ),
    "min_max": Frame("min_max", parse_normalizations("min_max", INPUTS)),
    "z_score": Frame("z_score", parse_normalizations("z_score", INPUTS)),
    "rank": Frame("rank", parse_normalizations("rank", INPUTS)),
    "reciprocal_rank": Frame("reciprocal_rank", {}, method="reciprocal_rank"),
}
SHARES = (0.95, 0.8, 0.5)
SIZES = (5, 10, 20, 30, 50)


def weights_of(share: float) -> dict[str, float]:
    return {CE: share, BM25: 1.0 - share}


def on_probabilities(queries: list[JudgedQuery]) -> list[JudgedQuery]:
    """The same with the cross-encoder's logits through a sigmoid: what most pipelines join."""
    changed = []
    for query in queries:
        listed = query.lists.get(CE)
        lists = dict(query.lists)
        if listed is not None:
            lists[CE] = ScoredList(listed.ids, sigmoid(np.asarray(listed.scores, dtype=np.float64)))
        changed.append(JudgedQuery(query.id, lists, query.judgments))
    return changed


def show_normalizers(arguments: argparse.Namespace, report: Report) -> None:
    """nDCG@10 by collection, normalizer and the cross-encoder's share."""
    data = scores(TASKS, arguments, report)
    report.table(
        f"nDCG@10 at a cross-encoder share of {' / '.join(map(str, SHARES))}; '-': significantly below it alone",
        *("normalizer", *(f"{name} ({len(queries)})" for name, queries in data.items())),
    )
    for name in INPUTS:
        report.row(f"{name} alone", *(f"{measure(queries, ALONE[name]).mean():.3f}" for queries in data.values()))
    systems: dict[str, tuple[Frame, Callable[[list[JudgedQuery]], list[JudgedQuery]]]] = {
        label: (frame, list) for label, frame in FRAMES.items()
    }
    bm25_only = Frame("sigmoid", {BM25: parse_normalization("min_max")})
    systems["sigmoid of the logits + min_max of BM25"] = (bm25_only, on_probabilities)
    for label, (frame, change) in systems.items():
        cells = []
        for queries in data.values():
            alone = measure(queries, ALONE[CE])
            values = [measure(change(queries), Setting(frame, weights_of(share))) for share in SHARES]
            marks = ["-" if bootstrap(value - alone).high < 0 else "" for value in values]
            cells.append(" / ".join(f"{value.mean():.3f}{mark}" for value, mark in zip(values, marks, strict=True)))
        report.row(label, *cells)


def show_blend(title: str, tasks: Mapping[str, Task], arguments: argparse.Namespace, report: Report) -> None:
    """The default blend, untuned, against the cross-encoder alone; beside it, without a target, with BM25 as it is."""
    report.table(
        title,
        *("collection", "queries", "cross-encoder", "default blend", "difference [95 %]", "with normalize='none'"),
    )
    for name, queries in scores(tasks, arguments, report).items():
        alone, blend = measure(queries, ALONE[CE]), measure(queries, DEFAULT)
        gain = bootstrap(blend - alone)
        plain = bootstrap(measure(queries, PLAIN) - alone)
        means = (f"{alone.mean():.4f}", f"{blend.mean():.4f}")
        report.row(name, len(queries), *means, _difference(gain), _difference(plain))
        if tasks is UNSEEN:  # its many queries find small losses significant
            label = f"default blend, {name}: mean loss < 0.005"
            report.target(label, gain.mean > -0.005, f"{gain.mean:+.4f}")
        else:
            label = f"default blend on {name}: not significantly below the cross-encoder, mean loss < 0.005"
            report.target(label, gain.high >= 0 and gain.mean > -0.005, _difference(gain))
        if name == "cacm":
            label = "default blend on cacm: at least 0.02 above the cross-encoder"
            report.at_least(label, gain.mean, 0.02, "{:+.4f}")


def _difference(gain: Interval) -> str:
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def show_cut_lists(arguments: argparse.Namespace, report: Report) -> None:
    """The ranker returns 10 of its candidates; the joiner gets BM25's whole list."""
    names = [
        "all logits",
        "10, with the report",
        "10, with the lowest logit",
        "10, counted as the tenth",
        "DocumentJoiner merge, 10",
        "DocumentJoiner merge, 10 probabilities",
    ]
    report.table(
        "A ranker that returns 10 of its candidates, joined 0.8 / 0.2 with BM25's whole list (nDCG@10)",
        *("collection", *names),
    )
    for name, queries in scores(TASKS, arguments, report).items():
        found: dict[str, list[float]] = {system: [] for system in names}
        for query in queries:
            for system, order in zip(names, _orders_of_cut_lists(query), strict=True):
                run = {query.id: ranked_scores(order)}
                found[system].append(ndcg_at_10(run, {query.id: query.judgments})[query.id])
        means = {system: statistics.fmean(values) for system, values in found.items()}
        report.row(name, *(f"{means[system]:.4f}" for system in names))
        off = max((abs(a - b) for a, b in zip(found[names[1]], found[names[0]], strict=True)), default=0.0)
        report.target(f"cut list with the report on {name}: equal to all logits", off == 0.0, f"{off:g} off at most")


def _orders_of_cut_lists(query: JudgedQuery) -> list[list[str]]:
    ce, bm25 = query.lists.get(CE), query.lists.get(BM25)
    if ce is None or bm25 is None:
        return [[]] * 6
    scores = dict(zip(ce.ids, map(float, ce.scores), strict=True))
    first = sorted(scores, key=lambda i: -scores[i])[:10]
    found = [
        Document(id=i, score=float(s), meta=_noted(BM25, score=float(s)))
        for i, s in zip(bm25.ids, bm25.scores, strict=True)
    ]
    lowest, count = min(scores.values(), default=0.0), len(scores)
    whole = [Document(id=i, score=s, meta=_noted(CE, logit=s, lowest=lowest, scored=count)) for i, s in scores.items()]
    cut = [whole[list(scores).index(i)] for i in first]
    bare = [Document(id=i, score=scores[i]) for i in first]
    likely = [Document(id=i, score=float(sigmoid(np.array([scores[i]]))[0])) for i in first]
    joiner = HybridScoreJoiner(dict(DEFAULT.weights))
    merge = DocumentJoiner(join_mode="merge", weights=[0.8, 0.2])
    results = [
        joiner.run(cross_encoder=whole, bm25=found),
        joiner.run(cross_encoder=cut, cross_encoder_report={"scored": scores}, bm25=found),
        joiner.run(cross_encoder=cut, bm25=found),
        joiner.run(cross_encoder=bare, bm25=found),
        merge.run(documents=[bare, found]),
        merge.run(documents=[likely, found]),
    ]
    return [[document.id for document in result["documents"]] for result in results]


def _noted(stage: str, **values: float) -> dict[str, object]:
    return {"ce_ranker": {stage: values}}


def show_halves(arguments: argparse.Namespace, report: Report) -> None:
    """Tuned on one half of the queries, measured on the other."""
    draws = arguments.draws
    report.table(
        f"Tuned on one half of the queries, measured on the other (nDCG@10; {draws} random halves)",
        *("collection", "over the best single input", "first draw [95 %]", "significantly worse"),
        "over the cross-encoder",
    )
    for name, queries in scores(TASKS, arguments, report).items():
        halves = [_tuned_on_half(queries, seed) for seed in range(draws)]
        first = halves[0][0]
        mean_gain = statistics.fmean(gain.mean for gain, _ in halves)
        over = statistics.fmean(over for _, over in halves)
        worse = sum(gain.high < 0 for gain, _ in halves)
        label = f"tuned on the first half drawn of {name}: not significantly below the best single input"
        report.target(label, first.high >= 0, _difference(first))
        label = f"tuned on halves of {name}: mean loss to the best single input below 0.005"
        report.target(label, mean_gain > -0.005, f"{mean_gain:+.4f}")
        if name == "cacm":
            label = "tuned on halves of cacm: at least 0.05 above the cross-encoder"
            report.at_least(label, over, 0.05, "{:+.4f}")
        report.row(name, f"{mean_gain:+.4f}", _difference(first), f"{worse} of {draws}", f"{over:+.4f}")


def _tuned_on_half(queries: list[JudgedQuery], seed: int) -> tuple[Interval, float]:
    """Return the gain over the half's best single input, and over the cross-encoder."""
    order = np.random.default_rng(seed).permutation(len(queries))
    half = len(queries) // 2
    chosen = tune([queries[i] for i in sorted(order[:half])], DEFAULT, folds=2).setting
    rest = [queries[i] for i in sorted(order[half:])]
    singles = {single: measure(rest, ALONE[single]) for single in INPUTS}
    best = max(singles.values(), key=lambda values: float(values.mean()))
    tuned = measure(rest, chosen)
    return bootstrap(tuned - best), float((tuned - singles[CE]).mean())


def show_labels(arguments: argparse.Namespace, report: Report) -> None:
    """What tuning on a few labelled queries loses against tuning on all."""
    report.table(
        f"nDCG@10 on all queries that is lost by tuning on a few (mean of {arguments.draws} draws)",
        *("collection", *(f"{size} queries" for size in SIZES)),
    )
    for name, queries in scores(TASKS, arguments, report).items():
        losses = learning_curve(queries, DEFAULT, SIZES, draws=arguments.draws)
        if 30 in losses:
            report.at_most(f"30 labelled queries of {name}: within 0.01 of tuning on all", losses[30], 0.01, "{:.4f}")
        report.row(f"{name} ({len(queries)})", *(f"{losses[size]:.4f}" if size in losses else "" for size in SIZES))


def show_weights(arguments: argparse.Namespace, report: Report) -> None:
    """The best weight in hindsight, and what tuning on all queries chooses."""
    report.table(
        "The cross-encoder's share in the default's frame: best in hindsight, and chosen by tune (cross-validated)",
        *("collection", "best share", "nDCG@10", "chosen share", "nDCG@10, held out"),
    )
    grid = simplex(2, default_steps(2))
    for name, queries in scores(TASKS, arguments, report).items():
        values = ndcg(queries, INPUTS, DEFAULT.frame, grid).mean(axis=1)
        chosen = tune(queries, DEFAULT)
        best = int(values.argmax())
        share = chosen.setting.weights[CE]
        cells = [f"{grid[best, 1]:.2f}", f"{values[best]:.4f}", f"{share:.2f} ({chosen.setting.frame.label})"]
        report.row(name, *cells, f"{chosen.held_out.mean():.4f}")


def show_speed(_arguments: argparse.Namespace, report: Report) -> None:
    """Three lists over a thousand shared documents, all returned."""
    count, runs = 1000, 200
    random = np.random.default_rng(0)
    ids = [f"document {i}" for i in range(count)]
    weights = {"cross_encoder": 0.6, "bm25": 0.2, "embedding": 0.2}
    lists = {name: [ids[i] for i in random.permutation(count)] for name in weights}
    scored = {name: ScoredList(order, random.normal(0, 5, count)) for name, order in lists.items()}
    text = "A passage of some length, as it would come from a store. " * 8
    arrived = {
        name: [
            Document(id=i, content=text, score=float(score), meta=_noted(name, score=float(score), rank=rank))
            for rank, (i, score) in enumerate(zip(listed.ids, listed.scores, strict=True), start=1)
        ]
        for name, listed in scored.items()
    }
    joiner = HybridScoreJoiner(weights, normalize="min_max")
    spec = parse_normalizations("min_max", list(weights))
    jobs: dict[str, tuple[Callable[[], object], float]] = {
        "fusion.fuse": (lambda: fuse(scored, weights, normalizations=spec), 3.0),
        "HybridScoreJoiner.run": (lambda: joiner.run(**arrived), 10.0),
        "DocumentJoiner.run (merge)": (
            lambda: DocumentJoiner(join_mode="merge").run(documents=list(arrived.values())),
            float("inf"),
        ),
    }
    title = f"Joining three lists over {count} shared documents, milliseconds ({runs} runs)"
    report.table(title, "what", "median", "95th percentile")
    for label, (job, limit) in jobs.items():
        job()
        taken = [milliseconds(job) for _ in range(runs)]
        middle, late = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
        if limit < float("inf"):
            report.target(f"{label}: below {limit:g} ms (median)", middle < limit, f"{middle:.2f} ms")
        report.row(label, middle, late)


RANX = """
import json, sys
import ranx
queries = json.load(sys.stdin)
answers = []
for lists in queries:
    runs = [ranx.Run({"q": scores}, name=name) for name, scores in lists.items()]
    row = []
    for norm, method, params in ((None, "wsum", {"weights": (0.2, 0.8)}), ("min-max", "wsum", {"weights": (0.2, 0.8)}),
                                 ("zmuv", "wsum", {"weights": (0.2, 0.8)}), (None, "rrf", {"k": 60})):
        fused = ranx.fuse(runs=runs, norm=norm, method=method, params=params)["q"]
        row.append({key: float(value) for key, value in fused.items()})
    answers.append(row)
json.dump(answers, sys.stdout)
"""


def show_agreement(arguments: argparse.Namespace, report: Report) -> None:
    """The same lists through ranx and through Haystack's own reciprocal rank fusion."""
    data = scores(TASKS, arguments, report)
    queries = [q for found in data.values() for q in found[:20] if len(q.lists) == 2 and q.lists[BM25].ids]
    same = sum(_orders_as_haystack(query) for query in queries)
    label = "reciprocal_rank: the order of Haystack's DocumentJoiner"
    report.target(label, same == len(queries), f"equal on {same} of {len(queries)} queries")
    theirs = ranx_scores(queries)
    worst = 0.0
    for query, row in zip(queries, theirs, strict=True):
        for norm, expected in zip(("none", "min_max", "z_score"), row, strict=False):
            specs = parse_normalizations(norm, INPUTS)
            fused = fuse(query.lists, weights_of(0.8), missing="zero", normalizations=specs)
            worst = max(worst, *(abs(s - expected[i]) for i, s in zip(fused.ids, fused.scores, strict=True)))
        fused = fuse(query.lists, weights_of(0.5), method="reciprocal_rank")
        worst = max(worst, *(abs(2 * s - row[3][i]) for i, s in zip(fused.ids, fused.scores, strict=True)))
    label = "weighted sums (none, min-max, z-score) and reciprocal ranks equal to ranx within 1e-9"
    report.target(label, worst < 1e-9, f"largest difference {worst:.1e}")


def _orders_as_haystack(query: JudgedQuery) -> bool:
    given = {n: [Document(id=i, score=s) for i, s in zip(q.ids, q.scores, strict=True)] for n, q in query.lists.items()}
    ordered = {name: sorted(documents, key=lambda d: -d.score) for name, documents in given.items()}
    joiner = DocumentJoiner("reciprocal_rank_fusion", weights=[0.383, 0.617])
    theirs = joiner.run([ordered[name] for name in INPUTS])["documents"]
    ours = HybridScoreJoiner({BM25: 0.383, CE: 0.617}, method="reciprocal_rank").run(**ordered)["documents"]
    return [d.id for d in ours] == [d.id for d in theirs]


def ranx_scores(queries: list[JudgedQuery]) -> list[list[dict[str, float]]]:
    """Return what ranx makes of each query: four joined lists, in the order of the script above."""
    plain = [
        {n: dict(zip(q.lists[n].ids, map(float, q.lists[n].scores), strict=True)) for n in INPUTS} for q in queries
    ]
    # ranx compiles for half a minute; without numba's compiler the same code runs at once.
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", RANX]
    answer = subprocess.run(
        command, input=json.dumps(plain), env=environment, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise CannotRun(f"ranx does not run ({answer.stderr.strip().splitlines()[-1]})")
    found: list[list[dict[str, float]]] = json.loads(answer.stdout.splitlines()[-1])
    return found


PARTS = {
    "speed": show_speed,  # first: Python's garbage collector takes the longer, the more a process holds
    "normalizers": show_normalizers,
    "default": partial(
        show_blend, "The default blend (80 % cross-encoder) against the cross-encoder alone (nDCG@10, bootstrap)", TASKS
    ),
    "unseen": partial(show_blend, "The default blend on what played no part in its choice", UNSEEN),
    "cut_lists": show_cut_lists,
    "weights": show_weights,
    "halves": show_halves,
    "labels": show_labels,
    "agreement": show_agreement,
    **DEFAULT_PARTS,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--draws", type=int, default=20, help="random halves and samples")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
