"""
Packed batches for the torch runtime: all pairs of a batch in one row without padding, with variable-length attention.

Registers one attention function with transformers that keeps every token within its own pair, and gives the model's
head the row that it reads of each pair. The model itself is not rewritten. On a GPU the attention is torch's
variable-length kernel, or flash-attn's. On CPU it is a plain loop over the pairs, for the tests that hold the two forms
equal. `torch_backend.py` decides which form runs. It has run on one H100.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from haystack_ce_ranker.backends.configuration import numbered_positions
from haystack_ce_ranker.backends.float32_head import HALF
from haystack_ce_ranker.backends.protocol import Batch

ATTENTION = "ce_ranker_packed"

# Model types that tests hold equal to their padded form, and whether their positions start after the padding id.
ARCHITECTURES: Mapping[str, bool] = {
    "bert": False,
    "electra": False,
    "distilbert": False,
    "modernbert": False,
    "roberta": True,
    "xlm-roberta": True,
    "camembert": True,
}


class VariableLength(Protocol):
    """
    Attention within each of many sequences that follow one another; tensors of shape (tokens, heads, size).

    `starts` holds where each sequence begins, and where the last one ends. `window` is `_attend`'s `sliding_window`.
    """

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor: ...


class PackedForm:
    """
    Makes a model read packed batches, and only those, until `undo` is called.

    :param model: A sequence-classification model of transformers.
    :param uses_token_types: Whether it takes token types.
    :raises ValueError: If `why_not` gives a reason.
    """

    def __init__(self, model: Any, *, uses_token_types: bool) -> None:
        reason = why_not(model)
        if reason is not None:
            raise ValueError(f"packed batches cannot be used: {reason}.")
        self._model = model
        self._uses_token_types = uses_token_types
        self._behind = int(model.config.pad_token_id) if ARCHITECTURES[model.config.model_type] else None
        self._before = model.config._attn_implementation
        _register()
        model.set_attn_implementation(ATTENTION)
        if model.config._attn_implementation != ATTENTION:
            raise ValueError(f"packed batches cannot be used: {type(model).__name__} keeps its own attention.")
        mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
        self._hook = model.base_model.register_forward_hook(_mean_rows if mean else _first_rows, with_kwargs=True)

    def undo(self) -> None:
        """Make the model read padded batches again."""
        self._hook.remove()
        self._model.set_attn_implementation(self._before)

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor | int]:
        """Return what the model takes for a batch: tensors of shape (1, tokens), and where each pair begins."""
        lengths = [len(pair.ids) for pair in batch.pairs]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rows = {
            "input_ids": np.concatenate([pair.ids for pair in batch.pairs]),
            "position_ids": np.concatenate([numbered_positions(pair.ids, self._behind) for pair in batch.pairs]),
        }
        if self._uses_token_types:
            rows["token_type_ids"] = np.concatenate([pair.types for pair in batch.pairs])
        tensors = {name: torch.from_numpy(row.astype(np.int64))[None] for name, row in rows.items()}
        # transformers passes these on to an attention function under these names.
        return {**tensors, "cu_seq_lens_q": torch.from_numpy(starts), "max_length_q": max(lengths)}


def why_not(model: Any) -> str | None:
    """Return why a model cannot read packed batches, or None if it can."""
    config, weights = model.config, weights_of_body(model)
    if config.model_type not in ARCHITECTURES:
        return f"model type {config.model_type!r} is none of {', '.join(ARCHITECTURES)}"
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "the model is a decoder, or has relative positions"
    if weights.device.type == "cpu":
        return None
    if weights.device.type != "cuda":
        return f"there is no variable-length attention for {weights.device.type}"
    if weights.dtype not in HALF:
        return f"variable-length attention needs float16 or bfloat16, but the model is in {weights.dtype}"
    if _kernel() is None:
        return "neither torch.nn.attention.varlen nor flash_attn is there; install a newer torch"
    return None


def weights_of_body(model: Any) -> torch.Tensor:
    """Return weights of what computes the attention: a head may stand before it, and stays in float32."""
    found: torch.Tensor = next(model.base_model.parameters())
    return found


@cache
def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)


def _attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """
    Attend within each pair of a packed row, as an attention function of transformers.

    :param query: Shape (1, heads, tokens, size); so are `key` and `value`.
    :param sliding_window: A token sees only tokens that are less than this far away. None: all tokens of its pair.
    :returns: Shape (1, tokens, heads, size), and no weights.
    """
    if cu_seq_lens_q is None or len(query) != 1 or attention_mask is not None:
        raise ValueError("the model was made to read packed batches, but got a padded one.")
    kernel = _kernel() if query.is_cuda else _one_by_one
    if kernel is None:  # pragma: no cover - why_not has said so
        raise ValueError("packed batches cannot be used: there is no kernel.")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return kernel(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window)[None], None


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,  # noqa: ARG001
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """`VariableLength` in plain torch, pair by pair."""
    lengths = starts.diff().tolist()
    pieces = []
    for parts in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
        q, k, v = (part.transpose(0, 1) for part in parts)
        mask = None
        if window is not None and window < q.shape[1]:
            place = torch.arange(q.shape[1], device=q.device)
            mask = (place[:, None] - place[None]).abs() < window
        pieces.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(0, 1))
    return torch.cat(pieces)


@cache
def _kernel() -> VariableLength | None:
    """Return the variable-length attention of this installation: torch's, else flash-attn's, else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return _flash_attn()

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        out: torch.Tensor = varlen_attn(
            query, key, value, starts, starts, longest, longest, scale=scaling, window_size=_sides(window)
        )
        return out

    return attend


def _flash_attn() -> VariableLength | None:
    try:
        flash_attn_varlen_func = import_module("flash_attn").flash_attn_varlen_func
    except ImportError:
        return None

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        out: torch.Tensor = flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scaling,
            window_size=_sides(window),
        )
        return out

    return attend


def _sides(window: int | None) -> tuple[int, int]:
    """Return how many tokens are seen to the left and to the right; -1 for all."""
    return (-1, -1) if window is None else (window - 1, window - 1)


def _first_rows(module: Any, _args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
    """Keep only the first token of each pair, shape (pairs, 1, size): the head reads nothing else."""
    starts = kwargs["cu_seq_lens_q"][:-1].long()
    return _as_output(module, output, output.last_hidden_state[0].index_select(0, starts))


def _mean_rows(module: Any, _args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
    """Put the mean of each pair's tokens in place of its first token, for a head that takes the mean."""
    hidden = output.last_hidden_state[0]
    lengths = kwargs["cu_seq_lens_q"].diff().long()
    # unsafe skips a check of the lengths, which would wait for the device
    means = torch.segment_reduce(hidden.float(), "mean", lengths=lengths, unsafe=True)
    return _as_output(module, output, means)  # in float32, as the head computes


def _as_output(module: Any, output: Any, rows: torch.Tensor) -> Any:
    output.last_hidden_state = rows[:, None]
    if getattr(module, "pooler", None) is not None:
        output.pooler_output = module.pooler(output.last_hidden_state)
    return output
