"""
Weights between those of a model before and after it learnt.

A model that learns one corpus forgets some of what it knew. Part of the way, it keeps more of both: Wortsman et al.,
"Robust fine-tuning of zero-shot models" (CVPR 2022).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Weights = Mapping[str, torch.Tensor]


def copied(model: Any) -> Weights:
    """Return a copy of a model's weights, in the memory of the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in _weights(model)}


def move_back(model: Any, base: Weights, share: float) -> None:
    """
    Move a model's weights so that they lie `share` of the way from a base's to their own. Whole numbers stay.

    :param base: Of the same model before it learnt, as `copied` returns them.
    """
    with torch.no_grad():
        for name, value in _weights(model):
            if value.is_floating_point():
                value.copy_(torch.lerp(base[name].to(value), value, share))


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight once, also one that several modules share."""
    yield from model.named_parameters()
    yield from model.named_buffers()
