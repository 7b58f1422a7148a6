"""
Finds the embeddings of a model's tokens: in a torch module, an ONNX file or an OpenVINO model.

A table with a row for each token of the vocabulary. It is given as it is stored, and numbers of 8 bits are not scaled:
they have one scale and one zero point for the whole table, which change no cosine around its mean.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.model_files import parts_of
from haystack_ce_ranker.backends.onnx_file import read_matrix, read_onnx

_TOKENS = "input_ids"


class Rows(Protocol):
    """A table that may be large, of which some rows at a time are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return some rows, shape (rows, columns)."""
        ...


class TorchRows:
    """
    The rows of a tensor, on whatever device it is.

    :param weight: A tensor of two dimensions.
    """

    def __init__(self, weight: Any) -> None:
        self._weight = weight.detach()
        self.shape: tuple[int, ...] = tuple(weight.shape)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return some rows in float32."""

        def read() -> NDArray[Any]:
            found: NDArray[Any] = self._weight[rows].float().cpu().numpy()
            return found

        return forking.in_own_thread(read)


def of_module(module: Any, vocabulary: int) -> Rows | None:
    """
    Return the embeddings of a model of transformers; None if it names none.

    :param vocabulary: How many tokens the tokenizer knows; a table of fewer rows is something else.
    """
    try:
        weight = module.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    return TorchRows(weight) if _is_table(tuple(weight.shape), vocabulary) else None


def of_onnx(file: Path, vocabulary: int) -> Rows | None:
    """
    Return those in an ONNX file: the weight that its token ids are looked up in; None if none is.

    :raises ValueError: If it names a file outside its folder.
    """
    parts_of(file)
    held = read_onnx(file)
    names = [name for name, indexes in held.lookups.items() if indexes == _TOKENS and name in held.shapes]
    return read_matrix(file, names[0]) if names and _is_table(held.shapes[names[0]], vocabulary) else None


def of_openvino(openvino: Any, model: Any, vocabulary: int) -> Rows | None:
    """
    Return those of a model that OpenVINO has read: what its token ids are looked up in; None if nothing is.

    What the file stores may be compressed, so OpenVINO computes the table.
    """
    for operation in model.get_ops():
        if operation.get_type_name() != "Gather" or not _is_of_tokens(operation.input_value(1)):
            continue
        table = operation.input_value(0)
        shape = table.get_partial_shape()
        if shape.is_static and _is_table(tuple(shape.to_shape()), vocabulary):
            alone = openvino.Model([openvino.opset13.result(table)], [])
            compiled = openvino.Core().compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            return np.asarray(compiled([])[0])
    return None


def _is_of_tokens(indexes: Any) -> bool:
    """Tell whether indexes that OpenVINO looks up are the token ids, perhaps converted."""
    while indexes.get_node().get_type_name() == "Convert":
        indexes = indexes.get_node().input_value(0)
    return _TOKENS in indexes.get_names()


def _is_table(shape: tuple[int, ...], vocabulary: int) -> bool:
    return len(shape) == 2 and shape[0] >= vocabulary and shape[0] > shape[1] > 1
