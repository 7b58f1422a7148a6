"""
The model that training begins from: a trained cross-encoder as it is, or a plain encoder with a fresh head.

The model scores by its raw logit from the first step to the saved file: no sigmoid stands behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions, locate, not_found

ONE_LABEL = {"num_labels": 1}


@dataclass(frozen=True)
class Base:
    """
    A loaded model, ready to be trained.

    :ivar cross_encoder: The model of sentence-transformers, in float32.
    :ivar fresh_head: The weights that were drawn at random, because the files do not hold them; empty for a trained
        cross-encoder.
    """

    cross_encoder: Any
    fresh_head: tuple[str, ...]


def load_base(options: ModelOptions, *, seed: int, max_length: int | None = None) -> Base:
    """
    Load a model to train.

    :param seed: What a fresh head is drawn by.
    :param max_length: The most tokens of a pair that training reads; None for 512, or the model's limit if that is
        less.
    :raises ModelNotFoundError: If the model is nowhere, or its weights are no safetensors.
    :raises ValueError: If it has several labels, is no classifier that can get one, or cannot read `max_length` tokens.
    """
    from sentence_transformers import CrossEncoder
    from torch import nn
    from transformers import set_seed

    from haystack_ce_ranker.backends import cross_encoders

    place = locate(options.model)
    set_seed(seed)
    try:
        cross_encoder = CrossEncoder(
            place,
            device=options.device,
            revision=options.revision,
            token=options.token,
            trust_remote_code=options.trust_remote_code,
            local_files_only=Path(place).is_dir(),  # a folder needs no look at the hub
            model_kwargs={**options.model_kwargs, "use_safetensors": True, "dtype": "float32"},
            processor_kwargs=dict(options.tokenizer_kwargs),
            config_kwargs={**options.config_kwargs, **_labels(place, options)},
            activation_fn=nn.Identity(),
        )
    except OSError as error:
        if place == options.model and "safetensors" not in str(error):
            raise not_found(options.model, error) from error
        raise ModelNotFoundError(f"model {options.model!r} cannot be trained from: {error}") from error
    if not cross_encoders.is_classifier(cross_encoder):
        raise ValueError(
            f"model {options.model!r} cannot be trained here: it scores by words of an answer or by a stack of "
            "modules. Use a sequence classifier with one label, or an encoder."
        )
    _set_max_length(cross_encoder, options.model, max_length)
    return Base(cross_encoder, tuple(cross_encoders.untrained(cross_encoder, options)))


def _labels(place: str, options: ModelOptions) -> Mapping[str, int]:
    """Return how many labels to ask for: none of a trained classifier, which has its own, and one of an encoder."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        place, revision=options.revision, token=options.token, trust_remote_code=options.trust_remote_code
    )
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return ONE_LABEL
    if config.num_labels != 1:
        raise ValueError(
            f"model {options.model!r} has {config.num_labels} labels, and a ranker is trained on one: use a "
            "cross-encoder with one label, or a plain encoder."
        )
    return {}


def _set_max_length(cross_encoder: Any, model: str, asked: int | None) -> None:
    from haystack_ce_ranker.backends.configuration import position_limit
    from haystack_ce_ranker.scoring.scorer import DEFAULT_MAX_LENGTH

    limits = [limit for limit in (position_limit(cross_encoder.model.config), cross_encoder.max_seq_length) if limit]
    limit = min(limits, default=None)
    if asked is not None and limit is not None and asked > limit:
        raise ValueError(f"max_length must be at most {limit}, the limit of model {model!r}, but got {asked}.")
    wanted = asked if asked is not None else DEFAULT_MAX_LENGTH
    cross_encoder.max_seq_length = wanted if limit is None else min(wanted, limit)
