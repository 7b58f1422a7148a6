"""
Documents as tokens, with the texts embedded around the content kept apart, and a bounded cache of them.

Tokenising a long document costs more than choosing its windows, and the same documents come back query after query.
"""

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.reading.readability import READABLE, Readability, Vocabulary, readability
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.tokens import Ids, Tokens

# A full stop, closing quotes or brackets, and a space; the end of a line; or a Chinese full stop, which needs no space.
# The pattern starts with one set of characters, because `re` scans for a set fast.
SENTENCE_END = re.compile(r"[.!?…؟।。！？\n](?:(?<=\n)\n*|(?<!\n)['\"”’)\]]*\s+|(?<=[。！？]))")
DOCUMENT_COST = 150
"""What a cached document takes beside its tokens, in tokens: about 1,800 bytes of arrays and objects."""
_NO_IDS = np.empty(0, dtype=np.int32)


class DocumentText(NamedTuple):
    """
    A document as it is shown to the model: its content between texts that stand in every window of it.

    :ivar content: What is read, whole or by windows.
    :ivar header: Text of this document before its content, such as its title.
    :ivar footer: Text after the content that is the same for all documents.
    :ivar prefix: Text before the header that is the same for all documents.
    """

    content: str
    header: str = ""
    footer: str = ""
    prefix: str = ""


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """
    A document as tokens. Offsets of `body` count characters of the content.

    :ivar header: Tokens of the texts before the content, those of the prefix included; in every window.
    :ivar body: Tokens of the content.
    :ivar footer: Tokens of the text after the content; in every window.
    :ivar sentence_starts: Indexes of the body tokens that begin a sentence, ascending; shape (sentences,).
    :ivar own: How many tokens say something of this document: those of its content and of its own header, without the
        texts that all documents have. 0 also if nobody would see anything of them; see `blank`.
    :ivar readability: How well the model's vocabulary knows the content.
    """

    header: Ids
    body: Tokens
    footer: Ids
    sentence_starts: NDArray[np.intp]
    own: int
    readability: Readability = READABLE

    def __len__(self) -> int:
        """Return how many tokens it has, those of header and footer included."""
        return len(self.header) + len(self.body.ids) + len(self.footer)

    @property
    def embedded(self) -> int:
        """Tokens around the content that every window repeats."""
        return len(self.header) + len(self.footer)

    @property
    def shared(self) -> int:
        """Tokens around the content that all documents have."""
        return len(self) - self.own

    @cached_property
    def word_starts(self) -> NDArray[np.intp]:
        """Indexes of the body tokens that do not continue the word of the token before; shape (words,)."""
        starts, ends = self.body.starts, self.body.ends
        return np.flatnonzero(np.concatenate([[True], starts[1:] > ends[:-1]])) if len(starts) else np.empty(0, np.intp)


class DocumentEncoder:
    """
    Encodes documents, and keeps the tokens of the latest ones.

    :param tokenizer: The model's tokenizer.
    :param cache_tokens: How many tokens to keep, about 12 bytes each; 0 for no cache. Beside its tokens, each document
        counts as `DOCUMENT_COST` more. Keys come from the content, so a
        changed document is never taken for the old one.
    """

    def __init__(self, tokenizer: PairTokenizer, *, cache_tokens: int = 2_000_000) -> None:
        cache_tokens = whole_number("cache_tokens", cache_tokens, least=0)
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer.vocabulary, tokenizer.unknown_id)
        self._cache_tokens = cache_tokens
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Begin with an empty cache; see `forking`. Another thread may have been changing the old one."""
        self._cache: LRUCache[bytes, EncodedDocument] = LRUCache(max(self._cache_tokens, 1), getsizeof=cost_of)
        self._lock = threading.Lock()

    def encode(self, documents: Sequence[DocumentText]) -> list[EncodedDocument]:
        """Encode documents. Those that are not cached are encoded in one parallel call, equal ones once."""
        keys = [content_key(*document) for document in documents]
        with self._lock:
            found = {key: self._cache[key] for key in keys if key in self._cache}
        new = {key: document for key, document in zip(keys, documents, strict=True) if key not in found}
        tokens = self._tokenizer.encode_documents(
            [text.prefix + text.header + text.content + text.footer for text in new.values()]
        )
        fresh = {
            key: _split(text, all_tokens, self._vocabulary)
            for (key, text), all_tokens in zip(new.items(), tokens, strict=True)
        }
        with self._lock:
            for key, document in fresh.items():
                if cost_of(document) <= self._cache_tokens:
                    self._cache[key] = document
        found.update(fresh)
        return [found[key] for key in keys]


def cost_of(document: EncodedDocument) -> int:
    """Return what a document costs in the cache, in tokens."""
    return len(document) + DOCUMENT_COST


def content_key(*texts: str) -> bytes:
    """Return a short key for a list of texts; different lists have different keys."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _split(text: DocumentText, tokens: Tokens, vocabulary: Vocabulary) -> EncodedDocument:
    """Separate the tokens of header, content and footer. A token that straddles a border belongs to the content."""
    blank = is_blank(text.header) and is_blank(text.content)
    first = len(text.prefix) + len(text.header)
    end = first + len(text.content)
    if end == len(text.content) and not text.footer:
        own = 0 if blank else len(tokens.ids)
        known = readability(text.content, tokens, vocabulary)
        return EncodedDocument(_NO_IDS, tokens, _NO_IDS, _sentence_starts(text.content, tokens), own, known)
    before = tokens.ends <= first
    after = tokens.starts >= end
    before &= ~after
    if not first:
        before[:] = False
    if not text.footer:
        after[:] = False
    start = int(before.sum())
    stop = len(tokens.ids) - int(after.sum())
    body = Tokens(
        tokens.ids[start:stop],
        np.clip(tokens.starts[start:stop] - first, 0, len(text.content)),
        np.clip(tokens.ends[start:stop] - first, 0, len(text.content)),
    )
    return EncodedDocument(
        header=tokens.ids[:start],
        body=body,
        footer=tokens.ids[stop:],
        sentence_starts=_sentence_starts(text.content, body),
        own=0 if blank else stop - int((tokens.ends[:start] <= len(text.prefix)).sum()),
        readability=readability(text.content, body, vocabulary),
    )


def _sentence_starts(content: str, body: Tokens) -> NDArray[np.intp]:
    if not len(body.ids):
        return np.empty(0, dtype=np.intp)
    characters = np.asarray([0, *(match.end() for match in SENTENCE_END.finditer(content))], dtype=np.int32)
    starts = np.searchsorted(body.starts, characters)  # both int32, or all of `body.starts` would be copied
    return starts[(starts < len(body.ids)) & (np.diff(starts, prepend=-1) > 0)]
