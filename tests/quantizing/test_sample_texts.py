"""The built-in texts that a quantised model is verified on."""

from haystack_ce_ranker.quantizing.quantize import TOP
from haystack_ce_ranker.quantizing.sample_texts import QUERIES, TEXTS, sample_requests


def test_the_built_in_texts_are_one_ranking_a_query():
    assert len(set(TEXTS)) == len(TEXTS) >= 2 * TOP
    assert [query for query, _ in sample_requests()] == list(QUERIES)
