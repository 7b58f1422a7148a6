"""The split of a pair's tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.reading.budget import room_for_texts, split_budget

lengths = st.integers(0, 2000)


@given(lengths, lengths, st.integers(2, 512), st.integers(1, 256))
def test_no_pair_exceeds_its_room_and_the_query_survives_when_it_fits(query, document, room, window):
    budget = split_budget(query, document, room=room, window=window)
    assert budget.query + budget.document == room
    if query + document <= room:
        assert budget.query == query
    if query <= room // 2 or query + window <= room:
        assert budget.query == query
    else:
        assert budget.query >= room // 2


def test_a_limit_for_the_query_is_hard():
    assert split_budget(50, 10, room=100, window=20, max_query=8) == (8, 92)


@pytest.mark.parametrize("limit", [0, -1, 100])
def test_a_limit_that_leaves_nothing_is_an_error(limit):
    with pytest.raises(ValueError, match=f"max_query_tokens.*{limit}"):
        split_budget(5, 5, room=100, window=20, max_query=limit)


def test_special_tokens_are_taken_off_and_must_leave_room():
    assert room_for_texts(512, 3) == 509
    with pytest.raises(ValueError, match="at least 5"):
        room_for_texts(4, 3)
