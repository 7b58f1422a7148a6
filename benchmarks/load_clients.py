"""
The clients of `load.py`: some that each wait for an answer (closed loop), or requests that come by themselves (open).

    python benchmarks/load.py
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from speed_tasks import Task

PATIENCE = 900.0
"""Seconds after which a client gives up, where no other time is said."""


@dataclass(frozen=True)
class Reply:
    """
    What became of a request.

    :ivar sent: When it was due, in seconds.
    :ivar seconds: From then to the last byte of the answer, or until the client gave up.
    :ivar status: The HTTP status; 0 if there was no answer.
    :ivar scored: How many candidates have a score of the model.
    """

    sent: float
    seconds: float
    status: int
    scored: int


Ask = Callable[[Task], Awaitable[tuple[int, int]]]
"""Sends a task and returns the HTTP status and how many candidates were scored; raises what the client raises."""


@dataclass(frozen=True)
class Figures:
    """
    Replies in figures.

    :ivar per_second: Answers with a score for all candidates, by the time from the first request to the last answer.
    :ivar milliseconds: The 50th, 95th and 99th percentile of them, and the slowest.
    :ivar ranked: How many these are.
    :ivar partly: Answers in which candidates lack a score.
    :ivar refused: Answers with status 503.
    :ivar failed: All others: other errors, and requests without an answer.
    """

    per_second: float
    milliseconds: tuple[float, float, float, float]
    ranked: int
    partly: int
    refused: int
    failed: int

    @property
    def sent(self) -> int:
        """How many requests there were."""
        return self.ranked + self.partly + self.refused + self.failed

    @classmethod
    def of(cls, replies: Sequence[Reply], candidates: int) -> "Figures":
        """Return the figures of replies to tasks of so many candidates."""
        whole = [one for one in replies if one.status == 200 and one.scored == candidates]
        partly = sum(one.status == 200 for one in replies) - len(whole)
        refused = sum(one.status == 503 for one in replies)
        times = np.array([one.seconds for one in whole]) * 1000 if whole else np.array([np.nan])
        begin, end = min(one.sent for one in replies), max(one.sent + one.seconds for one in replies)
        p50, p95, p99 = (float(np.percentile(times, share)) for share in (50, 95, 99))
        return cls(
            len(whole) / (end - begin),
            (p50, p95, p99, float(times.max())),
            len(whole),
            partly,
            refused,
            len(replies) - len(whole) - partly - refused,
        )


async def reply_to(ask: Ask, task: Task, due: float, patience: float) -> Reply:
    """Send a task and return what became of it."""
    try:
        status, scored = await asyncio.wait_for(ask(task), patience)
    except (OSError, TimeoutError):
        status, scored = 0, 0
    return Reply(due, time.perf_counter() - due, status, scored)


async def closed_loop(
    ask: Ask, tasks: Sequence[Task], *, clients: int, seconds: float, patience: float = PATIENCE
) -> list[Reply]:
    """Let clients send one request after the other; after so many seconds each waits for its last answer."""
    given: Iterator[Task] = cycle(tasks)
    end = time.perf_counter() + seconds
    replies: list[Reply] = []

    async def client() -> None:
        while (due := time.perf_counter()) < end:
            replies.append(await reply_to(ask, next(given), due, patience))

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when requests of a Poisson process come, in seconds from its begin."""
    rng = random.Random(seed)
    times: list[float] = []
    now = rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times


async def open_loop(
    ask: Ask, tasks: Sequence[Task], times: Sequence[float], *, patience: float = PATIENCE
) -> list[Reply]:
    """Send a request at each of these times, whatever became of the others. The wait for a late client counts."""
    begin = time.perf_counter()

    async def at(when: float, task: Task) -> Reply:
        await asyncio.sleep(max(0.0, begin + when - time.perf_counter()))
        return await reply_to(ask, task, begin + when, patience)

    return list(await asyncio.gather(*(at(when, task) for when, task in zip(times, cycle(tasks), strict=False))))


def http_ask(client: Any, url: str) -> Ask:
    """Return what sends a task to a server of `load_server/pipeline_wrapper.py` with an `httpx.AsyncClient`."""
    import httpx

    bodies: dict[str, dict[str, Any]] = {}

    async def ask(task: Task) -> tuple[int, int]:
        if task.id not in bodies:
            documents = [{"id": one.id, "content": one.content} for one in task.documents]
            bodies[task.id] = {"query": task.query, "documents": documents}
        try:
            answer = await client.post(url, json=bodies[task.id])
        except httpx.HTTPError as error:
            raise ConnectionError(str(error)) from error
        return answer.status_code, answer.json()["result"]["scored"] if answer.status_code == 200 else 0

    return ask


def over_http(url: str, talk: Callable[[Ask], Awaitable[list[Reply]]]) -> list[Reply]:
    """Let clients talk to a server, in an event loop of their own, with as many connections as they need."""
    import httpx

    async def run() -> list[Reply]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
            return await talk(http_ask(client, url))

    return asyncio.run(run())
