"""
How fast CrossEncoderRanker is on a GPU beside the others, in float16, and how much of the time the device is busy.

    python benchmarks/speed.py gpu
    python benchmarks/speed.py gpu_batches    # by the tokens of a batch, packed and padded
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from common import CannotRun, Report, percent
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.machine.energy import meter_for
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from speed_results import check_padding, in_turn, ratio
from speed_systems import PREDICT, SYSTEMS, Rank, Setup, System, ours, started
from speed_tasks import Task, covidqa_tasks, dl19_tasks, stress_task

GPU_TASKS = 5
BATCHES = (8_192, 16_384, 32_768, 65_536, 131_072, 262_144)
"""Tokens of a batch that are tried."""
FORMS = {"packed": "packed", "padded": "sdpa"}
"""The attention that makes a model read packed or padded batches."""


def measure(arguments: argparse.Namespace, setup: Setup, report: Report) -> None:
    """Print speed and load of the device on three sets of candidates."""
    _require_gpu(report)
    most = arguments.stress
    mine = System("CrossEncoderRanker, torch float16", ours("torch", "float16"), ours=True, most=most)
    running = started([*SYSTEMS[:3], mine], replace(setup, device="cuda", dtype="float16"), report)
    sizes = range(most - GPU_TASKS, most + 2)  # each of other texts: all are seen for the first time
    sets = {
        "dl19": dl19_tasks(arguments.data, arguments.queries)[1],
        "covidqa": covidqa_tasks(arguments.data, arguments.long_queries)[1],
        f"{most:,} candidates of mixed length": [stress_task(arguments.data, size) for size in sizes],
    }
    for name, (*tasks, profiled, first) in sets.items():
        in_turn(running, [first], 1)  # the first passes choose kernels and allocate
        results = in_turn(running, tasks, len(tasks))
        report.table(
            f"GPU: {name}, float16, {len(tasks)} queries",
            *("system", "pairs/s", f"times {PREDICT}'s", "padding", "device busy"),
        )
        for system, rank in running.items():
            found = results[system.name]
            times = f"{ratio(results, system.name, PREDICT):.2f}"
            busy = busy_share(rank, profiled)
            report.row(system.name, f"{found.pairs_per_second:,.0f}", times, percent(found.padding), f"{busy:.0%}")
        check_padding(f"GPU, {name}", results, report)
        if tasks[0].id.startswith("stress"):
            faster = ratio(results, mine.name, PREDICT)
            report.at_least("GPU, >= 2 times CrossEncoder.predict in float16", faster, 2.0, "{:.2f} times")


def busy_share(rank: Rank, task: Task) -> float:
    """Return the share of the time of one task that the device spends in kernels and copies."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        start = time.perf_counter()
        rank(task.query, task.documents)
        seconds = time.perf_counter() - start
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / seconds


def batches(arguments: argparse.Namespace, setup: Setup, report: Report) -> None:
    """Print speed and joules by the tokens of a batch and by the form of the batches, which take turns."""
    _require_gpu(report)
    meter = meter_for("cuda:0")
    sets = {
        "dl19": dl19_tasks(arguments.data, arguments.queries)[1],
        "covidqa": covidqa_tasks(arguments.data, arguments.long_queries)[1],
        f"{arguments.stress:,} of mixed length": [stress_task(arguments.data, arguments.stress)] * 3,
    }
    options = ModelOptions(setup.torch_model, device="cuda:0", dtype="float16")
    backends = {
        form: load("torch", replace(options, model_kwargs={"attn_implementation": attention}))
        for form, attention in FORMS.items()
    }
    systems = {
        (form, size): CrossEncoderScorer(backend, batch_tokens=size)
        for (form, backend), size in product(backends.items(), BATCHES)
    }
    report.say(f"\nEnergy {meter.source}.")
    for name, tasks in sets.items():  # each table as soon as it is there: a lent GPU may be taken away
        seconds: dict[tuple[str, int], list[float]] = {system: [] for system in systems}
        joules = dict.fromkeys(systems, 0.0)
        for scorer in systems.values():  # the first passes choose kernels, and fill the cache of tokens
            _score(scorer, tasks)
        for turn in range(arguments.rounds):
            order = list(systems)
            for system in order[turn % len(order) :] + order[: turn % len(order)]:
                with meter.measure() as spent:
                    _score(systems[system], tasks)
                seconds[system].append(spent.seconds)
                joules[system] += spent.joules
        pairs = sum(len(task.documents) for task in tasks)
        headings = (f"{form}, {what}" for form in FORMS for what in ("documents/s", "J per 1,000"))
        report.table(f"GPU: {name}, float16, by tokens of a batch, median of {arguments.rounds}", "tokens", *headings)
        for size in BATCHES:
            cells = []
            for system in ((form, size) for form in FORMS):
                each = 1000 * joules[system] / (pairs * len(seconds[system]))
                cells += [f"{pairs / statistics.median(seconds[system]):,.0f}", f"{each:.2f}"]
            report.row(f"{size:,}", *cells)


def _score(scorer: CrossEncoderScorer, tasks: Sequence[Task]) -> None:
    """Score all tasks; the cost of reading the texts is in it."""
    scorer.score_many([(task.query, [one.content or "" for one in task.documents]) for task in tasks])


def _require_gpu(report: Report) -> None:
    import torch

    if not torch.cuda.is_available():
        raise CannotRun("torch sees no GPU")
    report.say(f"\nOn {torch.cuda.get_device_name()}.")
