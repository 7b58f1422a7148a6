"""Checks of parameters: what counts as a number, what comes back, and what an error says."""

import json
import math

import numpy as np
import pytest

from haystack_ce_ranker import checks


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5)])
def test_whole_numbers_come_back_plain(value):
    found = checks.whole_number("top_k", value)
    assert found == 5
    assert json.dumps(found) == "5"


@pytest.mark.parametrize("value", [5.0, "5", True, np.bool_(True), None, [5], np.float32(5), float("nan")])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=r"^top_k must be a whole number >= 1, but got "):
        checks.whole_number("top_k", value)


def test_whole_numbers_have_a_least_value():
    assert checks.whole_number("cache_size", 0, least=0) == 0
    with pytest.raises(ValueError, match=r"top_k must be a whole number >= 1, but got 0\."):
        checks.whole_number("top_k", 0)
    with pytest.raises(ValueError, match=r"top_k must be a whole number >= 1 or None, but got -1\."):
        checks.whole_number("top_k", -1, optional=True)
    assert checks.whole_number("top_k", None, optional=True) is None


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5)])
def test_numbers_come_back_plain(value):
    found = checks.number("k1", value)
    assert type(found) is float
    assert found == 0.5


def test_a_whole_number_stays_one():
    assert json.dumps(checks.number("score_threshold", np.int64(1))) == "1"


@pytest.mark.parametrize("value", ["0.5", True, np.bool_(False), None, math.nan, math.inf, 1 + 2j])
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(ValueError, match="k1 must be a finite number, but got "):
        checks.number("k1", value)


def test_limits_of_a_number_are_named():
    assert checks.number("b", 1, least=0, most=1) == 1
    with pytest.raises(ValueError, match=r"b must be a finite number >= 0 and <= 1, but got 1\.5\."):
        checks.number("b", 1.5, least=0, most=1)
    with pytest.raises(ValueError, match=r"deadline_ms must be a finite number > 0 or None, but got 0\."):
        checks.number("deadline_ms", 0, above=0, optional=True)
    assert checks.number("threshold", math.inf, infinite=True) == math.inf
    with pytest.raises(ValueError, match="threshold must be a number, but got nan"):
        checks.number("threshold", math.nan, infinite=True)


def test_a_choice_lists_what_there_is():
    assert checks.choice("method", "a", {"a": 1, "b": 2}) == "a"
    assert checks.choice("method", None, ("a",), optional=True) is None
    with pytest.raises(ValueError, match=r"method must be one of 'a', 'b', but got 'c'\."):
        checks.choice("method", "c", ("a", "b"))
    with pytest.raises(ValueError, match=r"method must be one of 'a' or None, but got \['a'\]\."):
        checks.choice("method", ["a"], ("a",), optional=True)


def test_texts_and_names():
    assert checks.text("query", "") == ""
    with pytest.raises(ValueError, match="query must be a text, but got None"):
        checks.text("query", None)
    given = ("title", "tags")
    assert checks.names("meta_fields_to_embed", given) == ["title", "tags"]
    assert checks.names("meta_fields_to_embed", None) is None
    for wrong in ("title", {"title": 1}, [1], 5):
        with pytest.raises(ValueError, match="meta_fields_to_embed must be a list of names or None, but got "):
            checks.names("meta_fields_to_embed", wrong)


def test_is_number_knows_booleans_and_nan():
    assert checks.is_number(math.nan)
    assert not checks.is_finite(math.nan)
    assert checks.is_finite(np.float32(1))
    assert not checks.is_number(np.bool_(True))
