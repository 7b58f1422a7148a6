"""
The FLOPs of a forward pass in closed form, from a model's configuration and the tokens of its pairs.

Matrix products are counted, a multiplication and an addition as two, as torch's own counter does. Embeddings are
look-ups and cost nothing. The steps between the products (softmax, norms, activations) are not counted: they are below
a hundredth. Every token is counted against every other one of its pair, also where a model masks some of them, since
that is what runtimes compute. What a runtime omits by its own means is not taken off; the end of the last layer, which
`first_token.py` cuts short, is a sixteenth of a twelve-layer model.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", "albert")
_GATED = ("modernbert", "nomic_bert", "gte")


@dataclass(frozen=True)
class Flops:
    """
    What a forward pass of a model takes.

    :ivar by_square: For each two tokens of a pair: the attention of all layers.
    :ivar by_token: For each token: projections and feed-forward layers.
    :ivar by_pair: For each pair: the head.
    :ivar by_pass: For each forward pass, however many pairs it has.
    """

    by_square: int
    by_token: int
    by_pair: int
    by_pass: int = 0

    def of(self, lengths: NDArray[np.int64]) -> int:
        """Return the FLOPs of a pass over pairs of these lengths in tokens; shape (pairs,)."""
        squares = int((lengths * lengths).sum())
        return (
            self.by_square * squares + self.by_token * int(lengths.sum()) + self.by_pair * len(lengths) + self.by_pass
        )


def flops_of(config: Any, *, head: int | None = None) -> Flops | None:
    """
    Return the closed form for an encoder with a classification head.

    :param config: A configuration of transformers, or None.
    :param head: FLOPs of a pair's head; None for a dense layer with the labels behind it, as transformers' own.
    :returns: None if no form is known for this kind of model: decoders, mixtures of experts, models with convolutions
        or sparse attention, and kinds that no test compares with torch's counter.
    """
    family = _FAMILIES.get(getattr(config, "model_type", ""))
    if family is None or getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return None
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", "rope", None):
        return None  # relative keys and queries take products of their own
    form = family(config)
    return form if form is None or head is None else replace(form, by_pair=head)


def described_by(shapes: Mapping[str, Sequence[int]]) -> Any:
    """
    Return what `flops_of` needs of a configuration, by the names and shapes of a BERT's or RoBERTa's weights.

    Many ONNX files come without a configuration. Their matrices have lost their names, and all in all must be those of
    whole layers.

    :returns: None if the names are others, or the matrices do not fit.
    """
    norm, inner, classes = (_the_one(shapes, pattern) for pattern in _NAMES)
    if norm is None or inner is None or classes is None:
        return None
    sides = norm[0], inner[0]
    matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and not _NOT_OF_A_LAYER.search(name)]
    weights = sum(math.prod(shape) for shape in matrices if set(shape) <= {*sides})
    layers, rest = divmod(weights, 4 * sides[0] * sides[0] + 2 * sides[0] * sides[1])
    if rest or not layers:
        return None
    return SimpleNamespace(
        model_type="bert",
        hidden_size=sides[0],
        intermediate_size=sides[1],
        num_hidden_layers=layers,
        num_labels=classes[0],
    )


_NAMES = (
    re.compile(r"(^|\.)(bert|roberta)\.embeddings\.LayerNorm\.bias$"),
    re.compile(r"(^|\.)(bert|roberta)\.encoder\.layer\.0\.intermediate\.dense\.bias$"),
    re.compile(r"(^|\.)classifier\.(out_proj\.)?bias$"),
)
_NOT_OF_A_LAYER = re.compile(r"embeddings|pooler|classifier")


def _the_one(shapes: Mapping[str, Sequence[int]], pattern: re.Pattern[str]) -> Sequence[int] | None:
    found = [shape for name, shape in shapes.items() if pattern.search(name)]
    return found[0] if len(found) == 1 and len(found[0]) == 1 else None


def _encoder(config: Any, *, matrices: int = 2) -> Flops:
    """Layers of attention and feed-forward parts of so many matrices, with a head of two."""
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers) * int(getattr(config, "inner_group_num", 1))
    # DistilBERT's own name comes first: its configuration has no `intermediate_size`.
    inner = int(getattr(config, "hidden_dim", 0) or config.intermediate_size)
    by_token = layers * (8 * hidden * hidden + 2 * matrices * hidden * inner)
    return Flops(layers * 4 * hidden, by_token + _projection(config), 2 * hidden * (hidden + int(config.num_labels)))


def _projection(config: Any) -> int:
    """What it takes to bring an embedding of its own size to the size of the layers."""
    hidden, embedding = int(config.hidden_size), int(getattr(config, "embedding_size", config.hidden_size))
    return 2 * embedding * hidden if embedding != hidden or config.model_type == "albert" else 0


def _deberta(config: Any) -> Flops | None:
    """
    DeBERTa's attention also compares each token with the vectors of all distances, in one direction or both.

    These vectors are projected once a pass in each layer, whatever the pairs.
    """
    if getattr(config, "conv_kernel_size", 0):
        return None
    plain = _encoder(config)
    if not getattr(config, "relative_attention", False):
        return plain
    kinds = [kind for kind in (config.pos_att_type or ()) if kind in ("c2p", "p2c")]
    longest = config.max_relative_positions if config.max_relative_positions >= 1 else config.max_position_embeddings
    distances = 2 * (config.position_buckets if getattr(config, "position_buckets", -1) > 0 else longest)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    projections = 2 if getattr(config, "share_att_key", False) else len(kinds)
    by_token = plain.by_token + layers * len(kinds) * 2 * distances * hidden
    by_pass = layers * projections * 2 * distances * hidden * hidden
    return Flops(plain.by_square, by_token, plain.by_pair, by_pass)


def _gated(config: Any) -> Flops:
    return _encoder(config, matrices=3)


_FAMILIES: Mapping[str, Callable[[Any], Flops | None]] = {
    **dict.fromkeys(_BERT_LIKE, _encoder),
    **dict.fromkeys(_GATED, _gated),
    "deberta-v2": _deberta,
}
