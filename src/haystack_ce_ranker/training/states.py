"""
A second aim beside a loss of logits: the student's hidden states learn its teacher's, token by token.

A logit is one number of a pair; the states are some hundred numbers of each of its tokens. So a student that was cut
from its teacher's layers finds its way back with far fewer texts. The idea, and the layers that are compared, are those
of Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding" (Findings of EMNLP 2020).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.cutting import layers_of

_Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""What a module is called with: by place, and by name."""


class LayerStates:
    """
    The states behind each layer of an encoder, read off while somebody else calls it.

    :param encoder: The model of transformers.
    :param model: Its name, for errors.
    """

    def __init__(self, encoder: Any, model: str) -> None:
        self.encoder = encoder.base_model  # without the head; a head may be called by its method, past its hooks
        self.inputs: list[_Inputs] = []
        self.found: list[list[torch.Tensor]] = []
        self.listening = False
        _, self.layers = layers_of(encoder, model)
        self.encoder.register_forward_pre_hook(self._called, with_kwargs=True)
        for layer in self.layers:
            layer.register_forward_hook(self._passed)

    def listen(self) -> None:
        """Forget what was read, and read from now on."""
        self.inputs, self.found, self.listening = [], [], True

    def _called(self, _module: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if self.listening:
            self.inputs.append((given, dict(named)))
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
    :raises ValueError: If student and teacher cannot be compared so.
    """

    def __init__(self, loss: torch.nn.Module, student: Any, teacher: ModelOptions, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight
        self._student = LayerStates(student.model, "the student")
        loaded: Any = loading.load("torch", teacher)
        encoder = loaded.cross_encoder.model.requires_grad_(requires_grad=False)
        # in a tuple, so that it is no part of this module: it neither learns nor is saved
        self._teacher = (LayerStates(encoder, teacher.model),)
        _require_alike(student, loaded.cross_encoder, teacher.model)
        self._places = _places(len(self._student.layers), len(self._teacher[0].layers))

    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        """Return the loss with the weighted distance."""
        self._student.listen()
        try:
            loss: torch.Tensor = self.loss(*given, **named)
        finally:
            self._student.listening = False
        distances = [
            self._distance(inputs, states)
            for inputs, states in zip(self._student.inputs, self._student.found, strict=True)
        ]
        return loss + self.weight * torch.stack(distances).mean()

    def _distance(
        self, inputs: tuple[tuple[Any, ...], Mapping[str, Any]], states: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        [read], (given, named) = self._teacher, inputs
        read.listen()
        try:
            with torch.no_grad():
                read.encoder(*given, **named)
        finally:
            read.listening = False
        mask = named["attention_mask"].unsqueeze(-1).float()
        found = []
        for own, place in zip(states, self._places, strict=True):
            aim = read.found[0][place].float() * mask
            found.append(((own.float() * mask - aim) ** 2).sum() / (aim**2).sum())
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
