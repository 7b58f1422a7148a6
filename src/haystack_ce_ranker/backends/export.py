"""Turns a cross-encoder that torch has loaded into a plain function of arrays, the form that converters read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from haystack_ce_ranker.backends.first_token import first_tokens_only, part_behind_the_last_attention

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def input_names(exact: Any) -> list[str]:
    """
    Return the names of the arrays that the model takes, in the order of `traceable`.

    :param exact: A loaded `TorchBackend`.
    """
    return [name for name in INPUTS if name != "token_type_ids" or exact.tokenizer.uses_token_types]


def traceable(exact: Any) -> tuple[Any, tuple[Any, ...]]:
    """
    Return a torch module from arrays to one logit each, and example arrays for it, int64 of shape (pairs, tokens).

    The module omits the part of the last layer that the head does not read, as the torch backend does.

    :param exact: A loaded `TorchBackend` in float32 on CPU; its model is put into evaluation mode.
    """
    import torch

    model = exact.cross_encoder.eval()
    names = input_names(exact)

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            with first_tokens_only(part_behind_the_last_attention(self.model.model)):
                outputs = exact.call(dict(zip(names, inputs, strict=True)))
            if outputs.shape[1] == 1:
                return outputs
            others = [place for place in range(outputs.shape[1]) if place != exact.label]
            wanted = outputs[:, exact.label : exact.label + 1]
            return wanted - torch.logsumexp(outputs[:, others], dim=1, keepdim=True)

    # A converter keeps the mode of the module, and in training mode dropout would be at work.
    return Logits().eval(), tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)


def first_line(error: Exception) -> str:
    """Return the first line of an error that says something: converters and runtimes write whole pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the converter's warnings about constants taken from the example; comparing scores shows if one matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
