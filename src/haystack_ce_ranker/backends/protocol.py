"""Packed pairs to logits: the batch that a runtime is given, and the protocol that it fulfils."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends.flops import Flops
from haystack_ce_ranker.backends.token_embeddings import Rows
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.pairs import PackedPair


@dataclass(frozen=True)
class Batch:
    """
    The packed pairs of one forward pass.

    :ivar pad_id: The token that fills short pairs.
    :ivar pads_left: Whether they are filled on the left, so that all end together.
    :ivar deadline: A time of `time.monotonic()` after which nobody waits for the logits. A backend that waits for
        others raises `OutOfTimeError` then; one that computes itself finishes what it has begun.
    :ivar withdrawn: Set when nobody wants the logits any longer, which counts as a deadline that has passed; None if
        that cannot happen.
    :ivar on_idle: Called when a thread of those that compute has nothing to do, though the batch is not ready: another
        pass of this model may begin. It may be called several times, from any thread. A backend that computes a batch
        as a whole never calls it.
    """

    pairs: Sequence[PackedPair]
    pad_id: int
    pads_left: bool = False
    deadline: float | None = None
    withdrawn: threading.Event | None = None
    on_idle: Callable[[], None] | None = None

    def padded(self) -> dict[str, NDArray[np.int64]]:
        """Return `input_ids`, `attention_mask`, `token_type_ids`, each of shape (pairs, longest pair)."""
        shape = (len(self.pairs), max(len(pair.ids) for pair in self.pairs))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for row, pair in enumerate(self.pairs):
            length = len(pair.ids)
            own = slice(shape[1] - length, None) if self.pads_left else slice(length)
            ids[row, own] = pair.ids
            mask[row, own] = 1
            types[row, own] = pair.types
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


class OutOfTimeError(Exception):
    """
    The deadline of a batch passed before all its logits were there.

    :ivar logits: Those that were there, NaN for the others; shape (pairs,). None if there were none.
    """

    def __init__(self, message: str, logits: NDArray[np.float32] | None = None) -> None:
        super().__init__(message)
        self.logits = logits


class Backend(Protocol):
    """
    A loaded model.

    :ivar name: The runtime's key in `BACKENDS`.
    :ivar dtype: The number format that it computes in, for the report.
    :ivar device: The device that it computes on, for the report.
    :ivar tokenizer: The model's tokenizer with its pair format.
    :ivar max_length: The most tokens of a pair that the model's positions allow; None if the model names no limit.
    :ivar batch_tokens: The most tokens of a batch by default, padding included; measured.
    :ivar pads: Whether a batch runs as one padded array, in which a short pair costs as much as the longest one.
    :ivar mixes_lengths: Whether a pair scores the same beside longer ones in a padded batch as alone. Otherwise only
        pairs of one length run together.
    :ivar prompt: The instruction that the model reads with every pair, for the report; empty if there is none.
    :ivar query_prompt: The same if it is to be put before the query; empty if the pair format holds it.
    """

    name: str
    dtype: str
    device: str
    tokenizer: PairTokenizer
    max_length: int | None
    batch_tokens: int
    pads: bool
    mixes_lengths: bool
    prompt: str
    query_prompt: str

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """
        Return the model's raw output for each pair, shape (pairs,). Safe from several threads.

        :raises OutOfTimeError: If the batch's deadline passed before. Only a backend that waits for others raises it.
        """
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error`, raised by `logits`, means that the batch was too large."""
        ...

    def free_memory(self) -> None:
        """Give back the memory that the runtime holds in reserve."""
        ...


@runtime_checkable
class Counted(Protocol):
    """
    What a `Backend` can say of its model beside the logits.

    :ivar flops: What a forward pass takes in closed form; None if no form is known for this kind of model.
    """

    flops: Flops | None


@runtime_checkable
class Embedding(Protocol):
    """A method that a `Backend` can offer beside `logits` if the embeddings of its model's tokens can be read."""

    def token_embeddings(self) -> Rows | None:
        """Return a row for each token of the vocabulary, shape (tokens, dimensions); None if there are none to find."""
        ...


@runtime_checkable
class Independent(Protocol):
    """
    What a `Backend` can say of its scores beside the logits.

    :ivar independent: Whether a pair scores the same to the last bit in whatever batch it runs. Then pairs of several
        requests share batches. A batch that is computed as one array mostly moves the last bits of its rows.
    """

    independent: bool


@runtime_checkable
class InParts(Protocol):
    """
    What a `Backend` has that may split a batch into padded arrays itself.

    :ivar splits: Whether it does. Then `pads` is False.
    """

    splits: bool

    def parts(self, lengths: NDArray[np.int64]) -> list[NDArray[np.intp]]:
        """
        Return which pairs of a batch share an array.

        :param lengths: The tokens of each pair, shape (pairs,).
        :returns: Index arrays that together hold each pair once.
        """
        ...


@runtime_checkable
class Asynchronous(Protocol):
    """A method that a `Backend` can offer beside `logits` if its device works by itself, as a GPU does."""

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """
        Queue a batch, and return a function that waits for its logits, shape (pairs,).

        Either call may raise an error that `is_out_of_memory` knows. Batches queued before it must not be lost.
        """
        ...
