"""
What fusion is worth: normalizers and weights by collection, the default blend against the cross-encoder alone, what a
cut list does, tuning on half of the queries, how many labelled queries it takes, and how long joining lasts.

    python benchmarks/fusion.py --cache .cache/fusion

Every score is computed once, through BM25Retriever, CrossEncoderRanker and HybridScoreJoiner, and kept in `--cache` as
ids and numbers; a second run only joins. Collections that are missing are skipped with a word. The checks at the end
are what the project promises of its fusion; the exit status is 1 if one fails. Needs the extras `evaluate` and `onnx`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.evaluation.commands.tune_joiner import collect
from haystack_ce_ranker.evaluation.data.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.evaluation.running.pipelines import measured
from haystack_ce_ranker.fusion.fuse import ScoredList, fuse
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, default_steps, measure, ndcg, simplex
from haystack_ce_ranker.fusion.normalizers import LOG_SCALE, parse_normalization, parse_normalizations, sigmoid
from haystack_ce_ranker.fusion.tuning import learning_curve, tune
from haystack_ce_ranker.significance import Interval, bootstrap
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

CE, BM25 = "cross_encoder", "bm25"
INPUTS = (BM25, CE)


@dataclass(frozen=True)
class Task:
    """
    How many candidates of how many queries of a collection are re-ranked; None: all.

    :param folder: The collection's, where the task has another name.
    :param after: Leaves out as many queries as a task of that number takes, so that no query is in both.
    """

    depth: int
    queries: int | None = None
    folder: str | None = None
    after: int | None = None


TASKS = {
    "dl19": Task(50),
    "cacm": Task(50),
    "vaswani": Task(50),
    "med": Task(50),
    "stackfaq": Task(20, 150),
    "covidqa": Task(10, 150),
}
UNSEEN = {
    "stackfaq, other queries": Task(20, 300, "stackfaq", after=450),
    "covidqa, other queries": Task(10, 150, "covidqa", after=300),
}
"""What played no part when the default blend was chosen."""
LOGIT_BOUNDS = {"name": "theoretical", "low": -12, "high": 12}
DEFAULT = Setting(Frame("default", parse_normalizations(None, INPUTS)), {CE: 0.8, BM25: 0.2})
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
ALONE = {name: Setting(DEFAULT.frame, {other: float(other == name) for other in INPUTS}) for name in INPUTS}
DRAWS = 20
SIZES = (5, 10, 20, 30, 50)


def scores_of(name: str, task: Task, folder: Path, arguments: argparse.Namespace) -> list[JudgedQuery]:
    """Return what the joiner of BM25 -> cross-encoder gets for each query, from the cache if it holds that."""
    limit = task.queries if arguments.queries is None else arguments.queries
    retriever, ranker = _parts(task, arguments)
    made_by = {
        "queries": limit,
        "retriever": {**retriever.to_dict()["init_parameters"], "document_store": None},
        "ranker": ranker.to_dict()["init_parameters"],
    }
    cached = None if arguments.cache is None else arguments.cache / f"{name}.json"
    if cached is not None and cached.is_file():
        stored = json.loads(cached.read_text(encoding="utf-8"))
        if stored["made_by"] == made_by:
            return [_from_plain(entry) for entry in stored["queries"]]
    collection = load_collection(folder)
    if task.after is not None:
        taken = collection.sample(task.after).queries
        rest = {query_id: text for query_id, text in collection.queries.items() if query_id not in taken}
        collection = replace(collection, queries=rest)
    collection = collection.sample(limit)
    started = time.perf_counter()
    judged = _computed(collection, folder, task, arguments)
    print(f"({name}: {len(judged)} queries scored in {time.perf_counter() - started:.0f} s)", file=sys.stderr)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        plain = {"made_by": made_by, "queries": [_to_plain(query) for query in judged]}
        cached.write_text(json.dumps(plain), encoding="utf-8")
    return judged


def _parts(task: Task, arguments: argparse.Namespace) -> tuple[BM25Retriever, CrossEncoderRanker]:
    ranker = CrossEncoderRanker(model=arguments.model, backend=arguments.backend, top_k=task.depth)
    return BM25Retriever(InMemoryDocumentStore(), top_k=task.depth), ranker


def _computed(collection: Collection, folder: Path, task: Task, arguments: argparse.Namespace) -> list[JudgedQuery]:
    pipeline = Pipeline()
    for name, part in zip(("retriever", "ranker"), _parts(task, arguments), strict=True):
        pipeline.add_component(name, part)
    pipeline.add_component("joiner", HybridScoreJoiner(dict(DEFAULT.weights)))
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("retriever.documents", f"joiner.{BM25}")
    pipeline.connect("ranker.documents", f"joiner.{CE}")
    run = None
    if (folder / "run.bm25.tsv").is_file():
        run = load_run(folder / "run.bm25.tsv", collection=collection, depth=task.depth)
    ready = measured(pipeline, name=collection.name, candidates=run is not None)
    ready.fill(collection)
    ready.warm_up()
    return collect(ready, collection, "joiner", candidates=run)


def _to_plain(query: JudgedQuery) -> dict[str, object]:
    lists = {
        name: {"ids": list(listed.ids), "scores": [None if s is None else float(s) for s in listed.scores]}
        for name, listed in query.lists.items()
    }
    return {"id": query.id, "lists": lists, "judgments": dict(query.judgments)}


def _from_plain(entry: dict[str, dict]) -> JudgedQuery:
    lists = {name: ScoredList(given["ids"], given["scores"]) for name, given in entry["lists"].items()}
    return JudgedQuery(str(entry["id"]), lists, entry["judgments"])


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


def table(header: list[str], rows: list[list[str]]) -> None:
    print("\n| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def show_normalizers(data: dict[str, list[JudgedQuery]]) -> None:
    """nDCG@10 by collection, normalizer and the cross-encoder's share."""
    rows = []
    for name in INPUTS:
        rows.append([f"{name} alone", *(f"{measure(queries, ALONE[name]).mean():.3f}" for queries in data.values())])
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
        rows.append([label, *cells])
    print(f"\nnDCG@10 at a cross-encoder share of {' / '.join(map(str, SHARES))}; '-': significantly below it alone")
    table(["normalizer", *(f"{name} ({len(queries)})" for name, queries in data.items())], rows)


def show_default(data: dict[str, list[JudgedQuery]], checks: dict[str, bool]) -> None:
    """The default blend, untuned, against the cross-encoder alone; beside it, not checked, with BM25 as it is."""
    rows = []
    for name, queries in data.items():
        alone, blend = measure(queries, ALONE[CE]), measure(queries, DEFAULT)
        gain = bootstrap(blend - alone)
        safe = gain.high >= 0 and gain.mean > -0.005
        checks[f"default blend on {name}: not significantly below the cross-encoder, mean loss < 0.005"] = safe
        if name == "cacm":
            checks["default blend on cacm: at least 0.02 above the cross-encoder"] = gain.mean >= 0.02
        figures = [f"{alone.mean():.4f}", f"{blend.mean():.4f}", _difference(gain), "yes" if safe else "NO"]
        rows.append([name, *figures, _difference(bootstrap(measure(queries, PLAIN) - alone))])
    print("\nThe default blend (80 % cross-encoder) against the cross-encoder alone (nDCG@10, paired bootstrap)")
    header = ["collection", "cross-encoder", "default blend", "difference [95 %]", "safe"]
    table([*header, "with normalize='none'"], rows)


def _difference(gain: Interval) -> str:
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def show_unseen(data: dict[str, list[JudgedQuery]], checks: dict[str, bool]) -> None:
    """The same on what played no part when the default was chosen; more queries find smaller losses significant."""
    rows = []
    for name, queries in data.items():
        alone, blend = measure(queries, ALONE[CE]), measure(queries, DEFAULT)
        gain = bootstrap(blend - alone)
        checks[f"default blend, {name}: mean loss < 0.005"] = gain.mean > -0.005
        figures = [str(len(queries)), f"{alone.mean():.4f}", f"{blend.mean():.4f}", _difference(gain)]
        rows.append([name, *figures, _difference(bootstrap(measure(queries, PLAIN) - alone))])
    print("\nThe default blend on what played no part in its choice")
    header = ["collection", "queries", "cross-encoder", "default blend", "difference [95 %]"]
    table([*header, "with normalize='none'"], rows)


def show_cut_lists(data: dict[str, list[JudgedQuery]], checks: dict[str, bool]) -> None:
    """The ranker returns 10 of its candidates; the joiner gets BM25's whole list."""
    names = [
        "all logits",
        "10, with the report",
        "10, with the lowest logit",
        "10, counted as the tenth",
        "DocumentJoiner merge, 10",
        "DocumentJoiner merge, 10 probabilities",
    ]
    rows = []
    for name, queries in data.items():
        found: dict[str, list[float]] = {system: [] for system in names}
        for query in queries:
            for system, order in zip(names, _orders_of_cut_lists(query), strict=True):
                run = {query.id: ranked_scores(order)}
                found[system].append(ndcg_at_10(run, {query.id: query.judgments})[query.id])
        means = {system: statistics.fmean(values) for system, values in found.items()}
        rows.append([name, *(f"{means[system]:.4f}" for system in names)])
        checks[f"cut list with the report on {name}: equal to all logits"] = found[names[1]] == found[names[0]]
    print("\nA ranker that returns 10 of its candidates, joined 0.8 / 0.2 with BM25's whole list (nDCG@10)")
    table(["collection", *names], rows)


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
    whole = [Document(id=i, meta=_noted(CE, logit=s, lowest=lowest, scored=count)) for i, s in scores.items()]
    cut = [Document(id=i, meta=_noted(CE, logit=scores[i], lowest=lowest, scored=count)) for i in first]
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


def show_halves(data: dict[str, list[JudgedQuery]], checks: dict[str, bool]) -> None:
    """Tuned on one half of the queries, measured on the other."""
    rows = []
    for name, queries in data.items():
        gains, over, worse, first = [], [], 0, None
        for seed in range(DRAWS):
            order = np.random.default_rng(seed).permutation(len(queries))
            half = len(queries) // 2
            chosen = tune([queries[i] for i in sorted(order[:half])], DEFAULT, folds=2).setting
            rest = [queries[i] for i in sorted(order[half:])]
            singles = {single: measure(rest, ALONE[single]) for single in INPUTS}
            best = max(singles.values(), key=lambda values: float(values.mean()))
            tuned = measure(rest, chosen)
            gain = bootstrap(tuned - best)
            gains.append(gain.mean)
            over.append(float((tuned - singles[CE]).mean()))
            worse += gain.high < 0
            first = gain if first is None else first
        assert first is not None
        checks[f"tuned on the first half drawn of {name}: not significantly below the best single input"] = (
            first.high >= 0
        )
        checks[f"tuned on halves of {name}: mean loss to the best single input below 0.005"] = np.mean(gains) > -0.005
        if name == "cacm":
            checks["tuned on halves of cacm: at least 0.05 above the cross-encoder"] = np.mean(over) >= 0.05
        rows.append(
            [
                name,
                f"{np.mean(gains):+.4f}",
                _difference(first),
                f"{worse} of {DRAWS}",
                f"{np.mean(over):+.4f}",
            ]
        )
    print(f"\nTuned on one half of the queries, measured on the other (nDCG@10; {DRAWS} random halves)")
    header = [
        "collection",
        "over the best single input",
        "first draw [95 %]",
        "significantly worse",
        "over the cross-encoder",
    ]
    table(header, rows)


def show_labels(data: dict[str, list[JudgedQuery]], checks: dict[str, bool]) -> None:
    """What tuning on a few labelled queries loses against tuning on all."""
    rows = []
    for name, queries in data.items():
        losses = learning_curve(queries, DEFAULT, SIZES, draws=DRAWS)
        if 30 in losses:
            checks[f"30 labelled queries of {name}: within 0.01 of tuning on all"] = losses[30] <= 0.01
        rows.append([f"{name} ({len(queries)})", *(f"{losses[size]:.4f}" if size in losses else "" for size in SIZES)])
    print(f"\nnDCG@10 on all queries that is lost by tuning on a few (mean of {DRAWS} draws)")
    table(["collection", *(f"{size} queries" for size in SIZES)], rows)


def show_weights(data: dict[str, list[JudgedQuery]]) -> None:
    """The best weight in hindsight, and what tuning on all queries chooses."""
    rows = []
    grid = simplex(2, default_steps(2))
    for name, queries in data.items():
        values = ndcg(queries, INPUTS, DEFAULT.frame, grid).mean(axis=1)
        chosen = tune(queries, DEFAULT)
        best = int(values.argmax())
        share = chosen.setting.weights[CE]
        cells = [f"{grid[best, 1]:.2f}", f"{values[best]:.4f}", f"{share:.2f} ({chosen.setting.frame.label})"]
        rows.append([name, *cells, f"{chosen.held_out.mean():.4f}"])
    print("\nThe cross-encoder's share in the default's frame: best in hindsight, and chosen by tune (cross-validated)")
    table(["collection", "best share", "nDCG@10", "chosen share", "nDCG@10, held out"], rows)


def show_speed(checks: dict[str, bool], *, count: int = 1000, runs: int = 200) -> None:
    """Three lists over a thousand shared documents, all returned."""
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
    rows = []
    for label, (job, limit) in jobs.items():
        job()
        taken = []
        for _ in range(runs):
            started = time.perf_counter()
            job()
            taken.append(1000 * (time.perf_counter() - started))
        middle, late = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
        if limit < float("inf"):
            checks[f"{label}: below {limit:g} ms (median)"] = middle < limit
        rows.append([label, f"{middle:.2f}", f"{late:.2f}"])
    print(f"\nJoining three lists over {count} shared documents, milliseconds ({runs} runs)")
    table(["what", "median", "95th percentile"], rows)


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


def show_agreement(data: dict[str, list[JudgedQuery]], checks: dict[str, bool], *, per_collection: int = 20) -> None:
    """The same lists through ranx and through Haystack's own reciprocal rank fusion."""
    queries = [q for found in data.values() for q in found[:per_collection] if len(q.lists) == 2 and q.lists[BM25].ids]
    plain = [
        {n: dict(zip(q.lists[n].ids, map(float, q.lists[n].scores), strict=True)) for n in INPUTS} for q in queries
    ]
    same = 0
    for query in queries:
        given = {
            n: [Document(id=i, score=s) for i, s in zip(q.ids, q.scores, strict=True)] for n, q in query.lists.items()
        }
        ordered = {name: sorted(documents, key=lambda d: -d.score) for name, documents in given.items()}
        theirs = DocumentJoiner("reciprocal_rank_fusion", weights=[0.383, 0.617]).run(
            [ordered[name] for name in INPUTS]
        )
        ours = HybridScoreJoiner({BM25: 0.383, CE: 0.617}, method="reciprocal_rank").run(**ordered)
        same += [d.id for d in ours["documents"]] == [d.id for d in theirs["documents"]]
    checks["reciprocal_rank: the order of Haystack's DocumentJoiner"] = same == len(queries)
    print(f"\nHaystack's reciprocal rank order: equal on {same} of {len(queries)} queries")
    # ranx compiles for half a minute; without numba's compiler the same code runs at once.
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps(plain),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        print(f"ranx could not be run ({answer.stderr.strip().splitlines()[-1]}): not compared")
        return
    worst = 0.0
    for query, row in zip(queries, json.loads(answer.stdout.splitlines()[-1]), strict=True):
        for norm, theirs in zip(("none", "min_max", "z_score"), row, strict=False):
            specs = parse_normalizations(norm, INPUTS)
            fused = fuse(query.lists, weights_of(0.8), missing="zero", normalizations=specs)
            worst = max(worst, *(abs(s - theirs[i]) for i, s in zip(fused.ids, fused.scores, strict=True)))
        fused = fuse(query.lists, weights_of(0.5), method="reciprocal_rank")
        worst = max(worst, *(abs(2 * s - row[3][i]) for i, s in zip(fused.ids, fused.scores, strict=True)))
    print(f"ranx (weighted sum of none, min-max and z-score; reciprocal rank): largest difference {worst:.1e}")
    checks["weighted sums and reciprocal ranks equal to ranx within 1e-9"] = worst < 1e-9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--collections", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--queries", type=int, help="at most so many per collection, in place of the table's numbers")
    parser.add_argument(
        "--without-unseen", action="store_true", help="leave out what played no part in the choice: half of the scores"
    )
    parser.add_argument("--model", default=OFFLINE_MODEL)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument(
        "--cache", type=Path, help="a folder for scores (ids and numbers), so that they are computed once"
    )
    arguments = parser.parse_args()
    checks: dict[str, bool] = {}
    print(f"model {arguments.model}, backend {arguments.backend}")
    show_speed(checks)  # first: Python's garbage collector takes the longer, the more a process holds
    data = {}
    for name in arguments.collections.split(","):
        if (arguments.data / name).is_dir():
            data[name] = scores_of(name, TASKS[name], arguments.data / name, arguments)
        else:
            print(f"({name}: no such folder under {arguments.data}, skipped)")
    unseen = {
        name: scores_of(name, task, arguments.data / str(task.folder), arguments)
        for name, task in UNSEEN.items()
        if task.folder in data and not arguments.without_unseen
    }
    show_normalizers(data)
    show_default(data, checks)
    if unseen:
        show_unseen(unseen, checks)
    show_cut_lists(data, checks)
    show_weights(data)
    show_halves(data, checks)
    show_labels(data, checks)
    if data:
        show_agreement(data, checks)
    print("\nPromises")
    for label, held in checks.items():
        print(f"  {'holds' if held else 'DOES NOT HOLD'}: {label}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
