"""Segments: features are what they say, thirds are thirds, and an effect is only named where there is evidence."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.judging.segments import AMBIGUOUS, FEATURES, features, judge, split
from haystack_ce_ranker.gating.decision import predict

COLLECTION = Collection(
    "shop",
    {
        "d1": Text("d1", "Brakes", "the brake of a car squeals in the rain"),
        "d2": Text("d2", "", "snow"),
        "d3": Text("d3", "", "a hut in the snow of the mountains with a stove and seven beds"),
    },
    {"q1": "squealing brakes", "q2": "huts with stoves", "q3": "the"},
    {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2, "d2": 1, "gone": 1}, "q3": {}},
)
FIRST = {"q1": {"d1": 4.0, "d3": 1.0, "gone": 0.5}, "q2": {"d3": 2.0}}


def test_features_are_what_they_say():
    found = features(COLLECTION, FIRST)
    assert list(found) == ["q1", "q2", "q3"]
    assert all(list(values) == list(FEATURES) for values in found.values())
    assert found["q1"] == {
        "query_words": 2.0,
        "shared_words": 1.0,  # by their stems
        "relevant_words": 10.0,  # with the title
        "candidate_words": pytest.approx((10 + 14) / 2),
        "relative_margin": 0.75,
        "nqc": predict("nqc", [4.0, 1.0, 0.5]),
    }
    assert found["q2"]["shared_words"] == pytest.approx((1.0 + 0.0) / 2)
    assert found["q2"]["relevant_words"] == 7.5
    assert found["q2"]["relative_margin"] is None  # a single candidate
    assert [found["q3"][key] for key in ("shared_words", "relevant_words", "candidate_words", "nqc")] == [None] * 4
    assert json.loads(json.dumps(found)) == found


def test_the_relevance_level_decides_whose_words_count():
    assert features(COLLECTION, FIRST, relevance_level=2)["q2"]["shared_words"] == 1.0


def described(values, key="query_words", **others):
    return {
        f"q{place}": {**dict.fromkeys(FEATURES), key: value, **{k: v[place] for k, v in others.items()}}
        for place, value in enumerate(values)
    }


def members(segments, key="query_words"):
    return [segment.queries for segment in segments if segment.feature == key]


def test_thirds_are_thirds_and_say_their_bounds():
    found = split(described([float(n) for n in range(1, 10)]))
    assert [len(queries) for queries in members(found)] == [3, 3, 3]
    assert [segment.bounds for segment in found] == ["words at most 3", "words above 3, at most 6", "words above 6"]
    assert [segment.name for segment in found] == ["short queries", "queries of middle length", "long queries"]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9])), max_size=40))
def test_every_query_with_a_value_is_in_one_segment_and_equal_values_are_never_parted(values):
    found = members(split(described(values)))
    known = {f"q{place}": value for place, value in enumerate(values) if value is not None}
    if len(set(known.values())) < 2:
        assert found == []
        return
    assert len(found) >= 2
    assert all(found)
    assert sorted(query for queries in found for query in queries) == sorted(known)
    seen = [{known[query] for query in queries} for queries in found]
    assert all(max(a) < min(b) for a, b in itertools.pairwise(seen))


def test_ambiguous_queries_are_short_and_have_flat_scores():
    words = [2.0, 2.0, 3.0, 9.0, 9.0, 9.0]
    found = split(described(words, nqc=[0.1, 0.5, 0.2, 0.1, 0.6, 0.7]))
    (ambiguous,) = [segment for segment in found if segment.name == AMBIGUOUS]
    assert ambiguous.queries == ("q0",)
    assert "words at most 3," in ambiguous.bounds


def judged(gains, values, **changes):
    old = {f"q{place}": 0.5 for place in range(len(values))}
    new = {query: 0.5 + gain for query, gain in zip(old, gains, strict=True)}
    by_query = {"bm25": {"nDCG@10": old}, "ce": {"nDCG@10": new}}
    return judge(described(values), by_query, **({"baseline": "bm25", "system": "ce"} | changes))


def effects(found):
    return {row.name: row.effect for row in found.segments}


def test_it_helps_where_it_gains_harms_where_it_loses_and_is_silent_in_between():
    random = np.random.default_rng(1)
    values = [float(n) for n in range(90)]
    gains = [(0.2 if n < 30 else 0.0 if n < 60 else -0.2) + random.normal(0, 0.05) for n in range(90)]
    found = judged(gains, values)
    assert effects(found) == {
        "short queries": "helps",
        "queries of middle length": "no evidence",
        "long queries": "harms",
    }
    first, _, last = found.segments
    assert first.queries == 30
    assert first.gain == pytest.approx(np.mean(gains[:30]))
    assert first.gain_elsewhere == pytest.approx(np.mean(gains[30:]))
    assert first.interval[0] > 0 > last.interval[1]
    assert found.correction == "Holm over 3 segments"


def test_a_segment_of_few_queries_is_not_judged_however_large_the_gain():
    found = judged([0.5] * 9 + [0.0] * 60, [1.0] * 9 + [2.0] * 30 + [3.0] * 30)
    row = found.segments[0]
    assert (row.queries, row.effect, row.gain) == (39, "helps", pytest.approx(0.5 * 9 / 39))
    found = judged([0.5] * 24, [float(n) for n in range(24)])
    assert set(effects(found).values()) == {"too few"}
    assert {row.interval for row in found.segments} == {None}
    assert {row.p_corrected for row in found.segments} == {None}
    with pytest.raises(ValueError, match="fewest must be a whole number >= 2, but got 1"):
        judged([0.0], [1.0], fewest=1)


def test_of_many_segments_without_an_effect_hardly_any_is_said_to_have_one():
    """At a level of 0.05 without a correction, about one in two of these 40 collections would have a false finding."""
    wrong = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        found = {
            f"q{n}": {key: float(value) for key, value in zip(FEATURES, random.random(len(FEATURES)), strict=True)}
            for n in range(60)
        }
        old = dict.fromkeys(found, 0.5)
        new = {query: 0.5 + random.normal(0, 0.2) for query in found}
        rows = judge(found, {"a": {"nDCG@10": old}, "b": {"nDCG@10": new}}, baseline="a", system="b").segments
        assert len(rows) >= 18
        wrong += any(row.effect in ("helps", "harms") for row in rows)
    assert wrong <= 6


def test_queries_that_were_not_measured_play_no_part():
    values = [float(n) for n in range(60)]
    found = described(values) | {"unknown": dict.fromkeys(FEATURES, 1.0)}
    old = {f"q{n}": 0.5 for n in range(60)}
    rows = judge(found, {"a": {"nDCG@10": old}, "b": {"nDCG@10": old}}, baseline="a", system="b").segments
    assert sum(row.queries for row in rows if row.feature == "query_words") == 60
