"""Made-up batches to try a loaded model on: whether padding moves its scores, and how fast a form of batches is."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

logger = logging.getLogger(__name__)

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""How far the logits of two forms of a batch may differ by rounding, as a share of the largest logit."""


def mixes_lengths(backend: Backend, vocabulary: int) -> bool:
    """Tell whether pairs of different lengths score in one padded batch as they do alone."""
    batch = trial_batches(backend.tokenizer, vocabulary, 48, pairs=3)[0]
    together = backend.logits(batch)
    alone = np.concatenate([backend.logits(replace(batch, pairs=[pair])) for pair in batch.pairs])
    difference = float(np.abs(together - alone).max())
    same = difference <= TOLERANCE[backend.dtype] * max(float(np.abs(alone).max()), 1.0)
    if not same:
        logger.info("pairs of different lengths do not run together: padding moves scores by %.4f.", difference)
    return same


def trial_batches(tokenizer: PairTokenizer, vocabulary: int, limit: int | None, *, pairs: int = 128) -> list[Batch]:
    """Make up two batches of random tokens below `vocabulary`: pairs of mixed lengths, and pairs of equal length."""
    rng = np.random.default_rng(0)
    pair_format = tokenizer.format
    special = np.concatenate([part.ids for part in (pair_format.prefix, pair_format.middle, pair_format.suffix)])
    words = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), [*special, tokenizer.pad_id])
    longest = min(limit if limit is not None else 512, 512)

    def batch(lengths: Sequence[int]) -> Batch:
        texts = (rng.choice(words, max(length - len(special), 2)) for length in lengths)
        pairs = [pair_format.pack(text[:1], text[1:]) for text in texts]
        return Batch(pairs, tokenizer.pad_id, tokenizer.pads_left)

    mixed = [int(length) for length in np.geomspace(longest, 16, pairs)]
    return [batch(mixed), batch([min(longest, 128)] * pairs)]
