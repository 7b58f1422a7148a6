"""
A second aim beside a loss of logits: the student's hidden states learn its teacher's, token by token.

A logit is one number of a pair; the states are some hundred numbers of each of its tokens. So a student that was cut
from its teacher's layers finds its way back with far fewer texts. The idea, and the layers that are compared, are those
of Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding" (Findings of EMNLP 2020).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.cutting import layers_of


class LayerStates:
    """
    The states behind each layer of a cross-encoder, read off while somebody else calls it.

    :param cross_encoder: A model of sentence-transformers.
    :param model: Its name, for errors.
    """

    def __init__(self, cross_encoder: Any, model: str) -> None:
        self.transformer = cross_encoder[0]  # called with the texts' features, whatever the model of transformers takes
        _, self.layers = layers_of(cross_encoder.model, model)
        self.listening = False
        self.forget()
        self.transformer.register_forward_pre_hook(self._called)
        for layer in self.layers:
            layer.register_forward_hook(self._passed)

    def forget(self) -> None:
        """Let go of what was read, and of the memory that it holds."""
        self.features: list[dict[str, Any]] = []
        self.found: list[list[torch.Tensor]] = []

    @contextmanager
    def read(self) -> Iterator[None]:
        """Read off all passes of the block, and nothing of passes before."""
        self.forget()
        self.listening = True
        try:
            yield
        finally:
            self.listening = False

    def _called(self, _module: Any, given: tuple[Any, ...]) -> None:
        if self.listening:
            self.features.append(dict(given[0]))
            self.found.append([])

    def _passed(self, _module: Any, _given: Any, result: Any) -> None:
        if self.listening:
            self.found[-1].append(result[0] if isinstance(result, tuple) else result)


class AlsoStates(torch.nn.Module):  # type: ignore[misc]
    """
    A loss of logits, and with it how far the student's states are from the teacher's.

    The states behind the student's layers are compared with those behind as many of the teacher's, evenly spaced, the
    last with the last. Their distance is the squared error by the square of the teacher's states, the mean over layers.

    :param loss: Of the student's logits.
    :param student: The cross-encoder that learns.
    :param teacher: Its teacher.
    :param weight: Of the distance beside the loss.
    :param bf16: Whether the teacher multiplies in bfloat16. Its weights, and the distances, stay in float32.
    :raises ValueError: If student and teacher cannot be compared so.
    """

    def __init__(
        self, loss: torch.nn.Module, student: Any, teacher: ModelOptions, weight: float, *, bf16: bool = False
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight
        self._bf16 = bf16
        self._student = LayerStates(student, "the student")
        loaded: Any = loading.load("torch", teacher)
        loaded.cross_encoder.requires_grad_(requires_grad=False)
        # in a tuple, so that it is no part of this module: it neither learns nor is saved
        self._teacher = (LayerStates(loaded.cross_encoder, teacher.model),)
        _require_alike(student, loaded.cross_encoder, teacher.model)
        self._places = _places(len(self._student.layers), len(self._teacher[0].layers))

    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        """Return the loss with the weighted distance."""
        with self._student.read():
            loss: torch.Tensor = self.loss(*given, **named)
        passes = zip(self._student.features, self._student.found, strict=True)
        distances = [self._distance(features, states) for features, states in passes]
        self._student.forget()
        return loss + self.weight * torch.stack(distances).mean()

    def _distance(self, features: dict[str, Any], states: Sequence[torch.Tensor]) -> torch.Tensor:
        [teacher] = self._teacher
        ids = features["input_ids"]
        faster = torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16)
        with teacher.read(), torch.no_grad(), faster:
            teacher.transformer(dict(features))
        [aims] = teacher.found
        teacher.forget()
        mask = features.get("attention_mask", torch.ones_like(ids)).unsqueeze(-1).float()  # some models have none
        found = []
        for own, place in zip(states, self._places, strict=True):
            aim, near = (one[:, : ids.shape[1]].float() * mask for one in (aims[place], own))  # some pad on their own
            found.append(((near - aim) ** 2).sum() / (aim**2).sum())
        return torch.stack(found).mean()


def _places(layers: int, of: int) -> list[int]:
    """Return which of the teacher's layers the student's are compared with, numbered from 0."""
    return [round((place + 1) * of / layers) - 1 for place in range(layers)]


def _require_alike(student: Any, teacher: Any, name: str) -> None:
    ours, theirs = student.model.config, teacher.model.config
    for what in ("model_type", "hidden_size", "vocab_size"):
        if getattr(ours, what) != getattr(theirs, what):
            raise ValueError(
                f"the states of model {name!r} cannot be learnt: its {what} is {getattr(theirs, what)!r}, and the "
                f"student's is {getattr(ours, what)!r}. Cut the student from it (--layers), or set states to 0."
            )
