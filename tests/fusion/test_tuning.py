"""Tuning: the grid, nDCG as ir_measures has it, choices that hold on other queries, intervals, and the logistic fit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.fusion.fuse import NONE, Normalization, ScoredList, fuse, sigmoid
from haystack_ce_ranker.fusion.tuning import (
    Frame,
    JudgedQuery,
    Setting,
    advise,
    default_steps,
    fit_logistic,
    joined_scores,
    labelled_scores,
    learning_curve,
    logistic_frame,
    measure,
    ndcg,
    reliability,
    score_thresholds,
    simplex,
    split,
    standard_frames,
    tune,
    weight_curve,
)

RAW = Frame("none", {})
DEFAULT = Setting(RAW, {"bm25": 0.2, "ce": 0.8})


def queries(count: int, *, bm25: float, ce: float, seed: int = 0, cut: int | None = None) -> list[JudgedQuery]:
    """Judged queries whose lists know relevance as strongly as the numbers say; `cut` shortens the cross-encoder's."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ids = [f"d{i}" for i in range(20)]
        relevant = dict.fromkeys(random.choice(ids, 3, replace=False), 1)
        truth = np.array([relevant.get(identifier, 0) for identifier in ids])
        first = ScoredList(ids, random.normal(bm25 * truth, 1.0))
        second = ScoredList(ids, random.normal(ce * truth, 1.0))
        if cut is not None:
            best = np.argsort(-np.asarray(second.scores))[:cut]
            second = ScoredList([ids[i] for i in best], np.asarray(second.scores)[best])
        made.append(JudgedQuery(f"q{number}", {"bm25": first, "ce": second}, relevant))
    return made


@pytest.mark.parametrize(("inputs", "steps", "rows"), [(1, 5, 1), (2, 20, 21), (3, 10, 66), (4, 10, 286)])
def test_the_grid_holds_every_mix_once_and_the_corners(inputs: int, steps: int, rows: int) -> None:
    grid = simplex(inputs, steps)
    assert grid.shape == (rows, inputs)
    assert np.allclose(grid.sum(axis=1), 1.0)
    assert len({tuple(row) for row in grid.tolist()}) == rows
    for corner in np.eye(inputs).tolist():
        assert corner in grid.tolist()


def test_wrong_grid_is_named() -> None:
    with pytest.raises(ValueError, match="must be > 0, but got 0 and 5"):
        simplex(0, 5)
    assert [default_steps(count) for count in (2, 3, 5)] == [20, 10, 5]


some_list = st.dictionaries(st.sampled_from("abcdefghijklmno"), st.floats(-9, 9) | st.none(), max_size=15)
grades = st.dictionaries(st.sampled_from("abcdefghijklmnoz"), st.integers(0, 3), max_size=8)


@settings(max_examples=50)
@given(
    some_list,
    some_list,
    grades,
    st.sampled_from(["none", "min_max", "rank"]),
    st.sampled_from(["min", "zero", "drop", "impute"]),
    st.sampled_from(["weighted_sum", "reciprocal_rank"]),
)
def test_the_grid_measures_what_fuse_ranks(
    first: dict[str, float], second: dict[str, float], judged: dict[str, int], norm: str, missing: str, method: str
) -> None:
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed (extra `evaluate`)")
    if method == "reciprocal_rank":
        missing = "min"
    params = {"k": 60.0} if norm == "rank" else {}
    frame = Frame("f", dict.fromkeys("xy", Normalization(norm, params)), missing, method)
    lists = {"x": ScoredList(list(first), list(first.values())), "y": ScoredList(list(second), list(second.values()))}
    query = JudgedQuery("q", lists, judged)
    weights = np.array([[0.3, 0.7], [1.0, 0.0], [0.0, 1.0]])
    ours = ndcg([query], ["x", "y"], frame, weights)[:, 0]
    for row, found in zip(weights.tolist(), ours.tolist(), strict=True):
        fused = fuse(
            lists,
            dict(zip("xy", row, strict=True)),
            method=method,
            normalizations=frame.normalizations,
            missing=missing,
        )
        if any(abs(a - b) < 1e-9 for a, b in zip(fused.scores, fused.scores[1:], strict=False)):
            continue  # sums of different rounding may order what is all but equal
        run = {"q": {identifier: float(len(fused.ids) - i) for i, identifier in enumerate(fused.ids)}}
        expected = 0.0
        if any(judged.values()) and fused.ids:
            expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": judged}, run)[ir_measures.nDCG @ 10]
        assert found == pytest.approx(expected, abs=1e-9)


def test_queries_without_relevant_documents_or_lists_count_as_zero() -> None:
    empty = JudgedQuery("a", {}, {"d": 1})
    barren = JudgedQuery("b", {"ce": ScoredList(["d"], [1.0])}, {"d": 0})
    found = JudgedQuery("c", {"ce": ScoredList(["d"], [1.0])}, {"d": 2})
    assert measure([empty, barren, found], DEFAULT).tolist() == [0.0, 0.0, 1.0]


def test_candidates_are_what_is_ranked() -> None:
    lists = {"ce": ScoredList(["x", "y", "z"], [3.0, 2.0, 1.0]), "bm25": ScoredList(["z"], [1.0])}
    query = JudgedQuery("q", lists, {"z": 1}, candidates=["z"])
    assert measure([query], DEFAULT).tolist() == [1.0]


def test_folds_deal_every_query_once_and_the_same_way_again() -> None:
    folds = split(23, 5, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(23))
    assert {fold.size for fold in folds} == {4, 5}
    assert all((a == b).all() for a, b in zip(folds, split(23, 5, seed=3), strict=True))
    assert len(split(3, 5)) == 3
    with pytest.raises(ValueError, match="folds must be at least 2, but got 1"):
        split(5, 1)


def test_a_better_first_stage_gets_the_weight_it_deserves() -> None:
    judged = queries(60, bm25=2.0, ce=2.0)
    found = tune(judged, Setting(RAW, {"bm25": 0.0, "ce": 1.0}))
    assert 0.25 < found.setting.weights["ce"] < 0.75
    assert found.held_out.mean() > measure(judged, Setting(RAW, {"bm25": 0.0, "ce": 1.0})).mean() + 0.05


def test_noise_gets_no_weight() -> None:
    found = tune(queries(60, bm25=0.0, ce=3.0), DEFAULT)
    assert found.setting.weights["ce"] >= 0.8
    alone = Setting(RAW, {"bm25": 0.0, "ce": 1.0})
    assert found.held_out.mean() > measure(queries(60, bm25=0.0, ce=3.0), alone).mean() - 0.02


def test_held_out_values_do_not_use_their_own_query() -> None:
    """Turning one query's judgments round cannot change which setting its own fold chose."""
    judged = queries(20, bm25=1.0, ce=1.5)
    first = tune(judged, DEFAULT, folds=20)
    fold = next(i for i, members in enumerate(split(20, 20)) if members.tolist() == [7])
    other = dict.fromkeys(("d0", "d1", "d2"), 1)
    changed = [*judged[:7], JudgedQuery("q7", judged[7].lists, other), *judged[8:]]
    assert tune(changed, DEFAULT, folds=20).chosen[fold] == first.chosen[fold]


def test_tuning_is_the_same_again_and_needs_two_queries() -> None:
    judged = queries(12, bm25=1.0, ce=1.0)
    assert tune(judged, DEFAULT).setting == tune(judged, DEFAULT).setting
    with pytest.raises(ValueError, match="at least 2 judged queries, but got 1"):
        tune(judged[:1], DEFAULT)


def test_missing_rules_are_tried_only_where_something_is_missing() -> None:
    names = ["bm25", "ce"]
    whole = standard_frames(queries(5, bm25=1, ce=1), names)
    cut = standard_frames(queries(5, bm25=1, ce=1, cut=5), names)
    assert {frame.missing for frame in whole} == {"min"}
    assert {frame.missing for frame in cut} == {"min", "zero", "drop", "impute"}
    assert {frame.label for frame in whole} == {
        "none",
        "min_max",
        "z_score",
        "theoretical",
        "rank",
        "logistic",
        "reciprocal_rank",
    }


def test_theoretical_bounds_do_not_move_with_the_query() -> None:
    lists = {"bm25": ScoredList(["x", "y"], [3.0, 0.0]), "ce": ScoredList(["x", "y"], [2.0, -5.0])}
    frames = standard_frames([JudgedQuery("q", lists, {"x": 1})], ["bm25", "ce"])
    found = next(frame for frame in frames if frame.label == "theoretical").normalizations
    assert found["bm25"].params == {"low": 0.0}
    assert found["ce"].params == {"low": -5.0, "high": 2.0}


def test_a_few_queries_come_close_to_many() -> None:
    judged = queries(80, bm25=1.5, ce=2.0)
    losses = learning_curve(judged, DEFAULT, [5, 30, 80, 200], frames=[], draws=10)
    assert set(losses) == {5, 30}
    assert losses[30] < 0.02
    assert losses[30] <= losses[5]


def test_logistic_fit_finds_what_made_the_labels() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 5, 20_000)
    labels = (random.random(20_000) < sigmoid(0.7 * scores - 2.0)).astype(float)
    slope, intercept = fit_logistic(scores, labels)
    assert slope == pytest.approx(0.7, abs=0.03)
    assert intercept == pytest.approx(-2.0, abs=0.1)
    bins, error = reliability(sigmoid(slope * scores + intercept), labels)
    assert error < 0.01
    assert sum(entry.count for entry in bins) == 20_000


@pytest.mark.parametrize(
    ("scores", "labels", "share"),
    [
        ([], [], 0.5),
        ([1.0, 1.0, 1.0], [1, 0, 0], 0.4),
        ([1.0, 2.0], [0, 0], 0.25),
        ([1.0, 2.0], [1, 1], 0.75),
        ([2.0, 1.0, 0.0, -1.0], [0, 0, 1, 1], 0.5),
    ],
)
def test_logistic_fit_without_information_is_the_share_of_relevant_ones(
    scores: list[float], labels: list[int], share: float
) -> None:
    slope, intercept = fit_logistic(np.array(scores), np.array(labels, dtype=float))
    assert slope == 0.0
    assert float(sigmoid(np.array([intercept]))[0]) == pytest.approx(share)


def test_logistic_fit_stays_finite_where_scores_separate_the_labels() -> None:
    slope, intercept = fit_logistic(np.array([-20.0, -10.0, 10.0, 20.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < slope < 1
    assert math.isfinite(intercept)
    with pytest.raises(ValueError, match="but got 2 and 1"):
        fit_logistic(np.zeros(2), np.zeros(1))


def test_logistic_scores_mean_the_same_on_every_query() -> None:
    judged = queries(200, bm25=2.0, ce=3.0)
    frame = logistic_frame(judged, ["bm25", "ce"])
    scores, labels = labelled_scores(judged, "ce")
    probabilities = frame.normalizations["ce"].apply(scores, scores)
    assert reliability(probabilities, labels)[1] < 0.05
    assert labels.sum() == 600
    assert frame.normalizations["ce"].params["slope"] > frame.normalizations["bm25"].params["slope"] > 0


def test_a_score_threshold_stands_for_a_probability_where_scores_mean_the_same_everywhere() -> None:
    judged = queries(400, bm25=1.0, ce=3.0)
    found = score_thresholds(judged, DEFAULT, [0.2, 0.5, 0.8])
    assert found[0.2] < found[0.5] < found[0.8]
    scores, labels = joined_scores(judged, DEFAULT)
    assert scores.size == labels.size == 400 * 20
    near = np.abs(scores - found[0.5]) < 0.2
    assert near.sum() > 100
    assert labels[near].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("frame", "steady"),
    [
        (RAW, True),
        (Frame("t", {"ce": Normalization("theoretical", {"low": -9.0, "high": 9.0})}), True),
        (Frame("t", {"ce": Normalization("theoretical", {"low": -9.0})}), False),
        (Frame("min_max", {"bm25": Normalization("min_max", {})}), False),
        (Frame("reciprocal_rank", {}, method="reciprocal_rank"), False),
    ],
)
def test_no_threshold_is_given_where_scores_depend_on_the_query(frame: Frame, steady: bool) -> None:
    judged = queries(40, bm25=1.0, ce=3.0)
    assert bool(score_thresholds(judged, Setting(frame, DEFAULT.weights), [0.5])) == steady
    unused = Setting(Frame("min_max", {"bm25": Normalization("min_max", {})}), {"bm25": 0.0, "ce": 1.0})
    assert score_thresholds(judged, unused, [0.5])


def test_labelled_scores_leave_out_what_has_no_score() -> None:
    lists = {"ce": ScoredList(["a", "b", "c"], [1.0, None, math.nan])}
    scores, labels = labelled_scores([JudgedQuery("q", lists, {"a": 1}), JudgedQuery("r", {}, {"a": 1})], "ce")
    assert (scores.tolist(), labels.tolist()) == ([1.0], [1.0])


def _systems(**means: float) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    return {key: mean + noise * (i + 1) for i, (key, mean) in enumerate(means.items())}


@pytest.mark.parametrize(
    ("means", "use", "words"),
    [
        ({"bm25": 0.5, "ce": 0.7, "default": 0.7, "tuned": 0.7}, "ce", "no significant difference: use ce alone"),
        (
            {"bm25": 0.5, "ce": 0.7, "default": 0.6, "tuned": 0.65},
            "ce",
            "use ce alone: everything else is significantly worse (bm25 alone: -0.2",
        ),
        ({"bm25": 0.5, "ce": 0.4, "default": 0.45, "tuned": 0.6}, "tuned", "use the tuned blend: significantly better"),
        (
            {"bm25": 0.5, "ce": 0.4, "default": 0.6, "tuned": 0.6},
            "default",
            "the tuned blend is not significantly better",
        ),
        (
            {"bm25": 0.5, "ce": 0.4, "default": 0.45, "tuned": 0.6},
            "tuned",
            "significantly better than bm25 alone (+0.1",
        ),
        (
            {"bm25": 0.6, "ce": 0.4, "default": 0.5, "tuned": 0.6},
            "bm25",
            "use bm25 alone: significantly better than ce",
        ),
    ],
)
def test_advice_names_the_simplest_that_nothing_beats(means: dict[str, float], use: str, words: str) -> None:
    found = advise(_systems(**means), {"bm25": "bm25", "ce": "ce"}, heaviest="ce")
    assert found.use == use
    assert words in found.reason
    assert found.significant == (use != "ce")


def test_advice_tells_what_is_worse_from_what_is_no_different() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 50)
    systems = {"bm25": np.full(50, 0.2), "ce": np.full(50, 0.7), "default": 0.7 + noise, "tuned": np.full(50, 0.7)}
    reason = advise(systems, {"bm25": "bm25", "ce": "ce"}, heaviest="ce").reason
    first, _, rest = reason.partition(". Significantly worse: ")
    assert first.startswith("no significant difference: use ce alone (the default blend: ")
    assert first.endswith("; the tuned blend: the same)")
    assert rest.startswith("bm25 alone: -0.5000 nDCG@10")


def test_advice_says_of_every_single_input_whether_it_would_do() -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 60)
    systems = {"bm25": 0.5 + noise, "e": 0.55 - noise, "ce": np.full(60, 0.3), "tuned": np.full(60, 0.56) + noise / 20}
    found = advise(systems, {"bm25": "bm25", "e": "e", "ce": "ce"}, heaviest="ce")
    assert found.use in ("bm25", "e")
    other = "e" if found.use == "bm25" else "bm25"
    assert f"not significantly different from {other} alone" in found.reason
    assert f"from {found.use} alone" not in found.reason


def test_the_curve_over_a_weight_says_where_it_leaves_the_input_alone() -> None:
    judged = queries(60, bm25=3.0, ce=1.0)
    curve = weight_curve(judged, DEFAULT.frame, ["bm25", "ce"], "ce")
    assert [point.weight for point in curve] == pytest.approx([i / 20 for i in range(21)])
    alone = measure(judged, Setting(DEFAULT.frame, {"bm25": 0.0, "ce": 1.0}))
    first = measure(judged, Setting(DEFAULT.frame, {"bm25": 1.0, "ce": 0.0}))
    assert curve[-1].gain == (0.0, 0.0, 0.0)
    assert curve[-1].value.mean == pytest.approx(alone.mean())
    assert curve[0].gain.mean == pytest.approx((first - alone).mean())
    assert curve[0].gain.low > 0.0


def test_reliability_says_how_sure_a_share_is() -> None:
    few, many = np.array([0.05, 0.75]), np.full(1000, 0.75)
    labels = (np.arange(1000) < 800).astype(float)
    bins, error = reliability(few, np.array([0.0, 1.0]))
    assert [(entry.count, entry.observed) for entry in bins] == [(1, 0.0), (1, 1.0)]
    assert bins[1].low == pytest.approx(0.2065, abs=1e-3)  # one of one: as good as unknown
    assert bins[1].high == 1.0
    assert error == pytest.approx(0.15)
    (wide,) = reliability(many, labels)[0]
    assert 0.77 < wide.low < wide.observed < wide.high < 0.83


def test_none_is_the_normaliser_of_inputs_that_a_frame_does_not_name() -> None:
    judged = queries(5, bm25=1, ce=1)
    named = Setting(Frame("none", {"bm25": NONE, "ce": NONE}), DEFAULT.weights)
    assert measure(judged, named).tolist() == measure(judged, DEFAULT).tolist()
