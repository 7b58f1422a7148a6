"""
How much memory each re-ranker takes for candidates that fill a pair, each in a process of its own.

    python benchmarks/speed.py memory

`measure` starts this file once for each system; allocations beyond the limit fail instead of taking the machine down.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

from haystack import Document

from common import Report, in_a_process, peak_gb, resident_gb, serve, use_threads
from speed_systems import SYSTEMS, Setup, System, flashrank
from speed_tasks import LIMIT, full_task


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Print the peak memory of one run of each system."""
    report.table(
        f"Memory, candidates of {LIMIT} tokens, GB",
        *("system", "candidates", "model loaded", "peak", "added by the run", "seconds"),
    )
    for system in SYSTEMS:
        sizes = [arguments.memory_candidates if system.ours else arguments.memory_peer_candidates]
        if system.start is flashrank:
            sizes = [arguments.memory_peer_candidates // 2, arguments.memory_candidates]
        for size in sizes:
            measured = in_a_process(Path(__file__), **_job(arguments, system, size))
            if "left out" in measured:
                report.leave_out(system.name, measured["left out"])
                break
            _print(system, size, measured, arguments.memory_limit, report)


def _job(arguments: argparse.Namespace, system: System, size: int) -> dict[str, Any]:
    shared = {"data": arguments.data, "models": arguments.models, "threads": arguments.threads}
    return {"worker": "run", "name": system.name, "candidates": size, "limit": arguments.memory_limit, **shared}


def _print(system: System, size: int, measured: dict[str, Any], limit: float, report: Report) -> None:
    own = f"{measured['own']:.2f}" if "own" in measured else None
    if "failed" in measured:
        report.row(system.name, f"{size:,}", own, f"over {limit:g}", None, measured["failed"])
        return
    added = measured["peak"] - measured["own"]
    report.row(system.name, f"{size:,}", own, measured["peak"], added, f"{measured['seconds']:.0f}")
    if system.ours:
        label = f"{system.name}: {size:,} candidates of {LIMIT} tokens add < 1 GB"
        report.target(label, added < 1.0, f"{added:.2f} GB")


def run(name: str, candidates: int, limit: float, data: str, models: str, threads: int) -> dict[str, Any]:
    """Measure one system; the memory of the loaded model is printed first, in case that the run fails."""
    use_threads(threads)
    most = int(limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    setup = Setup(Path(models), "cpu", threads)
    system = next(system for system in SYSTEMS if system.name == name)
    task = full_task(Path(data), Path(setup.torch_model), candidates)
    try:
        rank = system.start(setup)
    except (ImportError, OSError, ValueError) as error:
        return {"left out": str(error).splitlines()[0]}
    rank(task.query, [Document(content="warm up")])
    measured: dict[str, Any] = {"own": resident_gb()}
    print(json.dumps(measured), flush=True)
    start = time.perf_counter()
    try:
        rank(task.query, task.documents)
    except Exception as error:  # each runtime has an error of its own for this
        no_memory = isinstance(error, MemoryError) or "allocate" in str(error)
        return {**measured, "failed": "out of memory" if no_memory else f"failed: {type(error).__name__}"}
    return {**measured, "peak": peak_gb(), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    serve({"run": run})
