"""
Refuses the half precision that `dtype="auto"` chose if it gives one score to texts that float32 tells apart.

Half precision has too few digits for scores: next to 8, bfloat16 has steps of 0.06. So heads compute in float32, and no
model that was tried ties. A model whose head is not known to be one, or another runtime, may still tie. A model is
therefore asked about near-equal texts when it is loaded.
"""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends.protocol import Backend, Batch

logger = logging.getLogger(__name__)

HALF = ("float16", "bfloat16")
QUESTION = "Where is house 7 of the street?"
NEAR_EQUAL = [f"House {number} of the street is in the city." for number in range(1, 25)]
EQUAL = 1e-5
"""Logits in float32 that differ by less than this, as a share of the largest, count as equal: it is rounding."""


def refused(chosen: Backend, load_exact: Callable[[], Backend]) -> Backend:
    """
    Return the model in float32 if it ties in the half precision that was chosen for it, else the one that was chosen.

    :param chosen: The loaded model.
    :param load_exact: Loads it in float32. Called only if near-equal texts tie.
    """
    if chosen.dtype not in HALF:
        return chosen
    in_half = _logits(chosen)
    if len(set(in_half.tolist())) == len(in_half):
        return chosen
    exact = load_exact()
    tied = _tied(in_half, _logits(exact))
    if not tied:  # the texts are equal to this model, or too long for it
        return chosen
    logger.warning(
        "dtype='auto' takes float32: in %s, which is faster here, the model gives one score to texts that differ in "
        "float32 (%d of %d near-equal ones). Set dtype=%r to have it nevertheless.",
        chosen.dtype,
        tied,
        len(in_half),
        chosen.dtype,
    )
    return exact


def _logits(backend: Backend) -> NDArray[np.float32]:
    """Return the logits of the near-equal texts, those aside that the model cannot read whole."""
    tokenizer = backend.tokenizer
    [query] = tokenizer.encode_queries([backend.query_prompt + QUESTION])
    pairs = [tokenizer.format.pack(query.ids, document.ids) for document in tokenizer.encode_documents(NEAR_EQUAL)]
    limit = backend.max_length
    readable = [pair for pair in pairs if limit is None or len(pair.ids) <= limit]
    together = [readable] if backend.mixes_lengths else [[pair] for pair in readable]
    batches = [Batch(some, tokenizer.pad_id, tokenizer.pads_left) for some in together if some]
    return np.concatenate([np.zeros(0, np.float32), *(backend.logits(batch) for batch in batches)])


def _tied(in_half: NDArray[np.float32], exact: NDArray[np.float32]) -> int:
    """Return how many texts share their score with a text that scores otherwise in float32."""
    same = in_half[:, None] == in_half[None, :]
    differ = np.abs(exact[:, None] - exact[None, :]) > EQUAL * max(float(np.abs(exact).max()), 1.0)
    return int((same & differ).any(axis=1).sum())
