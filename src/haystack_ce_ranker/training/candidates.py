"""
First-stage lists for many queries: by our BM25, by a bi-encoder, or by both.

They are the documents to learn from beside the judged ones. `mining.py` chooses among them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from haystack_ce_ranker.backends.model_files import locate
from haystack_ce_ranker.backends.needs_torch import require_torch
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import choice, whole_number
from haystack_ce_ranker.data.collections import Collection

BM25, DENSE, BOTH = "bm25", "dense", "both"
KINDS = (BM25, DENSE, BOTH)
"""The first stages, by name."""

Progress = Callable[[int, int], None]
"""Called with how much is done so far, and of how much."""

_TEXTS_AT_ONCE = 1024


class Found(NamedTuple):
    """
    A document that a first stage found.

    :ivar source: `BM25`, `DENSE`, or `BOTH` if both lists hold it.
    """

    document_id: str
    score: float
    source: str


class BiEncoder:
    """
    A bi-encoder as a first stage. It embeds each document once, and keeps the vector: 1.5 kB for one of 384 numbers.

    :param model: A loaded `sentence_transformers.SentenceTransformer`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._vectors: dict[str, Any] = {}

    @classmethod
    def load(cls, model: str, *, revision: str | None = None) -> "BiEncoder":
        """
        Load one from a folder, a package's folder or the hub; weights are read as safetensors only.

        :raises OSError: If it is not there.
        :raises ImportError: If sentence-transformers or torch is not installed.
        """
        require_torch("a bi-encoder")
        from sentence_transformers import SentenceTransformer

        return cls(SentenceTransformer(locate(model), revision=revision, model_kwargs={"use_safetensors": True}))

    def search(
        self, queries: Sequence[str], texts: Sequence[str], depth: int, *, progress: Progress | None = None
    ) -> list[list[tuple[int, float]]]:
        """
        Return for each query the best places in `texts` with their similarities; equal ones in their order.

        :param progress: Called with the number of texts embedded so far, and of all.
        """
        from sentence_transformers.util import semantic_search

        if not queries or not texts:
            return [[] for _ in queries]
        asked, embedded = self._asked(queries), self._embedded(texts, progress)
        found = semantic_search(asked, embedded, top_k=depth, score_function=self.model.similarity)
        ranked = [sorted((-one["score"], one["corpus_id"]) for one in of_query) for of_query in found]
        return [[(int(place), float(-score)) for score, place in of_query] for of_query in ranked]

    def similarities(
        self, requests: Sequence[tuple[str, Sequence[str]]], *, progress: Progress | None = None
    ) -> list[list[float]]:
        """
        Return for each query how similar each of its texts is.

        :param progress: Called with the number of texts embedded so far, and of all.
        """
        texts = list(dict.fromkeys(text for _, of_query in requests for text in of_query))
        if not texts:
            return [[] for _ in requests]
        places = {text: place for place, text in enumerate(texts)}
        embedded = self._embedded(texts, progress)
        asked = self._asked([query for query, _ in requests])
        return [
            self.model.similarity(asked[number : number + 1], embedded[[places[text] for text in of_query]])[0].tolist()
            for number, (_, of_query) in enumerate(requests)
        ]

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the model reads: it sees their beginning alone."""
        most = self.model.max_seq_length
        if most is None or not math.isfinite(most):
            return 0
        encoded = self.model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return sum(len(ids) > most for ids in encoded)

    def _asked(self, queries: Sequence[str]) -> Any:
        return self.model.encode_query(list(queries), convert_to_tensor=True, show_progress_bar=False)

    def _embedded(self, texts: Sequence[str], progress: Progress | None) -> Any:
        import torch

        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for start in range(0, len(new), _TEXTS_AT_ONCE):
            part = new[start : start + _TEXTS_AT_ONCE]
            vectors = self.model.encode_document(part, convert_to_tensor=True, show_progress_bar=False)
            self._vectors |= zip(part, vectors, strict=True)
            if progress is not None:
                progress(start + len(part), len(new))
        return torch.stack([self._vectors[text] for text in texts])


def first_stage(
    collection: Collection,
    queries: Mapping[str, str],
    kind: str,
    depth: int,
    bi_encoder: BiEncoder | None = None,
    *,
    analysis: Analysis | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Found]]:
    """
    Return for each query the documents that a first stage finds, best first.

    With both, the lists take turns, BM25 first. A query that is itself a document of the collection does not find
    itself.

    :param queries: Texts by id; they need not be the collection's own.
    :param kind: One of `KINDS`.
    :param depth: The most documents for each query.
    :param bi_encoder: What `DENSE` and `BOTH` need.
    :param analysis: How BM25 makes terms of a text; English if None.
    :param progress: Called while the bi-encoder embeds the documents, which takes the time.
    :raises ValueError: If the kind is none of them, the depth is below 1, or a bi-encoder is missing or not needed.
    """
    kind, depth = choice("kind", kind, KINDS), whole_number("depth", depth)
    if (bi_encoder is None) != (kind == BM25):
        raise ValueError(
            f"the first stage {kind!r} "
            + ("needs a bi-encoder: name one, or use 'bm25'." if bi_encoder is None else "uses no bi-encoder: omit it.")
        )
    ids = list(collection.documents)
    texts = [document.content for document in collection.documents.values()]
    lists: dict[str, list[list[tuple[int, float]]]] = {}
    if kind != DENSE:
        index = BM25Index.build(texts, analysis=analysis)
        hits = [index.search(query, depth + 1) for query in queries.values()]  # one more: a query may find itself
        lists[BM25] = [list(zip(one.positions.tolist(), one.scores.tolist(), strict=True)) for one in hits]
    if bi_encoder is not None:
        lists[DENSE] = bi_encoder.search(list(queries.values()), texts, depth + 1, progress=progress)
    found = {}
    for query_id, *of_query in zip(queries, *lists.values(), strict=True):
        own = collection.own(query_id) if query_id in collection.queries else None
        merged = taking_turns(dict(zip(lists, of_query, strict=True)))
        named = (Found(ids[place], score, source) for place, score, source in merged)
        found[query_id] = [one for one in named if one.document_id != own][:depth]
    return found


def taking_turns(lists: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float, str]]:
    """
    Merge lists rank by rank; what several hold is named so, and keeps its better rank and that score.

    :param lists: By the name of a first stage, places with scores, best first.
    :returns: Each place once, with its score and its source.
    """
    held = [{place for place, _ in one} for one in lists.values()]
    merged: dict[int, tuple[float, str]] = {}
    for rank in zip_longest(*lists.values()):
        for name, hit in zip(lists, rank, strict=True):
            if hit is not None:
                in_all = len(held) > 1 and all(hit[0] in one for one in held)
                merged.setdefault(hit[0], (hit[1], BOTH if in_all else name))
    return [(place, score, source) for place, (score, source) in merged.items()]
