"""
PairRunner: packed pairs in, logits out, within the memory and the time there is. Knows nothing of texts.

Pairs run in batches of similar lengths. A batch that does not fit into memory is made smaller, and the size that fits
is remembered. With a deadline, a batch begins only if it should end in time, by the speed of earlier batches. On a CPU
the batches of all requests stand in one line (`line.py`). On a device that works by itself, the next batch is queued
before the runner waits for the last one's logits.
"""

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.batching import CPU_PASS_TOKENS, plan_batches
from haystack_ce_ranker.backends.protocol import (
    Asynchronous,
    Backend,
    Batch,
    Counted,
    Independent,
    InParts,
    OutOfTimeError,
)
from haystack_ce_ranker.scoring.line import Line, NoTurnError, Pass, Turn, line_of
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.scoring.visits import Visit
from haystack_ce_ranker.tokenizing.pairs import PackedPair

logger = logging.getLogger(__name__)

DEVICE_PASS_TOKENS = 1024
"""The same on another device, where launching a pass takes longer than on CPU; estimated, not yet measured."""

FORGETTING = 0.8
"""By what the slowest speed of the latest batches shrinks with each batch that is faster."""

Report = Callable[[NDArray[np.bool_]], None]
"""Called after each batch with a mask of the pairs that are scored; shape (pairs,)."""

_Wait = Callable[[], NDArray[np.float32] | Pass]


class LearntBatchSizes:
    """
    The batch sizes that fitted after larger ones had run out of memory, by model. Safe from several threads.

    Give one object to all runners that share a device's memory, so that each uses what the others have learnt.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, ...], int] = {}
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Make the lock anew; see `forking`. What was learnt stays true."""
        self._lock = threading.Lock()

    def affordable(self, key: tuple[str, ...], tokens: int) -> int:
        """Return the most tokens of a batch: `tokens`, or fewer once that has run out of memory."""
        return min(tokens, self._tokens.get(key, tokens))

    def lower(self, key: tuple[str, ...], failed: int, tokens: int) -> int:
        """
        Remember that a batch did not fit, and return the new limit: half of what failed.

        Threads that fail at the same time with similar batches lower the limit once, not one after the other.

        :param failed: Tokens of the batch, padding among them.
        :param tokens: The limit without anything learnt.
        """
        with self._lock:
            self._tokens[key] = min(max(failed // 2, 1), self.affordable(key, tokens))
            return self._tokens[key]


class _Queued(NamedTuple):
    """A batch that has been started: its places in the group, when it began, and what waits for its logits."""

    places: NDArray[np.intp]
    began: float
    wait: _Wait


class PairRunner:
    """
    Runs pairs through a loaded model. Safe from several threads.

    :param backend: The loaded model.
    :param batch_tokens: The most tokens of one forward pass, padding among them; None for the backend's default.
    :param batch_size: The most pairs of one forward pass; None for no limit.
    :param model_name: The model's name, under which a learnt batch size is remembered.
    :param batch_sizes: Where learnt batch sizes are kept; None for a memory of its own.
    :param max_wait: Seconds that a batch with room waits for pairs of other requests before it begins, where they may
        share one (`backends.protocol.Independent`), but at most half of the time that a deadline leaves. 0: requests
        share none, which is as fast where pairs run alone.
    :raises ValueError: If a value is out of range.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        model_name: str = "",
        batch_sizes: LearntBatchSizes | None = None,
        max_wait: float = 0.0,
    ) -> None:
        self.backend = backend
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens if batch_tokens is not None else backend.batch_tokens
        next(plan_batches([1], batch_tokens=self.batch_tokens, batch_size=batch_size))  # checks both
        self.on_cpu = backend.device.partition(":")[0].lower() == "cpu"
        self._queue = backend if isinstance(backend, Asynchronous) and not self.on_cpu else None
        independent = isinstance(backend, Independent) and backend.independent and backend.mixes_lengths
        self._shares = max_wait > 0 and independent
        self._max_wait = max_wait
        self._flops = backend.flops if isinstance(backend, Counted) else None
        self._in_parts = backend if isinstance(backend, InParts) and backend.splits else None
        self._key = (backend.name, backend.device, backend.dtype, model_name)
        self._batch_sizes = batch_sizes if batch_sizes is not None else LearntBatchSizes()
        self._seconds_per_token: float | None = None  # learnt from every batch, for deadlines
        self._slowest = 0.0  # of the latest batches: who has waited as long as possible must not be late

    @property
    def affordable_batch_tokens(self) -> int:
        """The most tokens of the next batch: `batch_tokens`, or fewer once that has run out of memory."""
        return self._batch_sizes.affordable(self._key, self.batch_tokens)

    def run(
        self,
        pairs: Sequence[PackedPair],
        cost: ScoringCost,
        *,
        owners: Sequence[int] = (),
        deadline: float | None = None,
        report: Report | None = None,
        visit: Visit | None = None,
    ) -> NDArray[np.float64]:
        """
        Return the logit of each pair.

        :param cost: What the call costs is added to it.
        :param owners: With a deadline, the document that each pair belongs to; the pairs of one document follow each
            other, and are scored all or not at all. Shape (pairs,).
        :param deadline: A time of `time.monotonic()`. Pairs are then taken in their order, about a batch at a
            time, while the next ones should be done in time. The very first pairs, when no speed is known, are those
            of a single document. A batch that has begun is finished, unless the backend raises `OutOfTimeError`.
        :param report: Called after each batch.
        :param visit: If it is withdrawn, no further batch begins.
        :returns: Shape (pairs,); NaN where the deadline left no time.
        :raises MemoryError: If a single pair does not fit into memory.
        :raises ValueError: If the model returns something else than finite numbers.
        :raises CancelledError: If the visit was withdrawn.
        """
        started, waited = time.perf_counter(), cost.waited
        logits = np.full(len(pairs), np.nan)
        start = partial(self._start, cost=cost, deadline=deadline, visit=visit)
        if deadline is None:
            self._run_group(np.arange(len(pairs)), pairs, logits, cost, report, start)
        else:
            lengths = [len(pair.ids) for pair in pairs]
            done = 0
            while done < len(pairs):
                count = self._affordable_pairs(lengths[done:], owners[done:], cost, deadline)
                if not count:
                    break
                try:
                    self._run_group(np.arange(done, done + count), pairs, logits, cost, report, start)
                except OutOfTimeError:
                    _forget_unfinished(logits, owners)
                    break
                done += count
        cost.score += time.perf_counter() - started - (cost.waited - waited)
        return logits

    def _affordable_pairs(
        self, lengths: Sequence[int], owners: Sequence[int], cost: ScoringCost, deadline: float
    ) -> int:
        """Return how many of the next pairs should be done in time: whole documents, at most a batch of them."""
        left = deadline - time.monotonic()
        if left <= 0.0:
            return 0
        speed = self._seconds_per_token
        room = self.affordable_batch_tokens
        count, tokens = 0, 0
        while count < len(lengths):
            stop = count + 1
            while stop < len(lengths) and owners[stop] == owners[count]:
                stop += 1
            tokens += sum(lengths[count:stop])
            if count and (speed is None or tokens > room):
                break
            if speed is not None and speed * tokens > left:
                break
            count = stop
        if not count and not cost.batches and speed is not None and not (self._line is not None and self._line.is_busy):
            # A call without a score teaches no speed. Without this, one stall could rule out every later call. If other
            # calls are at work, they teach it.
            self._seconds_per_token = speed / 2
        return count

    def _run_group(
        self,
        group: NDArray[np.intp],
        pairs: Sequence[PackedPair],
        logits: NDArray[np.float64],
        cost: ScoringCost,
        report: Report | None,
        start: Callable[[Sequence[PackedPair]], _Wait],
    ) -> None:
        """Score a group of pairs. When memory runs out, halve the batches and go on with the pairs not scored yet."""
        lengths = np.asarray([len(pairs[place].ids) for place in group], dtype=np.int64)
        ahead = 1 if self._queue is None else 2
        planned_for: int | None = self.affordable_batch_tokens
        pending = self._batches(lengths, np.arange(len(group)))
        queued: deque[_Queued] = deque()
        free_since = 0.0
        while pending or queued:
            if pending and planned_for != self.affordable_batch_tokens:  # learnt here, or by another thread
                planned_for = self.affordable_batch_tokens
                pending = self._batches(lengths, np.concatenate(pending))
            starts = bool(pending) and len(queued) < ahead
            batch = pending[0] if starts else queued[0].places
            try:
                if starts:
                    began = time.perf_counter()
                    wait = start([pairs[group[place]] for place in batch])
                    queued.append(_Queued(batch, began, wait))
                    pending.popleft()
                    continue
                began = max(queued[0].began, free_since)
                found = queued[0].wait()
                values = found.logits if isinstance(found, Pass) else found
            except NoTurnError:
                raise
            except OutOfTimeError as late:
                if late.logits is not None:
                    logits[group[batch]] = late.logits
                self._count_late(lengths[batch], logits[group[batch]], time.perf_counter() - began, cost)
                raise
            except Exception as error:
                self._make_smaller(len(batch), int(lengths[batch].max()), error)
                if not starts:
                    pending.appendleft(queued.popleft().places)
                planned_for = None
                continue
            queued.popleft()
            self._require_finite(values)
            free_since = time.perf_counter()
            self._count(lengths[batch], cost)
            if isinstance(found, Pass):
                self._learn(found.seconds, found.tokens)
            else:
                self._learn(free_since - began, int(lengths[batch].sum()))
            logits[group[batch]] = values
            if report is not None:
                report(~np.isnan(logits))

    def _batches(self, lengths: NDArray[np.int64], places: NDArray[np.intp]) -> deque[NDArray[np.intp]]:
        groups = [places]
        if not self.backend.mixes_lengths:
            groups = [places[lengths[places] == length] for length in np.unique(lengths[places])[::-1]]
        return deque(
            group[part]
            for group in groups
            for part in plan_batches(
                lengths[group],
                batch_tokens=self.affordable_batch_tokens,
                batch_size=self.batch_size,
                pass_tokens=(CPU_PASS_TOKENS if self.on_cpu else DEVICE_PASS_TOKENS) if self.backend.pads else None,
            )
        )

    @property
    def _line(self) -> Line | None:
        """The line in which batches stand on a CPU. A GPU has an order of its own, and so has a server."""
        return line_of(self.backend.device) if self.on_cpu else None

    def _start(
        self, pairs: Sequence[PackedPair], *, cost: ScoringCost, deadline: float | None, visit: Visit | None
    ) -> _Wait:
        """Queue a batch if the device works by itself. Otherwise it runs when its logits are asked for."""
        if visit is not None:
            visit.require_wanted()
        if self._line is not None:
            return partial(self._run_in_line, self._line, pairs, cost, deadline, visit)
        tokenizer = self.backend.tokenizer
        withdrawn = visit.withdrawn if visit is not None else None
        batch = Batch(pairs, tokenizer.pad_id, tokenizer.pads_left, deadline, withdrawn)
        wait = partial(self.backend.logits, batch) if self._queue is None else self._queue.start(batch)
        return wait if visit is None else partial(_wanted, wait, visit)

    def _run_in_line(
        self,
        line: Line,
        pairs: Sequence[PackedPair],
        cost: ScoringCost,
        deadline: float | None,
        visit: Visit | None,
    ) -> Pass:
        """Run a batch when its turn comes, if that is early enough for it to end in time."""
        mean = self._seconds_per_token
        slow = self._slowest if mean is None else max(mean, self._slowest)
        patience = None
        if deadline is not None:
            patience = max(deadline - time.monotonic() - slow * sum(len(pair.ids) for pair in pairs), 0.0)
        turn = Turn(
            self.backend,
            pairs,
            self.affordable_batch_tokens,
            self.batch_size,
            self._shares,
            # Half of the time: at its end, chance would say whether the pass begins or the patience ends first.
            max_wait=self._max_wait if patience is None else min(self._max_wait, patience / 2),
            deadline=deadline,
            seconds_per_token=slow,
        )
        came, seconds = time.perf_counter(), 0.0
        try:
            if visit is not None:
                visit.awaits(turn.done)  # before it enters: it can be given up from its first moment there
            found = turn.result(patience if line.enter(turn) else None)
            seconds = found.seconds
        finally:
            turn.done.cancel()  # does something only if the caller was interrupted
            cost.waited += max(time.perf_counter() - came - seconds, 0.0)
        cost.shared += found.shared
        return found

    def _make_smaller(self, pairs: int, longest: int, error: Exception) -> None:
        """Lower the limit of a batch if `error` means that one did not fit; else raise it."""
        if not self.backend.is_out_of_memory(error):
            raise error
        # The error holds the frames of the failed pass, and these hold the tensors that filled the memory.
        traceback.clear_frames(error.__traceback__)
        if pairs <= 1:
            raise MemoryError(
                f"a single pair of {longest} tokens does not fit into the memory of {self.backend.device}; "
                "lower max_length, or use a smaller model or dtype."
            ) from error
        lower = self._batch_sizes.lower(self._key, pairs * longest, self.batch_tokens)
        self.backend.free_memory()
        logger.warning("Out of memory with a batch of %s tokens; going on with %s.", pairs * longest, lower)

    def _require_finite(self, values: NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            raise ValueError(
                f"model returned scores that are not finite for {int((~np.isfinite(values)).sum())} of "
                f"{len(values)} pairs in {self.backend.dtype}; {_remedy(self.backend)}."
            )

    def _count(self, lengths: NDArray[np.int64], cost: ScoringCost) -> None:
        """Add a finished batch to the cost."""
        parts = [np.arange(len(lengths))] if self._in_parts is None else self._in_parts.parts(lengths)
        cost.pairs += len(lengths)
        cost.batches += len(parts)
        cost.tokens += int(lengths.sum())
        slots = lengths.copy()
        if self.backend.pads or self._in_parts is not None:
            for part in parts:
                slots[part] = lengths[part].max()
        cost.slots += int(slots.sum())
        flops = math.nan if self._flops is None else self._flops.of(lengths)
        cost.flops += flops
        cost.padding_flops += 0 if self._flops is None else self._flops.of(slots) - flops

    def _learn(self, seconds: float, tokens: int) -> None:
        """Learn the speed of a batch. The latest batches count most."""
        latest, before = seconds / max(tokens, 1), self._seconds_per_token
        self._seconds_per_token = latest if before is None else (latest + before) / 2
        self._slowest = max(latest, FORGETTING * self._slowest)

    def _count_late(
        self, lengths: NDArray[np.int64], logits: NDArray[np.float64], seconds: float, cost: ScoringCost
    ) -> None:
        """Count what a batch gave before its deadline, and learn from it. If that is nothing, expect twice the time."""
        known = ~np.isnan(logits)
        if known.any():
            self._count(lengths[known], cost)
            self._learn(seconds, int(lengths[known].sum()))
            return
        least, before = 2.0 * seconds / max(int(lengths.sum()), 1), self._seconds_per_token
        self._seconds_per_token = least if before is None else max(least, before)


def _wanted(wait: _Wait, visit: Visit) -> NDArray[np.float32] | Pass:
    """Wait for logits. If they do not come because the visit was withdrawn, that says nothing of the speed."""
    try:
        return wait()
    except OutOfTimeError:
        visit.require_wanted()
        raise


def _remedy(backend: Backend) -> str:
    """Say what to do about scores that are not finite."""
    if backend.dtype == "float32":
        return (
            "its weights are damaged, or too large for it: replace its files and close the ranker, so that the next "
            "run loads them, or use another model"
        )
    if backend.dtype == "int8" or backend.name == "onnx":  # these compute in what the file holds
        return "use a file that holds float32"
    return "try dtype='float32'"


def _forget_unfinished(logits: NDArray[np.float64], owners: Sequence[int]) -> None:
    """Remove the logits of documents that have pairs without one: a document is scored by all its pairs or not."""
    unfinished = {owner for owner, logit in zip(owners, logits, strict=True) if np.isnan(logit)}
    logits[[owner in unfinished for owner in owners]] = np.nan
