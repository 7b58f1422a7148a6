"""OpenSearch with our analysis finds what our index finds, on real collections and the real server."""

import pytest

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import load_collection
from opensearch_ranking import agreement, kept_length, ours, with_analyzer

pytest.importorskip("haystack_integrations.document_stores.opensearch", exc_type=ImportError)


@pytest.fixture(scope="module")
def collections(data_dir):
    return {name: load_collection(data_dir / name) for name in ("vaswani", "med", "dl19", "cacm")}


@pytest.mark.parametrize(("name", "least"), [("vaswani", 0.98), ("med", 0.98), ("dl19", 0.98), ("cacm", 0.97)])
def test_with_our_analysis_the_server_s_top_10_is_ours_and_all_but_equal_with_lucene_s_lengths(
    name, least, collections, opensearch_url
):
    collection = collections[name]
    index = BM25Index.build(text.content for text in collection.documents.values())
    found = agreement(opensearch_url, collection, index, ours())
    assert found.overlap >= least
    assert found.rounded >= 0.99


def test_the_server_s_own_analyzers_agree_less(collections, opensearch_url):
    collection = collections["cacm"]
    index = BM25Index.build(text.content for text in collection.documents.values())
    assert agreement(opensearch_url, collection, index, with_analyzer("english")).overlap < 0.9
    assert agreement(opensearch_url, collection, index, with_analyzer(None)).overlap < 0.6


def test_lengths_are_rounded_as_lucene_keeps_them():
    assert [kept_length(length) for length in range(41)] == list(range(41))
    steps = sorted({kept_length(length) for length in range(40, 105)})
    assert steps == [*range(40, 56, 2), *range(56, 88, 4), 88, 96, 104]
    assert all(kept_length(length) <= length for length in range(5000))
