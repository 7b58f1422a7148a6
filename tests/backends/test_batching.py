"""Batches under a token budget."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.backends.batching import plan_batches

LENGTHS = st.lists(st.integers(1, 600), max_size=80)
LIMIT = st.none() | st.integers(1, 9)


@given(LENGTHS, st.integers(1, 2000), LIMIT, st.none() | st.integers(0, 200))
def test_each_pair_is_in_one_batch_and_no_batch_exceeds_its_budget(lengths, batch_tokens, batch_size, pass_tokens):
    batches = list(plan_batches(lengths, batch_tokens=batch_tokens, batch_size=batch_size, pass_tokens=pass_tokens))
    assert sorted(int(place) for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        cost = max(lengths[place] for place in batch) * len(batch)
        assert cost <= batch_tokens or len(batch) == 1
        assert batch_size is None or len(batch) <= batch_size
    longest = [max(lengths[place] for place in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS.map(lambda lengths: lengths[:9]), st.integers(1, 2000), LIMIT, st.integers(0, 200))
def test_padding_and_passes_together_cost_no_more_than_any_other_way_to_part_the_pairs(
    lengths, batch_tokens, batch_size, pass_tokens
):
    def cost(batches):
        return sum(max(batch) * len(batch) + pass_tokens for batch in batches)

    def fits(batch):
        within = max(batch) * len(batch) <= batch_tokens and (batch_size is None or len(batch) <= batch_size)
        return within or len(batch) == 1

    descending = sorted(lengths, reverse=True)
    ways = []
    for cuts in product([False, True], repeat=max(len(lengths) - 1, 0)):
        borders = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(lengths)]
        parts = [descending[start:stop] for start, stop in pairwise(borders) if stop > start]
        if all(map(fits, parts)):
            ways.append(cost(parts))
    plan = plan_batches(lengths, batch_tokens=batch_tokens, batch_size=batch_size, pass_tokens=pass_tokens)
    assert cost([[lengths[place] for place in batch] for batch in plan]) == min(ways)


@pytest.mark.parametrize(("name", "values"), [("batch_tokens", (0, None)), ("batch_size", (8, 0))])
def test_a_budget_of_nothing_is_an_error(name, values):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1.*, but got 0"):
        list(plan_batches([1], batch_tokens=values[0], batch_size=values[1]))
