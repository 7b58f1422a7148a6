"""
Line: the passes of one device, one after the other and in turns; several requests may share a pass.

Each request has one batch in the line. When it has been run, the request's next batch goes to the end. So a request of
many batches takes turns with all others, and a short one waits for one batch of each request before it, at most.

A CPU is never given more than it has threads for. Where the parts of a batch run side by side, each on one thread
(`backends.side_by_side`), the next pass begins as soon as a thread has nothing to do, and does not wait for the last
parts of the pass before it. All other passes run one at a time.
"""

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.protocol import Backend, Batch, OutOfTimeError
from haystack_ce_ranker.tokenizing.pairs import PackedPair


class NoTurnError(OutOfTimeError):
    """A batch had to begin by a certain time, and other batches were run until then."""


@dataclass(frozen=True)
class Pass:
    """
    What a pass gave to one request.

    :ivar logits: One for each of its pairs; shape (pairs,).
    :ivar seconds: How long the pass took.
    :ivar tokens: The tokens of all its pairs, padding not counted.
    :ivar shared: Whether pairs of other requests were among them.
    """

    logits: NDArray[np.float32]
    seconds: float
    tokens: int
    shared: bool


@dataclass(eq=False)
class Turn:
    """
    A request's batch in the line.

    :ivar pairs: Those of one request. They run in one pass, in any case.
    :ivar batch_tokens: The most tokens of a pass that they may share, padding among them.
    :ivar batch_size: The most pairs of such a pass; None for no limit.
    :ivar shares: Whether they may share a pass at all.
    :ivar max_wait: So many seconds after it came, the pass begins even if there is room for more.
    :ivar deadline: A time of `time.monotonic()` until when the request is waited for; None for ever.
    :ivar seconds_per_token: How long a pass should take. No pairs are added that would bring it beyond a deadline.
    :ivar done: What will come of it. If it is cancelled before the pass begins, the batch is not run.
    """

    backend: Backend
    pairs: Sequence[PackedPair]
    batch_tokens: int
    batch_size: int | None = None
    shares: bool = False
    max_wait: float = 0.0
    deadline: float | None = None
    seconds_per_token: float = 0.0

    def __post_init__(self) -> None:
        self.since = time.monotonic()
        self.done: Future[Pass] = Future()
        self.lengths = [len(pair.ids) for pair in self.pairs]

    def result(self, patience: float | None) -> Pass:
        """
        Wait for the pass.

        :param patience: Seconds within which it has to begin. Once it has begun, it is waited for. None for no limit.
        :raises NoTurnError: If it has not begun by then.
        :raises CancelledError: If `done` is cancelled before the pass begins.
        :raises Exception: What the backend raised for these pairs.
        """
        try:
            return self.done.result(patience)
        except TimeoutError:
            if self.done.done():
                raise  # the backend's own
            if self.done.cancel():
                raise NoTurnError("the deadline left no time for the batch, and its turn had not come.") from None
            return self.done.result()


class Line:
    """The passes of a device."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Turn] = deque()
        self._running: list[Backend] = []  # of each pass
        self._beginning = threading.Lock()  # held by the latest pass until another one may begin
        # One more than can have something to do, so that one always waits to begin.
        self._threads = ThreadPoolExecutor(allowed_cpus() + 1, thread_name_prefix="ce-ranker-pass")

    @property
    def is_busy(self) -> bool:
        """Whether a batch is run or waits."""
        return bool(self._running or self._waiting)

    def enter(self, turn: Turn) -> bool:
        """Put a batch at the end of the line, and tell whether others are before it. The first one begins at once."""
        with self._changed:
            others = self.is_busy
            self._waiting.append(turn)
            self._changed.notify()
        try:
            self._threads.submit(self._next)
        except RuntimeError:  # the process is ending, and the threads with it: whoever still asks runs it
            self._next()
        return others

    def _next(self) -> None:
        """Run the batch that waits longest, with others that may share its pass. It may have run with another one."""
        self._beginning.acquire()
        let_others_begin = _once(self._beginning.release)
        try:
            taken = self._taken()
            if taken:
                self._run([turn for turn in taken if turn.done.set_running_or_notify_cancel()], let_others_begin)
        finally:
            let_others_begin()

    def _run(self, together: Sequence[Turn], let_others_begin: Callable[[], None]) -> None:
        outcomes = _outcomes(together, let_others_begin) if together else []
        with self._changed:
            self._running.pop()  # they are all of one model
            self._changed.notify()
        for turn, outcome in zip(together, outcomes, strict=True):
            if isinstance(outcome, Pass):
                turn.done.set_result(outcome)
            else:
                turn.done.set_exception(outcome)

    def _may_begin(self) -> bool:
        """Whether nothing waits, or the passes that run leave room for what waits longest: they are of its model."""
        self._waiting = deque(turn for turn in self._waiting if not turn.done.cancelled())
        return not self._waiting or not self._running or self._running[0] is self._waiting[0].backend

    def _taken(self) -> list[Turn]:
        """Take the first batch out of the line, and those that fit into its pass; wait for some if it says so."""
        with self._changed:
            self._changed.wait_for(self._may_begin)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            self._running.append(first.backend)
            room = _Room(first)
            while first.shares and not room.is_full:
                for turn in [turn for turn in self._waiting if turn.backend is first.backend and turn.shares]:
                    if room.is_left_for(turn):
                        self._waiting.remove(turn)
                        room.take(turn)
                left = min(turn.since + turn.max_wait for turn in room.taken) - time.monotonic()
                if left <= 0.0 or self._waiting or room.is_full:
                    break
                self._changed.wait(left)
            return room.taken


def _once(function: Callable[[], None]) -> Callable[[], None]:
    """Return what calls a function the first time, from whatever thread, and does nothing afterwards."""
    first = threading.Lock()

    def called() -> None:
        if first.acquire(blocking=False):
            function()

    return called


@forking.cached  # a child has a line of its own, in which none of its parent's requests waits
def line_of(device: str) -> Line:  # noqa: ARG001 - the key
    """Return the line of a device. All models that run on it in this process stand in it."""
    return Line()


class _Room:
    """The room of a pass: the least that the limits and the deadlines of the batches in it allow."""

    def __init__(self, first: Turn) -> None:
        self._pads = first.backend.pads
        self._longest = self._tokens = self._pairs = 0
        self._most_tokens: float = math.inf
        self._most_pairs: float = math.inf
        self._ends = math.inf
        self.taken: list[Turn] = []
        self.take(first)

    def take(self, turn: Turn) -> None:
        """Put a batch into the pass."""
        self.taken.append(turn)
        self._longest = max(self._longest, *turn.lengths)
        self._tokens += sum(turn.lengths)
        self._pairs += len(turn.lengths)
        self._most_tokens = min(self._most_tokens, turn.batch_tokens)
        self._most_pairs = min(self._most_pairs, math.inf if turn.batch_size is None else turn.batch_size)
        self._ends = min(self._ends, math.inf if turn.deadline is None else turn.deadline)

    def is_left_for(self, turn: Turn) -> bool:
        """Tell whether another batch fits in."""
        pairs = self._pairs + len(turn.lengths)
        tokens = max(self._longest, *turn.lengths) * pairs if self._pads else self._tokens + sum(turn.lengths)
        most_pairs = math.inf if turn.batch_size is None else turn.batch_size
        ends = min(self._ends, math.inf if turn.deadline is None else turn.deadline)
        return (
            tokens <= min(self._most_tokens, turn.batch_tokens)
            and pairs <= min(self._most_pairs, most_pairs)
            and time.monotonic() + turn.seconds_per_token * tokens <= ends
        )

    @property
    def is_full(self) -> bool:
        """Whether not even one more token or pair fits in."""
        tokens = self._longest * self._pairs if self._pads else self._tokens
        return tokens >= self._most_tokens or self._pairs >= self._most_pairs


def _outcomes(together: Sequence[Turn], on_idle: Callable[[], None]) -> list[Pass | BaseException]:
    """Run some batches in one pass. If that fails, each runs alone: an error concerns only the request that has it."""
    try:
        return list(_run(together, on_idle))
    except BaseException as error:
        if len(together) == 1:
            return [error]
        traceback.clear_frames(error.__traceback__)  # they hold what the failed pass has in memory
    return [outcome for turn in together for outcome in _outcomes([turn], on_idle)]


def _run(together: Sequence[Turn], on_idle: Callable[[], None]) -> Iterator[Pass]:
    backend, pairs = together[0].backend, [pair for turn in together for pair in turn.pairs]
    tokenizer = backend.tokenizer
    deadline = together[0].deadline if len(together) == 1 else None
    began = time.perf_counter()
    logits = backend.logits(Batch(pairs, tokenizer.pad_id, tokenizer.pads_left, deadline, on_idle=on_idle))
    if len(logits) != len(pairs):
        raise ValueError(f"the model returned {len(logits)} logits for {len(pairs)} pairs.")
    seconds, tokens, place = time.perf_counter() - began, sum(sum(turn.lengths) for turn in together), 0
    for turn in together:
        yield Pass(logits[place : place + len(turn.pairs)], seconds, tokens, shared=len(together) > 1)
        place += len(turn.pairs)
