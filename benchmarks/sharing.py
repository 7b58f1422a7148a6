"""
What it costs and gains that requests stand in one line and share batches.

    python benchmarks/sharing.py                # ten minutes on two cores
    python benchmarks/sharing.py lone --quick

Requests are queries of dl19, each with its ten best passages of BM25, scored by the int8 form of ms-marco-MiniLM-L12.
The ways of running their batches take turns, request by request or round by round, so that all meet the same machine.

- lone: what a request pays for the line if no other is there;
- clients: requests a second of several threads: each for itself, in the line, sharing batches, and waiting for others;
- gpu: the same in float16 on a GPU.
"""

import argparse
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import common
from common import CannotRun, Report
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from speed_tasks import Task, dl19_tasks

CANDIDATES = 10
LONE_COST = 2.0
"""The most milliseconds that a lone request may pay."""
GPU_REPEATS = 3
"""How often a round asks each query on a GPU, where 43 requests would be over in a moment."""
GPU_GAIN = 2.0
"""How many times as many requests a second clients are to get on a GPU by sharing batches."""


ALONE, SHARED = "each for itself", "in the line, shared"
RUNNERS = {
    "in the line, unshared": 0.0,
    SHARED: 1e-6,
    "waiting 2 ms for others": 0.002,
    "waiting 10 ms for others": 0.01,
}
"""How long the line waits for others, by name, in seconds."""


class Direct(PairRunner):
    """Runs each batch in the thread of its request, as if there were no others."""

    _line = None  # type: ignore[assignment]


class Instant:
    """A model that computes nothing, so that only the way to it takes time."""

    name, dtype, device, pads, batch_tokens = "instant", "float32", "cpu", False, 2048
    mixes_lengths = independent = True
    tokenizer: Any = SimpleNamespace(pad_id=0, pads_left=False)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros(len(batch.pairs), np.float32)


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """Return the queries with their candidates."""
    common.collection_folder(arguments, "dl19")
    _, tasks = dl19_tasks(arguments.data, arguments.queries)
    return [task._replace(documents=task.documents[:CANDIDATES]) for task in tasks]


def int8(arguments: argparse.Namespace) -> Backend:
    """Return the loaded model."""
    folder = common.weights_folder(arguments, "ce-minilm-l12-int8")
    return loading.load("onnx", ModelOptions(str(folder), threads=arguments.threads))


def ask(scorer: CrossEncoderScorer, task: Task) -> float:
    """Score one request, and return the seconds that it took."""
    began = time.perf_counter()
    scorer.score(task.query, [document.content or "" for document in task.documents])
    return time.perf_counter() - began


def lone(arguments: argparse.Namespace, report: Report) -> None:
    """What a request pays for the line if no other is there."""
    pairs = [PackedPair(np.full(90, 1), np.zeros(90)) for _ in range(CANDIDATES)]
    instant: Any = Instant()
    runners = {"for itself": Direct(instant), "in the line": PairRunner(instant)}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(arguments.calls):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner.run(pairs, ScoringCost())
            seconds[name].append(time.perf_counter() - began)
    report.table("Ten pairs of a model that computes nothing", "a batch runs", "p50 ms", "p95 ms")
    for name, times in seconds.items():
        report.row(name, *(f"{1000 * float(np.percentile(times, share)):.3f}" for share in (50, 95)))
    medians = [1000 * statistics.median(times) for times in seconds.values()]
    report.at_most("a lone request pays < 2 ms for the line", medians[1] - medians[0], LONE_COST, "{:.3f} ms")

    backend, tasks = int8(arguments), tasks_of(arguments)
    scorers = {
        "for itself": CrossEncoderScorer(backend, runner=Direct(backend)),
        "in the line": CrossEncoderScorer(backend, runner=PairRunner(backend)),
    }
    for scorer in scorers.values():
        ask(scorer, tasks[0])
    real: dict[str, list[float]] = {name: [] for name in scorers}
    for place, task in enumerate(tasks):
        for name in sorted(scorers, reverse=place % 2 == 1):
            real[name].append(ask(scorers[name], task))
    report.table(f"Ten candidates of dl19, int8, {arguments.threads} threads", "a batch runs", "requests", "p50 ms")
    for name, times in real.items():
        report.row(name, len(times), f"{1000 * statistics.median(times):.1f}")
    differences = [1000 * (line - alone) for alone, line in zip(real["for itself"], real["in the line"], strict=True)]
    report.say(f"\nMedian of the differences, request by request: {statistics.median(differences):.2f} ms")


def per_second(scorer: CrossEncoderScorer, tasks: Sequence[Task], clients: int) -> float:
    """Return the requests a second of some threads that each wait for an answer before they ask again."""
    todo = deque(tasks)

    def client() -> None:
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            ask(scorer, task)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(tasks) / (time.perf_counter() - began)


def clients(arguments: argparse.Namespace, report: Report) -> None:
    """Requests a second of several threads, by how their batches run."""
    found = _measured(arguments, report, int8(arguments), f"int8, {arguments.threads} threads")
    count = max(arguments.clients)
    gain = found.gain(SHARED, count)
    report.at_least(f"{count} clients that share batches get 0.97 times of what each gets for itself", gain, 0.97)


def gpu(arguments: argparse.Namespace, report: Report) -> None:
    """The same on a GPU, where a batch of one request leaves most of the device idle."""
    import torch

    if not torch.cuda.is_available():
        raise CannotRun("torch sees no GPU")
    folder = common.weights_folder(arguments, "ce-minilm-l12")
    backend = loading.load("torch", ModelOptions(str(folder), device="cuda:0", dtype="float16"))
    report.say(f"\nOn {torch.cuda.get_device_name()}.")
    found = _measured(arguments, report, backend, "torch float16", repeats=GPU_REPEATS)
    count = max(arguments.clients)
    best = max((name for name in RUNNERS if name != ALONE), key=lambda name: found.gain(name, count))
    report.at_least(f"{count} clients, {best}, by each for itself", found.gain(best, count), GPU_GAIN)


class Rates(NamedTuple):
    """Requests a second of each round, by how batches run and how many clients there are."""

    found: dict[tuple[str, int], list[float]]

    def gain(self, name: str, count: int) -> float:
        """Return how many times as many requests a second a way gives as each for itself; the median of the rounds."""
        pairs = zip(self.found[ALONE, count], self.found[name, count], strict=True)
        return statistics.median(line / alone for alone, line in pairs)


def _measured(arguments: argparse.Namespace, report: Report, backend: Backend, what: str, *, repeats: int = 1) -> Rates:
    tasks = tasks_of(arguments) * repeats
    runners = {ALONE: Direct(backend)} | {name: PairRunner(backend, max_wait=wait) for name, wait in RUNNERS.items()}
    scorers = {name: CrossEncoderScorer(backend, runner=runner) for name, runner in runners.items()}
    for scorer in scorers.values():
        ask(scorer, tasks[0])
    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(arguments.rounds):
        for count in arguments.clients:
            names = list(scorers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found.setdefault((name, count), []).append(per_second(scorers[name], tasks, count))
    report.table(
        f"Requests/s, ten candidates of dl19, {what}, median of {arguments.rounds} rounds",
        "batches run",
        *(f"{count} clients" for count in arguments.clients),
    )
    for name in scorers:
        report.row(name, *(statistics.median(found[name, count]) for count in arguments.clients))
    return Rates(found)


PARTS = {"lone": lone, "clients": clients, "gpu": gpu}
QUICK = {"queries": 4, "calls": 100, "rounds": 1, "clients": [1, 4]}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.set_defaults(queries=43)
    parser.add_argument("--calls", type=int, default=2000, help="of the model that computes nothing")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
