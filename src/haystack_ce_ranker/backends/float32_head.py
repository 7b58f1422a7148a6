"""
Keeps the head of a torch model in float32 while its body computes in float16 or bfloat16.

Half precision has too few digits for scores: bfloat16 gave 30 near-equal texts one logit. The head reads one vector of
each pair, so float32 costs nothing there. Of a causal model, the head is the last projection onto the tokens of its two
answers; of a stack, all modules behind the first.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)


class AnswerLogits(torch.nn.Module):  # type: ignore[misc]
    """
    The rows of a language model's last projection that stand for its answers, computed in float32.

    :param projection: The whole projection, from the last hidden state to the vocabulary.
    :param answers: The token ids of the answers.
    """

    def __init__(self, projection: torch.nn.Linear, answers: Sequence[int]) -> None:
        super().__init__()

        def rows(of: torch.nn.Parameter) -> torch.nn.Parameter:
            return torch.nn.Parameter(of.detach()[list(answers)].float(), requires_grad=False)

        self.weight = rows(projection.weight)
        self.bias = None if projection.bias is None else rows(projection.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the answers, shape (..., answers)."""
        exact = hidden.to(self.weight.device, torch.float32)  # parts of a large model may be on several devices
        return torch.nn.functional.linear(exact, self.weight, self.bias)


def keep_stack_in_float32(cross_encoder: Any) -> None:
    """
    Make all modules behind the first of a stack compute in float32, and a causal model's logits of its answers.

    A causal model no longer computes the rest of its vocabulary, which no score depends on.

    :param cross_encoder: A model of sentence-transformers. It is changed in place.
    """
    _project_answers_only(cross_encoder)
    for module in list(cross_encoder.children())[1:]:
        weights = list(module.parameters())
        if all(weight.dtype in HALF and not weight.is_meta for weight in weights):
            module.float()
            module.register_forward_pre_hook(_features_to_float32)


def _project_answers_only(cross_encoder: Any) -> None:
    """Replace the last projection of a causal model, unless it is quantised, not loaded, or adapted."""
    last = cross_encoder[-1]
    answers = [getattr(last, name, None) for name in ("true_token_id", "false_token_id")]
    if answers[0] is None:
        return
    projection = cross_encoder.model.get_output_embeddings()
    if type(projection) is not torch.nn.Linear or projection.weight.is_meta:
        return
    known = [answer for answer in answers if answer is not None]
    cross_encoder.model.set_output_embeddings(AnswerLogits(projection, known))
    last.true_token_id, last.false_token_id = 0, 1 if len(known) > 1 else None


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


def _features_to_float32(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    features, *others = inputs
    return {name: _exact(value) for name, value in features.items()}, *others


def _exact(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALF else value
