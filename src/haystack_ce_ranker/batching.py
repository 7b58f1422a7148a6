"""
Lengths in, batches out: pairs sorted by true token length, in batches under a token budget.

Integers in, index arrays out; what the indices stand for is the caller's business.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def plan_batches(
    lengths: Sequence[int] | NDArray[np.integer], *, batch_tokens: int, batch_size: int | None = None
) -> Iterator[NDArray[np.intp]]:
    """
    Group pairs of similar length into batches, the longest first.

    A batch costs its padded size: the length of its longest pair times its pairs. Longest first, so that a batch which
    does not fit into memory shows itself at the start. A pair longer than the budget gets a batch of its own.

    :param lengths: Tokens of each pair, special tokens among them; shape (pairs,).
    :param batch_tokens: The most tokens of a batch, padding among them.
    :param batch_size: The most pairs of a batch; None for no limit.
    :returns: Index arrays that together hold each index once. Ties keep their order, so equal input gives equal
        batches.
    :raises ValueError: If `batch_tokens` or `batch_size` is below 1.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be >= 1, but got {batch_tokens}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, but got {batch_size}.")
    true_lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-true_lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(true_lengths[order[start]]), 1)
        pairs = max(batch_tokens // longest, 1)
        if batch_size is not None:
            pairs = min(pairs, batch_size)
        yield order[start : start + pairs]
        start += pairs


def padding_share(lengths: Sequence[int] | NDArray[np.integer], batches: Sequence[NDArray[np.intp]]) -> float:
    """Return the share of the token slots in `batches` that hold padding, between 0 and 1."""
    true_lengths = np.asarray(lengths, dtype=np.int64)
    slots = sum(int(true_lengths[batch].max()) * len(batch) for batch in batches if len(batch))
    return 1.0 - float(true_lengths.sum()) / slots if slots else 0.0
