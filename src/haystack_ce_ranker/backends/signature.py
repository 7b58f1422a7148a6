"""
What an exported model takes and gives: checks its inputs and outputs once, and fills the inputs of each batch.

A file may take positions and numbers of other sizes than ours, and may have the logits among several outputs. What
cannot be filled or told apart is an error when the model is loaded, not in the middle of a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends import labels
from haystack_ce_ranker.backends.configuration import numbered_positions, padding_before_positions
from haystack_ce_ranker.backends.exported import require_classifier
from haystack_ce_ranker.backends.protocol import Batch

LOGITS = "logits"
KNOWN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""The inputs that can be filled."""

_NUMBERS = ("int64", "int32", "bool", "float32", "float16", "float64")
_FLOATS = ("float32", "float16", "float64")

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Port:
    """
    An input or output of a model.

    :ivar dtype: numpy's name of its numbers, or the runtime's own name if numpy has none.
    :ivar shape: Its sizes, None for one that the file leaves open; None for a number of dimensions left open.
    """

    name: str
    dtype: str
    shape: Shape | None

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} ({self.dtype}, shape [{sizes}])"


class Signature:
    """
    The inputs and outputs of an exported model.

    :param config: The model's configuration, or None.
    :param model: The model's name, for errors.
    :param label: The label whose score is wanted, by number or name; None for a model that has one.
    :ivar inputs: The numpy dtype of each input, by name, in the model's order.
    :ivar output: The place of the output that holds the logits.
    :ivar output_name: Its name.
    :ivar one_pair: Whether the model takes one pair at a time only.
    :raises ValueError: If an input cannot be filled, no output can be told to be the logits, the model is not a
        cross-encoder, or it has several labels and none is named.
    """

    def __init__(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        config: Any,
        model: str,
        label: int | str | None = None,
    ) -> None:
        _require_inputs(inputs, config, model)
        self.inputs = {port.name: np.dtype(port.dtype) for port in inputs}
        self.one_pair = any(port.shape is not None and port.shape[:1] == (1,) for port in inputs)
        self.output = _place_of_logits(outputs, config, model)
        self.output_name = outputs[self.output].name
        shape = outputs[self.output].shape
        count = shape[1] if shape is not None and len(shape) == 2 else 1
        self._labels = count if count is not None else int(getattr(config, "num_labels", None) or 1)
        self._label = labels.choose(label, labels.names_of(config, self._labels), model)
        self._model = model
        self._behind = padding_before_positions(config)

    def logits(self, output: Any, pairs: int) -> NDArray[np.float32]:
        """
        Return the model's output as one logit for each pair, shape (pairs,).

        :raises ValueError: If it has more labels than the file and its configuration told.
        """
        values: NDArray[np.float32] = np.array(output, dtype=np.float32).reshape(pairs, -1)
        if values.shape[1] != self._labels:
            raise ValueError(
                f"model {self._model!r} has {values.shape[1]} output labels, but its configuration tells of "
                f"{self._labels}; put the config.json beside the file that it was exported with."
            )
        return labels.one_logit_each(values, pairs, self._label)

    def arrays(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return an array for each input, of shape (pairs, longest pair)."""
        filled: dict[str, NDArray[Any]] = dict(batch.padded())
        if "position_ids" in self.inputs:
            filled["position_ids"] = np.zeros_like(filled["input_ids"])
            for row, pair in zip(filled["position_ids"], batch.pairs, strict=True):
                row[: len(pair.ids)] = numbered_positions(pair.ids, self._behind)
        return {name: filled[name].astype(dtype, copy=False) for name, dtype in self.inputs.items()}


def _require_inputs(inputs: Sequence[Port], config: Any, model: str) -> None:
    unknown = [port for port in inputs if port.name not in KNOWN or port.dtype not in _NUMBERS]
    if unknown or "input_ids" not in [port.name for port in inputs]:
        what = f"takes {', '.join(map(str, unknown))}" if unknown else "does not take 'input_ids'"
        raise ValueError(
            f"model {model!r} {what}, but a cross-encoder's inputs are {', '.join(map(repr, KNOWN))} in whole numbers. "
            "Export it again with these, or use backend='torch'."
        )
    fixed = [port for port in inputs if port.shape is not None and not _open(port.shape)]
    if fixed:
        raise ValueError(
            f"model {model!r} takes pairs of one size only: {', '.join(map(str, fixed))}. Export it again with the "
            "number of pairs and of tokens left open (dynamic axes), or use backend='torch'."
        )
    if config is None and "position_ids" in [port.name for port in inputs]:
        raise ValueError(
            f"model {model!r} takes 'position_ids', and without a config.json nothing says where they start; put the "
            "model's config.json beside the file, or export it without this input."
        )


def _open(shape: Shape) -> bool:
    """Tell whether pairs of any length fit, one at a time at least."""
    return len(shape) == 2 and shape[0] in (None, 1) and shape[1] is None


def _place_of_logits(outputs: Sequence[Port], config: Any, model: str) -> int:
    places = [place for place, port in enumerate(outputs) if port.name == LOGITS]
    if not places:
        places = [
            place
            for place, port in enumerate(outputs)
            if len(outputs) == 1
            or (port.dtype in _FLOATS and port.shape is not None and (len(port.shape) == 1 or port.shape[1:] == (1,)))
        ]
    if len(places) != 1:
        raise ValueError(
            f"model {model!r} has {len(outputs)} outputs, and none can be told to be the logits: "
            f"{', '.join(map(str, outputs))}. Export it again with one output, or with one that is named 'logits'."
        )
    found = outputs[places[0]]
    require_classifier(found.shape if found.shape is not None else (), config, model)
    if found.dtype not in _FLOATS:
        raise ValueError(
            f"model {model!r} gives {found}, but logits are {', '.join(_FLOATS)}. Export it again with its logits."
        )
    return places[0]
