"""Comparing systems: intervals and counts that fit the values, and the queries that were helped and hurt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.evaluation.judging.comparison import (
    Evidence,
    MovedDocument,
    Passage,
    compare,
    helped_and_hurt,
    versus,
)
from haystack_ce_ranker.significance import holm

VALUES = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.63, 1.0])
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30)


def by_id(values):
    return {f"q{place}": float(value) for place, value in enumerate(values)}


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_both_ways_round_the_figures_are_mirrored(pairs):
    old, new = by_id(a for a, _ in pairs), by_id(b for _, b in pairs)
    there, back = compare(old, new), compare(new, old)
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert (there.low, there.high) == (pytest.approx(-back.high, abs=1e-9), pytest.approx(-back.low, abs=1e-9))
    assert there.p == back.p
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert there.wins + there.ties + there.losses == len(pairs)
    assert 0 < there.p <= 1
    assert there.low - 1e-9 <= there.difference <= there.high + 1e-9


@settings(max_examples=30, deadline=None)
@given(PAIRS, st.randoms())
def test_the_order_of_the_queries_plays_no_part(pairs, random):
    old, new = by_id(a for a, _ in pairs), by_id(b for _, b in pairs)
    shuffled = list(old)
    random.shuffle(shuffled)
    assert compare(old, new) == compare({q: old[q] for q in shuffled}, {q: new[q] for q in reversed(shuffled)})


def test_a_system_is_the_same_as_itself_and_rounding_is_no_difference():
    old = by_id([0.1, 0.5, 0.9])
    found = compare(old, {query: value + 1e-13 for query, value in old.items()})
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert (found.wins, found.ties, found.losses) == (0, 3, 0)


def test_other_queries_and_no_queries_are_refused():
    with pytest.raises(ValueError, match="at least one query"):
        compare({}, {})
    with pytest.raises(ValueError, match="'q1' is in one only"):
        compare(by_id([0.1, 0.2]), by_id([0.1]))


BY_QUERY = {
    "bm25": {"nDCG@10": {"q1": 0.2, "q2": 0.9, "q3": 0.5, "q4": 0.1}},
    "ce": {"nDCG@10": {"q1": 0.8, "q2": 0.4, "q3": 0.5, "q4": 0.3}},
}
BEFORE = {"q1": {f"d{n}": 20.0 - n for n in range(12)}, "q2": {"x": 2.0, "y": 1.0}}
AFTER = {"q1": {"d11": 3.0, "d0": 2.0, **{f"d{n}": 1.0 - n for n in range(1, 11)}}, "q2": {"y": 2.0, "z": 1.0}}
READINGS = {
    "q1": {"d11": Evidence(5.5, 0.25, (Passage(0, 80, 5.5), Passage(900, 990, 1.0)))},
    "q2": {"y": Evidence(coverage=1.0)},
}


def helped(**changes):
    given = {
        "baseline": "bm25",
        "system": "ce",
        "before": BEFORE,
        "after": AFTER,
        "judgments": {"q1": {"d11": 2, "d5": 0}, "q2": {"x": 1}},
        "readings": READINGS,
    }
    return helped_and_hurt(BY_QUERY, **(given | changes))


def test_the_most_helped_and_hurt_come_with_ranks_grades_and_what_was_read():
    found = helped()
    assert (found.system, found.baseline, found.measure) == ("ce", "bm25", "nDCG@10")
    assert [one.query for one in found.helped] == ["q1", "q4"]
    assert [one.query for one in found.hurt] == ["q2"]
    first = found.helped[0]
    assert (first.before, first.after) == (0.2, 0.8)
    assert first.gain == pytest.approx(0.6)
    assert first.documents[0] == MovedDocument(
        document="d11",
        grade=2,
        rank_before=12,
        rank_after=1,
        logit=5.5,
        coverage=0.25,
        read=(Passage(0, 80, 5.5), Passage(900, 990, 1.0)),
    )
    assert [one.rank_after for one in first.documents] == list(range(1, 12))
    last = first.documents[-1]  # the first ten after, and one that was among them before
    assert (last.document, last.rank_before, last.rank_after) == ("d9", 10, 11)
    assert {one.grade for one in first.documents} == {2, 0, None}


def test_a_document_that_one_ranking_lacks_has_no_rank_there_and_comes_last():
    hurt = helped().hurt[0].documents
    found = [(one.document, one.rank_before, one.rank_after) for one in hurt]
    assert found == [("y", 2, 1), ("z", None, 2), ("x", 1, None)]
    assert hurt[0].coverage == 1.0
    assert (hurt[1].coverage, hurt[1].read, hurt[1].logit) == (None, (), None)
    assert helped().helped[1].documents == ()  # no ranking of q4 is known


def test_at_most_so_many_queries_are_named_and_equal_ones_never():
    found = helped(most=1)
    assert [one.query for one in found.helped] == ["q1"]
    assert "q3" not in {one.query for one in [*helped(most=9).helped, *helped(most=9).hurt]}
    with pytest.raises(ValueError, match="most must be a whole number >= 1, but got 0"):
        helped(most=0)


def test_every_system_but_the_baseline_is_compared_and_corrected():
    random = np.random.default_rng(0)
    base = random.random(40)
    by_query = {"bm25": {"nDCG@10": by_id(base)}}
    by_query |= {f"s{n}": {"nDCG@10": by_id(base + random.normal(0.03 * n, 0.1, 40))} for n in range(4)}
    found = versus(by_query, "bm25")
    assert list(found) == ["s0", "s1", "s2", "s3"]
    assert holm({name: one.p for name, one in found.items()}) == {n: one.p_corrected for n, one in found.items()}
    assert found["s3"].p_corrected < 0.05 < found["s0"].p_corrected
    assert versus({"bm25": by_query["bm25"]}, "bm25") == {}
    with pytest.raises(ValueError, match="baseline must be one of 'bm25', .*but got 'bm26'"):
        versus(by_query, "bm26")
