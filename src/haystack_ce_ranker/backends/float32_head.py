"""
Keeps the head of a torch model in float32 while its body computes in float16 or bfloat16.

Half precision has too few digits for scores: bfloat16 gave 30 near-equal texts one logit. The head reads one vector of
each pair, so float32 costs nothing there.
"""

from collections.abc import Iterator
from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)


def keep_head_in_float32(model: Any) -> None:
    """
    Make all modules behind the last layer of a sequence-classification model compute in float32.

    Leaves the model as it is if its body computes in float32, and leaves modules whose weights are quantised or not
    loaded.

    :param model: A model of transformers. It is changed in place.
    """
    for module in _behind_the_last_layer(model):
        weights = list(module.parameters())
        if weights and all(weight.dtype in HALF and not weight.is_meta for weight in weights):
            module.float()
            module.register_forward_pre_hook(_to_float32, with_kwargs=True)


def _behind_the_last_layer(model: Any) -> Iterator[torch.nn.Module]:
    body = model.base_model
    if body is model:  # it does not say which of its modules are the head
        return
    yield from (module for module in model.children() if module is not body)
    pooler = getattr(body, "pooler", None)
    if isinstance(pooler, torch.nn.Module):
        yield pooler


def _to_float32(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_exact, inputs)), {name: _exact(value) for name, value in named.items()}


def _exact(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALF else value
