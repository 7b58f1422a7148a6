"""
Measures `haystack-ce-ranker score`: what a second replica brings, what kills change, and what a million pairs cost.

    python benchmarks/bulk.py throughput cost      # a quarter of an hour on two cores, with nothing else on them
    python benchmarks/bulk.py kills                # any machine, also a busy one

The pairs are those of dl19's run: BM25's first 100 passages of 43 queries. Each replica has one core. Speeds count from
the first shard that comes to the last, so that starting Ray and loading models is not in them: it has a column.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import psutil
from rich.console import Console

import common
from common import CannotRun, Report
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.bulk.asking import read_asked
from haystack_ce_ranker.bulk.engines import ENGINES, Workers
from haystack_ce_ranker.bulk.replica import Model
from haystack_ce_ranker.bulk.scoring import BulkScoring, run_scoring
from haystack_ce_ranker.bulk.shards import Shard, shards_of
from haystack_ce_ranker.machine.energy import meter_for

QUICK = {"queries": 4, "depth": 20, "kills": 2, "shard": 10}
PROJECTED = (8, 32, 128)
"""Replicas of the rows that are not measured."""

_MILLION = 1_000_000
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Timed:
    """
    How fast shards came.

    :ivar start: Seconds until the first one.
    :ivar pairs: Pairs of all later ones.
    :ivar seconds: From the first to the last one.
    :ivar cpu_seconds: Of all shards.
    :ivar of: Pairs of all shards.
    :ivar joules: Of all of it.
    """

    start: float
    pairs: int
    seconds: float
    cpu_seconds: float
    of: int
    joules: float

    @property
    def speed(self) -> float:
        """Pairs a second."""
        return self.pairs / self.seconds


def throughput(arguments: argparse.Namespace, report: Report) -> None:
    """Print the speed of one replica and of two, with Ray and without it."""
    if common.allowed_cpus() < 2:
        raise CannotRun("two replicas need two CPUs")
    shards = todo(arguments)
    model = model_of(arguments)
    alone = timed("local", model, shards, Workers())
    one, two = (timed("ray", model, shards, Workers(count)) for count in (1, 2))
    apart = side_by_side(model, shards)
    report.table(None, "what scores", "pairs/s", "times one replica", "until the first shard, s")
    base = max(alone.speed, one.speed)
    for name, found in (("local, one replica", alone), ("Ray, one replica", one), ("Ray, two replicas", two)):
        report.row(name, f"{found.speed:.1f}", f"{found.speed / base:.2f}", f"{found.start:.1f}")
    report.row("two processes that share nothing: what the machine gives", f"{apart:.1f}", f"{apart / base:.2f}", None)
    report.at_least("two replicas have at least 90 % of twice the speed of one", two.speed / (2 * base), 0.9, "{:.1%}")


def kills(arguments: argparse.Namespace, report: Report) -> None:
    """Kill one of two replicas at random points, and compare the output with that of a run without faults."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: Path(folder) / f"{name}.run" for name in ("local", "whole", "killed")}
        scored(arguments, outputs["local"], "local", Workers())
        scored(arguments, outputs["whole"], "ray", Workers(2))
        killer = Killer(arguments.kills, random.Random(arguments.seed))
        killer.start()
        told = scored(arguments, outputs["killed"], "ray", Workers(2))
        killer.stop()
        lines = {name: sorted(path.read_bytes().splitlines()) for name, path in outputs.items()}
    pairs = [tuple(line.split()[:3:2]) for line in lines["killed"]]
    report.say(f"{len(killer.killed)} replicas were killed, at random points with seed {arguments.seed}.")
    report.say(next(line for line in told.splitlines() if line.startswith("scored:")).partition(";")[0] + ".")
    report.target("all kills met a replica", len(killer.killed) == arguments.kills, str(len(killer.killed)))
    for name in ("local", "whole"):
        same = lines["killed"] == lines[name]
        report.target(f"the output equals that of the {name} run", same, f"{len(pairs)} lines")
    report.target("no pair is lost or doubled", len(set(pairs)) == len(lines["local"]), f"{len(set(pairs))} pairs")


def cost(arguments: argparse.Namespace, report: Report) -> None:
    """Print what a million pairs cost here, and what they would with more replicas."""
    shards, model = todo(arguments), model_of(arguments)
    found = {1: timed("local", model, shards, Workers())}
    if common.allowed_cpus() > 1:
        found[2] = timed("ray", model, shards, Workers(2))
    report.table(None, "replicas", "pairs/s", "hours", "kilojoules", f"money, at {arguments.price:g} a CPU-hour", "")
    for count, one in found.items():
        row(report, arguments, count, one.speed, one.joules / one.of, "measured")
    last, most = max(found.items())[1], max(found)
    for count in PROJECTED:
        row(report, arguments, count, last.speed / most * count, last.joules / last.of, "projected")
    report.say()
    report.say(
        f"A million pairs of this length: {arguments.backend}, {Path(arguments.model).name}, one core a replica."
    )
    report.say(f"Joules are {meter_for().source}. A CPU-hour costs what `--price` says, an assumption.")
    report.say(
        "Projected: each further replica has a core of its own, which is as fast beside the others as here two are."
    )


def row(
    report: Report, arguments: argparse.Namespace, count: int, speed: float, joules_per_pair: float, how: str
) -> None:
    """Print what a million pairs cost at a speed."""
    hours = _MILLION / speed / _SECONDS_PER_HOUR
    money = hours * count * arguments.price
    report.row(count, f"{speed:,.1f}", f"{hours:.2f}", f"{joules_per_pair * _MILLION / 1000:,.0f}", f"{money:.2f}", how)


def timed(engine: str, model: Model, shards: Sequence[Shard], workers: Workers) -> Timed:
    """Let an engine score shards, and note when they come."""
    meter = meter_for()
    sizes = {shard.number: len(shard) for shard in shards}
    came, busy, pairs = [], 0.0, 0
    began = time.perf_counter()
    with meter.measure() as spent, closing(ENGINES[engine](model, shards, workers)) as found:
        for number, scores in found:
            came.append(time.perf_counter())
            pairs += sizes[number] if len(came) > 1 else 0
            busy += scores.cpu_seconds
    counted = meter.source.startswith("measured")
    joules = spent.joules if counted else meter.watts * busy  # an estimate goes by this process alone
    return Timed(came[0] - began, pairs, came[-1] - came[0], busy, sum(sizes.values()), joules)


def side_by_side(model: Model, shards: Sequence[Shard]) -> float:
    """Return the speed of two processes together that each score half of the shards by themselves."""
    halves = [shards[start::2] for start in range(2)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(timed, "local", model, half, Workers()) for half in halves]
        return sum(one.result().speed for one in waiting)


class Killer(threading.Thread):
    """Kills replicas at random points while they are at work."""

    def __init__(self, count: int, draw: random.Random) -> None:
        super().__init__(daemon=True)
        self.killed: list[int] = []
        self._count = count
        self._draw = draw
        self._over = threading.Event()

    def run(self) -> None:
        """Kill one after some seconds, again and again."""
        while len(self.killed) < self._count and not self._over.wait(self._draw.uniform(0.2, 4.0)):
            there = [one for one in replicas() if one.pid not in self.killed]
            if there:
                with suppress(psutil.NoSuchProcess):
                    one = self._draw.choice(there)
                    one.kill()
                    self.killed.append(one.pid)

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def replicas() -> list[psutil.Process]:
    """Return the processes of replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith("ray::MapWorker") for word in process.cmdline()[:1]):
                found.append(process)
    return found


def scored(arguments: argparse.Namespace, output: Path, engine: str, workers: Workers) -> str:
    """Score the run into a file, and return what was told."""
    console = Console(file=StringIO(), width=200)
    folder = common.collection_folder(arguments, "dl19")
    how = {"engine": engine, "workers": workers, "depth": arguments.depth, "shard": arguments.shard}
    run_scoring(BulkScoring(folder / "run.bm25.tsv", folder, output, model_of(arguments), **how), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def todo(arguments: argparse.Namespace) -> list[Shard]:
    """Return the shards of dl19's run."""
    folder = common.collection_folder(arguments, "dl19")
    asked = read_asked(folder / "run.bm25.tsv", folder, depth=arguments.depth).asked[: arguments.queries]
    return shards_of(asked, arguments.shard, whole=False)


def model_of(arguments: argparse.Namespace) -> Model:
    """Return the cross-encoder that was named, with one thread."""
    return Model(ModelOptions(common.located_model(arguments), threads=1), arguments.backend)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--depth", type=int, default=100, help="documents of each query")
    parser.add_argument("--shard", type=int, default=25, help="pairs of a shard")
    parser.add_argument("--kills", type=int, default=20, help="how many replicas are killed")
    parser.add_argument("--seed", type=int, default=0, help="draws the points of the kills")
    parser.add_argument("--price", type=float, default=0.04, help="what a CPU costs for an hour")


PARTS = {"throughput": throughput, "kills": kills, "cost": cost}
BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options, pin=False)

if __name__ == "__main__":
    BENCHMARK.main()
