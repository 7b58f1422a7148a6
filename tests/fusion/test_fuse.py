"""The arithmetic of fusion: rules for what a list lacks, ties, weights, and agreement with ranx."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.fusion.fuse import (
    MISSING_RULES,
    Fused,
    ScoredList,
    align,
    check_weights,
    fuse,
    normalize,
    shares,
)
from haystack_ce_ranker.fusion.normalizers import Normalization, parse_normalization


def listed(*pairs: tuple[str, float | None], floor: float | None = None, reranked: bool = False) -> ScoredList:
    return ScoredList([i for i, _ in pairs], [s for _, s in pairs], floor, reranked)


def values_of(fused: Fused, name: str) -> dict[str, float]:
    return dict(zip(fused.ids, fused.normalized[fused.names.index(name)].tolist(), strict=True))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "must map input names"),
        ([0.5], "must map input names"),
        ({"a": -1}, "must be a finite number >= 0, but got -1"),
        ({"a": float("nan")}, "but got nan"),
        ({"a": "1"}, "but got '1'"),
        ({"a": True}, "but got True"),
        ({"a": 0, "b": 0.0}, "must not all be 0"),
    ],
)
def test_wrong_weights_are_named(weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights(weights)


def test_shares_go_to_those_who_are_there() -> None:
    weights = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.0}
    assert shares(weights, ["a", "b", "c", "d"]) == {"a": 0.5, "b": 0.25, "c": 0.25}
    assert shares(weights, ["b", "c"]) == {"b": 0.5, "c": 0.5}
    assert shares(weights, ["d"]) == {"d": 1.0}
    assert shares(weights, []) == {}


def test_weighted_sum_by_hand() -> None:
    fused = fuse(
        {"ce": listed(("x", 2.0), ("y", -4.0)), "bm25": listed(("y", 10.0), ("x", 5.0), ("z", 1.0))},
        {"ce": 0.8, "bm25": 0.2},
    )
    assert fused.ids == ["x", "y", "z"]
    assert fused.scores == pytest.approx([0.8 * 2 + 0.2 * 5, 0.8 * -4 + 0.2 * 10, 0.8 * -4 + 0.2 * 1])
    assert fused.ranks.tolist() == [[2, 1, 3], [1, 2, 0]]
    assert math.isnan(fused.raw[1, 2])


def test_a_document_that_a_list_lacks_never_beats_one_that_it_scored_low() -> None:
    """DocumentJoiner counts what is missing as 0, which beats every negative logit."""
    lists = {"ce": listed(("low", -8.0), ("high", 5.0)), "bm25": listed(("low", 3.0), ("unseen", 2.9), ("high", 1.0))}
    assert fuse(lists, {"ce": 0.8, "bm25": 0.2}).ids == ["high", "low", "unseen"]
    assert fuse(lists, {"ce": 0.8, "bm25": 0.2}, missing="zero").ids == ["high", "unseen", "low"]


def test_missing_rules() -> None:
    lists = {
        "a": listed(("p", 4.0), ("q", 2.0), ("r", 1.0)),
        "b": listed(("p", 8.0), ("q", 4.0), ("r", 2.0), ("s", 1.0)),
    }
    weights = {"a": 0.5, "b": 0.5}
    assert values_of(fuse(lists, weights, missing="min"), "a")["s"] == 1.0
    assert values_of(fuse(lists, weights, missing="zero"), "a")["s"] == 0.0
    dropped = fuse(lists, weights, missing="drop")
    assert (dropped.ids, dropped.dropped) == (["p", "q", "r"], ["s"])
    assert values_of(fuse(lists, weights, missing="impute"), "a")["s"] == pytest.approx(0.5)  # on the line a = b / 2


def test_imputed_values_stay_below_what_the_list_kept_unless_it_was_reranked() -> None:
    pairs = (("p", 4.0), ("q", 2.0), ("r", 1.0))
    other = listed(("p", 8.0), ("q", 4.0), ("r", 2.0), ("s", 6.0))
    weights = {"a": 0.5, "b": 0.5}
    kept = fuse({"a": listed(*pairs), "b": other}, weights, missing="impute")
    assert values_of(kept, "a")["s"] == 1.0
    reranked = fuse({"a": listed(*pairs, reranked=True), "b": other}, weights, missing="impute")
    assert values_of(reranked, "a")["s"] == pytest.approx(3.0)


@pytest.mark.parametrize("scores", [[4.0, 4.0, 4.0, 9.0], [1.0, 2.0, 3.0, 9.0]])
def test_impute_without_a_rising_relation_is_the_minimum(scores: list[float]) -> None:
    lists = {"a": listed(("p", 4.0), ("q", 3.0), ("r", 2.0)), "b": ScoredList(["p", "q", "r", "s"], scores)}
    assert values_of(fuse(lists, {"a": 0.5, "b": 0.5}, missing="impute"), "a")["s"] == 2.0


def test_the_floor_of_a_cut_list_is_what_its_missing_documents_count_with() -> None:
    cut = listed(("x", 5.0), ("y", 3.0), floor=-9.0)
    fused = fuse({"a": cut, "b": listed(("z", 1.0), ("x", 0.5))}, {"a": 0.5, "b": 0.5})
    assert values_of(fused, "a")["z"] == -9.0
    normalized = fuse(
        {"a": cut, "b": listed(("z", 1.0))}, {"a": 0.5, "b": 0.5}, normalizations={"a": parse_normalization("min_max")}
    )
    assert values_of(normalized, "a") == pytest.approx({"x": 1.0, "y": 12 / 14, "z": 0.0})


def test_scores_known_of_other_documents_count_in_ranks_and_norms_but_are_not_ranked() -> None:
    fused = fuse(
        {"a": listed(("w", 9.0), ("x", 5.0), ("y", 1.0))},
        {"a": 1.0},
        candidates=["y", "x"],
        normalizations={"a": parse_normalization("min_max")},
    )
    assert fused.ids == ["x", "y"]
    assert fused.ranks.tolist() == [[2, 3]]
    assert fused.scores == [0.5, 0.0]


def test_none_nan_and_infinite_scores() -> None:
    fused = fuse(
        {"a": listed(("n", None), ("x", 2.0), ("i", math.inf), ("y", -3.0), ("m", -math.inf), ("q", math.nan))},
        {"a": 1},
    )
    assert values_of(fused, "a") == {"n": -3.0, "x": 2.0, "i": 2.0, "y": -3.0, "m": -3.0, "q": -3.0}
    assert fused.unusable == {"a": 4}
    assert fused.ids[:2] == ["x", "i"]  # the list put x first
    assert all(math.isfinite(score) for score in fused.scores)


def test_zero_is_a_score_and_not_a_missing_one() -> None:
    fused = fuse({"a": listed(("x", 0.0), ("y", -1.0)), "b": listed(("y", 0.0), ("x", 0.0))}, {"a": 0.5, "b": 0.5})
    assert fused.ids == ["x", "y"]
    assert fused.raw.tolist() == [[0.0, -1.0], [0.0, 0.0]]


def test_a_repeated_document_counts_once_with_its_highest_score() -> None:
    fused = fuse({"a": listed(("x", 1.0), ("y", 2.0), ("x", 3.0), ("y", None))}, {"a": 1.0})
    assert (fused.ids, fused.scores) == (["x", "y"], [3.0, 2.0])


@pytest.mark.parametrize("silent", [listed(), listed(("x", None), ("y", math.nan))])
def test_a_list_that_says_nothing_gives_its_weight_to_the_others(silent: ScoredList) -> None:
    heard = listed(("x", 3.0), ("y", 1.0))
    fused = fuse({"a": heard, "b": silent, "c": heard}, {"a": 0.5, "b": 0.3, "c": 0.2})
    assert fused.weights == pytest.approx({"a": 5 / 7, "c": 2 / 7} | ({"b": 0.0} if silent.ids else {}))
    assert fused.scores == pytest.approx([3.0, 1.0])


def test_the_documents_of_a_list_without_scores_stay_behind_those_that_a_list_scores() -> None:
    lists = {"ce": listed(("a", math.nan), ("b", None)), "bm25": listed(("c", 1.0), ("d", 0.5))}
    weights = {"ce": 0.8, "bm25": 0.2}
    fused = fuse(lists, weights)
    assert (fused.ids, fused.scores) == (["c", "d", "a", "b"], [1.0, 0.5, 0.5, 0.5])
    assert fused.weights == {"ce": 0.0, "bm25": 1.0}
    assert fused.unusable == {"ce": 2}
    assert fuse(lists, weights, missing="zero").ids == ["c", "d", "a", "b"]
    dropped = fuse(lists, weights, missing="drop")
    assert (dropped.ids, dropped.dropped) == (["c", "d"], ["a", "b"])
    assert fuse(lists, {"ce": 0.0, "bm25": 1.0}).ids == ["c", "d"]


def test_lists_without_any_score_keep_the_order_they_came_in() -> None:
    fused = fuse({"a": listed(("z", None), ("b", None))}, {"a": 1.0})
    assert (fused.ids, fused.scores) == (["z", "b"], [0.0, 0.0])
    assert fuse({}, {"a": 1.0}).ids == []


def test_an_input_of_weight_zero_is_left_out_until_nothing_else_arrives() -> None:
    lists = {"ce": listed(("x", 1.0)), "bm25": listed(("x", 5.0), ("y", 9.0))}
    assert fuse(lists, {"ce": 1.0, "bm25": 0.0}).ids == ["x"]
    assert fuse({"bm25": lists["bm25"]}, {"ce": 1.0, "bm25": 0.0}).ids == ["y", "x"]


def test_equal_scores_stand_by_their_best_rank_then_by_id() -> None:
    fused = fuse({"a": listed(("z", 1.0), ("b", 0.0)), "b": listed(("b", 1.0), ("z", 0.0))}, {"a": 0.5, "b": 0.5})
    assert fused.ids == ["b", "z"]
    fused = fuse({"a": listed(("z", 1.0), ("b", 1.0))}, {"a": 1.0})
    assert fused.ids == ["z", "b"]


def test_wrong_method_rule_and_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="method must be one of 'weighted_sum', 'reciprocal_rank', but got 'sum'"):
        fuse({}, {}, method="sum")
    with pytest.raises(ValueError, match="missing must be one of 'min', 'zero', 'drop', 'impute', but got 'none'"):
        fuse({}, {}, missing="none")
    with pytest.raises(ValueError, match="input 'a' has 2 ids but 1 scores"):
        align({"a": ScoredList(["x", "y"], [1.0])})


finite = st.floats(-50, 50, allow_nan=False)
some_list = st.dictionaries(st.sampled_from("abcdefghij"), finite | st.none(), max_size=10)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries({"p": some_list, "q": some_list, "r": some_list}),
    st.sampled_from(["none", "min_max", "z_score", "rank"]),
    st.sampled_from(MISSING_RULES),
    st.sampled_from(["weighted_sum", "reciprocal_rank"]),
    st.permutations(["p", "q", "r"]),
    st.permutations(["p", "q", "r"]),
)
def test_properties(
    content: dict[str, dict[str, float | None]],
    norm: str,
    missing: str,
    method: str,
    order: list[str],
    names: list[str],
) -> None:
    """Contributions add up; neither the order of the inputs nor their names matter; inputs are not changed."""
    weights = {"p": 0.5, "q": 0.3, "r": 0.2}
    lists = {name: listed(*scores.items()) for name, scores in content.items()}
    spec = parse_normalization(norm)

    def joined(renamed: dict[str, str]) -> Fused:
        return fuse(
            {renamed[name]: lists[name] for name in order},
            {renamed[name]: weights[name] for name in order},
            method=method,
            missing=missing,
            normalizations={renamed[name]: spec for name in order},
        )

    first = fuse(lists, weights, method=method, missing=missing, normalizations=dict.fromkeys(lists, spec))
    other = joined(dict(zip("pqr", names, strict=True)))
    assert other.ids == first.ids
    assert other.scores == first.scores
    assert first.scores == sorted(first.scores, reverse=True)
    for column, score in zip(first.contributions.T.tolist(), first.scores, strict=True):
        assert math.fsum(column) == score
        assert sum(column) == pytest.approx(score, rel=1e-12, abs=1e-12)
    if first.weights:
        assert math.fsum(first.weights.values()) == pytest.approx(1.0)
    union = {i for name in first.weights for i in content[name]}
    assert set(first.ids) | set(first.dropped) == union
    assert set(first.ids).isdisjoint(first.dropped)


def test_normalize_leaves_the_lists_as_they_were() -> None:
    scores = np.array([2.0, 1.0])
    aligned = align({"a": ScoredList(["x", "y"], scores)})
    before = aligned.raw.copy()
    normalize(aligned, {"a": Normalization("min_max", {})}, "zero")
    assert (aligned.raw == before).all()
    assert scores.tolist() == [2.0, 1.0]


def _random_lists(seed: int, size: int) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(seed)
    return {
        name: {f"d{i}": float(random.normal(0, 5)) for i in random.choice(size * 2, size, replace=False)}
        for name in ("a", "b", "c")
    }


RANX = """
import json, sys
import ranx
lists, calls = json.load(sys.stdin)
runs = [ranx.Run({"q": scores}, name=name) for name, scores in lists.items()]
fused = [dict(ranx.fuse(runs=runs, norm=norm, method=method, params=params)["q"]) for norm, method, params in calls]
json.dump([{key: float(value) for key, value in scores.items()} for scores in fused], sys.stdout)
"""


def test_weighted_sums_and_reciprocal_ranks_equal_those_of_ranx() -> None:
    """In a process of its own without numba's compiler, which would take half a minute over these few numbers."""
    pytest.importorskip("ranx", reason="ranx is not installed (extra `dev`)")
    lists, weights = _random_lists(1, 40), {"a": 0.5, "b": 0.3, "c": 0.2}
    shared = {"none": None, "min_max": "min-max", "z_score": "zmuv"}
    calls: list[object] = [(norm, "wsum", {"weights": list(weights.values())}) for norm in shared.values()]
    calls.append((None, "rrf", {"k": 60}))
    answer = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([lists, calls]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    expected = json.loads(answer.stdout.splitlines()[-1])
    scored = {name: listed(*scores.items()) for name, scores in lists.items()}
    for norm, theirs in zip(shared, expected, strict=False):
        specs = dict.fromkeys(lists, parse_normalization(norm))
        fused = fuse(scored, weights, missing="zero", normalizations=specs)
        assert dict(zip(fused.ids, fused.scores, strict=True)) == pytest.approx(theirs, abs=1e-9), norm
    fused = fuse(scored, dict.fromkeys(lists, 1.0), method="reciprocal_rank")
    ours = {identifier: 3 * score for identifier, score in zip(fused.ids, fused.scores, strict=True)}
    assert ours == pytest.approx(expected[-1], abs=1e-12)


def test_joining_imports_no_scipy() -> None:
    """Calibration needs it; a pipeline that only joins should not wait for it."""
    code = "import sys, haystack_ce_ranker.fusion.fuse; print([name for name in sys.modules if 'scipy' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_joining_takes_a_few_calls_a_document() -> None:
    """What the benchmark times, counted: one more Python loop over an array of lists and documents adds three."""
    random = np.random.default_rng(0)
    calls = {}
    for count in (100, 1100):
        ids = [f"d{i}" for i in range(count)]
        lists = {name: ScoredList(ids, random.normal(size=count)) for name in "abc"}
        spec = dict.fromkeys(lists, parse_normalization("min_max"))
        seen: list[str] = []
        sys.setprofile(lambda _frame, event, _argument, seen=seen: seen.append(event))
        try:
            fuse(lists, {"a": 0.5, "b": 0.3, "c": 0.2}, normalizations=spec)
        finally:
            sys.setprofile(None)
        calls[count] = sum(event in ("call", "c_call") for event in seen)
    assert (calls[1100] - calls[100]) / 1000 < 9
