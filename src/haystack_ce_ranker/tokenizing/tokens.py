"""A text as token ids with character offsets, and how a tokenizer reads whole texts."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

LONG_WORDS = 16
"""A text with more characters per word than this, such as Chinese, repeats no words. It is always read whole."""


class Tokens(NamedTuple):
    """A text as token ids, and where the characters of each token start and end; three arrays of shape (tokens,)."""

    ids: Ids
    starts: Ids
    ends: Ids


def read_whole(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Encode texts without special tokens, all in one call of a tokenizer of the library `tokenizers`."""
    return [_tokens(encoding) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _tokens(encoding: Any) -> Tokens:
    offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * len(encoding))
    return Tokens(np.fromiter(encoding.ids, np.int32, len(encoding)), offsets[::2].copy(), offsets[1::2].copy())
