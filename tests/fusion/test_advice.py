"""Advice: the simplest way to fuse that nothing beats."""

import numpy as np
import pytest

from haystack_ce_ranker.fusion.advice import adaptive, advise, only, tune_on
from haystack_ce_ranker.fusion.calibration import score_thresholds
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, fused, measure
from haystack_ce_ranker.fusion.normalizers import parse_normalizations


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


def test_what_only_rounding_tells_apart_is_the_same() -> None:
    values = np.linspace(0.1, 0.9, 8)
    systems = {"ce": values, "default": values + 1e-12, "adaptive": values * (1 + 1e-15)}
    found = advise(systems, {"ce": "ce"}, heaviest="ce")
    assert found.use == "ce"
    assert found.reason.count("the same") == 2


def test_advice_says_of_every_single_input_whether_it_would_do() -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 60)
    systems = {"bm25": 0.5 + noise, "e": 0.55 - noise, "ce": np.full(60, 0.3), "tuned": np.full(60, 0.56) + noise / 20}
    found = advise(systems, {"bm25": "bm25", "e": "e", "ce": "ce"}, heaviest="ce")
    assert found.use in ("bm25", "e")
    other = "e" if found.use == "bm25" else "bm25"
    assert f"not significantly different from {other} alone" in found.reason
    assert f"from {found.use} alone" not in found.reason


def lost_queries(count: int = 40, scale: str | None = "logits") -> list[JudgedQuery]:
    """Queries for which the cross-encoder finds nothing, while two other lists know the answer."""
    random = np.random.default_rng(3)
    queries = []
    for number in range(count):
        ids = [f"{number}-{place}" for place in range(12)]
        truth = random.normal(0, 1, 12)
        best = ids[int(truth.argmax())]
        lists = {
            "ce": ScoredList(ids, -6.0 + 2.0 * (truth + random.normal(0, 1.5, 12)), scale=scale),
            "bm25": ScoredList(ids, 9.0 + truth + random.normal(0, 0.3, 12), scale="bm25"),
            "dense": ScoredList(ids, 0.5 + 0.1 * (truth + random.normal(0, 0.3, 12)), scale="own"),
        }
        queries.append(JudgedQuery(str(number), lists, {best: 1}))
    return queries


NAMES = ["ce", "bm25", "dense"]
BLEND = Setting(Frame("default", parse_normalizations(None, NAMES)), {"ce": 0.9, "bm25": 0.05, "dense": 0.05})


def test_the_adaptive_blend_is_measured_and_recommended_where_it_is_the_simplest_that_nothing_beats() -> None:
    queries = lost_queries()
    found = tune_on(queries, "joiner", BLEND, collection="c", folds=2)
    assert list(found.systems)[-4:] == ["ce alone", "default", "adaptive", "tuned"]
    setting = adaptive(BLEND)
    ranks = {query.id: fused(query, setting).ids.index(next(iter(query.judgments))) + 1 for query in queries}
    expected = [1 / np.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks.values()]
    assert found.systems["adaptive"] == pytest.approx(expected)
    assert found.systems["adaptive"].mean() > found.systems["default"].mean() + 0.1
    means = {"bm25": 0.4, "ce": 0.4, "default": 0.45, "adaptive": 0.6, "tuned": 0.6}
    advice = advise(_systems(**means), {"bm25": "bm25", "ce": "ce"}, heaviest="ce")
    assert advice.use == "adaptive"
    assert "use the adaptive blend" in advice.reason


def test_where_nothing_can_be_adapted_or_the_default_adapts_there_is_no_further_system() -> None:
    own = parse_normalizations("z_score", NAMES)
    lists = [{name: query.lists[name] for name in ("bm25", "dense")} for query in lost_queries(20)]
    queries = [JudgedQuery(str(place), one, {"0-0": 1}) for place, one in enumerate(lists)]
    without = Setting(Frame("z_score", own), {"bm25": 0.5, "dense": 0.5})
    assert "adaptive" not in tune_on(queries, "joiner", without, collection="c", folds=2).systems
    adapting = tune_on(lost_queries(20), "joiner", adaptive(BLEND), collection="c", folds=2)
    assert "adaptive" not in adapting.systems
    assert adapting.systems["default"] == pytest.approx(measure(lost_queries(20), adaptive(BLEND)))
    assert adapting.systems["ce alone"] == pytest.approx(measure(lost_queries(20), only("ce", BLEND)))


def test_scores_whose_weights_follow_the_query_have_no_threshold_that_means_the_same_everywhere() -> None:
    assert score_thresholds(lost_queries(), Setting(Frame("none", {}), BLEND.weights), [0.5])
    assert score_thresholds(lost_queries(), adaptive(BLEND), [0.5]) == {}
