"""
The tokenizer that both sides of a pair are read with.

`pairs.py` has the format of a pair, `pair_formats.py` learns it, and `text_encoder.py` turns texts into tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from haystack_ce_ranker.tokenizing import pair_formats
from haystack_ce_ranker.tokenizing.pair_formats import Encoded, OwnEncoding
from haystack_ce_ranker.tokenizing.pairs import NO_FRAME, Frame, PairFormat
from haystack_ce_ranker.tokenizing.text_encoder import TextEncoder
from haystack_ce_ranker.tokenizing.tokens import Tokens

_UNLIMITED = 1_000_000


class PairTokenizer:
    """
    A private copy of a model's fast tokenizer, without truncation and padding, that knows the model's pair format.

    It is a copy because truncation and padding of a fast tokenizer are shared, mutable state: another user of the same
    tokenizer could switch them on between two calls. Safe from several threads.

    :param tokenizer: A tokenizer of transformers with a fast form.
    :param own: Gives the model's own encoding of a pair of texts, where that is not the tokenizer's: a chat template.
    :param pad_id: The token that fills a batch, which the attention mask hides; None for the tokenizer's own, or token
        0 if it has none.
    :param pads_left: Whether a batch is filled on the left; None for the tokenizer's own side.
    :param pair_format: The format of the pairs, where it is known; None to learn it.
    :ivar unknown_id: The token for what the vocabulary does not know; None if there is none.
    :ivar slices: Whether the tokens of a slice of a text are a slice of the text's tokens, up to words cut in two.
    :raises ValueError: If the tokenizer has no fast form, or a pair format that cannot be packed.
    """

    def __init__(
        self,
        tokenizer: Any,
        own: OwnEncoding | None = None,
        *,
        pad_id: int | None = None,
        pads_left: bool | None = None,
        pair_format: PairFormat | None = None,
    ) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"model needs a tokenizer with a fast form (tokenizer.json), but got {type(tokenizer).__name__}; "
                "convert it with transformers, or use a model that has one."
            )
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._encoder = TextEncoder(self._tokenizer)
        self.unknown_id: int | None = tokenizer.unk_token_id
        own_pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.pad_id = int(own_pad) if pad_id is None else pad_id
        self.pads_left = tokenizer.padding_side == "left" if pads_left is None else pads_left
        self.uses_token_types = "token_type_ids" in tokenizer.model_input_names
        limit = int(tokenizer.model_max_length)
        self.max_length: int | None = limit if 0 < limit < _UNLIMITED else None
        self.format = (
            pair_format
            if pair_format is not None
            else pair_formats.learn(self._tokenizer, own if own is not None else _by(tokenizer), self._framed)
        )
        self.slices = self._encoder.by_words and self.format.document == NO_FRAME

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts by themselves, outside of any pair; see `encode_queries`."""
        return self._encoder.encode(texts)

    def encode_queries(self, texts: Sequence[str]) -> list[Tokens]:
        """
        Encode texts as the queries of pairs, without the format's own tokens, all in one call.

        :returns: One `Tokens` for each text, offsets in characters (code points) of the text.
        """
        return self._framed(self.format.query, texts)

    def encode_documents(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts as the documents of pairs; see `encode_queries`."""
        return self._framed(self.format.document, texts)

    def vocabulary(self) -> dict[str, int]:
        """Return the tokens of the vocabulary with their ids."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def _framed(self, frame: Frame, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts as they stand in a frame. Tokens of `lead` and `tail` count as tokens of the text's ends."""
        if frame == NO_FRAME:
            return self._encoder.encode(texts)
        shown = [text.strip() for text in texts] if frame.strips else texts
        head, tail = frame.before + frame.lead, frame.tail + frame.after
        encoded = self._encoder.encode([head + text + tail for text in shown])
        return [_inside(frame, *of_text) for of_text in zip(texts, shown, encoded, strict=True)]


def _inside(frame: Frame, text: str, shown: str, tokens: Tokens) -> Tokens:
    """Return the tokens of a text out of those of its frame, with offsets in the text."""
    begin = len(frame.before) + len(frame.lead)
    own = (tokens.starts >= len(frame.before)) & (tokens.starts < begin + len(shown) + len(frame.tail))
    stripped = text.find(shown)
    ids, starts, ends = (part[own] for part in tokens)
    return Tokens(ids, *(np.clip(places - begin, 0, len(shown)) + np.int32(stripped) for places in (starts, ends)))


def _by(tokenizer: Any) -> OwnEncoding:
    """Return how a tokenizer of transformers encodes a pair."""

    def encode(query: str, document: str) -> Encoded:
        own = tokenizer(query, document, truncation=False, padding=False)
        return Encoded(list(own["input_ids"]), own.get("token_type_ids"))

    return encode
