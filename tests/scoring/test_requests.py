"""Candidates in groups that fit a batch, in their order."""

from itertools import pairwise
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.scoring.requests import Candidate, groups_of


@given(st.lists(st.lists(st.integers(1, 30), max_size=3)), st.integers(1, 60))
def test_groups_keep_the_order_and_fit_a_batch_where_one_candidate_does(costs, tokens):
    candidates = [Candidate(SimpleNamespace(pieces=pieces, cost=lambda piece: piece)) for pieces in costs]
    groups = groups_of(candidates, tokens)
    assert [one for group in groups for one in group] == candidates
    sums = [[sum(one.plan.pieces) for one in group] for group in groups]
    assert all(sum(group) <= tokens or len([cost for cost in group if cost]) == 1 for group in sums)
    assert all(sum(group) + following[0] > tokens for group, following in pairwise(sums))
