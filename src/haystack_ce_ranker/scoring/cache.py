"""
ScoreCache: a bounded cache of scores, each computed once even if several requests want it at the same time.

Knows keys and values only. The scorer makes the keys and decides when a score may be kept.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import LRUCache

from haystack_ce_ranker import forking
from haystack_ce_ranker.checks import whole_number

Value = TypeVar("Value")


class ScoreCache(Generic[Value]):
    """
    Keeps the latest values. Safe from several threads.

    :param size: The most values to keep; the least recently used one is evicted first.
    :raises ValueError: If `size` is below 1.
    """

    def __init__(self, size: int) -> None:
        self._size = whole_number("cache_size", size)
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Begin empty, with nothing that others compute; see `forking`."""
        self._kept: LRUCache[Hashable, Value] = LRUCache(self._size)
        self._computing: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many values are kept."""
        return len(self._kept)

    def get(self, keys: Sequence[Hashable], compute: Callable[[list[int]], Sequence[Value]]) -> list[Value]:
        """
        Return a value for each key: a kept one, one that another thread is computing, or a new one.

        Values that no other thread is computing are computed first, all in one call. Only then does it wait for other
        threads, so that two threads never wait for each other. A value whose computation failed in another thread is
        computed here.

        :param keys: All different.
        :param compute: Given places in `keys`, returns their values. Its errors go to the caller.
        """
        places = {key: place for place, key in enumerate(keys)}
        values: dict[Hashable, Value] = {}
        while missing := [key for key in keys if key not in values]:
            own, others = self._claim(missing, values)
            if own:
                fresh = self._compute(own, [places[key] for key in own], compute)
                values.update(zip(own, fresh, strict=True))
            for key, future in others.items():
                if future.exception() is None:  # waits; what failed elsewhere stays missing
                    values[key] = future.result()
        return [values[key] for key in keys]

    def _claim(
        self, keys: Sequence[Hashable], values: dict[Hashable, Value]
    ) -> tuple[dict[Hashable, Future[Value]], dict[Hashable, Future[Value]]]:
        """Put kept values into `values`; return what this thread is to compute, and what others are computing."""
        own: dict[Hashable, Future[Value]] = {}
        others: dict[Hashable, Future[Value]] = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    values[key] = self._kept[key]
                elif key in self._computing:
                    others[key] = self._computing[key]
                else:
                    own[key] = self._computing[key] = Future()
        return own, others

    def _compute(
        self,
        own: dict[Hashable, Future[Value]],
        places: list[int],
        compute: Callable[[list[int]], Sequence[Value]],
    ) -> Sequence[Value]:
        try:
            values = compute(places)
        except BaseException as error:  # whatever it was, nobody may wait for these values any longer
            with self._lock:
                for key in own:
                    del self._computing[key]
            for future in own.values():
                future.set_exception(error)
            raise
        with self._lock:
            for key, value in zip(own, values, strict=True):
                self._kept[key] = value
                del self._computing[key]
        for future, value in zip(own.values(), values, strict=True):
            future.set_result(value)
        return values
