"""What lies beside a model's weights: its tokenizer, its configuration, and the limits that the configuration names."""

from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.model_files import ModelOptions

BESIDE = ("*.json", "*.txt", "*.model")
"""Patterns of the files beside exported weights that are needed: the configuration and the tokenizer."""


def load_tokenizer(folder: str, options: ModelOptions) -> Any:
    """Load the tokenizer beside exported weights, with transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=options.trust_remote_code, **dict(options.tokenizer_kwargs)
    )


def load_config(folder: Path, options: ModelOptions) -> Any:
    """Return the model's configuration, or None if the folder has none. Exported weights often come without it."""
    if not (folder / "config.json").is_file():
        return None
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        str(folder), trust_remote_code=options.trust_remote_code, **dict(options.config_kwargs)
    )


def stores_quantised(place: str, options: ModelOptions) -> bool:
    """Tell whether a torch checkpoint is quantised, or is to be: transformers then chooses the dtypes."""
    if options.model_kwargs.get("quantization_config") is not None:
        return True
    from transformers import PretrainedConfig

    try:
        described, _ = PretrainedConfig.get_config_dict(place, revision=options.revision, token=options.token)
    except OSError:  # loading the model says what is wrong
        return False
    return described.get("quantization_config") is not None


def position_limit(config: Any) -> int | None:
    """
    Return the most tokens that a model's positions allow, or None if its configuration names no limit.

    RoBERTa and its kin number positions from the padding id on, so that the first positions are never used.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    offset = getattr(config, "pad_token_id", None) if getattr(config, "model_type", "") in _OFFSET_POSITIONS else None
    return limit - (offset + 1) if isinstance(offset, int) else limit


_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "xmod"}
)
