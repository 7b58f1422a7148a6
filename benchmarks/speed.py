"""
How fast CrossEncoderRanker scores, and in how much memory, beside other re-rankers on the same weights and candidates.

    python benchmarks/speed.py                                    # all: half an hour on two cores
    python benchmarks/speed.py dl19 --queries 10 --peer-queries 2
    python benchmarks/speed.py gpu                                # the part that needs a GPU

The others: Haystack's SentenceTransformersSimilarityRanker, CrossEncoder.predict of sentence-transformers, rerankers
and FlashRank, each with its own defaults; one that is not installed is left out (extra `peers`). Query by query all
systems run in turn, in an order that moves on by one each time, so that what else the machine does hits all alike. A
ratio is the median over the queries that both systems ran. Every system uses the same threads. Memory is measured in a
process per system.

Needs the weights that `make models` unpacks: `ce-minilm-l12` (float32, for torch) and `ce-minilm-l12-int8` (ONNX).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import common
import speed_gpu
import speed_memory
from common import Report, percent
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.quantizing.quantize import quantize
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from speed_results import (
    Results,
    best_of_ours,
    check_padding,
    gain_over_haystack,
    growth,
    in_turn,
    largest_difference,
    largest_rank_difference,
    ratio,
)
from speed_systems import (
    HAYSTACK,
    OURS_FLOAT32,
    PREDICT,
    SYSTEMS,
    Rank,
    Setup,
    System,
    ours,
    started,
    write_float32_onnx,
)
from speed_tasks import STRESS, STRESS_WORDS, Task, covidqa_tasks, dl19_tasks, stress_task

SIZES = (10, 30, 100, 300, STRESS)
REPEATS = {10: 5, 30: 3, 100: 2}
ENOUGH_FOR_P95 = 20
SLOWEST = "torch float32"
PREFERRED = (
    ("onnx int8", "openvino int8"),
    ("openvino int8", "openvino bfloat16"),
    ("openvino bfloat16", "torch bfloat16"),
    ("openvino float32", "onnx float32"),
    ("openvino float32", SLOWEST),
)
"""What `backends.auto` takes before what, where a model's folder and the machine have both."""


@cache
def loaded(setup: Setup, report: Report) -> dict[System, Rank]:
    """Load all systems, for the parts that share them."""
    return started(SYSTEMS, setup, report)


def setup_of(arguments: argparse.Namespace) -> Setup:
    """Return where the weights are, which must be there."""
    common.weights_folder(arguments, "ce-minilm-l12")
    return Setup(arguments.models, "cpu", arguments.threads)


def quality_table(
    report: Report,
    title: str,
    results: Mapping[str, Results],
    judgments: Mapping[str, Mapping[str, int]],
    shared: Sequence[str],
) -> None:
    """Print speed, quality and latency; quality over all queries of a system, and over those that all systems ran."""
    report.table(
        title,
        *("system", "queries", "pairs/s", "times Haystack's", f"nDCG@10, {len(shared)} queries of all", "nDCG@10"),
        *("p50 ms", "p95 ms", "padding"),
    )
    for name, found in results.items():
        times = np.array(list(found.seconds.values())) * 1000
        report.row(
            *(name, len(times), f"{found.pairs_per_second:.1f}"),
            f"{ratio(results, name, HAYSTACK):.2f}" if HAYSTACK in results else None,
            f"{found.ndcg(judgments, shared):.4f}",
            f"{found.ndcg(judgments, found.answers):.4f}",
            f"{np.median(times):,.0f}",
            f"{np.percentile(times, 95):,.0f}" if len(times) >= ENOUGH_FOR_P95 else None,
            percent(found.padding),
        )


# The parts


def dl19(arguments: argparse.Namespace, report: Report) -> None:
    """Passages: everything is read by everyone."""
    common.collection_folder(arguments, "dl19")
    collection, tasks = dl19_tasks(arguments.data, arguments.queries)
    results = in_turn(loaded(setup_of(arguments), report), tasks, arguments.peer_queries)
    shared = [task.id for task in tasks[: arguments.peer_queries]]
    quality_table(report, "dl19, the 50 best passages of BM25", results, collection.judgments, shared)
    check_padding("dl19", results, report)
    if HAYSTACK not in results:
        return
    best = best_of_ours(results)
    faster = ratio(results, best, HAYSTACK)
    report.at_least(f"dl19, best backend ({best}) >= 3.5 times Haystack's speed", faster, 3.5, "{:.2f} times")
    gain = gain_over_haystack(results, best, collection.judgments)
    report.at_least("... with nDCG@10 within 0.005 of Haystack's", gain, -0.005, "{:+.4f}")
    if OURS_FLOAT32 in results:
        faster = ratio(results, OURS_FLOAT32, HAYSTACK)
        report.at_least("dl19, torch float32 >= 1.25 times Haystack's speed", faster, 1.25, "{:.2f} times")
        off = largest_rank_difference(results[OURS_FLOAT32], results[HAYSTACK])
        report.at_most("... the same ten scores, rank by rank (within 1e-5)", off, 1e-5, "{:.1e}")
        if PREDICT in results:
            off = largest_difference(results)
            report.at_most("... and equal logits (within 0.001 of CrossEncoder.predict's)", off, 1e-3, "{:.1e}")


def covidqa(arguments: argparse.Namespace, report: Report) -> None:
    """Whole articles: the others read the first 512 tokens, ours the best passages."""
    common.collection_folder(arguments, "covidqa")
    collection, tasks = covidqa_tasks(arguments.data, arguments.long_queries)
    peers = min(arguments.peer_queries, len(tasks))
    results = in_turn(loaded(setup_of(arguments), report), tasks, peers)
    title = "covidqa, the 10 best articles of BM25"
    quality_table(report, title, results, collection.judgments, [task.id for task in tasks[:peers]])
    check_padding("covidqa", results, report)
    if HAYSTACK in results:
        best = best_of_ours(results)
        faster = ratio(results, best, HAYSTACK)
        report.at_least(f"covidqa, best backend ({best}) >= 2 times Haystack's speed", faster, 2.0, "{:.2f} times")
        gain = gain_over_haystack(results, best, collection.judgments)
        report.at_least("... and nDCG@10 at least 0.08 higher", gain, 0.08, "{:+.4f}")


def stress(arguments: argparse.Namespace, report: Report) -> None:
    """Mixed lengths, from 10 candidates to 1,000: how time grows."""
    common.collection_folder(arguments, "covidqa")
    running = loaded(setup_of(arguments), report)
    sizes = [size for size in SIZES if size <= arguments.stress]
    seconds: dict[str, dict[int, float]] = {system.name: {} for system in running}
    last: dict[str, Results] = {}
    for size in sizes:
        task = stress_task(arguments.data, size)
        taking_part = {system: rank for system, rank in running.items() if size <= system.most}
        repeats = 1 if arguments.quick else REPEATS.get(size, 1)
        rounds = [in_turn(taking_part, [task], 1) for _ in range(repeats)]
        for name, results in rounds[0].items():
            seconds[name][size] = float(np.median([found[name].seconds[task.id] for found in rounds]))
            last[name] = results
    title = f"Mixed lengths ({STRESS_WORDS[0]} to {STRESS_WORDS[1]} words), seconds by candidates"
    headings = ("pairs/s at the most", "exponent", "R² of a line", "padding")
    report.table(title, "system", *(f"{size:,}" for size in sizes), *headings)
    for system in running:
        times = seconds[system.name]
        counts, values = np.array(list(times)), np.array(list(times.values()))
        exponent, straight = growth(counts, values)
        report.row(
            *(system.name, *(f"{times[size]:.2f}" if size in times else None for size in sizes)),
            *(f"{counts[-1] / values[-1]:.1f}", f"{exponent:.2f}", f"{straight:.4f}"),
            percent(last[system.name].padding),
        )
        if system.ours and system.most == STRESS:
            report.target(
                f"{system.name}: time grows linearly from 10 to {sizes[-1]:,} candidates (R² >= 0.99, exponent <= 1.1)",
                straight >= 0.99 and exponent <= 1.1,
                f"R² {straight:.4f}, exponent {exponent:.2f}",
            )
    check_padding("mixed lengths", last, report)
    draw(seconds, sizes, report.picture("speed-growth.svg"))


def draw(seconds: Mapping[str, Mapping[int, float]], sizes: Sequence[int], file: Path) -> None:
    """Draw time by candidates on logarithmic axes, where linear growth is a line at 45 degrees."""
    with common.svg(file, width=7.5, height=5) as axes:
        for (name, times), marker in zip(seconds.items(), "os^DvPX*" * 2, strict=False):
            style = "-" if name.startswith("CrossEncoderRanker") else "--"
            axes.loglog(list(times), list(times.values()), style, marker=marker, label=name)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xlabel("candidates")
        axes.set_ylabel("seconds")


def tokenising(arguments: argparse.Namespace, report: Report) -> None:
    """The fastest backend, where tokenising counts most: documents that it sees for the first time, and again."""
    setup = setup_of(arguments)
    backend = load("onnx", ModelOptions(model=setup.int8_model, device="cpu", threads=setup.threads))
    for name in ("dl19", "covidqa"):
        common.collection_folder(arguments, name)
    kinds = {
        "dl19": dl19_tasks(arguments.data, arguments.queries)[1],
        "covidqa": covidqa_tasks(arguments.data, arguments.long_queries)[1],
        "mixed lengths": [stress_task(arguments.data, arguments.stress)],
    }
    CrossEncoderScorer(backend).score("a query to warm up", ["warm up " * 1000])  # a long text loads the table of words
    headings = ("candidates", "documents", "tokenising", "choosing what to read", "model")
    report.table("Shares of the time, onnx int8", *headings)
    for name, tasks in kinds.items():
        shares: dict[str, list[tuple[float, float, float]]] = {"new": [], "seen before": []}
        for task in tasks:
            scorer = CrossEncoderScorer(backend)  # with an empty cache of documents
            for found in shares.values():
                start = time.perf_counter()
                _, stats = scorer.score(task.query, [str(document.content) for document in task.documents])
                whole = time.perf_counter() - start
                found.append((stats.tokenise / whole, stats.select / whole, stats.score / whole))
        for kind, found in shares.items():
            medians = np.median(found, axis=0)
            report.row(name, kind, *(f"{share:.1%}" for share in medians))
            label = f"{name}, {kind}: tokenising < 5 % of the time"
            report.target(label, medians[0] < 0.05, f"{medians[0]:.1%}")


def runtimes(arguments: argparse.Namespace, report: Report) -> None:
    """What `backend="auto"` chooses among, in the order that it prefers: on dl19, all in turn."""
    common.collection_folder(arguments, "dl19")
    setup = setup_of(arguments)
    collection, tasks = dl19_tasks(arguments.data, arguments.runtime_queries)
    with tempfile.TemporaryDirectory() as place:
        forms = forms_of(setup, Path(place), tasks, report)
        running = started([System(name, start, ours=True) for name, start in forms.items()], setup, report)
        results = in_turn(running, tasks, len(tasks))
    report.table(
        f"What backend='auto' chooses among, best first: dl19, 50 passages, {len(tasks)} queries",
        *("runtime", "pairs/s", f"times {SLOWEST}", "nDCG@10", "largest difference of a score"),
    )
    for name, found in results.items():
        off = largest_rank_difference(found, results[SLOWEST])
        speed = ratio(results, name, SLOWEST)
        quality = found.ndcg(collection.judgments, found.answers)
        report.row(name, f"{found.pairs_per_second:.1f}", speed, f"{quality:.4f}", f"{off:.1e}")
    for faster, slower in PREFERRED:
        if faster in results and slower in results:
            times = ratio(results, faster, slower)
            report.at_least(f"auto prefers {faster} to {slower}: as fast, to 5 %", times, 0.95, "{:.2f} times")


def forms_of(setup: Setup, place: Path, tasks: Sequence[Task], report: Report) -> dict[str, Callable[[Setup], Rank]]:
    """Make the forms of the model that its folders lack, and return all runtimes, best first."""
    int8, float32 = place / "openvino-int8", place / "onnx-float32"
    options = ModelOptions(model=setup.torch_model, device="cpu", dtype="float32", threads=setup.threads)
    requests = [(task.query, [str(document.content) for document in task.documents[:10]]) for task in tasks[:3]]
    for make in (
        lambda: quantize(options, int8, requests, backend="openvino"),
        lambda: write_float32_onnx(options, float32),
    ):
        try:
            make()
        except (ImportError, ValueError) as error:  # what cannot be made is left out when it is started
            report.say(f"- not made: {error}")
    return {
        "onnx int8": ours("onnx", None),
        "openvino int8": ours("openvino", None, str(int8)),
        "openvino bfloat16": ours("openvino", "bfloat16"),
        "torch bfloat16": ours("torch", "bfloat16"),
        "openvino float32": ours("openvino", "float32"),
        "onnx float32": ours("onnx", "float32", str(float32)),
        SLOWEST: ours("torch", "float32"),
    }


def memory(arguments: argparse.Namespace, report: Report) -> None:
    """Peak memory of one run, each system in a process of its own."""
    common.collection_folder(arguments, "covidqa")
    setup_of(arguments)
    speed_memory.measure(arguments, report)


def gpu(arguments: argparse.Namespace, report: Report) -> None:
    """The same models on a GPU, in float16."""
    speed_gpu.measure(arguments, setup_of(arguments), report)


def gpu_batches(arguments: argparse.Namespace, report: Report) -> None:
    """How many tokens a batch should have on a GPU."""
    speed_gpu.batches(arguments, setup_of(arguments), report)


# The command

PARTS = {
    "dl19": dl19,
    "covidqa": covidqa,
    "stress": stress,
    "tokenising": tokenising,
    "runtimes": runtimes,
    "memory": memory,
    "gpu": gpu,
    "gpu_batches": gpu_batches,
}
QUICK = {
    "queries": 2,
    "long_queries": 2,
    "peer_queries": 1,
    "runtime_queries": 2,
    "stress": 30,
    "memory_candidates": 40,
    "memory_peer_candidates": 10,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.set_defaults(queries=43)
    parser.add_argument("--rounds", type=int, default=5, help="of `gpu_batches`")
    parser.add_argument("--long-queries", type=int, default=24, help="of covidqa")
    parser.add_argument("--peer-queries", type=int, default=5, help="of these, for all peers but Haystack's")
    parser.add_argument("--runtime-queries", type=int, default=20, help="of dl19, for the part on runtimes")
    parser.add_argument("--stress", type=int, default=STRESS, help="the most candidates of mixed length")
    parser.add_argument("--memory-candidates", type=int, default=1000)
    parser.add_argument("--memory-peer-candidates", type=int, default=100, help="for the other systems, which are slow")
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GB that a process may allocate")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
