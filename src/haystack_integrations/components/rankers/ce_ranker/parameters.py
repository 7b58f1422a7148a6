"""The ranker's parameters: each checked by its rule and made a plain value, in one place."""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from haystack.utils import ComponentDevice, Secret

from haystack_ce_ranker.backends.loading import BACKENDS
from haystack_ce_ranker.backends.model_files import DTYPES, ModelOptions
from haystack_ce_ranker.checks import choice, flag, names, number, options, path, text, whole_number
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.depth import AUTO, DepthRule

_KWARGS = ("model_kwargs", "tokenizer_kwargs", "config_kwargs")
ON_TRUNCATION = ("report", "warn", "error")
ON_OVERLOAD = ("keep", "error")

_at_least_one = partial(whole_number, least=1)
_count = partial(whole_number, optional=True)


def _model(name: str, value: object) -> str:
    model = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(model, str) or not model.strip():
        raise ValueError(
            f"{name} must be a hub id, a folder, 'package:<name>/<path>' or a server's address, but got {value!r:.100}."
        )
    return str.__str__(model)


def _device(name: str, value: object) -> ComponentDevice | None:
    if value is not None and not isinstance(value, ComponentDevice):
        raise ValueError(
            f"{name} must be a ComponentDevice, such as ComponentDevice.from_str('cuda:0'), or None, "
            f"but got {value!r:.100}."
        )
    return value


def _secret(name: str, value: object, *, variable: str) -> Secret | None:
    if value is not None and not isinstance(value, Secret):
        raise ValueError(  # without the value, which must not get into a log
            f"{name} must be a Secret, such as Secret.from_env_var('{variable}'), or None, but got a value of type "
            f"{type(value).__name__}."
        )
    return value


def _label(name: str, value: object) -> int | str | None:
    if value is None or isinstance(value, str):
        return text(name, value, empty=False, optional=True)
    return whole_number(name, value, least=0)


def _depth(name: str, value: object) -> int | str | dict[str, Any] | None:
    if isinstance(value, str) and value == AUTO:
        return AUTO
    if isinstance(value, Mapping) and value:
        rule = DepthRule.of(value).plain()
        return {str(key): rule[key] for key in value}
    if isinstance(value, str | Mapping):
        raise ValueError(
            f"{name} must be a whole number >= 1, {AUTO!r}, a dictionary of a rule's values or None, "
            f"but got {value!r:.100}."
        )
    return whole_number(name, value, optional=True)


def depth_of(given: int | str | Mapping[str, Any] | None) -> int | DepthRule | None:
    """Return a checked `depth` as the scorer takes it."""
    if given == AUTO:
        return DepthRule()
    return DepthRule.of(given) if isinstance(given, Mapping) else given  # type: ignore[return-value]


def threshold(name: str, value: object) -> float | None:
    """Return a score's threshold: a number, infinity among them, or None."""
    return number(name, value, infinite=True, optional=True)


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "model": _model,
    "device": _device,
    "token": partial(_secret, variable="HF_TOKEN"),
    "api_key": partial(_secret, variable="RERANKER_KEY"),
    "revision": partial(text, empty=False, optional=True),
    "top_k": _at_least_one,
    **dict.fromkeys(
        ("query_prefix", "query_suffix", "document_prefix", "document_suffix", "embedding_separator"), text
    ),
    "meta_fields_to_embed": lambda name, value: names(name, value) or [],
    "embedding_separator": text,
    "scale_score": flag,
    "score_threshold": threshold,
    "trust_remote_code": flag,
    **dict.fromkeys(_KWARGS, options),
    "label": _label,
    "prompt": partial(text, optional=True),
    "backend": partial(choice, choices=BACKENDS),
    "dtype": partial(choice, choices=DTYPES, optional=True),
    "batch_size": _count,
    "batch_tokens": _count,
    "on_truncation": partial(choice, choices=ON_TRUNCATION),
    "return_passages": flag,
    "depth": _depth,
    "screen": flag,
    "deadline_ms": partial(number, above=0, optional=True),
    "max_wait_ms": partial(number, least=0),
    "max_waiting": partial(whole_number, least=0, optional=True),
    "on_overload": partial(choice, choices=ON_OVERLOAD),
    "cache_size": partial(whole_number, least=0),
    "threads": _count,
    "speed_profile": path,
    "name": partial(text, empty=False),
}
"""The rule of each parameter, by name. `ReadingPolicy` checks its own."""


def policy_of(given: Mapping[str, Any]) -> ReadingPolicy:
    """
    Return the part of the parameters that says what the model may read.

    :raises ValueError: If a value is out of range.
    """
    return ReadingPolicy(**{one.name: given[one.name] for one in fields(ReadingPolicy) if one.name in given})


def options_of(given: Mapping[str, Any], *, threads: int | None) -> ModelOptions:
    """
    Return the part of the checked parameters that says which model is loaded and how, with secrets resolved.

    :param threads: In place of the parameter of that name.
    """
    token, api_key, device = given["token"], given["api_key"], given["device"]
    return ModelOptions(
        model=given["model"],
        revision=given["revision"],
        token=token.resolve_value() if token is not None else None,
        api_key=api_key.resolve_value() if api_key is not None else None,
        trust_remote_code=given["trust_remote_code"],
        device=device.to_torch_str() if device is not None else None,
        dtype=given["dtype"],
        threads=threads,
        **{name: given[name] if given[name] is not None else {} for name in _KWARGS},
        label=given["label"],
        prompt=given["prompt"],
    )


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return all parameters as plain values; `given` stays as it is.

    :raises ValueError: If a value is out of range or not among the choices.
    """
    policy = policy_of(given)
    plain = {
        name: _RULES[name](name, value) if name in _RULES else getattr(policy, name) for name, value in given.items()
    }
    if plain["screen"] and plain["depth"] is None:
        raise ValueError("screen=True has no effect without a depth; set depth='auto' or a number, or remove screen.")
    model_kwargs = plain["model_kwargs"]
    twice = {"dtype", "torch_dtype"} & set(model_kwargs if model_kwargs is not None else ())
    if plain["dtype"] is not None and twice:
        raise ValueError(
            f"dtype={plain['dtype']!r} and model_kwargs[{min(twice)!r}] say the same thing; give one of them."
        )
    if plain["api_key"] is not None and not BACKENDS[plain["backend"]].takes_key:
        raise ValueError(
            f"api_key has no effect with backend={plain['backend']!r}, which asks no server; remove it, or set "
            "backend='remote'."
        )
    return plain
