"""
How to use what sentence-transformers loaded: its pairs, its prompt, its call, and its labels.

The library has three forms: a classifier of transformers alone, a stack of modules, and a causal language model whose
scores are logits of its vocabulary. Nothing here asks for the architecture. The model is called as the library calls
it, and a pair is encoded as the library encodes it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from haystack_ce_ranker.backends import labels
from haystack_ce_ranker.backends.flops import Flops, flops_of
from haystack_ce_ranker.backends.model_files import ModelOptions, locate
from haystack_ce_ranker.tokenizing.pair_formats import Encoded, OwnEncoding

logger = logging.getLogger(__name__)

Call = Callable[[Mapping[str, Any]], torch.Tensor]
"""Takes tensors of shape (pairs, tokens), and returns the raw outputs, shape (pairs, labels)."""

_PAIR = ("a question", "an answer")
_WHOLE = {"text": {"truncation": False}}


def is_classifier(cross_encoder: Any) -> bool:
    """Tell whether the model is a sequence classifier of transformers and nothing else."""
    return (
        len(cross_encoder) == 1
        and cross_encoder.model is not None
        and hasattr(cross_encoder.model.config, "num_labels")
    )


def flops_in_closed_form(cross_encoder: Any) -> Flops | None:
    """Return what a forward pass takes; None for an adapter, which adds products, and where no form is known."""
    if getattr(cross_encoder.model, "peft_config", None):
        return None
    if is_classifier(cross_encoder):
        return flops_of(cross_encoder.model.config)
    linear = [part for module in list(cross_encoder)[1:] for part in module.modules() if type(part) is torch.nn.Linear]
    return flops_of(cross_encoder.model.config, head=sum(2 * one.in_features * one.out_features for one in linear))


def prompt_of(cross_encoder: Any, options: ModelOptions) -> str:
    """Return the prompt: the one that was asked for, or the one that the model was saved with, or an empty text."""
    if options.prompt is not None:
        return options.prompt
    name = cross_encoder.default_prompt_name
    return str(cross_encoder.prompts.get(name, "")) if name is not None else ""


def own_encoding(cross_encoder: Any, prompt: str) -> tuple[OwnEncoding, str]:
    """
    Return how the model's library encodes a pair, and what of the prompt is to be put before the query.

    A model that reads plain texts has the prompt before the query. A chat template puts it somewhere else.
    """

    def encode(query: str, document: str, *, prompt: str | None = None) -> Encoded:
        features = cross_encoder.preprocess([(query, document)], prompt=prompt, processing_kwargs=_WHOLE)
        types = features.get("token_type_ids")
        return Encoded(_row(features["input_ids"]), None if types is None else _row(types))

    if not prompt:
        return encode, ""
    prompted = partial(encode, prompt=prompt)
    query, document = _PAIR
    in_the_query = list(prompted(query, document).ids) == list(encode(prompt + query, document).ids)
    return (encode, prompt) if in_the_query else (prompted, "")


def call_of(cross_encoder: Any, prompt: str) -> Call:
    """Return the function from arrays to raw outputs, without any activation function."""
    if is_classifier(cross_encoder):
        model = cross_encoder.model
        return lambda inputs: model(**inputs).logits
    drop_last_sigmoid(cross_encoder)
    features = cross_encoder.preprocess([_PAIR], prompt=prompt or None)
    constant = {name: value for name, value in features.items() if not isinstance(value, torch.Tensor)}

    def call(inputs: Mapping[str, Any]) -> torch.Tensor:
        scores: torch.Tensor = cross_encoder({**constant, **inputs})["scores"]
        return scores

    return call


def label_names(cross_encoder: Any) -> list[str]:
    """Return the names of the model's outputs for a pair."""
    return labels.names_of(
        cross_encoder.config if is_classifier(cross_encoder) else None, int(cross_encoder.num_labels)
    )


def padding(cross_encoder: Any, options: ModelOptions) -> dict[str, Any]:
    """
    Return the token and the side that fill a batch so that the model finds the last token of each pair.

    A decoder with a classification head looks for the last token that is not its configuration's padding token,
    whatever the tokenizer fills with. Without one it reads the last place. That is every pair's own last token if the
    left side is filled. A padding token that the user names is used as it is.
    """
    if not is_classifier(cross_encoder) or "pad_token" in options.tokenizer_kwargs:
        return {}
    config = cross_encoder.model.config
    if config.pad_token_id is not None:
        return {"pad_id": int(config.pad_token_id)}
    config.pad_token_id = -1  # no token is it, so that the last place counts
    return {"pads_left": True}


def require_trained_head(cross_encoder: Any, options: ModelOptions) -> None:
    """
    Check that training, and not chance, made what the score is read from.

    An embedding model or a language model without a head loads without an error, with a head that is drawn at random.
    A causal model whose tokenizer lacks the words of its answer has one and the same logit for both.

    :raises ValueError: If the model would rank at random. Nothing is checked if its files cannot be found.
    """
    missing = untrained(cross_encoder, options) if is_classifier(cross_encoder) else []
    if missing:
        raise ValueError(
            f"model {options.model!r} has no trained head: its files lack {', '.join(missing)}, which would be drawn "
            "by chance, and it would rank at random. Use a model that was trained as a cross-encoder."
        )
    require_two_answers(cross_encoder, options)


def require_two_answers(cross_encoder: Any, options: ModelOptions) -> None:
    """
    Check that a model which scores by two words of an answer has a token for each.

    :raises ValueError: If it has one and the same for both, and so one score for all pairs.
    """
    last = cross_encoder[-1]
    answers = [getattr(last, name, None) for name in ("true_token_id", "false_token_id")]
    if answers[0] is not None and answers[0] == answers[1]:
        raise ValueError(
            f"model {options.model!r} scores by two words of an answer, 'yes' and 'no' if it names no others, and its "
            "tokenizer has one token for both. Use a model that was trained as a re-ranker."
        )


def untrained(cross_encoder: Any, options: ModelOptions) -> list[str]:
    """Return the weights of a classifier's head that its files do not hold; none if the files cannot be found."""
    model = cross_encoder.model
    saved = _saved_names(model, options)
    if not saved or model.base_model is model:
        return []
    wanted = (_plain(name) for name, _ in model.named_parameters())
    heads = [name for name in wanted if name is not None and not name.startswith(f"{model.base_model_prefix}.")]
    return [name for name in heads if not any(_same(name, one) for one in saved)]


def _row(values: Any) -> list[int]:
    return [int(value) for value in torch.as_tensor(values).reshape(-1)]


def drop_last_sigmoid(cross_encoder: Any) -> None:
    """Take a sigmoid at the end of a stack away, so that the output is a logit and not a probability."""
    last = cross_encoder[-1]
    if isinstance(getattr(last, "activation_function", None), torch.nn.Sigmoid):
        last.activation_function = torch.nn.Identity()
        logger.info("The model ends in a sigmoid, which is taken away: its scores are logits here.")


def _plain(name: str) -> str | None:
    """Return a parameter's name without what adapters add to it; None for an adapter's own weights."""
    if "lora_" in name or ".original_module." in name:
        return None
    return name.replace(".modules_to_save.default", "").replace(".base_layer", "").removeprefix("base_model.model.")


def _same(name: str, saved: str) -> bool:
    saved = saved.replace(".modules_to_save.default", "").replace(".base_layer", "")
    return saved == name or saved.endswith(f".{name}")


def _saved_names(model: Any, options: ModelOptions) -> list[str]:
    """Return the names of the weights in the safetensors that the model was loaded from, and in its adapter's base."""
    places = [locate(options.model)]
    for adapter in (getattr(model, "peft_config", None) or {}).values():
        places.append(str(adapter.base_model_name_or_path))
    return [name for place in places for file in _weight_files(place, options.revision) for name in _names(file)]


def _weight_files(place: str, revision: str | None) -> Sequence[Path]:
    if Path(place).is_dir():
        return sorted(Path(place).glob("*.safetensors"))
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"):
        found = try_to_load_from_cache(place, name, revision=revision)
        if isinstance(found, str):
            return sorted(Path(found).parent.glob("*.safetensors"))
    return []


def _names(file: Path) -> Sequence[str]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as weights:
        return list(weights.keys())
