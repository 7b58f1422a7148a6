"""
Lengths in, batches out: pairs sorted by true token length, in batches under a token budget.

Integers in, index arrays out. The caller knows what the indices stand for.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.checks import whole_number

CPU_PASS_TOKENS = 40
"""What a forward pass of padded pairs costs on CPU beside its tokens, in tokens; see benchmarks/speed.py."""


def plan_batches(
    lengths: Sequence[int] | NDArray[np.integer],
    *,
    batch_tokens: int,
    batch_size: int | None = None,
    pass_tokens: int | None = None,
) -> Iterator[NDArray[np.intp]]:
    """
    Group pairs of similar length into batches, the longest first.

    A batch costs its padded size: the length of its longest pair times its pairs. The longest pairs come first, so that
    a batch that does not fit into memory fails at the start. A pair longer than the budget gets a batch of its own.

    :param lengths: Tokens of each pair, special tokens among them; shape (pairs,).
    :param batch_tokens: The most tokens of a batch, padding among them.
    :param batch_size: The most pairs of a batch; None for no limit.
    :param pass_tokens: The cost of a forward pass, as the tokens that could be computed in its time. The pairs are then
        split where padding and passes together cost least, within the same limits. None fills every batch.
    :returns: Index arrays that together hold each index once. Ties keep their order, so equal input gives equal
        batches.
    :raises ValueError: If `batch_tokens` or `batch_size` is below 1.
    """
    whole_number("batch_tokens", batch_tokens)
    whole_number("batch_size", batch_size, optional=True)
    true_lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-true_lengths, kind="stable")
    if pass_tokens is not None:
        borders = _cheapest_borders(np.maximum(true_lengths[order], 1), batch_tokens, batch_size, pass_tokens)
        yield from (order[start:stop] for start, stop in pairwise(borders))
        return
    start = 0
    while start < len(order):
        longest = max(int(true_lengths[order[start]]), 1)
        pairs = max(batch_tokens // longest, 1)
        if batch_size is not None:
            pairs = min(pairs, batch_size)
        yield order[start : start + pairs]
        start += pairs


def _cheapest_borders(
    descending: NDArray[np.int64], batch_tokens: int, batch_size: int | None, pass_tokens: int
) -> list[int]:
    """Return the borders of batches whose slots and passes cost least, by dynamic programming."""
    pairs = len(descending)
    cost = np.zeros(pairs + 1, dtype=np.int64)  # of the pairs before each place
    begins = np.zeros(pairs + 1, dtype=np.int64)  # of the batch that ends there
    first = 0  # the earliest pair that a batch ending here can begin with
    for end in range(1, pairs + 1):
        while first < end - 1 and (
            descending[first] * (end - first) > batch_tokens or (batch_size is not None and end - first > batch_size)
        ):
            first += 1
        with_each = cost[first:end] + descending[first:end] * np.arange(end - first, 0, -1) + pass_tokens
        cheapest = int(np.argmin(with_each))
        begins[end], cost[end] = first + cheapest, with_each[cheapest]
    borders = [pairs]
    while borders[-1]:
        borders.append(int(begins[borders[-1]]))
    return borders[::-1]
