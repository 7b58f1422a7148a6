"""The normalizers: their formulas, their edges, and what their parameters may be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.fusion.normalizers import (
    AUTO,
    NORMALIZERS,
    Normalizer,
    parse_normalization,
    parse_normalizations,
    sigmoid,
)

SPECS = {
    "none": "none",
    "min_max": "min_max",
    "theoretical": {"name": "theoretical", "low": -12, "high": 12},
    "z_score": "z_score",
    "rank": "rank",
    "log": {"name": "log", "scale": 2},
    "logit": "logit",
    "logistic": {"name": "logistic", "slope": 0.5, "intercept": -1},
}


def apply(spec: object, known: list[float], values: list[float] | None = None) -> list[float]:
    scores = np.array(known, dtype=float)
    return parse_normalization(spec).apply(scores, scores if values is None else np.array(values, dtype=float)).tolist()


def test_every_normalizer_is_covered_here() -> None:
    assert set(SPECS) == set(NORMALIZERS)


@pytest.mark.parametrize(
    ("spec", "known", "expected"),
    [
        ("none", [3.0, -1.0, 0.0], [3.0, -1.0, 0.0]),
        ("min_max", [3.0, -1.0, 0.0], [1.0, 0.0, 0.25]),
        ({"name": "theoretical", "low": -12, "high": 12}, [12.0, -12.0, 18.0], [1.0, 0.0, 1.25]),
        ({"name": "theoretical", "low": 0}, [10.0, 5.0, 0.0], [1.0, 0.5, 0.0]),
        ("z_score", [1.0, -1.0], [1.0, -1.0]),
        ("rank", [9.0, 2.0, 2.0, 1.0], [1 / 61, 1 / 62, 1 / 62, 1 / 64]),
        ({"name": "rank", "k": 0}, [9.0, 2.0], [1.0, 0.5]),
        ("log", [9.0, 0.0, -9.0], [5 * math.log(10), 0.0, -5 * math.log(10)]),
        ({"name": "log", "scale": 2}, [math.e - 1], [2.0]),
        ("logit", [0.5, 0.9], [0.0, math.log(9)]),
        ({"name": "logistic", "slope": 2, "intercept": -1}, [0.5, 1.0], [0.5, 1 / (1 + math.exp(-1))]),
    ],
)
def test_formulas(spec: object, known: list[float], expected: list[float]) -> None:
    assert apply(spec, known) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", 0.3),
        ("min_max", 0.5),
        ("z_score", 0.0),
        ("rank", 1 / 61),
        ("log", 2 * math.log(1.3)),
        ("logit", math.log(0.3 / 0.7)),
    ],
)
@pytest.mark.parametrize("count", [1, 4])
def test_one_document_and_equal_scores_carry_no_information(name: str, expected: float, count: int) -> None:
    assert apply(SPECS[name], [0.3] * count) == pytest.approx([expected] * count)


def test_theoretical_without_room_between_its_bounds_says_nothing() -> None:
    assert apply({"name": "theoretical", "low": 0}, [-1.0, -2.0]) == [0.5, 0.5]


def test_logit_survives_scores_that_have_saturated_and_refuses_what_is_no_probability() -> None:
    low, high = apply("logit", [0.0, 1.0])
    assert low == pytest.approx(-16.118, abs=1e-3)
    assert high == pytest.approx(16.118, abs=1e-3)
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], but got scores from 0.5 to 7"):
        apply("logit", [0.5, 7.0])


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=30))
def test_no_normalizer_turns_the_order_round(scores: list[float]) -> None:
    order = np.argsort(scores, kind="stable")
    for spec in SPECS.values():
        assert (np.diff(np.array(apply(spec, scores))[order]) >= -1e-12).all(), spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minmax", "must be one of 'none', 'min_max'"),
        (3, "must be a name or"),
        ({"low": 1}, "must be a name or"),
        ("theoretical", "needs low"),
        ({"name": "theoretical", "low": 2, "high": 1}, "high must be a finite number > 2, but got 1"),
        ({"name": "theoretical", "low": float("nan")}, "low must be a finite number, but got nan"),
        ({"name": "rank", "k": -1}, "k must be a finite number >= 0, but got -1"),
        ({"name": "log", "scale": 0}, "scale must be a finite number > 0, but got 0"),
        ({"name": "rank", "k": True}, "finite number >= 0, but got True"),
        ({"name": "min_max", "low": 0}, "has no parameter 'low'; its parameters: none"),
        ({"name": "logistic", "slope": 1}, "needs intercept"),
    ],
)
def test_a_wrong_normalizer_is_named(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_normalization(spec)


def test_by_default_every_input_is_looked_at() -> None:
    inputs = ["bm25", "cross_encoder", "embedding"]
    assert parse_normalizations(None, inputs) == dict.fromkeys(inputs, AUTO)
    assert parse_normalizations("auto", inputs) == dict.fromkeys(inputs, AUTO)
    asked = parse_normalizations({"a": "rank", "b": "auto"}, ["a", "b", "bm25"])
    assert [asked[name].name for name in ("a", "b", "bm25")] == ["rank", "auto", "none"]  # what is asked for counts
    assert AUTO.spec() == "auto"
    assert not AUTO.steady
    with pytest.raises(ValueError, match="'auto' has no parameter 'low'; its parameters: none"):
        parse_normalization({"name": "auto", "low": 0})


def test_a_normalizer_writes_itself_as_plain_values() -> None:
    for spec in SPECS.values():
        parsed = parse_normalization(spec)
        assert parse_normalization(parsed.spec()) == parsed
    assert parse_normalization("none").spec() == "none"


@pytest.mark.parametrize("spec", list(SPECS.values()), ids=SPECS)
def test_a_steady_score_does_not_depend_on_the_list(spec: object) -> None:
    """What `steady` promises in the table, seen from outside: another list around a score does not change it."""
    parsed = parse_normalization(spec)
    moved = apply(spec, [0.1, 0.5, 0.9], [0.5]) != apply(spec, [0.4, 0.5, 0.6, 0.8], [0.5])
    assert parsed.steady == (not moved)


def test_theoretical_is_steady_with_both_its_bounds_only() -> None:
    assert parse_normalization({"name": "theoretical", "low": 0, "high": 9}).steady
    assert not parse_normalization({"name": "theoretical", "low": 0}).steady


@pytest.mark.parametrize(
    ("name", "normalizer"), [(name, known) for name, known in NORMALIZERS.items() if known.parameters]
)
def test_the_table_holds_for_each_parameter(name: str, normalizer: Normalizer) -> None:
    """A value on its limit is taken or refused as the table says, a missing one is an error or gets its default."""
    full = {"name": name, **SPECS[name]} if isinstance(SPECS[name], dict) else {"name": name}
    for key, parameter in normalizer.parameters.items():
        without = {k: v for k, v in full.items() if k != key}
        if parameter.required:
            with pytest.raises(ValueError, match=f"needs {key}"):
                parse_normalization(without)
        else:
            assert parse_normalization(without).params.get(key) == parameter.default
        if parameter.least is not None:
            assert parse_normalization({**full, key: parameter.least}).params[key] == parameter.least
            with pytest.raises(ValueError, match=f"{key} must be a finite number >="):
                parse_normalization({**full, key: parameter.least - 0.1})
        if parameter.above is not None:
            limit = full[parameter.above] if isinstance(parameter.above, str) else parameter.above
            with pytest.raises(ValueError, match=f"{key} must be a finite number >"):
                parse_normalization({**full, key: limit})
            assert parse_normalization({**full, key: limit + 0.1}).params[key] == limit + 0.1


def test_one_normalizer_with_parameters_serves_all_inputs():
    found = parse_normalizations({"name": "log", "scale": 2}, ["bm25", "dense"])
    assert {one.spec()["scale"] for one in found.values()} == {2.0}
    named = parse_normalizations({"name": "min_max"}, ["name", "bm25"])  # here an input is called so
    assert (named["name"].name, named["bm25"].name) == ("min_max", "none")
