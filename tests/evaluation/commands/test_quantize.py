"""What a quantised model is verified on: the built-in texts, or queries of a collection with BM25's documents."""

from io import StringIO

from rich.console import Console

from fakes import REPOSITORY
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.commands.quantize import verification
from haystack_ce_ranker.quantizing.sample_texts import sample_requests


def test_without_a_collection_the_built_in_texts_are_used():
    assert verification(None, Console(), split=None, queries=1, depth=1) == sample_requests()


def test_a_collection_gives_queries_with_the_documents_that_bm25_finds():
    folder = REPOSITORY / "examples" / "handbook"
    console = Console(file=StringIO(), width=200)
    found = verification(folder, console, split="test", queries=3, depth=4)
    assert "note: 3 of 55 queries, drawn at random with seed 0" in console.file.getvalue()
    collection = load_collection(folder)
    assert len(found) == 3
    assert {query for query, _ in found} <= set(collection.queries.values())
    contents = {document.content for document in collection.documents.values()}
    assert all(len(documents) == 4 and set(documents) <= contents for _, documents in found)
