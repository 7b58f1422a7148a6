"""
What a server with CrossEncoderRanker answers under load, beside one with SentenceTransformersSimilarityRanker.

    python benchmarks/load.py                          # all: half an hour on two cores
    python benchmarks/load.py clients --seconds 10 --rounds 1
    python benchmarks/load.py --quick                  # does everything run?

Each system is served by hayhooks, in a process of its own on this machine, with the same wrapper, weights
(ms-marco-MiniLM-L12) and threads. A request has a query of dl19 and its ten best passages of BM25. The servers stay up
and take turns, in an order that moves on by one each round; a figure is the median over the rounds, and a ratio the
median of the rounds' ratios. `CPU s` is what the server computed per answer, whoever else uses the machine.

- clients: so many clients that each wait for an answer before they send the next request (closed loop);
- arrivals: requests that come by themselves (Poisson, seeded), at 80 % of what the system can answer, beside a single
  queue that wastes no time: the same arrivals with service times as one client measured them, scaled to 80 %;
- overload: the same at ten times of what it can answer, for some seconds;
- workers: processes against threads;
- queue: no server, but a simulated queue: what to expect of any.

Needs hayhooks (extra `serve`) and the weights that `make models` unpacks.
"""

import argparse
import bisect
import contextlib
import math
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import common
from common import Report
from load_clients import PATIENCE, Ask, Figures, Reply, arrivals, closed_loop, open_loop, over_http
from load_servers import EXACT, INT8, STOCK, TORCH, Served, Server, running
from speed_tasks import Task, dl19_tasks

CANDIDATES = 10
MANY = 16
"""Clients that keep a system busy: what it answers them is what it can answer."""
FEW = 4
"""How many may wait where few should: the 99th percentile then stays below three times the median."""
BUSY = (0.5, 0.65, 0.8)
"""Shares of the time that the simulated queue of the part `queue` is busy."""
SEED = 21
SYSTEMS = (STOCK, TORCH, EXACT, INT8)
GAIN = {TORCH: 1.3, EXACT: 1.3, INT8: 4.5}
"""How many times the stock ranker's requests a second each should answer to many clients."""


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """Return the queries of dl19 with their ten best passages by BM25, in an order of their own."""
    common.collection_folder(arguments, "dl19")
    _, tasks = dl19_tasks(arguments.data, arguments.queries)
    made = [task._replace(documents=task.documents[:CANDIDATES]) for task in tasks]
    made = [task for task in made if len(task.documents) == CANDIDATES]
    random.Random(SEED).shuffle(made)
    return made


def served(arguments: argparse.Namespace, system: str, **how: Any) -> Served:
    """Return a system with the weights and threads of the command line, which must be there."""
    for name in ("ce-minilm-l12", "ce-minilm-l12-int8"):
        common.weights_folder(arguments, name)
    return Served(system, arguments.models.resolve(), how.pop("threads", arguments.threads), **how)


@contextlib.contextmanager
def started(systems: Mapping[str, Served], tasks: Sequence[Task]) -> Iterator[dict[str, Server]]:
    """Start the servers and let each answer some requests; stop them at the end."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(system)) for name, system in systems.items()}
        for server in servers.values():
            closed(server, tasks, clients=4, seconds=2.0)  # loads the table of words, and learns the speed
        yield servers


def closed(server: Server, tasks: Sequence[Task], *, clients: int, seconds: float) -> list[Reply]:
    """Return the replies to clients that each wait for an answer."""

    def talk(ask: Ask) -> Any:
        return closed_loop(ask, tasks, clients=clients, seconds=seconds)

    return over_http(server.url, talk)


def opened(
    server: Server, tasks: Sequence[Task], *, rate: float, seconds: float, seed: int, patience: float = PATIENCE
) -> list[Reply]:
    """Return the replies to requests that come by themselves."""

    def talk(ask: Ask) -> Any:
        return open_loop(ask, tasks, arrivals(rate, seconds, seed), patience=patience)

    return over_http(server.url, talk)


def in_turns(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """Return the order of each round: who began goes last in the next."""
    for number in range(rounds):
        turn = number % len(names)
        yield [*names[turn:], *names[:turn]]


def median(values: Sequence[float]) -> float:
    """Return the median of what is known."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


# The parts


def clients(arguments: argparse.Namespace, report: Report) -> None:
    """Some clients that each wait for an answer."""
    tasks = tasks_of(arguments)
    found: dict[tuple[str, int], list[Figures]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    systems, processes = arguments.systems, arguments.workers
    threads = arguments.threads // processes
    kinds = {name: served(arguments, name, workers=processes, threads=threads) for name in systems}
    with started(kinds, tasks) as servers:
        for turn in in_turns(systems, arguments.rounds):
            for count in arguments.clients:
                for name in turn:
                    before = servers[name].cpu_seconds()
                    replies = closed(servers[name], tasks, clients=count, seconds=arguments.seconds)
                    figures = Figures.of(replies, CANDIDATES)
                    found.setdefault((name, count), []).append(figures)
                    computed = (servers[name].cpu_seconds() - before) / max(figures.ranked, 1)
                    cpu.setdefault((name, count), []).append(computed)
                    print(f"{name}, {count} clients: {figures}, {computed:.3f} CPU s", file=sys.stderr, flush=True)
        memory = {name: server.memory_mb() for name, server in servers.items()}
    headings = ("requests/s", "times stock", "p50 ms", "p95 ms", "p99 ms", "CPU s", "times less", "failed", "MB")
    each = f"{arguments.threads} threads" if processes == 1 else f"{processes} workers of {threads} threads"
    report.table(f"{each}, {arguments.rounds} rounds", "system", "clients", *headings)
    for name in systems:
        for count in arguments.clients:
            of_rounds = found[name, count]
            report.row(
                *(name, count, median([one.per_second for one in of_rounds])),
                ratio(found, name, count),
                *(f"{median([one.milliseconds[place] for one in of_rounds]):,.0f}" for place in range(3)),
                *(f"{median(cpu[name, count]):.3f}", less(cpu, name, count)),
                *(sum(one.failed + one.refused + one.partly for one in of_rounds), f"{memory[name]:,.0f}"),
            )
    for name, count in ((name, count) for name in GAIN if name in systems for count in arguments.clients):
        if count >= MANY:
            times = ratio(found, name, count)
            if times is not None:
                label = f"{name}, {count} clients: requests/s >= {GAIN[name]} times the stock ranker's"
                report.at_least(label, times, GAIN[name], "{:.2f} times")
            if count > min(arguments.clients):
                label = f"{name}, {count} clients: >= 95 % of the best number at fewer"
                report.at_least(label, kept(found, name, count), 0.95, "{:.1%}")


def less(cpu: Mapping[tuple[str, int], Sequence[float]], name: str, count: int) -> float | None:
    """Return how many times less a system computes per answer than the stock ranker: the median of the rounds."""
    stock = cpu.get((STOCK, count))
    return None if stock is None else median([of / mine for mine, of in zip(cpu[name, count], stock, strict=True)])


def ratio(found: Mapping[tuple[str, int], Sequence[Figures]], name: str, count: int) -> float | None:
    """Return how many times the stock ranker's requests a system answers: the median of the rounds' ratios."""
    stock = found.get((STOCK, count))
    if stock is None:
        return None
    return median([mine.per_second / of.per_second for mine, of in zip(found[name, count], stock, strict=True)])


def kept(found: Mapping[tuple[str, int], Sequence[Figures]], name: str, count: int) -> float:
    """Return the share of the best requests a second at fewer clients that is left: the median over the rounds."""
    fewer = [found[name, other] for other in {clients for _, clients in found} if other < count]
    best = [max(one.per_second for one in of_round) for of_round in zip(*fewer, strict=True)]
    return median([one.per_second / most for one, most in zip(found[name, count], best, strict=True)])


def capacity(server: Server, tasks: Sequence[Task], seconds: float, *, clients: int = MANY) -> float:
    """Return how many requests a second a server can answer."""
    return Figures.of(closed(server, tasks, clients=clients, seconds=seconds), CANDIDATES).per_second


def one_queue(
    service: Sequence[float], times: Sequence[float], busy: float, most: int | None = None
) -> tuple[float, float]:
    """
    Return p99 / p50 of a single queue that is first come, first served and wastes no time, and what share it refuses.

    :param service: Seconds that requests take alone.
    :param times: When they come.
    :param busy: The share of the time that they keep it busy: the service times are scaled to that.
    :param most: How many may wait beside the one whose turn it is; None for any number.
    """
    rng = random.Random(SEED)
    drawn = np.array([rng.choice(service) for _ in times])
    drawn *= busy * times[-1] / drawn.sum()
    ends: list[float] = []
    stays: list[float] = []
    for when, takes in zip(times, drawn.tolist(), strict=True):
        inside = len(ends) - bisect.bisect_right(ends, when)
        if most is None or inside <= most:
            ends.append(max(when, ends[-1] if ends else when) + takes)
            stays.append(ends[-1] - when)
    spread = float(np.percentile(stays, 99) / np.percentile(stays, 50))
    return spread, 1 - len(stays) / len(times)


def queue(arguments: argparse.Namespace, report: Report) -> None:
    """What to expect of any server: a simulated queue, with requests that come at random and take equal time."""
    report.table("A simulated queue: p99 / p50, refused", "max_waiting", *(f"{busy:.0%} busy" for busy in BUSY))
    times = arrivals(1.0, 2_000 if arguments.quick else 100_000, SEED)
    for most in (None, 8, 6, 4):
        found = [one_queue([1.0], times, busy, most) for busy in BUSY]
        cells = [f"{spread:.1f}, {refused:.1%}" for spread, refused in found]
        report.row("no limit" if most is None else most, *cells)


def by_themselves(arguments: argparse.Namespace, report: Report) -> None:
    """Requests that come by themselves, at 80 % of what a system can answer."""
    tasks = tasks_of(arguments)
    kinds = {name: served(arguments, name) for name in arguments.systems}
    limited = f"{INT8}, max_waiting={FEW}"
    kinds[limited] = served(arguments, INT8, options={"max_waiting": FEW})
    rows: dict[str, list[tuple[float, Figures, float]]] = {name: [] for name in kinds}
    with started(kinds, tasks) as servers:
        for number, turn in enumerate(in_turns(list(kinds), arguments.rounds)):
            for name in turn:
                server, seconds, seed = servers[name], arguments.arrival_seconds, SEED + number
                alone = [one.seconds for one in closed(server, tasks, clients=1, seconds=arguments.seconds)]
                rate = 0.8 * capacity(server, tasks, arguments.seconds, clients=FEW if name == limited else MANY)
                replies = opened(server, tasks, rate=rate, seconds=seconds, seed=seed)
                ideal, _ = one_queue(alone, arrivals(rate, seconds, seed), 0.8)
                rows[name].append((rate, Figures.of(replies, CANDIDATES), ideal))
    headings = ("requests/s", "p50 ms", "p95 ms", "p99 ms", "p99 / p50", "the same of one perfect queue", "refused")
    report.table(f"Poisson arrivals at 80 % of capacity, {arguments.arrival_seconds:.0f} s", "system", *headings)
    for name, of_rounds in rows.items():
        spread = median([figures.milliseconds[2] / figures.milliseconds[0] for _, figures, _ in of_rounds])
        sent = sum(figures.sent for _, figures, _ in of_rounds)
        unranked = sent - sum(figures.ranked for _, figures, _ in of_rounds)
        report.row(
            *(name, median([rate for rate, _, _ in of_rounds])),
            *(f"{median([figures.milliseconds[place] for _, figures, _ in of_rounds]):,.0f}" for place in range(3)),
            *(spread, median([ideal for _, _, ideal in of_rounds]), common.percent(unranked / sent)),
        )
        if name != STOCK:
            report.at_most(f"{name}: p99 <= 3 times p50 at 80 % of capacity", spread, 3.0, "{:.2f} times")


def overload(arguments: argparse.Namespace, report: Report) -> None:
    """Ten times of what a system can answer: each request is answered or refused within its deadline."""
    tasks = tasks_of(arguments)
    deadline = arguments.deadline / 1000
    limits = {"deadline_ms": arguments.within * arguments.deadline, "max_waiting": MANY}
    kinds = {name: served(arguments, name) for name in arguments.systems if name == STOCK}
    kinds[f"{INT8}, keeps the order"] = served(arguments, INT8, options=limits)
    kinds[f"{INT8}, answers 503"] = served(arguments, INT8, options={**limits, "on_overload": "error"})
    headings = ("requests", "asked/s", "ranked/s", "ranked", "not all", "503", "late or failed")
    report.table(f"Ten times of what it can answer, a deadline of {deadline:g} s", "system", *headings, "slowest ms")
    for name, system in kinds.items():
        with started({name: system}, tasks) as servers:
            rate = 10 * capacity(servers[name], tasks, arguments.seconds, clients=4)
            replies = opened(
                servers[name],
                tasks,
                rate=rate,
                seconds=arguments.overload_seconds,
                seed=SEED,
                patience=2 * deadline + 10,
            )
        figures = Figures.of(replies, CANDIDATES)
        late = sum(one.seconds > deadline or one.status not in (200, 503) for one in replies)
        report.row(
            *(name, len(replies), rate, figures.per_second, figures.ranked, figures.partly, figures.refused),
            *(late, f"{max(one.seconds for one in replies) * 1000:,.0f}"),
        )
        if name != STOCK:
            share = 1 - late / len(replies)
            report.at_least(f"{name}: answered or refused within its deadline", share, 1.0, "{:.2%}")


def workers(arguments: argparse.Namespace, report: Report) -> None:
    """Processes against threads, with as many threads in all."""
    tasks = tasks_of(arguments)
    kinds = {
        f"{count} workers, {arguments.threads // count} threads each": served(
            arguments, INT8, workers=count, threads=arguments.threads // count
        )
        for count in (1, arguments.threads)
    }
    found: dict[str, list[Figures]] = {name: [] for name in kinds}
    with started(kinds, tasks) as servers:
        for turn in in_turns(list(kinds), arguments.rounds):
            for name in turn:
                replies = closed(servers[name], tasks, clients=MANY, seconds=arguments.seconds)
                found[name].append(Figures.of(replies, CANDIDATES))
        memory = {name: server.memory_mb() for name, server in servers.items()}
    report.table(f"{INT8}, {MANY} clients", "server", "requests/s", "p50 ms", "p99 ms", "MB in all")
    for name, of_rounds in found.items():
        report.row(
            *(name, median([one.per_second for one in of_rounds])),
            *(f"{median([one.milliseconds[place] for one in of_rounds]):,.0f}" for place in (0, 2)),
            f"{memory[name]:,.0f}",
        )


# The command

PARTS = {"queue": queue, "clients": clients, "arrivals": by_themselves, "overload": overload, "workers": workers}
QUICK = {
    "systems": [STOCK, INT8],
    "queries": 4,
    "clients": [1, MANY],
    "seconds": 1.0,
    "rounds": 1,
    "arrival_seconds": 3.0,
    "overload_seconds": 1.0,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.set_defaults(queries=43)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, MANY, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn in which clients wait for an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arrival-seconds", type=float, default=45.0, help="of requests that come by themselves")
    parser.add_argument("--overload-seconds", type=float, default=10.0, help="at ten times of what can be answered")
    parser.add_argument("--deadline", type=float, default=1000.0, help="milliseconds, for the part `overload`")
    parser.add_argument("--within", type=float, default=0.7, help="the share of it that the ranker gets")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the threads, for `clients`")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped, too
    BENCHMARK.main()
