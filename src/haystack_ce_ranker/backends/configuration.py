"""What stands beside weights: the tokenizer, and the limits that a model's configuration names."""

from typing import Any

from haystack_ce_ranker.backends.model_files import ModelOptions


def load_tokenizer(folder: str, options: ModelOptions) -> Any:
    """Load the tokenizer beside exported weights, with transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=options.trust_remote_code, **dict(options.tokenizer_kwargs)
    )


def position_limit(config: Any) -> int | None:
    """
    Return the most tokens that a model's positions allow, or None where its configuration names no limit.

    RoBERTa and its kin number positions from the padding id on, so that many of them are never used.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    offset = getattr(config, "pad_token_id", None) if getattr(config, "model_type", "") in _OFFSET_POSITIONS else None
    return limit - (offset + 1) if isinstance(offset, int) else limit


_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "xmod"}
)
