"""How many threads torch uses on a CPU: for a while, in one thread, and in the thread that computes whole batches."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch

from haystack_ce_ranker import forking


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """
    Let torch use `count` threads, then restore the process's own number.

    Meanwhile every thread that is new to torch gets that number, and keeps it. So this is for commands that have the
    process for themselves, and a pass runs in a thread of its own: see `thread_with`.
    """
    if count is None or count == torch.get_num_threads():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@forking.cached  # for the process: OpenMP starts a team of threads for each thread that computes
def thread_with(count: int) -> ThreadPoolExecutor:
    """Return the thread that runs passes with `count` threads on a CPU."""
    return ThreadPoolExecutor(1, thread_name_prefix="ce-ranker-torch", initializer=use_threads, initargs=(count,))


def use_threads(count: int) -> None:
    """
    Let torch use `count` threads in what this thread computes from now on.

    torch keeps a number of threads for each thread, and one for threads that are new to it, which is put back here.
    """
    if getattr(_here, "threads", None) == count:
        return
    with _setting_threads():
        before = torch.get_num_threads()
        if before != count:
            torch.set_num_threads(count)
            # A process that ends gets no new threads, and needs none put back.
            with ThreadPoolExecutor(1) as another, suppress(RuntimeError):
                another.submit(torch.set_num_threads, before).result()
    _here.threads = count


@forking.cached  # two threads that set it at once would put back each other's number
def _setting_threads() -> threading.Lock:
    return threading.Lock()


_here = threading.local()
