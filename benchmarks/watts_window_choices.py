"""
Ways to choose the windows of a long document for `watts_windows.py`: the engine's own, and others beside it.

A way is given a query and a document, and returns the pieces to read, those with most evidence first.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.fusion.normalizers import FloatArray
from haystack_ce_ranker.reading.documents import EncodedDocument
from haystack_ce_ranker.reading.passages import STRATEGIES, Piece, Span, WindowSettings, align, windows
from haystack_ce_ranker.tokenizing.tokens import Ids

_ALIKE = 0.4  # the least cosine at which a token counts as like another


class Asked(NamedTuple):
    """
    A query, and a document that does not fit beside it.

    :ivar query: The query's tokens.
    :ivar document: The document as tokens.
    :ivar room: The most tokens that a piece may have.
    """

    query: Ids
    document: EncodedDocument
    room: int


Choose = Callable[[Asked], list[Piece]]


def by_evidence(size: int, most: int, share: float = 0.0) -> Choose:
    """Choose as the engine does, by its evidence; windows overlap by half."""
    return by_settings(WindowSettings(size, size // 2, most, share))


def by_settings(settings: WindowSettings, strategy: str = "best_passages") -> Choose:
    """Choose as the engine does by one of its strategies."""
    return lambda asked: STRATEGIES[strategy](asked.document, asked.query, asked.room, settings)


class SoftMatches:
    """
    Evidence of all tokens that are like a token of the query, by the cosine of the model's own token embeddings.

    :param vectors: The embeddings around their mean, each of length 1; shape (tokens, dimensions).
    """

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = vectors
        self._alike: dict[int, FloatArray] = {}

    @classmethod
    def of(cls, folder: Path) -> "SoftMatches":
        """Read the embeddings from the weights of a BERT."""
        from safetensors.numpy import load_file

        weights = load_file(folder / "model.safetensors")
        vectors = next(value for name, value in weights.items() if name.endswith("word_embeddings.weight"))
        around = vectors.astype(np.float32) - vectors.mean(axis=0, dtype=np.float32)
        return cls(around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-9))

    def evidence(self, body: Ids, query: Ids, starts: FloatArray, size: int) -> FloatArray:
        """Return BM25 over the document's windows, in which a token counts by how like it is; shape (windows,)."""
        total = np.zeros(len(starts))
        for token in np.unique(query).tolist():
            if token not in self._alike:
                cosines = self._vectors @ self._vectors[token]
                self._alike[token] = np.where(cosines >= _ALIKE, cosines, 0.0)
            counts = np.concatenate([[0.0], np.cumsum(self._alike[token][body])])
            frequency = counts[np.minimum(starts + size, len(body))] - counts[starts]
            holding = np.minimum(frequency, 1.0).sum()
            total += np.log1p((len(starts) - holding + 0.5) / (holding + 0.5)) * frequency * 2.2 / (frequency + 1.2)
        return total

    def choose(self, size: int, most: int) -> Choose:
        """The windows with most of this evidence."""

        def choose(asked: Asked) -> list[Piece]:
            body = asked.document.body.ids
            starts = windows(len(body), size=size, stride=size // 2)
            starts = align(starts, asked.document, slack=size // 4)
            found = self.evidence(body, asked.query, starts, size)
            best = np.argsort(-found, kind="stable")[:most]
            return [
                Piece((Span(int(starts[one]), min(int(starts[one]) + size, len(body))),), float(found[one]))
                for one in best
            ]

        return choose
