"""The ranker's parameters: each checked by its rule and made a plain value, in one place."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from haystack_ce_ranker.backends.loading import BACKENDS
from haystack_ce_ranker.backends.model_files import DTYPES
from haystack_ce_ranker.checks import choice, names, number, text, whole_number
from haystack_ce_ranker.reading.policy import ReadingPolicy

ON_TRUNCATION = ("report", "warn", "error")

_at_least_one = partial(whole_number, least=1)
_count = partial(whole_number, optional=True)


def _model(name: str, value: object) -> str:
    model = str(value)
    if not model.strip():
        raise ValueError(f"{name} must be a hub id, a folder or 'package:<name>/<path>', but got {value!r}.")
    return model


def _name(name: str, value: object) -> str:
    if not text(name, value):
        raise ValueError(f"{name} must not be empty, but got {value!r}.")
    return str(value)


def threshold(name: str, value: object) -> float | None:
    """Return a score's threshold: a number, infinity among them, or None."""
    return number(name, value, infinite=True, optional=True)


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "model": _model,
    "top_k": _at_least_one,
    "meta_fields_to_embed": lambda name, value: names(name, value) or [],
    "score_threshold": threshold,
    "backend": partial(choice, choices=BACKENDS),
    "dtype": partial(choice, choices=DTYPES, optional=True),
    "batch_size": _count,
    "batch_tokens": _count,
    "on_truncation": partial(choice, choices=ON_TRUNCATION),
    "depth": _count,
    "deadline_ms": partial(number, above=0, optional=True),
    "cache_size": partial(whole_number, least=0),
    "threads": _count,
    "speed_profile": lambda _, value: None if value is None else str(value),
    "name": _name,
}
"""The rule of each parameter, by name. `ReadingPolicy` checks its own. All others are taken as they are."""


def policy_of(given: Mapping[str, Any]) -> ReadingPolicy:
    """
    Return the part of the parameters that says what the model may read.

    :raises ValueError: If a value is out of range.
    """
    return ReadingPolicy(**{one.name: given[one.name] for one in fields(ReadingPolicy) if one.name in given})


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return all parameters as plain values; `given` stays as it is.

    :raises ValueError: If a value is out of range or not among the choices.
    """
    plain = {name: _RULES[name](name, value) if name in _RULES else value for name, value in given.items()}
    policy = policy_of(given)
    plain |= {one.name: getattr(policy, one.name) for one in fields(policy) if one.name in given}
    model_kwargs = given["model_kwargs"]
    twice = {"dtype", "torch_dtype"} & set(model_kwargs if model_kwargs is not None else ())
    if plain["dtype"] is not None and twice:
        raise ValueError(
            f"dtype={plain['dtype']!r} and model_kwargs[{min(twice)!r}] say the same thing; give one of them."
        )
    return plain
