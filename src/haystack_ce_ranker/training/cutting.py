"""
A student cut from a cross-encoder's own layers: the same model with some of its encoder layers, saved as any other.

The list of layers is found by its structure and not by the name of the architecture, so that encoders of a new kind can
be cut, too. What is saved is loaded again and must score as the cut model did in memory. A model that cannot be cut is
refused with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.training.bases import load_whole

DEFAULT_KEEP = "even"

_TRIAL = (
    ("where is the hut", "The hut stands in the snow, an hour above the station."),
    ("when does the office open", "Closed."),
    ("how much is a ticket", "A ticket is 4 francs. Children under six travel for nothing if an adult is with them."),
)
_TOLERANCE = 1e-4  # of logits, as a share of the largest: the same weights on the same texts


def _first(_total: int, layers: int) -> list[int]:
    return list(range(layers))


def _last(total: int, layers: int) -> list[int]:
    return list(range(total - layers, total))


def _even(total: int, layers: int) -> list[int]:
    return [int(place) for place in np.linspace(0, total - 1, layers).round()]


KEEPS: dict[str, Callable[[int, int], list[int]]] = {"first": _first, "last": _last, "even": _even}
"""Which layers a student keeps: the first ones, the last ones, or evenly spaced ones from the first to the last."""


@dataclass(frozen=True)
class Cut:
    """
    A student that was cut.

    :ivar kept: The numbers of the teacher's layers that it has, from 0, ascending.
    :ivar of: How many layers the teacher has.
    :ivar parameters: How many weights it has.
    :ivar teacher_parameters: How many the teacher has.
    """

    kept: tuple[int, ...]
    of: int
    parameters: int
    teacher_parameters: int

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.kept))
        shares = f"{self.parameters / 1e6:.1f} of {self.teacher_parameters / 1e6:.1f} million weights"
        return f"layers {listed} of {self.of} (numbered from 0), {shares}"


def chosen_layers(total: int, layers: int, keep: str = DEFAULT_KEEP) -> tuple[int, ...]:
    """
    Return which layers a student keeps, ascending.

    :param total: The teacher's layers.
    :param layers: The student's.
    :param keep: A name in `KEEPS`, or numbers from 0 with commas, such as `0,5,11`.
    :raises ValueError: If there are not that many layers, or `keep` names none of them or another number of them.
    """
    whole_number("layers", layers)
    if layers >= total:
        raise ValueError(f"layers must be fewer than the teacher's {total}, but got {layers}.")
    if keep in KEEPS:
        return tuple(KEEPS[keep](total, layers))
    parts = [part.strip() for part in keep.split(",")]
    numbers = sorted({int(part) for part in parts if part.isdecimal()})
    if len(numbers) != len(parts) or len(numbers) != layers or numbers[-1] >= total:
        raise ValueError(
            f"keep must be {', '.join(KEEPS)}, or {layers} different layers of 0 to {total - 1} with commas, but got "
            f"{keep!r}."
        )
    return tuple(numbers)


def cut(options: ModelOptions, folder: Path, *, layers: int, keep: str = DEFAULT_KEEP) -> Cut:
    """
    Write a student with some of a cross-encoder's layers into a folder. It scores with raw logits, without a sigmoid.

    :param options: The teacher.
    :param folder: A folder that does not exist yet, or is empty.
    :param layers: How many layers the student has.
    :param keep: Which ones; see `chosen_layers`.
    :raises ValueError: If the folder holds something, or the model cannot be cut so. Then there is no model in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder must be a folder that is not there yet, or empty, but got {str(folder)!r}.")
    base = load_whole(replace(options, device="cpu"), seed=0)
    student = base.cross_encoder
    if base.fresh_head:
        raise ValueError(
            f"model {options.model!r} has no trained head: its files lack {', '.join(base.fresh_head)}, so that it has "
            "nothing to teach. Use a model that was trained as a cross-encoder."
        )
    teacher_parameters = _parameters(student)
    encoder = student.model
    where, found = layers_of(encoder, options.model)
    kept = chosen_layers(len(found), layers, keep)
    _keep(encoder, where, kept)
    student.activation_fn = torch.nn.Identity()
    expected = _logits(student)
    student.save_pretrained(str(folder), create_model_card=False)
    _require_same(folder, expected, f"layers {', '.join(map(str, kept))} of model {options.model!r}")
    return Cut(kept, len(found), _parameters(student), teacher_parameters)


def layers_of(encoder: Any, model: str) -> tuple[str, torch.nn.ModuleList]:
    """
    Return the name and the list of a model's layers: the only list with as many parts of one kind as it has layers.

    Lists inside such a list are parts of a layer, and do not count.
    """
    count = getattr(encoder.config, "num_hidden_layers", None)
    lists = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and len({type(one) for one in module}) == 1
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if count is None or len(outer) != 1:
        what = f"{len(outer)} lists of as many layers" if outer else "no list of as many layers"
        raise ValueError(
            f"model {model!r} cannot be cut: its configuration names {count} layers, and it has {what}. A student is "
            "cut from an encoder with one list of layers, each with weights of its own. Name a smaller cross-encoder "
            "as the student instead."
        )
    return outer[0], lists[outer[0]]


def _keep(encoder: Any, where: str, kept: Sequence[int]) -> None:
    """Leave the layers `kept` in a model, and say so in its configuration."""
    parent, _, name = where.rpartition(".")
    holder, config = encoder.get_submodule(parent), encoder.config
    found = getattr(holder, name)
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == len(found):  # one entry a layer, such as the kinds of attention
            setattr(config, key, [value[place] for place in kept])
    setattr(holder, name, torch.nn.ModuleList(found[place] for place in kept))
    config.num_hidden_layers = len(kept)


def _require_same(folder: Path, expected: Any, what: str) -> None:
    """Load the student from its files, and check that it scores as it did in memory; else leave no files."""
    try:
        again: Any = loading.load("torch", ModelOptions(str(folder), device="cpu", dtype="float32"))
        found, problem = _logits(again.cross_encoder), "it scores otherwise than before"
    except (ValueError, RuntimeError, OSError) as error:
        found, problem = np.full_like(expected, np.nan), str(error)
    if not np.abs(found - expected).max() <= _TOLERANCE * max(float(np.abs(expected).max()), 1.0):
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        raise ValueError(
            f"{what} do not make a model of their own: saved and loaded again, {problem}. Some models keep in their "
            "first layer what all of them need: keep layer 0, with keep='even' or 'first'."
        )


def _logits(cross_encoder: Any) -> Any:
    pairs = list(_TRIAL)
    return cross_encoder.predict(
        pairs, batch_size=1, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_numpy=True
    )


def _parameters(model: Any) -> int:
    return sum(weights.numel() for weights in model.parameters())
