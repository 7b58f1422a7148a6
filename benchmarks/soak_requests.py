"""
What the soak asks and what must come back: texts by a seed, scores made alone, a tally, and what the process holds.

`soak.py` sends the requests, and `soak_faults.py` breaks things meanwhile.
"""

import asyncio
import itertools
import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from haystack import Document

SAME = 1e-5
"""Scores may differ by this much from those made alone: the rest of what is summed in another order."""
_SYLLABLES = [a + b for a in "bdfgklmnprstv" for b in "aeiou"]


def words(chance: random.Random, count: int) -> str:
    """Return so many words of two or three syllables, of some ten thousand, the first ones most often."""
    return " ".join(
        "".join(chance.choices(_SYLLABLES[: chance.choice((8, 20, 65))], k=chance.choice((2, 2, 3))))
        for _ in range(count)
    )


class Question(NamedTuple):
    """A query with its candidates, and the score that each gets when nothing else runs."""

    query: str
    documents: list[Document]
    scores: dict[str, float]


def fresh(chance: random.Random, number: int, candidates: int) -> tuple[str, list[Document]]:
    """Return a query and candidates that were never asked before."""
    texts = [f"{words(chance, chance.choice((4, 8, 12, 30)))} x{number}" for _ in range(candidates)]
    return f"{words(chance, 6)} x{number}", [Document(id=f"f{n}", content=text) for n, text in enumerate(texts)]


def scores_of(output: dict[str, Any]) -> dict[str, float | None]:
    """Return the scores of a run by the ids of its documents."""
    return {document.id: document.score for document in output["documents"]}


def alone(ranker: Any, seed: int, count: int, candidates: int) -> list[Question]:
    """Return questions with the scores that the ranker gives one after the other."""
    chance = random.Random(seed)
    pool = [Document(id=f"d{n}", content=words(chance, chance.choice((4, 8, 12, 60)))) for n in range(40 * count)]
    made = []
    for _ in range(count):
        query, documents = words(chance, chance.randint(2, 12)), chance.sample(pool, candidates)
        made.append(Question(query, documents, scores_of(ranker.run(query, documents))))  # type: ignore[arg-type]
    return made


def is_right(question: Question, output: dict[str, Any], *, partly: bool = False) -> bool:
    """Tell whether a ranking is the one made alone; partly: documents may be without a score, below the others."""
    found = scores_of(output)
    if found.keys() != question.scores.keys():
        return False
    known = [name for name, score in found.items() if score is not None]
    close = all(abs(found[name] - question.scores[name]) <= SAME for name in known)  # type: ignore[operator]
    return close and (known == list(found)[: len(known)] if partly else len(known) == len(found))


class Size(NamedTuple):
    """What a process holds: resident memory in MB, open files, and threads."""

    memory: float
    files: int
    threads: int


def size_now() -> Size:
    """Read the size of this process from /proc."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return Size(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threading.active_count())


def median_size(sizes: Sequence[Size]) -> Size:
    """Return the median of each figure."""
    return Size(*(statistics.median(figures) for figures in zip(*sizes, strict=True)))  # type: ignore[arg-type]


@dataclass
class Tally:
    """
    How the requests ended. Safe from several threads.

    :ivar every: After so many requests the size of the process is noted.
    :ivar documented: Tells whether an error is one that the manual names for what goes wrong at this time.
    """

    every: int
    documented: Callable[[Exception], str | None] = lambda _: None
    done: int = 0
    right: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, right: bool, seconds: float, *, limit: float = 60.0) -> None:
        """Note an answer, and whether it came within its limit."""
        with self.lock:
            self.right += right
            if not right:
                self.wrong.append(f"{what}: another answer than alone")
            self._ended(what, seconds, limit)

    def failed(self, what: str, error: Exception, seconds: float, *, limit: float = 60.0) -> None:
        """Note an error."""
        kind = self.documented(error)
        with self.lock:
            if kind is None:
                self.wrong.append(f"{what}: {type(error).__name__}: {error!s:.200}")
            else:
                self.errors[kind] += 1
            self._ended(what, seconds, limit)

    def _ended(self, what: str, seconds: float, limit: float) -> None:
        self.done += 1
        self.seconds.append(seconds)
        if seconds > limit:
            self.late.append(f"{what}: {seconds:.1f} s, more than {limit:g} s")
        if self.done % self.every == 0:
            self.sizes.append(size_now())

    def level(self, first: float, last: float) -> Size:
        """Return the median size between two shares of the requests."""
        chosen = self.sizes[int(first * len(self.sizes)) : max(int(last * len(self.sizes)), 1)]
        return median_size(chosen or self.sizes[-1:] or [size_now()])


Ask = Callable[[int], None]
AskAsync = Callable[[int], Awaitable[None]]


def run_clients(count: int, ask: Ask, ask_async: AskAsync, going: Callable[[int], bool], patience: float = 120) -> int:
    """
    Let clients ask until there is nothing more to ask: half of them threads, half tasks of one event loop.

    An interrupt (Ctrl-C) ends it early.

    :param going: Tells whether the request of a number is still to be sent.
    :returns: How many clients still hang after `patience` seconds without any request that ends.
    """
    numbers, ended, stopped = itertools.count(), [0], threading.Event()

    def client() -> None:
        while not stopped.is_set() and going(number := next(numbers)):
            ask(number)
            ended[0] += 1

    async def task() -> None:
        while not stopped.is_set() and going(number := next(numbers)):
            await ask_async(number)
            ended[0] += 1

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(count - count // 2)))

    threads = [threading.Thread(target=client, daemon=True) for _ in range(count // 2)]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True))
    for thread in threads:
        thread.start()
    before, since = -1, time.monotonic()
    while any(thread.is_alive() for thread in threads):
        if ended[0] != before:
            before, since = ended[0], time.monotonic()
        elif time.monotonic() - since > patience:
            break
        try:
            next(iter([thread for thread in threads if thread.is_alive()] or threads)).join(0.5)
        except KeyboardInterrupt:
            stopped.set()
    return sum(thread.is_alive() for thread in threads)
