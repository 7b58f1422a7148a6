"""
What the runtimes of exported models share: reading a weight file's dtype, checking the model, and running pairs.

sentence-transformers checks torch checkpoints when it loads them. Nothing checks a weight file, so the same checks are
made here.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.flops import Flops, described_by, flops_of
from haystack_ce_ranker.backends.model_files import UnreadableWeightsError
from haystack_ce_ranker.backends.onnx_file import read_onnx
from haystack_ce_ranker.backends.protocol import Backend, Batch

# Enough to keep every thread busy until near the end, and few enough to keep a deadline.
BATCH_TOKENS_PER_THREAD = 1024
# Operators and element types that only a quantised file has.
_INT8_OPERATORS = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QAttention",
    "DequantizeLinear",
}
_INT8_MARKS = (b'type="FakeQuantize"', b'element_type="i8"', b'element_type="u8"')

Run = Callable[[Batch], NDArray[np.float32]]


class OneByOne:
    """
    Runs each pair of a batch alone on one thread. All requests share the threads.

    Models with the same number of threads share them, too, so that two models do not fight for the cores.

    :ivar threads: How many pairs run at once.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads if threads is not None else allowed_cpus()

    @property
    def _pool(self) -> "_Pool":
        return _pool(self.threads)

    def logits(self, batch: Batch, run: Run) -> NDArray[np.float32]:
        """Return the logit that `run` finds for each pair, shape (pairs,)."""
        with forking.uninterrupted():
            return np.concatenate(self._pool.map(run, batch))


class _Pool:
    """Threads that run the pairs of all batches in the order they came, and say when one of them has nothing to do."""

    def __init__(self, threads: int) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="ce-ranker")
        self._threads = threads
        self._lock = threading.Lock()
        self._unfinished = 0  # pairs of all batches
        self._on_idle: list[Callable[[], None]] = []  # of all batches

    def map(self, run: Run, batch: Batch) -> list[NDArray[np.float32]]:
        """Return what `run` finds for each pair. If one fails, those that have not begun are dropped."""
        with self._lock:
            pairs = [self.executor.submit(self._run, run, Batch([pair], batch.pad_id)) for pair in batch.pairs]
            self._unfinished += len(pairs)
            if batch.on_idle is not None:
                self._on_idle.append(batch.on_idle)
        try:
            self._finish(0)  # there may be fewer pairs than threads
            return [pair.result() for pair in pairs]
        finally:
            if batch.on_idle is not None:
                with self._lock:
                    self._on_idle.remove(batch.on_idle)
            self._finish(sum(pair.cancel() for pair in pairs))

    def _run(self, run: Run, pair: Batch) -> NDArray[np.float32]:
        try:
            return run(pair)
        finally:
            self._finish(1)

    def _finish(self, pairs: int) -> None:
        with self._lock:
            self._unfinished -= pairs
            idle = [*self._on_idle] if self._unfinished < self._threads else []
        for tell in idle:
            tell()


def run_first_pair(backend: Backend) -> None:
    """
    Run one pair of a model that has just been loaded.

    The first call of a native module may import another module with a lock held. A second thread that makes the same
    call waits for that lock, and holds the interpreter's lock, which the first one waits for. So one thread alone makes
    the first call.

    :raises UnreadableWeightsError: If its logit is not a finite number.
    """
    tokenizer = backend.tokenizer
    query, document = tokenizer.encode(["a question", "an answer"])
    logits = backend.logits(Batch([tokenizer.format.pack(query.ids, document.ids)], tokenizer.pad_id))
    if not np.isfinite(logits).all():
        raise UnreadableWeightsError(
            f"the model gives {logits[0]} for a short pair: its weights are damaged. Copy or download them again; the "
            "next run tries to load them."
        )


@forking.cached  # one pool for the process: two pools of one size would run twice the threads that were asked for
def _pool(threads: int) -> _Pool:
    return _Pool(threads)


def stored_dtype(file: Path) -> str:
    """Name what a weight file holds: `int8`, `bfloat16`, `float16` or `float32`. An OpenVINO file counts as float32."""
    if file.suffix == ".onnx":
        held = read_onnx(file)
        return "int8" if held.operators & _INT8_OPERATORS else held.floats
    content = file.read_bytes()
    return "int8" if any(mark in content for mark in _INT8_MARKS) else "float32"


def flops_of_file(file: Path, config: Any) -> Flops | None:
    """Return what a pass takes in closed form: by the configuration, or without one by an ONNX file's weights."""
    if config is None and file.suffix == ".onnx":
        config = described_by(read_onnx(file).shapes)
    return flops_of(config)


def require_classifier(shape: Sequence[object], config: Any, model: str) -> None:
    """
    Check that an exported model is a cross-encoder, as far as its file tells.

    :param shape: The shape of the output. A size that is not a whole number is left open by the file.
    :param config: The model's configuration, or None.
    :raises ValueError: If it is something else.
    """
    made_as = [str(name) for name in getattr(config, "architectures", None) or []]
    other = [name for name in made_as if not name.endswith("ForSequenceClassification")]
    if other or len(shape) > 2:
        what = other[0] if other else f"an output of {len(shape)} dimensions"
        raise ValueError(
            f"model {model!r} is not a sequence-classification cross-encoder but {what} (for example a causal "
            "re-ranker, or an embedding model); use backend='torch', or a file that was exported from a model with an "
            "AutoModelForSequenceClassification form."
        )
