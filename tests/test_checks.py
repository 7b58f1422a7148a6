"""Checks of parameters: what counts as a number, what comes back, and what an error says."""

import enum
import json
import math
import re
from pathlib import Path

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


Name = enum.Enum("Name", {"A": "a"}, type=str)


def test_a_number_that_is_too_large_for_a_float_is_not_finite():
    assert not checks.is_finite(10**400)
    for infinite in (True, False):
        with pytest.raises(ValueError, match="k1 must be a (finite )?number, but got 1000"):
            checks.number("k1", 10**400, infinite=infinite)


@pytest.mark.parametrize(
    ("value", "told"), [("5", "'5', a text."), (5.0, "5.0, a float: write 5."), (True, "True, a boolean."), (0, "0.")]
)
def test_what_looks_like_a_whole_number_is_told_apart(value, told):
    with pytest.raises(ValueError, match=f"top_k must be a whole number >= 1, but got {re.escape(told)}$"):
        checks.whole_number("top_k", value)


def test_flags_are_booleans_alone():
    assert checks.flag("scale_score", np.bool_(True)) is True
    assert checks.flag("scale_score", None, optional=True) is None
    for wrong in ("false", 0, 1, None, []):
        with pytest.raises(ValueError, match="scale_score must be True or False, but got "):
            checks.flag("scale_score", wrong)


def test_paths_come_back_as_texts():
    assert checks.path("index_path", Path("a/b")) == "a/b"
    assert checks.path("index_path", None) is None
    for wrong in ("", " ", 5, b"a"):
        with pytest.raises(ValueError, match="index_path must be a path"):
            checks.path("index_path", wrong)


def test_texts_that_are_more_than_texts_come_back_plain():
    for value in (Name.A, np.str_("a")):
        found = [
            checks.text("name", value),
            checks.choice("name", value, ("a",)),
            checks.path("name", value),
            *checks.names("name", [value]),
            *checks.options("name", {value: 1}),
        ]
        assert found == ["a"] * 5
        assert {type(one) for one in found} == {str}


def test_options_are_copied_deeply_and_made_plain_as_far_as_there_is_a_plain_form():
    odd = object()
    given = {"a": {1: np.int64(1), "b": [np.float32(0.5), np.bool_(True), Path("a"), odd]}, "c": {np.int64(2)}}
    found = checks.options("filters", given)
    assert found == {"a": {1: 1, "b": [0.5, True, "a", odd]}, "c": {2}}
    assert [type(one) for one in found["a"]["b"]] == [float, bool, str, object]
    assert found["a"] is not given["a"]


def test_what_can_be_written_is_copied_and_what_cannot_is_named_by_its_place():
    given = {"a": [1, (True, None)], "b": {"c": {0.5}}}
    found = checks.writable("filters", given)
    assert found == given
    assert found["a"] is not given["a"]
    with pytest.raises(ValueError, match=r"filters\['a'\]\[1\] is .*, and a pipeline's YAML cannot hold int64: give"):
        checks.writable("filters", {"a": [0, np.int64(1)]})


def test_texts_and_names():
    assert checks.text("query", "") == ""
    assert checks.text("query", None, optional=True) is None
    with pytest.raises(ValueError, match="name must not be empty, but got ' '"):
        checks.text("name", " ", empty=False)
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
