"""
Visits: the requests of a model from the moment they come, how many may be inside, and how long each may stay.

`line.py` says in which order their batches run.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from haystack_ce_ranker import forking


class OverloadError(RuntimeError):
    """A request was refused because too many wait, or its deadline passed before anything was scored."""


class Visit:
    """
    A request from the moment it comes. Safe from several threads.

    :param seconds: How long it may stay, waiting included; None for no limit.
    :ivar arrived: When it came, as `time.monotonic()` gives it.
    :ivar deadline: When it has to be over, in the same way; None for never.
    :ivar refused: Whether it is to go at once, since too many wait.
    :ivar withdrawn: Set once nobody wants it any longer.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.arrived = time.monotonic()
        self.deadline = None if seconds is None else self.arrived + seconds
        self.refused = False
        self._lock = threading.Lock()
        self.withdrawn = threading.Event()
        self._awaited: Future[Any] | None = None

    @property
    def stayed(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.arrived

    @property
    def left(self) -> float | None:
        """Seconds that it may still stay, 0 if none; None for no limit."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def expire(self) -> None:
        """Let its time be over."""
        self.deadline = self.arrived

    def withdraw(self) -> None:
        """Give up: what the request waits for is cancelled, and it begins nothing more."""
        with self._lock:
            self.withdrawn.set()
            if self._awaited is not None:
                self._awaited.cancel()

    def awaits(self, result: "Future[Any]") -> None:
        """Say what the request waits for from now on. It waits for one thing at a time."""
        with self._lock:
            self._awaited = result
            if self.withdrawn.is_set():
                result.cancel()

    def require_wanted(self) -> None:
        """
        Check that somebody still waits for the request.

        :raises CancelledError: If nobody does.
        """
        if self.withdrawn.is_set():
            raise CancelledError("the request was withdrawn.")


class Visitors:
    """Counts the requests of a model that have come and not gone. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = 0

    @contextmanager
    def entered(self, visit: Visit, max_waiting: int | None) -> Iterator[Visit]:
        """
        Count a visit as long as the block lasts, or mark it as refused.

        :param max_waiting: How many may wait beside the one whose turn it is; None for any number.
        """
        with self._lock:
            visit.refused = max_waiting is not None and self.inside > max_waiting
            self.inside += not visit.refused
        try:
            yield visit
        finally:
            with self._lock:
                self.inside -= not visit.refused


@forking.cached  # those of the parent do not come to a child
def visitors_of(*model: str) -> Visitors:  # noqa: ARG001 - the key
    """Return the visitors of a model, by what names it. They are counted before it is loaded, too."""
    return Visitors()
