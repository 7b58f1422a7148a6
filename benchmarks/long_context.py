"""
What a re-ranker with a long context costs: tokens, seconds and memory by `max_length`, and speed on short pairs.

    python benchmarks/long_context.py           # all: half an hour on two cores
    python benchmarks/long_context.py tokens    # what is read of 50 articles by default, beside MiniLM-L6
    python benchmarks/long_context.py cost      # the table of docs/reading.md: tokens, CPU seconds and memory
    python benchmarks/long_context.py pair      # one long pair in each runtime
    python benchmarks/long_context.py speed     # pairs a second of each runtime, beside MiniLM-L6 and L12
    python benchmarks/long_context.py quality   # one long window or several passages, with the real MiniLM-L12

The long-context model is random, in the shape of Ettin-17m's re-rankers (see `long_context_models.py`), so only cost is
measured with it. Quality is measured with weights that read 512 tokens. Times are CPU seconds where it says so: other
programs on the machine move them little. Needs the extras `evaluate`, `onnx` and `openvino`.
"""

import argparse
from typing import Any

import numpy as np

import common
import long_context_cost
import long_context_speed
from common import Report, collection_folder
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.reading.policy import ReadingPolicy
from long_context_cost import DEFAULT, READINGS, WINDOW, Job
from long_context_models import L6, LONG, POSITIONS, checkpoints, forms
from long_context_speed import FORMS
from speed_tasks import covidqa_tasks
from token_scoring import backend_of, collections, logits, quality, score

BUDGET = 512
"""What `max_length` is by default."""
LENGTHS = (BUDGET, 1024, 2048, 4096, POSITIONS)
WINDOW_LENGTHS = (384, 512)
"""Longer ones than those of `token_balance.py sweep`, for the part on quality."""
DEFAULT_LABEL = "best passages (default)"
MOST = 1.5
"""How many times MiniLM-L6's tokens the long-context model may read by default."""


def tokens(arguments: argparse.Namespace, report: Report) -> None:
    """What is read of a query's articles by default, without running a model."""
    collection_folder(arguments, "covidqa")
    folders = checkpoints(arguments)
    tasks = covidqa_tasks(arguments.data, arguments.token_queries, articles=arguments.articles)[1]
    found = {}
    for name in (LONG, L6):
        backend = load("torch", ModelOptions(str(folders[name]), device="cpu"))
        found[name] = np.array([long_context_cost.count(backend, DEFAULT, BUDGET, task).tokens for task in tasks])
    report.table(None, "model", "queries", "articles", "tokens / query", f"times {L6}'s", "at the most")
    for name, of_model in found.items():
        times = of_model / found[L6]
        report.row(name, len(tasks), arguments.articles, f"{of_model.mean():,.0f}", float(times.mean()), times.max())
    most = float((found[LONG] / found[L6]).max())
    report.at_most(f"at the default budget {LONG} reads at most {MOST} times {L6}'s tokens", most, MOST)


def cost(arguments: argparse.Namespace, report: Report) -> None:
    """Tokens, seconds and memory of one query's articles, with the runtime that `auto` takes."""
    collection_folder(arguments, "covidqa")
    folders = checkpoints(arguments)
    job = Job(arguments.data, arguments.articles, arguments.timed, arguments.threads)
    report.table(
        f"{job.articles} articles of one query; {job.timed} of them were timed",
        *("model", "max_length", "what is read", "pairs", "tokens", "CPU seconds", "peak GB", "added GB"),
    )
    for name, lengths in ((L6, LENGTHS[:1]), (LONG, arguments.lengths)):
        for reading in READINGS:
            for cell in long_context_cost.measured(folders[name], reading, lengths, job):
                figures = (f"{cell.pairs:,}", f"{cell.tokens:,}", f"{cell.seconds:.1f}")
                report.row(name, f"{cell.length:,}", reading, *figures, cell.peak, cell.added)


def pair(arguments: argparse.Namespace, report: Report) -> None:
    """A single long pair in each runtime: which of them keeps the whole table of attention in memory."""
    collection_folder(arguments, "dl19")
    made = forms(arguments, LONG)[LONG]
    report.table(
        f"One pair of {LONG}, on one thread",
        "runtime",
        *(f"{length:,} tokens, {unit}" for length in arguments.lengths for unit in ("CPU seconds", "added GB")),
    )
    for form, (backend, dtype, folder) in FORMS.items():
        found = long_context_cost.pair_measured(backend, dtype, folder(made), arguments.lengths)
        report.row(form, *(figure for cell in found for figure in cell))


def speed(arguments: argparse.Namespace, report: Report) -> None:
    """Short pairs, where a long-context model is mostly used."""
    found = long_context_speed.rates(
        forms(arguments), threads=arguments.threads, pairs=arguments.pairs, rounds=arguments.rounds
    )
    long_context_speed.print_rates(found, arguments.threads, report)


def quality_of_windows(arguments: argparse.Namespace, report: Report) -> None:
    """One window that fills the pair, chosen by its evidence, beside the default's passages on the same queries."""
    backend: Any = backend_of(arguments)
    report.table(None, "collection", "queries", "what is read", "nDCG@10", "tokens / query")
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long", 16):
        chosen = {
            DEFAULT_LABEL: ReadingPolicy(),
            **{f"one window, max_length {length}": READINGS[WINDOW](length) for length in WINDOW_LENGTHS},
        }
        figures = {}
        for label, policy in chosen.items():
            scores, stats = score(backend, policy, collection, found)
            figures[label] = quality(logits(found, scores), collection)
            report.row(name, len(found), label, f"{figures[label]:.4f}", f"{stats.tokens / len(found):,.0f}")
        default, *windows = figures.values()
        report.at_least(f"{name}: the default ranks no worse than any window", default - max(windows), 0.0, "{:+.4f}")


PARTS = {"tokens": tokens, "cost": cost, "pair": pair, "speed": speed, "quality": quality_of_windows}
QUICK = {
    "token_queries": 1,
    "articles": 4,
    "timed": 2,
    "lengths": [BUDGET, 1024],
    "pairs": 4,
    "rounds": 1,
    "queries": 1,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--collections", help="separated by commas, in place of those of the part")
    parser.add_argument("--articles", type=int, default=50, help="of a query, the best by BM25")
    parser.add_argument("--timed", type=int, default=50, help="of the articles, the ones whose time is measured")
    parser.add_argument("--token-queries", type=int, default=10, help="whose tokens are counted")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="values of max_length")
    parser.add_argument("--pairs", type=int, default=22, help="of each round, for the speed")
    parser.add_argument("--rounds", type=int, default=7, help="in which all systems run in turn")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
