"""benchmarks/kept.py: scores are computed once, and kept results are the same values in fewer lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kept
from fakes import REPOSITORY

RESULTS = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=6),
    max_leaves=40,
)


def test_a_value_is_computed_once_for_what_made_it(tmp_path):
    computed = []

    def compute():
        computed.append(len(computed))
        return {"scores": [1.5, None], "run": len(computed)}

    store = kept.ScoreStore(tmp_path, source="a")
    assert store.once({"model": "m", "queries": 3}, compute) == {"scores": [1.5, None], "run": 1}
    assert store.once({"queries": 3, "model": "m"}, compute)["run"] == 1
    assert store.once({"model": "m", "queries": 4}, compute)["run"] == 2
    assert kept.ScoreStore(tmp_path, source="a").once({"model": "m", "queries": 3}, compute)["run"] == 1
    assert kept.ScoreStore(tmp_path, source="b").once({"model": "m", "queries": 3}, compute)["run"] == 3
    assert kept.ScoreStore(None, source="a").once({"model": "m", "queries": 3}, compute)["run"] == 4


def test_only_the_numbers_that_are_not_kept_are_computed(tmp_path):
    asked = []

    def compute(places):
        asked.append(places)
        return [10.0 * place for place in places]

    store = kept.ScoreStore(tmp_path, source="a")
    keys = [store.key(b"pair", bytes([number])) for number in range(4)]
    assert store.numbers(keys[1:3], compute) == [0.0, 10.0]
    assert store.numbers(keys, compute) == [0.0, 0.0, 10.0, 30.0]
    assert store.numbers(keys, compute) == [0.0, 0.0, 10.0, 30.0]
    assert asked == [[0, 1], [0, 3]]


def test_keys_tell_apart_where_one_part_ends_and_the_next_begins():
    store = kept.ScoreStore(None, source="a")
    assert store.key(b"ab", b"c") != store.key(b"a", b"bc")


@given(value=VALUES, width=st.integers(1, 80))
def test_compact_json_keeps_the_values_and_their_order(value, width):
    text = kept.compact_json(value, width=width)
    assert json.dumps(json.loads(text)) == json.dumps(value)


def test_compact_json_wraps_only_what_does_not_fit():
    value = {"a": {"b": 1, "c": [1, 2]}, "long": list(range(12)), "d": 2}
    assert kept.compact_json(value, width=20).splitlines() == [
        *("{", '"a":{"b":1,"c":[1,2]},', '"long":[', "0,1,2,3,4,5,6,7,8,9,", "10,11", "],", '"d":2', "}"),
    ]


def test_a_number_that_json_lacks_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        kept.compact_json({"p": float("nan")})


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_the_kept_results_are_compact(file):
    text = file.read_text("utf-8")
    assert kept.compact_json(json.loads(text)) == text
