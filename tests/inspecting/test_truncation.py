"""What is kept of a pair is what the tokenizer itself keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import bert_tokenizer
from haystack_ce_ranker.inspecting.truncation import Kept, longest_first

TOKENIZER = bert_tokenizer()
SPECIAL = TOKENIZER.num_special_tokens_to_add(pair=True)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 60))
def test_as_many_tokens_are_kept_as_the_tokenizer_keeps(query, document, most):
    encoded = TOKENIZER("hut " * query, "snow " * document, truncation="longest_first", max_length=most)
    sides = encoded.sequence_ids()
    assert longest_first(query, document, most - SPECIAL) == (sides.count(0), sides.count(1))


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [((5, 20, 25), (5, 20)), ((5, 21, 25), (5, 20)), ((20, 5, 20), (15, 5)), ((30, 30, 25), (12, 13))],
)
def test_the_longer_text_is_cut_first_and_then_both_alike(lengths, kept):
    assert longest_first(*lengths) == Kept(*kept)
