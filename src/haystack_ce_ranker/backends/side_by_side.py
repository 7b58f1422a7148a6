"""
The threads of a CPU that run the parts of batches side by side: pairs of an exported model, small batches of torch.

Threads that compute one array together wait for each other in each layer. Each with a part of its own, they do not.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.devices import allowed_cpus

Given = TypeVar("Given")
Found = TypeVar("Found")


class SideBySide:
    """
    Runs the parts of a batch side by side. All requests share the threads.

    Models with the same number of threads share them, too, so that two models do not fight for the cores.

    :param threads: How many compute at once; None for as many as there are CPUs.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads if threads is not None else allowed_cpus()

    def map(
        self,
        run: Callable[[Given], Found],
        parts: Sequence[Given],
        on_idle: Callable[[], None] | None = None,
        *,
        each: int = 1,
    ) -> list[Found]:
        """
        Return what `run` finds for each part. If one fails, those that have not begun are dropped.

        :param on_idle: See `protocol.Batch`.
        :param each: How many of the threads a part keeps busy.
        """
        return _threads(self.threads).map(run, parts, on_idle, each)


class _Threads:
    """Threads that run the parts of all batches in the order they came, and say when one of them has nothing to do."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="ce-ranker")
        self._threads = threads
        self._changed = threading.Condition()
        self._wanted = self._busy = 0  # threads that the parts of all batches keep busy, and those that they do now
        self._on_idle: list[Callable[[], None]] = []  # of all batches

    def map(
        self, run: Callable[[Given], Found], parts: Sequence[Given], on_idle: Callable[[], None] | None, each: int
    ) -> list[Found]:
        try:
            begun = self._begin(run, parts, on_idle, each)
        except RuntimeError:  # the process is ending, and the threads with it: whoever still asks runs the parts
            return [run(part) for part in parts]
        try:
            self._forget(0)  # there may be fewer parts than threads
            return [part.result() for part in begun]
        finally:
            if on_idle is not None:
                with self._changed:
                    self._on_idle.remove(on_idle)
            self._forget(each * sum(part.cancel() for part in begun))

    def _begin(
        self, run: Callable[[Given], Found], parts: Sequence[Given], on_idle: Callable[[], None] | None, each: int
    ) -> "list[Future[Found]]":
        with self._changed:  # the parts of one batch follow each other
            begun = [self._executor.submit(self._run, run, part, each) for part in parts]
            self._wanted += each * len(begun)
            if on_idle is not None:
                self._on_idle.append(on_idle)
            return begun

    def _run(self, run: Callable[[Given], Found], part: Given, each: int) -> Found:
        with self._changed:
            self._changed.wait_for(lambda: self._busy + each <= self._threads)
            self._busy += each
        try:
            return run(part)
        finally:
            with self._changed:
                self._busy -= each
                self._changed.notify_all()
            self._forget(each)

    def _forget(self, threads: int) -> None:
        with self._changed:
            self._wanted -= threads
            idle = [*self._on_idle] if self._wanted < self._threads else []
        for tell in idle:
            tell()


@forking.cached  # for the process: two groups of one size would run twice the threads that were asked for
def _threads(threads: int) -> _Threads:
    return _Threads(threads)
