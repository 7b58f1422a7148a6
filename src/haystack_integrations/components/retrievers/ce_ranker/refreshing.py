"""
Work in the background: one thread at a time, not before it is due, stopped with its owner, and anew after a fork.

What the work is, `store_index.py` says.
"""

import threading
import time
from collections.abc import Callable


class Stopped(Exception):  # noqa: N818 - not a fault: somebody has asked for it
    """The work was told to stop."""


class Background:
    """
    Work that is done again and again, in a thread that lives only as long as one piece of the work.

    The thread is a daemon, so it keeps no process alive. In a child made by `fork` it does not exist and is started
    anew when it is next due.

    :param work: Does one piece. It calls the function it gets from time to time; that raises `Stopped` if the work is
        to stop.
    :param pause: The seconds from the end of one piece to the beginning of the next.
    """

    def __init__(self, work: Callable[[Callable[[], None]], None], pause: float) -> None:
        self._work = work
        self._pause = pause
        self._began = self._ended = time.monotonic()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def ended(self) -> None:
        """Count the pause from now, because the same work was just done elsewhere."""
        self._ended = time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether a piece is being done."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def seconds(self) -> float:
        """How long the piece that is being done has taken so far; 0 if none is."""
        return time.monotonic() - self._began if self.is_running else 0.0

    def start_if_due(self) -> bool:
        """Begin the next piece if the pause is over and none is being done; tell whether one is being done now."""
        if not self.is_running and time.monotonic() - self._ended >= self._pause:
            with self._lock:
                if not self.is_running:  # else another thread was faster
                    self._stopping = threading.Event()
                    self._began = time.monotonic()
                    self._thread = threading.Thread(
                        target=self._run, args=(self._stopping,), name="BM25Retriever refresh", daemon=True
                    )
                    self._thread.start()
        return self.is_running

    def stop(self, patience: float) -> bool:
        """
        Tell the work to stop, and wait until it has.

        :param patience: The most seconds to wait.
        :returns: False if it goes on: it does not call the function it got.
        """
        with self._lock:
            thread = self._thread
            self._stopping.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
        return not self.is_running

    def _run(self, stopping: threading.Event) -> None:
        def check() -> None:
            if stopping.is_set():
                raise Stopped

        try:
            self._work(check)
        except Stopped:
            pass
        finally:
            self.ended()
