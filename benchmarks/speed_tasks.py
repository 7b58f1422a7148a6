"""
The candidates on which `speed.py` measures: passages, whole articles, pieces of mixed length, and full pairs.

    python benchmarks/speed.py
"""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from haystack import Document

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import Collection, load_collection, load_run

LIMIT = 512
"""Tokens of a pair that the model can read."""
STRESS_WORDS = (8, 370)
"""The fewest and most words of a candidate of the stress set; the most still fit into a pair."""
STRESS = 1000


class Task(NamedTuple):
    """A query with its candidates."""

    id: str
    query: str
    documents: list[Document]


def dl19_tasks(folder: Path, queries: int) -> tuple[Collection, list[Task]]:
    """The first 50 passages of the given BM25 run."""
    collection = load_collection(folder / "dl19").sample(queries)
    run = load_run(folder / "dl19" / "run.bm25.tsv", collection=collection, depth=50)
    return collection, [
        Task(name, query, [_document(collection, found) for found in run[name]])
        for name, query in collection.queries.items()
    ]


def covidqa_tasks(folder: Path, queries: int, *, articles: int = 10) -> tuple[Collection, list[Task]]:
    """The first ten articles by BM25, or another number of them."""
    collection = load_collection(folder / "covidqa").sample(queries)
    names = list(collection.documents)
    index = BM25Index.build([document.content for document in collection.documents.values()])
    found = {name: index.search(query, articles).positions.tolist() for name, query in collection.queries.items()}
    return collection, [
        Task(name, collection.queries[name], [_document(collection, names[row]) for row in rows])
        for name, rows in found.items()
    ]


def stress_task(folder: Path, size: int = STRESS) -> Task:
    """
    Return candidates of mixed length: pieces of covidqa's articles, their words spread evenly on a logarithmic scale.

    Each piece starts at a random word of a random article (seed 0). A smaller size has the same mix of lengths.
    """
    collection = load_collection(folder / "covidqa")
    articles = [document.content.split() for document in collection.documents.values()]
    rng = random.Random(0)
    documents = []
    for number, words in enumerate(np.geomspace(*STRESS_WORDS, size).round().astype(int).tolist()):
        article = rng.choice([article for article in articles if len(article) >= words])
        start = rng.randrange(len(article) - words + 1)
        documents.append(Document(id=f"{size}-{number}", content=" ".join(article[start : start + words])))
    rng.shuffle(documents)
    return Task(f"stress-{size}", next(iter(collection.queries.values())), documents)


def full_task(folder: Path, model: Path, size: int) -> Task:
    """Return candidates that fill a pair: `LIMIT` tokens with the query, or a few less."""
    from tokenizers import Tokenizer

    collection = load_collection(folder / "covidqa")
    query = next(iter(collection.queries.values()))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    room = LIMIT - len(tokenizer.encode(query, "").ids)
    documents: list[Document] = []
    for document in collection.documents.values():
        offsets = tokenizer.encode(document.content, add_special_tokens=False).offsets
        for first in range(0, len(offsets) - room, 37):  # overlapping pieces, so that there are enough
            text = document.content[offsets[first][0] : offsets[first + room - 5][1]]
            documents.append(Document(id=str(len(documents)), content=text))
            if len(documents) == size:
                return Task("full", query, documents)
    raise ValueError(f"--memory-candidates must be at most {len(documents)}, but got {size}; give less.")


def _document(collection: Collection, name: str) -> Document:
    return Document(id=name, content=collection.documents[name].content)
