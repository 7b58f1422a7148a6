"""
Token ids to logits: the protocol that a runtime fulfils, and the table of runtimes.

One file per runtime; each offers `load(options) -> Backend` and imports its runtime nowhere but there. To add one, add
a file and its line in `BACKENDS`.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.models import ModelOptions, check_dtype
from haystack_ce_ranker.pairs import PackedPair, PairTokenizer

BACKENDS = {
    "torch": "haystack_ce_ranker.backends.torch",
    "onnx": "haystack_ce_ranker.backends.onnx",
    "openvino": "haystack_ce_ranker.backends.openvino",
    "auto": "haystack_ce_ranker.backends.auto",  # chooses one of the others
}


@dataclass(frozen=True)
class Batch:
    """The packed pairs of one forward pass."""

    pairs: Sequence[PackedPair]
    pad_id: int

    def padded(self) -> dict[str, NDArray[np.int64]]:
        """Return `input_ids`, `attention_mask`, `token_type_ids`, each of shape (pairs, longest pair), padded right."""
        shape = (len(self.pairs), max(len(pair.ids) for pair in self.pairs))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for row, pair in enumerate(self.pairs):
            length = len(pair.ids)
            ids[row, :length] = pair.ids
            mask[row, :length] = 1
            types[row, :length] = pair.types
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


class Backend(Protocol):
    """
    A loaded model.

    :ivar name: The runtime's key in `BACKENDS`.
    :ivar dtype: What it computes in, for the report.
    :ivar device: Where it computes, for the report.
    :ivar tokenizer: The model's tokenizer with its pair format.
    :ivar max_length: The most tokens of a pair that the model's positions allow; None where it names no limit.
    :ivar batch_tokens: The default token budget of a batch, padding among them, from measurement.
    :ivar pads: Whether a batch runs as one padded array, so that short pairs cost as much as the longest among them.
    :ivar query_prompt: Text that the model was saved with to stand before every query.
    """

    name: str
    dtype: str
    device: str
    tokenizer: PairTokenizer
    max_length: int | None
    batch_tokens: int
    pads: bool
    query_prompt: str

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the model's raw output for each pair, shape (pairs,). Safe from several threads."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error`, raised by `logits`, means that the batch was too large."""
        ...

    def free_memory(self) -> None:
        """Give back what the runtime holds in reserve."""
        ...


@runtime_checkable
class Asynchronous(Protocol):
    """What a `Backend` can offer beside `logits` if its device works by itself, as a GPU does."""

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """
        Queue a batch, and return a function that waits for its logits, shape (pairs,).

        Either may raise what `is_out_of_memory` knows; batches that were queued before must not be lost by that.
        """
        ...


def load(name: str, options: ModelOptions) -> Backend:
    """
    Load a model with the runtime `name`.

    :raises ValueError: If there is no such runtime, or no such dtype.
    :raises ImportError: If the runtime is not installed; names the extra.
    :raises ModelNotFoundError: If the model is in none of the places where it was looked for.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, but got {name!r}.")
    check_dtype(options.dtype)
    backend: Backend = import_module(BACKENDS[name]).load(options)
    return backend


def pass_lock(device: str) -> threading.Lock:
    """Return the lock of a device on which passes run one at a time, whichever of the models there they are of."""
    return _pass_locks.setdefault(device, threading.Lock())


_pass_locks: dict[str, threading.Lock] = {}


def allowed_cpus() -> int:
    """Return how many CPUs this process may use: fewer than the machine has, in many a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_tokenizer(folder: str, options: ModelOptions) -> Any:
    """Load the tokenizer beside exported weights, with transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=options.trust_remote_code, **dict(options.tokenizer_kwargs)
    )


def position_limit(config: Any) -> int | None:
    """
    Return the most tokens that a model's positions allow, or None where its configuration names no limit.

    RoBERTa and its kin number positions from the padding id on, so that many of them are never used.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    offset = getattr(config, "pad_token_id", None) if getattr(config, "model_type", "") in _OFFSET_POSITIONS else None
    return limit - (offset + 1) if isinstance(offset, int) else limit


_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "xmod"}
)
