"""
What lets this package work in a forked child process, in which only the thread that called `fork` goes on.

A child has the parent's memory, but none of its other threads. A lock that another thread held stays locked, a pool has
no workers, and the OpenMP threads that torch started for the forking thread are gone. So four things are here. State of
the process is made anew in a child (`cached`, `renewed`). A fork waits until no thread is inside native code or an
import (`uninterrupted`). And what may use OpenMP runs in a thread that was born in the child (`in_own_thread`).
"""

import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar, cast
from weakref import WeakSet

PATIENCE = 60.0
"""
Seconds that a fork waits for the blocks of other threads, at most.

Other libraries take their locks before a fork, too (loguru does). Where one of them has done so before it is our turn,
a block may need that lock to end, and the fork would wait for it for ever.
"""

Given = ParamSpec("Given")
Value = TypeVar("Value")


class Renewable(Protocol):
    """An object that makes its locks, and what they protect, anew in a forked child."""

    def after_fork(self) -> None:
        """Make everything anew that the parent's other threads may have held or been about to change."""
        ...


def renewed(owner: Renewable) -> None:
    """Call `owner.after_fork()` in each forked child, as long as the owner lives."""
    _owners.add(owner)


def cached(make: Callable[Given, Value]) -> Callable[Given, Value]:
    """Keep what `make` returns for the same arguments, which are positional. A forked child begins without it."""
    return cast(Callable[Given, Value], _Cached(make))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """
    Let a fork by another thread wait until the block ends, for `PATIENCE` seconds at most.

    A block may lie inside another one. While a fork waits, no other thread begins a block. So inside a block, take only
    locks that nobody takes outside one: their holder might wait to begin a block.
    """
    _gate.enter()
    try:
        yield
    finally:
        _gate.leave()


def in_own_thread(function: Callable[[], Value]) -> Value:
    """
    Call `function`; in the thread that came over from the parent, let another thread of this process do it.

    OpenMP keeps its threads by the thread that started them. The thread that came over would wait for those of the
    parent for ever.
    """
    return function() if threading.get_ident() != _came_over else _own_thread().submit(function).result()


def keep_for_ever(value: Any) -> None:
    """Never destroy an object, not even when the process ends: its destructor would join threads of the parent."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


class _Cached:
    def __init__(self, make: Callable[..., Any]) -> None:
        functools.update_wrapper(self, make)
        self._make = make
        self.after_fork()
        renewed(self)

    def after_fork(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        if arguments not in self._kept:
            with self._lock:  # two threads must not make two of what the process has one of
                if arguments not in self._kept:
                    self._kept[arguments] = self._make(*arguments)
        return self._kept[arguments]


class _Gate:
    """Counts the threads inside `uninterrupted`, and keeps them and forks apart."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # thread -> how many of its blocks lie in each other
        self._forking: set[int] = set()
        self._waiting = 0  # threads that wait for forks to end before they begin a block

    def enter(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            # A thread inside a block, or one that forks, must go on, or nobody would.
            if self._forking and thread not in self._inside and thread not in self._forking:
                self._wait_for_forks()
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def _wait_for_forks(self) -> None:
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: not self._forking)
        finally:
            self._waiting -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
                self._changed.notify_all()

    def before_fork(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            # Forks that follow each other without a pause let those begin their blocks that already wait. A thread
            # inside a block may not wait for that: a fork that has begun waits for it.
            ends = time.monotonic() + PATIENCE
            self._changed.wait_for(lambda: not self._waiting or thread in self._inside, PATIENCE)
            self._forking.add(thread)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._inside.keys() <= self._forking, max(ends - time.monotonic(), 0.0))

    def after_in_parent(self) -> None:
        with self._changed:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()

    def after_in_child(self) -> None:
        thread = threading.get_ident()
        own = {thread: self._inside[thread]} if thread in self._inside else {}
        self._changed, self._inside, self._forking, self._waiting = threading.Condition(), own, set(), 0


_owners: "WeakSet[Renewable]" = WeakSet()
_gate = _Gate()
_came_over: int | None = None  # the thread that forked this process; None in a process that is no forked child


@cached
def _own_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="ce-ranker-forked")


def _renew() -> None:
    global _came_over
    _came_over = threading.get_ident()
    _gate.after_in_child()
    for owner in list(_owners):
        owner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.before_fork, after_in_parent=_gate.after_in_parent, after_in_child=_renew)
