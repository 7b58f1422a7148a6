"""How deep a search goes: the rule's values, the order of the steps, and where it stops."""

from types import SimpleNamespace

import numpy as np
import pytest

from haystack_ce_ranker.reading.passages import Span
from haystack_ce_ranker.scoring.depth import Depth, DepthRule, DepthSearch
from haystack_ce_ranker.scoring.prospects import Prospects


def walk(search, logits):
    """Give a search the logits it asks for; return its steps."""
    steps = []
    for places in search:
        steps.append(places)
        search.see(places, [logits[place] for place in places])
    return steps


def depth_of(found, logits):
    """How many candidates a search takes."""
    return sum(map(len, walk(found, logits)))


def search(count, depth, *, step=5, alike=None):
    return DepthSearch(Prospects(count, alike), depth, step=step)


FALLING = np.linspace(8, -8, 100).tolist()


def test_a_rule_stops_when_the_rest_cannot_reach_the_top():
    found = search(100, Depth(rule=DepthRule(risk=0.3)))
    steps = walk(found, FALLING)
    taken = [place for step in steps for place in step]
    assert taken == list(range(len(taken)))
    assert 10 <= len(taken) < 60
    assert found.missing < 0.3
    assert len(steps[0]) == 10
    assert {len(step) for step in steps[1:]} == {5}


@pytest.mark.parametrize(("on_cpu", "step", "expected"), [(True, None, 3), (False, None, 20), (True, 7, 7)])
def test_between_two_decisions_are_as_many_candidates_as_suit_the_device(on_cpu, step, expected):
    tokens = np.arange(5, dtype=np.int32)
    document = SimpleNamespace(header=tokens[:0], body=SimpleNamespace(ids=tokens))
    plans = [SimpleNamespace(document=document, pieces=[SimpleNamespace(spans=[Span(0, 5)])])] * 100
    found = Depth(rule=DepthRule(step=step)).search(plans, tokens, on_cpu=on_cpu)
    assert [len(one) for one in walk(found, FALLING)][:2] == [10, expected]


@pytest.mark.parametrize(
    ("count", "rule"), [(1, DepthRule(risk=2.0)), (30, DepthRule(risk=6.0)), (30, DepthRule(risk=2.0, top=1))]
)
def test_the_first_are_scored_whatever_the_risk(count, rule):
    assert depth_of(search(count, Depth(rule=rule)), FALLING) == min(count, max(rule.first, rule.top))


def test_less_risk_goes_deeper_and_logits_that_rise_are_followed_to_the_end():
    depths = [depth_of(search(100, Depth(rule=DepthRule(risk=risk))), FALLING) for risk in (2.0, 0.3, 0.01)]
    assert depths == sorted(depths)
    assert depths[0] < depths[2]
    rising = search(60, Depth(rule=DepthRule()))
    assert depth_of(rising, FALLING[60::-1]) == 60
    assert rising.missing == 0.0


def test_more_of_the_best_need_more_depth():
    depths = [depth_of(search(100, Depth(rule=DepthRule(top=top))), FALLING) for top in (1, 5, 20)]
    assert depths == sorted(depths)
    assert depths[0] < depths[2]


def test_never_fewer_than_the_best_that_count_are_scored_first():
    assert walk(search(40, Depth(rule=DepthRule(top=25, first=3))), FALLING)[0] == list(range(25))


def test_screening_takes_a_number_of_those_that_promise_most():
    kinds = np.arange(40) % 2
    alike = np.where(kinds[:, None] == kinds[None, :], 1.0, -1.0)
    logits = np.where(kinds == 1, 5.0, -5.0).tolist()
    found = search(40, Depth(most=17, screen=True), alike=alike)
    steps = walk(found, logits)
    assert [len(step) for step in steps] == [5, 5, 5, 2]
    assert all(step == sorted(step) for step in steps)
    assert all(kinds[place] == 1 for step in steps[1:] for place in step)
    assert found.missing is None


def test_candidates_without_a_logit_end_the_search_as_well():
    found = search(7, Depth(rule=DepthRule()))
    assert walk(found, [None] * 7) == [list(range(7))]


def test_no_candidates_no_step():
    assert walk(search(0, Depth(rule=DepthRule())), []) == []


@pytest.mark.parametrize(
    ("given", "screen", "first", "stepwise"),
    [
        (None, False, None, False),
        (None, True, None, False),
        (30, False, 30, False),
        (30, True, 1000, True),
        (3000, True, 3000, True),
        (DepthRule(), False, 1000, True),
        (DepthRule(), True, 1000, True),
    ],
)
def test_a_depth_says_whether_logits_decide(given, screen, first, stepwise):
    found = Depth.of(given, screen=screen)
    assert (found.first, found.stepwise) == (first, stepwise)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"risk": 0}, r"depth\['risk'\] must be a finite number > 0"),
        ({"risk": True}, r"depth\['risk'\] must be a finite number > 0"),
        ({"top": 0}, r"depth\['top'\] must be a whole number >= 1"),
        ({"first": 1.5}, r"depth\['first'\] must be a whole number"),
        ({"step": 0}, r"depth\['step'\] must be a whole number >= 1 or None"),
        ({"risks": 0.2}, "a key of depth must be"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        DepthRule.of(values)


def test_a_rule_says_its_values():
    assert DepthRule.of({"risk": 0.5}).plain() == {"risk": 0.5, "top": 5, "first": 10, "step": None}
