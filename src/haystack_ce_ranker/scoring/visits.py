"""A request's visit: when it came, how long it may stay, and whether its caller still waits for it."""

import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any


class Visit:
    """
    A request from the moment it comes. Safe from several threads.

    :param seconds: How long it may stay, waiting included; None for no limit.
    :ivar arrived: When it came, as `time.monotonic()` gives it.
    :ivar deadline: When it has to be over, in the same way; None for never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.arrived = time.monotonic()
        self.deadline = None if seconds is None else self.arrived + seconds
        self._lock = threading.Lock()
        self._withdrawn = False
        self._awaited: Future[Any] | None = None

    def withdraw(self) -> None:
        """Give up: what the request waits for is cancelled, and it begins nothing more."""
        with self._lock:
            self._withdrawn = True
            if self._awaited is not None:
                self._awaited.cancel()

    def awaits(self, result: "Future[Any]") -> None:
        """Say what the request waits for from now on. It waits for one thing at a time."""
        with self._lock:
            self._awaited = result
            if self._withdrawn:
                result.cancel()

    def require_wanted(self) -> None:
        """
        Check that somebody still waits for the request.

        :raises CancelledError: If nobody does.
        """
        if self._withdrawn:
            raise CancelledError("the request was withdrawn.")
