"""
The model that training begins from: a trained cross-encoder as it is, or a plain encoder with a fresh head.

A cross-encoder may be a classifier, a stack of modules, or a causal language model that scores by two words of its
answer. It scores by its raw logit from the first step to the saved file: no sigmoid stands behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.devices import require_device
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


def load_base(options: ModelOptions, *, seed: int, max_length: int | None = None, interpolate: float = 1.0) -> Base:
    """
    Load a model to train.

    :param seed: What a fresh head is drawn by.
    :param max_length: The most tokens of a pair that training reads; None for 512, or the model's limit if that is
        less.
    :param interpolate: How far the written weights are to lie from these, see `runs.Schedule`.
    :raises ModelNotFoundError: If the model is nowhere, or its weights are no safetensors.
    :raises ValueError: If it does not give one score that weights of transformers can learn, or cannot read
        `max_length` tokens, or if nothing that ranks lies between it and what it will be.
    """
    base = load_whole(options, seed=seed)
    if base.fresh_head and interpolate != 1:
        raise ValueError(
            f"interpolate must be 1 where the base has no trained head, but got {interpolate:g}: between a head that "
            "is drawn at random and a trained one lies none that ranks."
        )
    _set_max_length(base.cross_encoder, options.model, max_length)
    return base


def load_whole(options: ModelOptions, *, seed: int) -> Base:
    """
    Load a model in float32 with all its weights as they were saved, and its own limit of tokens.

    :param seed: What a fresh head is drawn by.
    :raises ModelNotFoundError: If the model is nowhere, or its weights are no safetensors.
    :raises ValueError: If it does not give one score that weights of transformers can learn, or torch cannot use the
        device.
    """
    from sentence_transformers import CrossEncoder
    from torch import nn
    from transformers import set_seed

    from haystack_ce_ranker.backends import cross_encoders

    place = locate(options.model)
    require_device("device", options.device)
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
    if cross_encoder.model is None:
        raise ValueError(
            f"model {options.model!r} cannot be trained here: its first module is no model of transformers. Use a "
            "classifier, a stack that begins with one, or an encoder."
        )
    if getattr(cross_encoder.model, "peft_config", None):
        raise ValueError(
            f"model {options.model!r} is an adapter on a base model: merge it into its base first, and save that."
        )
    _require_one_label(options.model, cross_encoder.num_labels)
    cross_encoders.require_two_answers(cross_encoder, options)
    cross_encoders.drop_last_sigmoid(cross_encoder)
    _name_padding_token(cross_encoder, options.model)
    is_classifier = cross_encoders.is_classifier(cross_encoder)
    return Base(cross_encoder, tuple(cross_encoders.untrained(cross_encoder, options) if is_classifier else ()))


def _name_padding_token(cross_encoder: Any, model: str) -> None:
    """
    Fill batches with a token that no head reads.

    The head of a decoder reads the last token that is not the padding token of its configuration. So a tokenizer that
    names another one would have it read the padding. In a stack and a causal model, the mask hides whatever it is.
    """
    from haystack_ce_ranker.backends import cross_encoders

    tokenizer, named = cross_encoder.tokenizer, cross_encoder.model.config.pad_token_id
    if not cross_encoders.is_classifier(cross_encoder):
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        return
    token = None if named is None else tokenizer.convert_ids_to_tokens(named)
    if token is None:
        raise ValueError(
            f"model {model!r} cannot be trained here: its configuration names {named} as the padding token, which its "
            "tokenizer lacks, and so pairs of different lengths do not fit into one batch. Set pad_token_id in its "
            "config.json."
        )
    if tokenizer.pad_token_id != named:
        tokenizer.pad_token = token


def _labels(place: str, options: ModelOptions) -> Mapping[str, int]:
    """
    Return how many labels to ask for: none of a trained classifier, which has its own, and one of an encoder.

    A stack's first module is an encoder, too. What is asked of it changes no score: the last module makes that.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            place, revision=options.revision, token=options.token, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError):
        return {}  # a stack may have it in a folder of its first module; what is wrong otherwise, loading says
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return ONE_LABEL
    _require_one_label(options.model, config.num_labels)
    return {}


def _require_one_label(model: str, labels: int) -> None:
    if labels != 1:
        raise ValueError(
            f"model {model!r} has {labels} labels, and a ranker is trained on one: use a cross-encoder with one "
            "label, or a plain encoder."
        )


def _set_max_length(cross_encoder: Any, model: str, asked: int | None) -> None:
    from haystack_ce_ranker.backends.configuration import position_limit
    from haystack_ce_ranker.scoring.scorer import DEFAULT_MAX_LENGTH

    limits = [limit for limit in (position_limit(cross_encoder.model.config), cross_encoder.max_seq_length) if limit]
    limit = min(limits, default=None)
    if asked is not None and limit is not None and asked > limit:
        raise ValueError(f"max_length must be at most {limit}, the limit of model {model!r}, but got {asked}.")
    wanted = asked if asked is not None else DEFAULT_MAX_LENGTH
    cross_encoder.max_seq_length = wanted if limit is None else min(wanted, limit)
