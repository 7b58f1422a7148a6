"""
Evidence of all tokens that are like a token of the query, by the model's own token embeddings.

`passages.evidence` counts the query's own tokens. Here a token like one of them counts in part, by its cosine. So
"recorded" is found where the query says "recording". Token ids in, evidence out.
"""

import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends.protocol import Backend, Embedding
from haystack_ce_ranker.backends.token_embeddings import Rows
from haystack_ce_ranker.reading.passages import bm25
from haystack_ce_ranker.tokenizing.tokens import Ids

LEAST_COSINE = 0.4
"""The least cosine at which a token is like another one; chosen on the transcripts of benchmarks/watts.md."""

logger = logging.getLogger(__name__)

_BLOCK = 4096  # rows of the table that are in float32 at once
_REMEMBERED = 4096  # tokens whose like ones are kept
_NONE = np.empty(0, dtype=np.int32)


class Alike(NamedTuple):
    """The tokens that are like one, itself among them, with their cosines; each of shape (tokens,)."""

    ids: Ids
    cosines: NDArray[np.float32]


class SoftMatches:
    """
    The tokens of a model that are like each other. Safe from several threads.

    The embeddings are taken around their mean, which all tokens share, and kept in 8 bits.

    :param table: The embeddings, shape (tokens, dimensions).
    :param alone: Tokens that are like no other: the one for what the vocabulary does not know.
    """

    def __init__(self, table: Rows, *, alone: Sequence[int] = ()) -> None:
        rows, columns = table.shape
        blocks = [slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK)]
        total = np.zeros(columns)
        for block in blocks:
            total += np.asarray(table[block], dtype=np.float64).sum(axis=0)
        mean = (total / rows).astype(np.float32)
        self._vectors = np.empty((rows, columns), dtype=np.int8)
        self._by_length = np.empty(rows, dtype=np.float32)
        for block in blocks:
            around = np.asarray(table[block], dtype=np.float32) - mean
            largest = np.abs(around).max(axis=1, keepdims=True)
            rounded = np.rint(around * (127.0 / np.maximum(largest, 1e-12)))
            self._vectors[block] = rounded
            self._by_length[block] = 1.0 / np.maximum(np.linalg.norm(rounded, axis=1), 1e-12)
        self._blocks = blocks
        self._alone = frozenset(alone)
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Begin with nothing remembered; see `forking`. Another thread may have been changing it."""
        self._remembered: LRUCache[int, Alike] = LRUCache(_REMEMBERED)
        self._lock = threading.Lock()

    def alike(self, tokens: Ids) -> list[Alike]:
        """Return what is like each of some tokens."""
        wanted = list(map(int, tokens))
        with self._lock:
            found = {token: self._remembered[token] for token in wanted if token in self._remembered}
        new = [token for token in dict.fromkeys(wanted) if token not in found]
        fresh = dict(zip(new, self._compare(new), strict=True))
        with self._lock:
            self._remembered.update(fresh)
        found.update(fresh)
        return [found[token] for token in wanted]

    def _compare(self, tokens: Sequence[int]) -> list[Alike]:
        known = [token for token in tokens if token < len(self._vectors) and token not in self._alone]
        own = self._vectors[known].astype(np.float32) * self._by_length[known, None]
        parts: dict[int, list[Alike]] = {token: [] for token in known}
        for block in self._blocks if known else ():
            cosines = (own @ self._vectors[block].T.astype(np.float32)) * self._by_length[block]
            for token, of_token in zip(known, cosines, strict=True):
                places = np.flatnonzero(of_token >= LEAST_COSINE)
                parts[token].append(Alike((places + block.start).astype(np.int32), of_token[places]))
        return [self._joined(token, parts.get(token, [])) for token in tokens]

    def _joined(self, token: int, parts: Sequence[Alike]) -> Alike:
        ids = np.concatenate([_NONE, *(part.ids for part in parts)])
        cosines = np.concatenate([_NONE.astype(np.float32), *(part.cosines for part in parts)])
        others = (ids != token) & ~np.isin(ids, list(self._alone))
        return Alike(
            np.append(ids[others], np.int32(token)), np.append(np.minimum(cosines[others], 1.0), np.float32(1.0))
        )

    def evidence(self, body: Ids, query: Ids, starts: NDArray[np.intp], *, size: int) -> NDArray[np.float64]:
        """
        Return the evidence in each window as `passages.evidence` does; a token counts by how like the query's it is.

        :param body: Token ids of the document; shape (tokens,).
        :param query: Token ids of the query; shape (query tokens,).
        :param starts: Window starts; shape (windows,).
        :param size: Tokens of a window.
        :returns: One value per window, not negative; shape (windows,).
        """
        total = np.zeros(len(starts))
        if not len(body):
            return total
        stops = np.minimum(starts + size, len(body))
        terms = np.unique(query)
        weights = np.zeros(max(len(self._vectors), int(body.max()) + 1, int(terms.max(initial=0)) + 1))
        for like in self.alike(terms):
            weights[like.ids] = like.cosines
            counts = np.concatenate([[0.0], np.cumsum(weights[body])])
            frequency = counts[stops] - counts[starts]
            total += bm25(frequency, holding=float(np.minimum(frequency, 1.0).sum()))
            weights[like.ids] = 0.0
        return total


class _Kept:
    """The soft matches of each model in memory, made once."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Backend, SoftMatches] = WeakKeyDictionary()
        self.after_fork()
        forking.renewed(self)

    def after_fork(self) -> None:
        """Make the lock anew; see `forking`."""
        self._lock = threading.Lock()

    def of(self, backend: Backend) -> SoftMatches | None:
        with self._lock:
            if backend not in self._found and isinstance(backend, Embedding):
                table = backend.token_embeddings()
                if table is not None:
                    unknown = backend.tokenizer.unknown_id
                    self._found[backend] = SoftMatches(table, alone=() if unknown is None else (unknown,))
            return self._found.get(backend)


_kept = _Kept()


def soft_matches_of(backend: Backend) -> SoftMatches | None:
    """
    Return a model's soft matches, read once and kept as long as the model.

    :returns: None if the model shows no embeddings, which is said in the log.
    """
    found = _kept.of(backend)
    if found is None:
        logger.warning(
            "passage_matches='soft' needs the embeddings of the model's tokens, which backend %r does not show for "
            "this model; windows are chosen by the query's own tokens ('exact').",
            backend.name,
        )
    return found
