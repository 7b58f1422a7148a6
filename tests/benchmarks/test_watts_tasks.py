"""benchmarks/watts_tasks.py: what a choice of candidates is worth and costs."""

import numpy as np
import pytest

from fakes import DOCUMENTS, FakeBackend
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from watts_tasks import Outcome, Query, fixed_of_cost, outcome_of

IDS = [f"d{place}" for place in range(len(DOCUMENTS))]


@pytest.fixture
def query():
    found = Query(CrossEncoderScorer(FakeBackend()), "the hut", IDS, [DocumentText(one) for one in DOCUMENTS], {})
    best = int(np.argmax([one.logit for one in found.whole.documents]))
    found.judged = {IDS[best]: 1}
    return found


def added(query, scored, **more):
    outcome = Outcome()
    query.add(np.isin(np.arange(len(IDS)), scored), outcome, **more)
    return outcome


def test_all_candidates_cost_all_tokens_and_put_the_best_first(query):
    outcome = outcome_of([query], len(IDS))
    assert (outcome.quality, outcome.tokens, outcome.missed) == ([1.0], [1.0], [0])


def test_a_choice_costs_the_tokens_of_its_candidates_and_its_own(query):
    tokens = query.tokens
    expected = (tokens[1] + tokens[3]) / tokens.sum()
    assert added(query, [1, 3]).tokens == [pytest.approx(expected)]
    assert added(query, [1, 3], own=0.25).tokens == [pytest.approx(expected + 0.25)]


@pytest.mark.parametrize(("rank", "place"), [(0, 2), (9, len(IDS))])
def test_what_is_not_scored_stands_below_what_is_by_the_rank_it_is_told(query, rank, place):
    [best] = [number for number, name in enumerate(IDS) if name in query.judged]
    ranks = [1 + number for number in range(len(IDS))]
    ranks[best] = rank
    scored = 0 if best else 1
    assert added(query, [scored], then=ranks).mean == pytest.approx(1 / np.log2(1 + place))


def test_what_is_not_scored_stands_below_as_it_came_if_nothing_is_told(query):
    [best] = [number for number, name in enumerate(IDS) if name in query.judged]
    place = 1 + best + (best < len(IDS) - 1)  # the last one is scored, and stands before all others
    assert added(query, [len(IDS) - 1]).mean == pytest.approx(1 / np.log2(1 + place))


def test_the_fixed_depth_costs_no_less(query):
    depth, outcome = fixed_of_cost([query], 0.5)
    assert outcome.cost >= 0.5
    assert depth == 10  # the smallest that is tried reads all of six candidates
