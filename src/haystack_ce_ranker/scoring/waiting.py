"""
Coroutines that wait for requests: each request runs in a thread of this package while the event loop goes on.

The loop's own threads are left alone. They are few, and an application's other work would wait for ours.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from haystack_ce_ranker import forking
from haystack_ce_ranker.scoring.visits import Visit

THREADS = 64
"""The most requests of coroutines that are at work at once. Most of them wait in the line of a device."""

Value = TypeVar("Value")


async def in_thread(work: Callable[[], Value], visit: Visit, where: str) -> Value:
    """
    Return what `work` returns, which a thread calls.

    If the deadline passes before a thread is free, `work` is called here: it must see that the time is over, and end.
    If the coroutine is cancelled, the visit is withdrawn.

    :param where: What it waits for. Requests that wait for one server take no threads from those for another.
    """
    begun = _threads(where).submit(contextvars.copy_context().run, work)
    result = asyncio.wrap_future(begun)
    try:
        if visit.deadline is not None:
            await asyncio.wait([result], timeout=visit.left)
            if begun.cancel():
                visit.expire()  # a timer may be early, and `work` must not block the loop
                return work()
        return await result
    except asyncio.CancelledError:
        result.cancel()
        visit.withdraw()
        raise


@forking.cached
def _threads(where: str) -> ThreadPoolExecutor:  # noqa: ARG001 - the key
    return ThreadPoolExecutor(THREADS, thread_name_prefix="ce-ranker-request")
