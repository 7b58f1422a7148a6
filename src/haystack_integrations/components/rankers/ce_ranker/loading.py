"""The ranker's scorer, loaded from its parameters: once, by one thread at a time, and waited for until a deadline."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from haystack import logging

from haystack_ce_ranker import forking
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.sharing import shared_runner
from haystack_ce_ranker.scoring.speed_profile import profile_of_this_machine
from haystack_ce_ranker.scoring.visits import Visit
from haystack_integrations.components.rankers.ce_ranker.parameters import options_of

logger = logging.getLogger(__name__)

_OF_THE_LOADED_MODEL = ("revision", "model_kwargs", "tokenizer_kwargs", "config_kwargs", "label", "prompt")

Load = Callable[[], CrossEncoderScorer]


def load_scorer(given: Mapping[str, Any], policy: ReadingPolicy) -> CrossEncoderScorer:
    """
    Return a scorer for a ranker's checked parameters. Its model is shared with other rankers of the process.

    :raises ValueError: If the speed profile is of something else.
    :raises Exception: Whatever the backend raises while it loads.
    """
    profile, model = given["speed_profile"], given["model"]
    measured = profile_of_this_machine(profile) if profile is not None else None
    threads, batch_tokens = given["threads"], given["batch_tokens"]
    if measured is not None:
        threads = measured.threads if threads is None else threads
        batch_tokens = measured.batch_tokens if batch_tokens is None else batch_tokens
    runner = shared_runner(
        given["backend"],
        options_of(given, threads=threads),
        batch_tokens=batch_tokens,
        batch_size=given["batch_size"],
        max_wait=given["max_wait_ms"] / 1000.0,
    )
    if measured is not None:
        measured.require(model, runner.backend)
    return CrossEncoderScorer(
        runner.backend,
        policy,
        runner=runner,
        model_name=model,
        scores=ScoreCache(given["cache_size"]) if given["cache_size"] else None,
        identity=[repr(given[part]) for part in _OF_THE_LOADED_MODEL],
    )


@forking.cached  # one for the process: threads that meet a cold ranker make one scorer of it
def loading() -> threading.Lock:
    """Return the lock that is held while a ranker gets its scorer, or gives it up."""
    return threading.Lock()


def loaded_in_time(load: Load, visit: Visit) -> CrossEncoderScorer | None:
    """
    Return what `load` returns, or None if the visit's deadline passes before.

    :param load: Called with the lock `loading` held. With a deadline another thread calls it, and goes on after that.
    """
    left = visit.left
    if left is None:
        with loading():
            return load()
    lock, result = loading(), Future[CrossEncoderScorer]()
    if not lock.acquire(timeout=left):
        return None
    try:
        threading.Thread(target=_load, args=(load, lock, result), name="ce-ranker-load", daemon=True).start()
    except BaseException:  # the system has no thread left
        lock.release()
        raise
    try:
        return result.result(visit.left)
    except TimeoutError:
        if result.done():
            raise  # of the loading
        result.cancel()
        return None


def _load(load: Load, lock: threading.Lock, result: "Future[CrossEncoderScorer]") -> None:
    try:
        scorer = load()
    except BaseException as error:
        lock.release()
        if result.set_running_or_notify_cancel():
            result.set_exception(error)
        else:  # nobody waits any longer, and the next request may not wait for it either
            logger.error("The model could not be loaded: {error!r}", error=error)
        return
    lock.release()
    if result.set_running_or_notify_cancel():
        result.set_result(scorer)
