"""
Token ids to packed pairs in the model's own pair format, and the tokenizer that both sides of a pair are read with.

The format (which special tokens stand where, and the token type of every part) is learnt once from the tokenizer's own
post-processor and checked against the tokenizer's own pair encoding. Packing is then a concatenation. `reading`
decides what to pack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from haystack_ce_ranker.tokenizing.text_encoder import TextEncoder
from haystack_ce_ranker.tokenizing.tokens import Ids, Tokens

_PROBES = (("a question", "an answer to it, longer than the question"), ("what is this?", "it"))
_UNLIMITED = 1_000_000


class PairTexts(NamedTuple):
    """The two texts of a pair."""

    query: str
    document: str


class PackedPair(NamedTuple):
    """
    One pair as the model reads it.

    :ivar ids: Token ids, with special tokens; shape (tokens,).
    :ivar types: Token types; shape (tokens,).
    :ivar source: Gives the texts that the tokens were made of, for a backend that sends texts to a server.
    """

    ids: Ids
    types: Ids
    source: Callable[[], PairTexts] | None = None

    def texts(self) -> PairTexts:
        """
        Return the texts of the pair: slices of what the caller gave, not decoded tokens.

        :raises ValueError: If the pair was packed from tokens alone.
        """
        if self.source is None:
            raise ValueError("this pair was packed from tokens alone and has no texts; pack it with a ReadingPlan.")
        return self.source()


@dataclass(frozen=True)
class PairFormat:
    """The special tokens before, between and after the two texts of a pair, with the token type of each part."""

    prefix: PackedPair
    query_type: int
    middle: PackedPair
    document_type: int
    suffix: PackedPair

    @property
    def special_tokens(self) -> int:
        """How many special tokens a pair has."""
        return len(self.prefix.ids) + len(self.middle.ids) + len(self.suffix.ids)

    def pack(self, query: Ids, *document: Ids) -> PackedPair:
        """Pack a query and the parts of a document, which are read as one text, into one pair."""
        length = sum(len(part) for part in document)
        return PackedPair(
            np.concatenate([self.prefix.ids, query, self.middle.ids, *document, self.suffix.ids]),
            np.concatenate(
                [
                    self.prefix.types,
                    np.full(len(query), self.query_type, dtype=np.int32),
                    self.middle.types,
                    np.full(length, self.document_type, dtype=np.int32),
                    self.suffix.types,
                ]
            ),
        )


class PairTokenizer:
    """
    A private copy of a model's fast tokenizer, without truncation and padding, that knows the model's pair format.

    It is a copy because truncation and padding of a fast tokenizer are shared, mutable state: another user of the same
    tokenizer could switch them on between two calls. Safe from several threads.

    :param tokenizer: A tokenizer of transformers with a fast form.
    :raises ValueError: If the tokenizer has no fast form, no padding token, or a pair format that cannot be packed.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"model needs a tokenizer with a fast form (tokenizer.json), but got {type(tokenizer).__name__}; "
                "convert it with transformers, or use a model that has one."
            )
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "model needs a tokenizer with a padding token, but this one has none; "
                "set it with tokenizer_kwargs={'pad_token': ...}."
            )
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._encoder = TextEncoder(self._tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)
        self.uses_token_types = "token_type_ids" in tokenizer.model_input_names
        limit = int(tokenizer.model_max_length)
        self.max_length: int | None = limit if 0 < limit < _UNLIMITED else None
        self.format = self._learn_format()
        self._check_format(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """
        Encode texts without special tokens, all in one call.

        :returns: One `Tokens` for each text, offsets in characters (code points) of the text.
        """
        return self._encoder.encode(texts)

    def vocabulary(self) -> dict[str, int]:
        """Return the tokens of the vocabulary with their ids."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def _learn_format(self) -> PairFormat:
        query, document = (self._tokenizer.encode(text, add_special_tokens=False) for text in _PROBES[0])
        sides = (query.ids, document.ids)
        pair = self._tokenizer.encode(*_PROBES[0])
        ids, types = np.asarray(pair.ids, dtype=np.int32), np.asarray(pair.type_ids, dtype=np.int32)
        owners = [-1 if owner is None else owner for owner in pair.sequence_ids]
        places = [np.flatnonzero(np.asarray(owners) == side) for side in (0, 1)]
        for side, place in enumerate(places):
            contiguous = len(place) > 0 and bool((np.diff(place) == 1).all())
            if not contiguous or ids[place].tolist() != sides[side] or len(set(types[place].tolist())) != 1:
                raise ValueError(
                    "model has a pair format that cannot be packed: its tokenizer does not put a query and a document, "
                    "each in one piece, between special tokens. Use a model of sequence-classification form."
                )
        (first, last), (second, end) = ((int(place[0]), int(place[-1]) + 1) for place in places)
        if second < last:
            raise ValueError("model has a pair format that cannot be packed: the document stands before the query.")

        def part(start: int, stop: int) -> PackedPair:
            return PackedPair(ids[start:stop], types[start:stop])

        return PairFormat(
            prefix=part(0, first),
            query_type=int(types[first]),
            middle=part(last, second),
            document_type=int(types[second]),
            suffix=part(end, len(ids)),
        )

    def _check_format(self, tokenizer: Any) -> None:
        """Compare our packing with the tokenizer's own pair encoding. A difference is an error, not a silent loss."""
        for texts in _PROBES:
            query, document = self.encode(texts)
            packed = self.format.pack(query.ids, document.ids)
            own = tokenizer(*texts, truncation=False, padding=False)
            same_types = packed.types.tolist() == own.get("token_type_ids", packed.types.tolist())
            if packed.ids.tolist() != list(own["input_ids"]) or not same_types:
                raise ValueError(
                    "model has a tokenizer whose pair encoding differs from its parts put together, so that its tokens "
                    f"cannot be budgeted: {own['input_ids']} instead of {packed.ids.tolist()} for {texts}."
                )
