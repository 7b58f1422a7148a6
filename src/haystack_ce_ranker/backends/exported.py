"""
What the runtimes of exported models share: reading a weight file's dtype, checking the model, and running pairs.

sentence-transformers checks torch checkpoints when it loads them. Nothing checks a weight file, so the same checks are
made here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.flops import Flops, described_by, flops_of
from haystack_ce_ranker.backends.model_files import UnreadableWeightsError
from haystack_ce_ranker.backends.onnx_file import read_onnx
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.backends.side_by_side import SideBySide

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


class OneByOne(SideBySide):
    """Runs each pair of a batch alone on one thread."""

    def logits(self, batch: Batch, run: Run) -> NDArray[np.float32]:
        """Return the logit that `run` finds for each pair, shape (pairs,)."""
        with forking.uninterrupted():
            return np.concatenate(self.map(run, [Batch([pair], batch.pad_id) for pair in batch.pairs], batch.on_idle))


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
