"""What lies beside a model's weights: its tokenizer, its pairs, its configuration, and the limits that this names."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends.model_files import HUB_KWARGS, ModelOptions
from haystack_ce_ranker.backends.taken import INSTEAD, refuse, refuse_others
from haystack_ce_ranker.data_files import read_json
from haystack_ce_ranker.tokenizing import saved_formats
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.tokens import Ids

BESIDE = ("*.json", "*.txt", "*.model")
"""Patterns of the files beside exported weights that are needed: the configuration and the tokenizer."""


# What a tokenizer is always made of, whether or not the value is the one that it has anyway.
_TOKENIZER = (
    "model_max_length",
    *("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token"),
    *("additional_special_tokens", "extra_special_tokens", "model_input_names"),
)
# What this package reads of the configuration of a model that was exported: its file holds all else.
_EXPORTED_CONFIG = ("max_position_embeddings", "pad_token_id", "architectures")


@dataclass(frozen=True)
class PairsBeside:
    """
    How exported weights read pairs.

    :ivar prompt: The instruction that they read with every pair; empty if there is none.
    :ivar query_prompt: The same if it is to be put before the query; empty if the pair format holds it.
    """

    tokenizer: PairTokenizer
    prompt: str
    query_prompt: str


def load_tokenizer(folder: str, options: ModelOptions) -> Any:
    """
    Load a tokenizer with transformers.

    :raises ValueError: If one of `tokenizer_kwargs` has no effect.
    """
    require_useful_tokenizer_kwargs(folder, options)
    return _tokenizer(folder, options, options.tokenizer_kwargs)


def pairs_beside(folder: Path, options: ModelOptions) -> PairsBeside:
    """
    Load the tokenizer beside exported weights, and the prompt and the chat template that were saved with them.

    :raises ValueError: If one of `tokenizer_kwargs` has no effect, the pairs cannot be packed, or another prompt is
        asked for than the one in the saved template.
    """
    pair_format = saved_formats.read(folder)
    tokenizer = PairTokenizer(load_tokenizer(str(folder), options), pair_format=pair_format)
    saved = _saved_prompt(folder)
    if pair_format is None:
        prompt = options.prompt if options.prompt is not None else saved
        return PairsBeside(tokenizer, prompt, prompt)
    if options.prompt not in (None, saved):
        raise ValueError(
            f"prompt must be the one that {folder / saved_formats.FILE} was written with, {saved!r}, or None, but got "
            f"{options.prompt!r}: write the model again with that prompt, or use backend='torch' or 'openvino' with "
            "its checkpoint."
        )
    return PairsBeside(tokenizer, saved, "")


def require_useful_tokenizer_kwargs(place: str, options: ModelOptions) -> None:
    """
    Check that each of `tokenizer_kwargs` changes something that is read of the tokenizer.

    A tokenizer takes any name and keeps it. So it is loaded without the names that not every tokenizer has, and
    compared. Names that it always has are not checked.

    :param place: A folder, or a hub id.
    :raises ValueError: If one changes nothing. The error names it.
    """
    given = options.tokenizer_kwargs
    refuse("tokenizer_kwargs", [key for key in given if key in INSTEAD], _TAKEN)
    if given.get("use_fast") is False:
        raise ValueError("tokenizer_kwargs['use_fast'] must be True: the parts of a pair need a fast tokenizer.")
    doubtful = [key for key in given if key not in (*_TOKENIZER, "use_fast")]
    if not doubtful:
        return

    def read(left_out: str | None) -> tuple[object, ...]:
        tokenizer = _tokenizer(place, options, {key: value for key, value in given.items() if key != left_out})
        fast = getattr(tokenizer, "backend_tokenizer", None)
        names = tuple(tokenizer.model_input_names)
        described = None if fast is None else fast.to_str()
        return described, tokenizer.pad_token_id, tokenizer.model_max_length, names

    whole = read(None)
    refuse("tokenizer_kwargs", [key for key in doubtful if read(key) == whole], _TAKEN)


_TAKEN = f"{', '.join(_TOKENIZER)} are always read, any other name only where it changes this tokenizer"


def _tokenizer(place: str, options: ModelOptions, given: Mapping[str, Any]) -> Any:
    return _transformers().AutoTokenizer.from_pretrained(
        place,
        revision=options.revision,
        token=options.token,
        trust_remote_code=options.trust_remote_code,
        **_downloads(options),
        **given,
    )


def _transformers() -> Any:
    """
    Import transformers.

    Without torch it logs that models are not available. Tokenizers and configurations are, and nothing else of it is
    used beside exported weights, so that line would mislead.
    """
    said_by = logging.getLogger("transformers")
    said_by.addFilter(_is_not_about_models)
    try:
        import transformers
    finally:
        said_by.removeFilter(_is_not_about_models)
    return transformers


def _is_not_about_models(record: logging.LogRecord) -> bool:
    return "Models won't be available" not in record.getMessage()


def load_config(folder: Path, options: ModelOptions) -> Any:
    """
    Return the model's configuration, or None if the folder has none. Exported weights often come without it.

    :raises ValueError: If one of `config_kwargs` has no effect on exported weights.
    """
    refuse_others(
        "config_kwargs", options.config_kwargs, _EXPORTED_CONFIG, "an exported model, whose file holds the rest,"
    )
    if not (folder / "config.json").is_file():
        refuse("config_kwargs", options.config_kwargs, f"{folder} has no config.json that it could change")
        return None
    return _transformers().AutoConfig.from_pretrained(
        str(folder), trust_remote_code=options.trust_remote_code, **dict(options.config_kwargs)
    )


def _downloads(options: ModelOptions) -> dict[str, Any]:
    return {key: options.model_kwargs[key] for key in HUB_KWARGS if key in options.model_kwargs}


def stores_quantised(place: str, options: ModelOptions) -> bool:
    """Tell whether a torch checkpoint is quantised, or is to be: transformers then chooses the dtypes."""
    if options.model_kwargs.get("quantization_config") is not None:
        return True
    from transformers import PretrainedConfig

    try:
        described, _ = PretrainedConfig.get_config_dict(
            place, revision=options.revision, token=options.token, **_downloads(options)
        )
    except OSError:  # loading the model says what is wrong
        return False
    return described.get("quantization_config") is not None


def _saved_prompt(folder: Path) -> str:
    """Return the prompt that was saved beside exported weights; sentence-transformers keeps it in a file of its own."""
    file = folder / "config_sentence_transformers.json"
    saved = read_json(file) if file.is_file() else {}
    prompts = saved.get("prompts") if isinstance(saved, dict) else None
    if not isinstance(saved, dict) or not isinstance(prompts, dict | None):
        raise ValueError(f"{file} is no object with prompts; save the model again with sentence-transformers.")
    name = saved.get("default_prompt_name")
    return str((prompts or {}).get(name, "")) if isinstance(name, str) else ""


def position_limit(config: Any) -> int | None:
    """Return the most tokens that a model's positions allow, or None if its configuration names no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    behind = padding_before_positions(config)
    return limit - (behind + 1) if behind is not None else limit


def padding_before_positions(config: Any) -> int | None:
    """
    Return the padding id if a model numbers positions from it on, else None.

    RoBERTa and its kin do, so that the first positions are never used.
    """
    offset = getattr(config, "pad_token_id", None) if getattr(config, "model_type", "") in _OFFSET_POSITIONS else None
    return offset if isinstance(offset, int) else None


def numbered_positions(ids: Ids, behind: int | None) -> NDArray[np.int64]:
    """Number the tokens of a pair as its model does; `behind` is the padding id if positions start after it."""
    if behind is None:
        return np.arange(len(ids), dtype=np.int64)
    real = (ids != behind).astype(np.int64)  # a text can contain the padding token, too
    numbered: NDArray[np.int64] = np.cumsum(real) * real + behind
    return numbered


_OFFSET_POSITIONS = frozenset(
    {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet"),
        *("data2vec-text", "ibert", "xmod", "luke", "esm"),
    }
)
