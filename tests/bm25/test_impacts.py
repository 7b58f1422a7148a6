"""Postings have the place of their pair: how often a document has a term, and how long the document is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.bm25 import postings
from haystack_ce_ranker.bm25.index import BM25Index


def require_pairs(block, counts, lengths, first_slot=0):
    """Each posting's code stands for its count and its document's length, and no pair is there twice or for nothing."""
    assert block.impacts.counts[block.codes].tolist() == list(counts)
    assert block.impacts.lengths[block.codes].tolist() == [lengths[slot - first_slot] for slot in block.documents]
    assert len(set(zip(*(array.tolist() for array in block.impacts), strict=True))) == len(block.impacts.counts)
    assert set(block.codes.tolist()) == set(range(len(block.impacts.counts)))


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=12),
    st.integers(0, 5),
    st.sampled_from([0, 2**16]),
)
def test_codes_stand_for_counts_and_lengths(documents, first_slot, in_two_bytes):
    texts = [" ".join(f"word{number}" for number in words) for words in documents]
    terms = {}
    recent = postings.Recent.of(texts, BM25Index.build([]).analysis, terms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "_IN_TWO_BYTES", in_two_bytes)
        block, lengths = postings.block_of(recent, first_slot)
    assert lengths.tolist() == [len(words) for words in documents]
    assert block.codes.dtype == (np.uint16 if in_two_bytes or not len(block.codes) else np.uint32)
    names = list(terms)
    counts = [
        documents[slot - first_slot].count(int(names[term].removeprefix("word")))
        for term in range(len(names))
        for slot in block.documents[block.indptr[term] : block.indptr[term + 1]]
    ]
    require_pairs(block, counts, lengths.tolist(), first_slot)


def test_more_pairs_than_two_bytes_can_count_have_four():
    documents, terms = 300, 250
    slots = np.repeat(np.arange(documents, dtype=np.int32), terms)
    counts = np.tile(np.arange(1, terms + 1, dtype=np.uint32), documents)
    lengths = np.arange(1000, 1000 + documents, dtype=np.int32)
    codes, impacts = postings._coded(slots, counts.copy(), lengths, 0)
    assert (codes.dtype, len(impacts.counts)) == (np.uint32, documents * terms)
    assert np.array_equal(impacts.counts[codes], counts)
    assert np.array_equal(impacts.lengths[codes], lengths[slots])


def test_both_widths_find_the_same(monkeypatch):
    texts = [f"snow {'hut ' * (n % 7)} wind {'tree ' * (n % 3)} {n % 11}" for n in range(500)]
    narrow = BM25Index.build(texts)
    monkeypatch.setattr(postings, "_IN_TWO_BYTES", 0)
    wide = BM25Index.build(texts)
    assert (narrow._base.codes.dtype, wide._base.codes.dtype) == (np.uint16, np.uint32)
    for query in ("hut", "snow tree 4", "wind hut tree snow"):
        expected, found = narrow.search(query), wide.search(query)
        assert found.positions.tolist() == expected.positions.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("in_two_bytes", [0, 2**16])
def test_a_merge_keeps_the_pairs_that_are_left_and_no_others(monkeypatch, in_two_bytes):
    monkeypatch.setattr(postings, "_IN_TWO_BYTES", in_two_bytes)
    texts = ["snow " * n for n in range(1, 40)]
    changed = BM25Index.build(texts).update([*range(0, 39, 2), -1, -1], ["hut hut", "tree"]).merged()
    built = BM25Index.build([*texts[::2], "hut hut", "tree"])
    pairs = [sorted(zip(*(array.tolist() for array in one._base.impacts), strict=True)) for one in (changed, built)]
    assert pairs[0] == pairs[1]
    assert changed._base.codes.dtype == built._base.codes.dtype
