"""
How fast CrossEncoderRanker is on a GPU beside the others, in float16, and how much of the time the device is busy.

    python benchmarks/speed.py gpu
"""

import argparse
import time
from dataclasses import replace

from common import CannotRun, Report, percent
from speed_results import check_padding, in_turn, ratio
from speed_systems import PREDICT, SYSTEMS, Rank, Setup, System, ours, started
from speed_tasks import Task, covidqa_tasks, dl19_tasks, stress_task

GPU_TASKS = 5


def measure(arguments: argparse.Namespace, setup: Setup, report: Report) -> None:
    """Print speed and load of the device on three sets of candidates."""
    import torch

    if not torch.cuda.is_available():
        raise CannotRun("torch sees no GPU")
    report.say(f"\nOn {torch.cuda.get_device_name()}.")
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
