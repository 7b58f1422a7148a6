"""The verdict: what is chosen and said for collections of each kind, and that it never says more than was measured."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_results import BM25, altered, by_name, cross_encoders, figures, made, memory, rejudged, sweep
from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.judging.choosing import Limits, WorthIt
from haystack_ce_ranker.evaluation.judging.comparison import Versus
from haystack_ce_ranker.evaluation.judging.results import to_plain
from haystack_ce_ranker.evaluation.judging.segments import judge
from haystack_ce_ranker.evaluation.judging.systems import WORTH
from haystack_ce_ranker.significance import SAME


def answer(found, key):
    """One answer by its key, or None."""
    return next((one for one in found.answers if one.key == key), None)


def hybrids(curve, **others):
    return cross_encoders(curve, kind="hybrid", **others)


HELPFUL = BM25 | cross_encoders({10: 0.6, 20: 0.66, 50: 0.695, 100: 0.7}) | hybrids({10: 0.59, 50: 0.69})
HARMFUL = BM25 | cross_encoders({10: 0.47, 50: 0.44}) | hybrids({10: 0.5, 50: 0.49})
JOINED = BM25 | cross_encoders({10: 0.48, 50: 0.45}) | hybrids({10: 0.57, 50: 0.575})


UNSURE = Versus(0.3, -0.01, 0.6, 0.2, 5, 1, 2, p_corrected=0.4)


def test_the_best_that_is_significantly_better_is_not_called_the_best():
    """A system with more on average may owe it to chance; then it is not chosen, and the sentences say so."""
    names = ("cross-encoder small@10", "cross-encoder small@20")
    systems = BM25 | cross_encoders({10: 0.65, 20: 0.7})
    found = altered(sweep(systems), names[1], versus=UNSURE).verdict
    assert found.choice == names[0]
    assert f"The best cross-encoder alone that is significantly better, {names[0]}" in answer(found, "worth_it").reason
    assert "10 is the best that is significantly better" in answer(found, "depth").reason
    sure = sweep(systems).verdict
    assert f"The best cross-encoder alone, {names[1]}" in answer(sure, "worth_it").reason


def test_a_setting_is_called_as_good_and_cheaper_only_if_it_is_so():
    fast = cross_encoders({50: 0.69}, backend="onnx", ms_each=1.0)
    slow = {f"{name} torch": one for name, one in cross_encoders({50: 0.7}, backend="torch", ms_each=9.0).items()}
    found = sweep(BM25 | fast | slow)
    told = answer(found.verdict, "backend").reason
    assert "onnx int8 is as good as" in told
    assert "and cheaper." in told
    (name,) = slow
    higher = sweep(BM25 | fast | {name: {**slow[name], "quality": 0.8}})
    found = altered(higher, name, versus=UNSURE).verdict
    assert found.choice == "cross-encoder small@50"
    assert "is the choice, though it has less than" in answer(found, "backend").reason


def test_where_it_helps_the_smallest_depth_that_is_as_good_is_chosen():
    found = sweep(HELPFUL).verdict
    assert found.worth_it == "yes"
    assert found.choice == "cross-encoder small@50"
    assert asdict(found.settings) == {
        "kind": "cross-encoder",
        "model": "small",
        "backend": "onnx",
        "dtype": "int8",
        "depth": 50,
        "strategy": "best_passages",
        "hybrid": False,
        "adapt_weights": False,
    }
    assert answer(found, "worth_it").answer == "Yes"
    assert "0.700 against 0.500 of bm25: +0.200 (95 % interval" in answer(found, "worth_it").reason
    depth = answer(found, "depth")
    assert depth.answer == "50"
    assert "10: 0.600, 20: 0.660, 50: 0.695, 100: 0.700" in depth.reason
    assert "50 is the smallest that is within 0.01 of the best (100, 0.700)" in depth.reason
    assert (found.depth.chosen, found.depth.best, found.depth.falls) == (50, 100, False)
    assert [place.depth for place in found.depth.curve] == [10, 20, 50, 100]


def test_where_the_cross_encoder_harms_the_baseline_is_chosen():
    found = sweep(HARMFUL).verdict
    assert found.worth_it == "no"
    assert found.choice == "bm25"
    assert found.settings.hybrid is False
    assert answer(found, "depth").answer == "If at all, 10"
    assert "Nothing is both significantly better" in answer(found, "choice").reason
    assert found.significance.systems["cross-encoder small@50"] == "worse"


def test_where_the_first_stage_alone_is_better_the_verdict_begins_with_do_not_re_rank():
    systems = BM25 | cross_encoders({10: 0.47, 50: 0.44}) | hybrids({10: 0.49, 50: 0.48})
    found = sweep(systems, noise=0.02)
    assert found.verdict.do_not_rerank.startswith(
        "Do not re-rank here: bm25 alone has nDCG@10 0.500, and the best with re-ranking, hybrid small@10, 0.490: "
        "-0.010 (p"
    )
    assert found.verdict.do_not_rerank.endswith(", significant).")
    assert next(iter(to_plain(found)["verdict"])) == "do_not_rerank"
    noisy = sweep(systems, queries=12, noise=0.3).verdict.do_not_rerank
    assert noisy.endswith(", not significant).")


def test_another_first_stage_that_is_better_alone_is_what_the_sentence_names():
    systems = BM25 | {"bi-encoder": {"quality": 0.7, "ms": 5.0}} | cross_encoders({50: 0.68})
    sentence = sweep(systems).verdict.do_not_rerank
    assert sentence.startswith("Do not re-rank here: bi-encoder alone has nDCG@10 0.700, and the best with re-ranking")
    pipelines = {
        "mine/bm25": {"quality": 0.5, "ms": 1.0, "kind": "pipeline"},
        "mine/ranker": {"quality": 0.4, "ms": 90.0, "kind": "pipeline"},
    }
    assert "mine/bm25 alone" in sweep(pipelines, baseline="mine/bm25").verdict.do_not_rerank


def test_where_re_ranking_is_better_or_recommended_nothing_warns_of_it():
    assert sweep(HELPFUL).verdict.do_not_rerank is None
    assert sweep(JOINED).verdict.do_not_rerank is None
    assert (
        sweep(BM25 | cross_encoders({10: 0.52}), noise=0.3).verdict.do_not_rerank is None
    )  # better, though not surely
    only_first_stages = BM25 | {"bi-encoder": {"quality": 0.7, "ms": 5.0}}
    assert "re-rank here" not in (sweep(only_first_stages).verdict.do_not_rerank or "")
    # a re-ranker is surely better than the baseline, and another first stage by chance a little above it
    chance = BM25 | {"bi-encoder": {"quality": 0.601, "ms": 500.0, "joules": 1.0}} | cross_encoders({10: 0.6})
    found = sweep(chance).verdict
    assert (found.worth_it, found.do_not_rerank) == ("yes", None)


def test_a_gain_that_would_not_pay_even_if_it_were_sure_is_no_reason_to_re_rank():
    said = "Do not re-rank here: bm25 alone has nDCG@10 0.500, and the best with re-ranking, cross-encoder small@10, "
    chance = sweep(BM25 | cross_encoders({10: 0.503}), noise=0.3).verdict
    assert chance.worth_it == "no significant difference"
    assert chance.do_not_rerank.startswith(f"{said}0.503: +0.003 (p")
    assert chance.do_not_rerank.endswith(", not significant). Less than 0.01 is too little to pay for.")
    sure = sweep(BM25 | cross_encoders({10: 0.506}), queries=2000, noise=0.02).verdict
    assert sure.worth_it == "too small"
    assert sure.do_not_rerank.endswith(", significant). Less than 0.01 is too little to pay for.")
    stages = {
        "mine/first": {"quality": 0.5, "ms": 90.0, "kind": "pipeline"},
        "mine/second": {"quality": 0.5, "ms": 90.0, "kind": "pipeline"},
    }
    assert sweep(stages, baseline="mine/first").verdict.do_not_rerank is None  # perhaps both of them re-rank


def test_where_only_the_hybrid_helps_it_is_chosen_and_the_cross_encoder_alone_is_not():
    found = sweep(JOINED).verdict
    assert found.worth_it == "hybrid only"
    assert found.choice == "hybrid small@10"
    assert found.settings.hybrid is True
    assert answer(found, "worth_it").answer == "Only joined with the first stage"
    assert answer(found, "hybrid").answer == "Joined with the first stage"


def adapted(curve):
    """Hybrids whose weights follow the query."""
    return {f"adaptive {name}": {**entry, "weights": "adaptive"} for name, entry in hybrids(curve).items()}


def test_weights_that_follow_the_query_are_a_setting_of_their_own():
    fixed = hybrids({10: 0.55, 50: 0.56}, weights="fixed")
    found = sweep(BM25 | cross_encoders({10: 0.48, 50: 0.45}) | fixed | adapted({10: 0.6, 50: 0.68})).verdict
    assert (found.worth_it, found.choice) == ("hybrid only", "adaptive hybrid small@50")
    assert (found.settings.hybrid, found.settings.adapt_weights) == (True, True)
    assert [place.system for place in found.depth.curve] == ["adaptive hybrid small@10", "adaptive hybrid small@50"]
    assert "by depth (hybrid, small, onnx int8, best_passages, adaptive weights)" in answer(found, "depth").reason
    told = answer(found, "weights")
    assert (told.question, told.answer) == ("Joined by which weights?", "adaptive")
    assert "adaptive: nDCG@10 0.680" in told.reason
    assert "fixed: nDCG@10 0.560" in told.reason
    assert "Compared as hybrid, small, onnx int8, depth 50, best_passages." in told.reason
    turned = sweep(BM25 | hybrids({10: 0.7}, weights="fixed") | adapted({10: 0.6})).verdict
    assert (turned.choice, turned.settings.adapt_weights) == ("hybrid small@10", False)
    assert answer(turned, "weights").answer == "fixed"


def test_where_all_hybrids_have_the_same_weights_nothing_is_said_of_them():
    found = sweep(BM25 | hybrids({10: 0.6}, weights="fixed")).verdict
    assert answer(found, "weights") is None
    assert "weights: only fixed was measured" in found.not_compared
    older = sweep(BM25 | hybrids({10: 0.6})).verdict  # results.json of before
    assert not any("weights" in line for line in older.not_compared)


def test_a_gain_that_may_be_chance_is_not_shown():
    systems = BM25 | cross_encoders({10: 0.53})
    found = sweep(systems, queries=12, noise=0.2, seed=1).verdict
    assert found.worth_it == "no significant difference"
    assert found.choice == "bm25"
    assert "more judged queries would tell" in answer(found, "worth_it").reason
    assert found.cautions == ("Only 12 queries with judgments: only large differences can be told from chance.",)
    assert sweep(systems, queries=900, noise=0.1, seed=1).verdict.worth_it == "yes"


def test_a_real_gain_that_is_tiny_is_not_worth_it():
    found = sweep(BM25 | cross_encoders({10: 0.506}), queries=2000, noise=0.02).verdict
    assert found.significance.systems["cross-encoder small@10"] == "better"
    assert found.worth_it == "too small"
    assert found.choice == "bm25"
    assert "Less than 0.01 is too little" in answer(found, "worth_it").reason


def test_quality_that_falls_with_depth_is_said():
    found = sweep(BM25 | cross_encoders({10: 0.6, 20: 0.66, 100: 0.62})).verdict
    assert found.choice == "cross-encoder small@20"
    assert found.depth.falls is True
    assert "Quality falls with depth: -0.040 from 20 to 100" in answer(found, "depth").reason
    assert "20 is the best; no smaller one is as good" in answer(found, "depth").reason
    assert "falls" not in answer(sweep(HELPFUL).verdict, "depth").reason


def test_quality_that_still_rises_at_the_deepest_is_said():
    rising = answer(sweep(BM25 | cross_encoders({10: 0.6, 50: 0.7})).verdict, "depth")
    assert rising.answer == "50"
    assert "deeper may be better still" in rising.reason
    assert "deeper" not in answer(sweep(HELPFUL).verdict, "depth").reason


def test_a_depth_within_the_tolerance_but_surely_worse_is_not_as_good():
    systems = BM25 | cross_encoders({10: 0.691, 20: 0.7})
    assert sweep(systems, queries=2000, noise=0.01).verdict.choice == "cross-encoder small@20"
    assert sweep(systems, queries=50, noise=0.1).verdict.choice == "cross-encoder small@10"


def test_another_first_stage_that_is_as_good_makes_re_ranking_not_worth_it():
    systems = BM25 | {"bi-encoder": {"quality": 0.7, "ms": 5.0, "joules": 0.1}} | cross_encoders({50: 0.7})
    found = sweep(systems).verdict
    assert found.worth_it == "no"
    assert found.choice == "bi-encoder"
    assert "bi-encoder is as good without: nDCG@10 0.700." in answer(found, "worth_it").reason
    better = BM25 | {"bi-encoder": {"quality": 0.6, "ms": 5.0}} | cross_encoders({50: 0.7})
    assert sweep(better).verdict.worth_it == "yes"


def test_hybrid_and_alone_are_compared_with_each_other():
    assert answer(sweep(HELPFUL).verdict, "hybrid").answer == "Either: no significant difference"
    worse = BM25 | cross_encoders({50: 0.7}) | hybrids({50: 0.6})
    assert answer(sweep(worse).verdict, "hybrid").answer == "The cross-encoder alone"
    assert answer(sweep(BM25 | cross_encoders({50: 0.7})).verdict, "hybrid") is None


def test_of_latencies_that_are_the_same_the_better_system_is_taken():
    systems = BM25 | cross_encoders({50: 0.695}) | hybrids({50: 0.7}, ms_each=4.1)
    assert sweep(systems).verdict.choice == "hybrid small@50"
    systems = BM25 | cross_encoders({50: 0.695}) | hybrids({50: 0.7}, ms_each=9.0)
    assert sweep(systems).verdict.choice == "cross-encoder small@50"


def test_backend_strategy_and_model_are_chosen_where_there_is_a_choice():
    slow = {"backend": "torch", "dtype": "float32", "ms_each": 20.0}
    fast = {"backend": "onnx", "dtype": "int8"}
    head = cross_encoders({50: 0.6}, model="small", strategy="head", ms_each=2.0)
    systems = {
        **BM25,
        **cross_encoders({50: 0.7}, **fast),
        **{f"{name} torch": entry for name, entry in cross_encoders({50: 0.703}, **slow).items()},
        **cross_encoders({50: 0.705}, model="big", ms_each=30.0, **fast),
        **{f"{name} head": entry for name, entry in head.items()},
    }
    found = sweep(systems).verdict
    assert found.choice == "cross-encoder small@50"
    backend = answer(found, "backend")
    assert backend.answer == "onnx int8"
    assert "torch float32: nDCG@10 0.703, 1,001 ms" in backend.reason
    assert "onnx int8 is as good as torch float32" in backend.reason
    assert answer(found, "model").answer == "small"
    assert "big" in answer(found, "model").reason
    strategy = answer(found, "strategy")
    assert strategy.answer == "best_passages"
    assert "head: nDCG@10 0.600" in strategy.reason
    assert found.not_compared == ("depth: only 50 was measured",)
    alone = sweep(BM25 | cross_encoders({10: 0.7, 50: 0.7})).verdict
    assert [answer(alone, key) for key in ("backend", "model", "strategy")] == [None] * 3
    assert alone.not_compared == (
        "strategy: only best_passages was measured",
        "backend: only onnx int8 was measured",
        "model: only small was measured",
    )


def test_a_budget_of_milliseconds_is_held_by_the_95th_percentile():
    found = sweep(HELPFUL, limits=Limits(ms=200.0)).verdict
    # at depth 20 the median is 81 ms and the 95th percentile 162; at depth 50 they are 201 and 402
    assert found.choice == "cross-encoder small@20"
    assert asdict(found.budget) == {"ms": 200.0, "percentile": "p95", "joules": None}
    within = answer(found, "choice")
    assert within.question == "Which system, within 200 ms (p95) a query?"
    assert within.answer == within.system == "cross-encoder small@20"
    assert "takes 81 ms (p95 162 ms)" in within.reason
    assert "Without a budget the choice is cross-encoder small@50: 0.695, 201 ms (p95 402 ms)" in within.reason
    assert answer(found, "budget_ms") is None  # the same question
    assert answer(found, "depth").answer == "50"
    assert found.worth_it == "yes"


def test_a_budget_that_nothing_keeps_is_said_and_nothing_is_chosen():
    found = sweep(HELPFUL, limits=Limits(ms=0.5)).verdict
    assert found.choice is None
    assert found.settings is None
    told = answer(found, "choice")
    assert told.answer == "Nothing that was measured"
    assert told.system is None
    assert "The least is 2 ms (p95)." in told.reason


def test_both_budgets_hold_together_and_each_has_its_own_answer():
    found = sweep(HELPFUL, limits=Limits(ms=200.0, joules=1.5)).verdict
    assert answer(found, "budget_ms").answer == "cross-encoder small@20"
    assert answer(found, "budget_joules").answer == "cross-encoder small@10"
    assert answer(found, "budget_joules").question == "Which system, within 1.5 J (estimated, mean) a query?"
    assert found.choice == answer(found, "choice").answer == "cross-encoder small@10"
    assert answer(found, "choice").question.startswith("Which system, within 200 ms (p95) and 1.5 J")


def test_what_has_no_figure_is_in_no_budget_and_counted():
    given = altered(sweep(HELPFUL), "cross-encoder small@20", joules_per_query=None, energy_source=None)
    found = rejudged(given, Limits(joules=3.0)).verdict
    assert found.choice == "cross-encoder small@10"
    assert "Left out: 1 system without estimated joules." in answer(found, "choice").reason


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["ms", "joules"])
def test_a_limit_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"budget_{name} must be a finite number > 0 or None, but got {value}"):
        Limits(**{name: value})


def test_measured_and_estimated_joules_are_on_no_front_and_in_no_budget_together():
    measured = {"energy_source": "measured: RAPL", "joules_per_query": 2.9}
    given = altered(sweep(HELPFUL), "cross-encoder small@50", **measured)
    found = rejudged(given, Limits(joules=3.0)).verdict
    assert found.pareto.energy["measured"] == ("cross-encoder small@50",)
    assert "cross-encoder small@50" not in found.pareto.energy["estimated"]
    assert found.choice == "cross-encoder small@50"  # only what was measured is held against the budget
    assert found.gain_per_joule["cross-encoder small@50"] is None  # the baseline's were estimated
    assert found.gain_per_joule["cross-encoder small@10"] == pytest.approx(0.1 / (1.0 - 0.02))


def test_the_fronts_and_the_gains_are_those_of_the_figures():
    found = sweep(HELPFUL).verdict
    names = [f"cross-encoder small@{depth}" for depth in (10, 20, 50, 100)]
    assert found.pareto.latency == ("bm25", *names)
    assert found.pareto.energy == {"estimated": ("bm25", *names)}
    assert found.gain_per_100ms["cross-encoder small@50"] == pytest.approx(100 * 0.195 / 200)
    assert "+0.097 for each 100 ms more" in answer(found, "choice").reason


def test_pipelines_are_compared_with_the_baseline_among_them():
    mine = {"mine/bm25": {"quality": 0.5, "ms": 1.0}}
    mine |= {
        f"mine/{name}": {"quality": quality, "ms": 50.0, "kind": "pipeline"}
        for name, quality in (("ranker", 0.62), ("joiner", 0.625))
    }
    mine["mine/bm25"]["kind"] = "pipeline"
    found = sweep(mine, baseline="mine/bm25").verdict
    assert found.worth_it == "yes"
    assert found.choice == "mine/joiner"
    assert found.depth is None
    assert [one.key for one in found.answers] == ["worth_it", "choice"]
    assert found.not_compared == ()


def test_a_single_system_has_nothing_to_be_compared_with():
    found = sweep({"mine/ranker": {"quality": 0.6, "ms": 5.0, "kind": "pipeline"}}, baseline="mine/ranker").verdict
    assert found.worth_it == "nothing to compare"
    assert found.choice == "mine/ranker"
    assert [one.key for one in found.answers] == ["worth_it"]
    assert "Only one system was measured" in found.answers[0].reason
    unnamed = sweep(HELPFUL, baseline=None).verdict
    assert unnamed.worth_it == "nothing to compare"
    assert unnamed.choice == "cross-encoder small@50"
    assert "No baseline is named" in answer(unnamed, "worth_it").reason
    firsts = sweep(BM25 | {"bi-encoder": {"quality": 0.6, "ms": 3.0}}).verdict
    assert firsts.worth_it == "nothing to compare"
    assert firsts.choice == "bi-encoder"


def test_without_values_by_query_nothing_is_called_tested():
    found = sweep(HELPFUL, by_query={}).verdict
    assert found.choice == "cross-encoder small@50"
    assert "not tested" in answer(found, "hybrid").reason


def test_the_subject_is_the_choice_if_it_re_ranks_else_the_best_re_ranker():
    assert sweep(HELPFUL).verdict.subject == "cross-encoder small@50"
    assert sweep(HARMFUL).verdict.subject == "hybrid small@10"
    assert sweep(BM25).verdict.subject is None


def test_within_a_budget_the_subject_is_what_is_chosen_there():
    assert sweep(HELPFUL, limits=Limits(ms=200.0)).verdict.subject == "cross-encoder small@20"
    within = sweep(HELPFUL, limits=Limits(ms=10.0)).verdict
    assert (within.choice, within.subject) == ("bm25", "cross-encoder small@50")  # only BM25 stays within that


def test_memory_is_told_by_the_size_of_a_batch():
    found = answer(sweep(HELPFUL, memory_by_batch=memory("small")).verdict, "memory")
    assert found.answer == "310 to 903 MB, by batch size"
    assert "small, onnx, peak by tokens in a batch: 1,024: 310 MB, 4,096: 420 MB, 16,384: 903 MB." in found.reason
    assert answer(sweep(HELPFUL, memory_by_batch=memory("small")[:1]).verdict, "memory") is None


def with_segments(gain):
    given = sweep(BM25 | cross_encoders({10: 0.6}), queries=90)
    name = "cross-encoder small@10"
    old = given.by_query["bm25"]["nDCG@10"]
    new = {query: old[query] + gain(place) for place, query in enumerate(old)}
    by_query = {**given.by_query, name: {"nDCG@10": new}}
    features = {query: {"query_words": float(place)} for place, query in enumerate(old)}
    segments = judge(features, by_query, baseline="bm25", system=name)
    return rejudged(given, by_query=by_query, segments=segments).verdict


def test_where_it_helps_and_harms_comes_from_the_segments():
    found = with_segments(lambda place: 0.3 if place < 30 else -0.1 + 0.002 * (place % 3) if place >= 60 else 0.0)
    assert [(row.name, row.queries) for row in found.helps_where] == [("short queries", 30)]
    assert [row.name for row in found.harms_where] == ["long queries"]
    told = answer(found, "segments")
    assert told.question == "Where does cross-encoder small@10 help, and where does it harm?"
    assert told.answer == "It helps most: short queries; it harms most: long queries"
    assert "Short queries (words at most 29; 30 queries): +0.300" in told.reason
    assert "1 of 3 segments gain and 1 lose" in told.reason
    everywhere = answer(with_segments(lambda place: 0.1 + place / 1000), "segments")
    assert everywhere.answer == "It helps everywhere, most: long queries"
    nowhere = answer(with_segments(lambda place: 0.1 * (-1) ** place), "segments")
    assert nowhere.answer == "No kind of query stands out"


def test_a_verdict_on_less_than_half_of_the_judgments_says_so_first():
    half, more = LeftOut("1 of 2 are missing", 0.5), LeftOut("3 of 4 are missing", 0.75)
    assert sweep(HELPFUL, left_out=(half,)).verdict.answers[0].key == "worth_it"
    first = sweep(HELPFUL, left_out=(more, half)).verdict.answers[0]
    assert (first.key, first.answer) == ("basis", "Less than half of the judgments")
    assert first.reason == "3 of 4 are missing. What follows holds for the rest alone."


def test_what_may_mislead_is_said():
    given = altered(sweep(HELPFUL), "bm25", unjudged=0.1)
    given = altered(given, "cross-encoder small@50", unjudged=0.4, read_share=0.3)
    cautions = given.verdict.cautions
    assert any("40% of the first ten documents of cross-encoder small@50" in line for line in cautions)
    assert any("10% for bm25" in line for line in cautions)
    assert any("read only 30% of its candidates' tokens" in line for line in cautions)
    assert sweep(HELPFUL, complete=False).verdict.cautions[0].startswith("The measurement was interrupted")
    assert sweep(HELPFUL, complete=True).verdict.cautions == ()


def test_depths_over_another_first_stage_are_another_curve():
    over = {f"bi > {n}": e for n, e in cross_encoders({10: 0.65, 50: 0.66}, first_stage="bi-encoder").items()}
    found = sweep(BM25 | cross_encoders({10: 0.55, 50: 0.6}, first_stage="bm25") | over).verdict
    assert [place.system for place in found.depth.curve] == list(over)
    assert found.choice == "bi > cross-encoder small@10"


QUALITY = st.sampled_from([0.3, 0.49, 0.5, 0.505, 0.52, 0.6, 0.605, 0.7])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(QUALITY, min_size=1, max_size=3),
    st.lists(QUALITY, max_size=3),
    st.sampled_from([8, 40]),
    st.one_of(st.none(), st.sampled_from([0.5, 100.0, 1e6])),
)
def test_whatever_was_measured_the_choice_keeps_its_promises(alone, joined, queries, budget):
    depths = (10, 50, 100)
    systems = BM25 | cross_encoders(dict(zip(depths, alone, strict=False)))
    systems |= hybrids(dict(zip(depths, joined, strict=False)))
    given = sweep(systems, queries=queries)
    before = json.dumps(to_plain(given))
    found = rejudged(given, Limits(ms=budget)).verdict
    assert json.dumps(to_plain(given), allow_nan=False) == before
    assert found.worth_it in list(WorthIt)
    measured = by_name(given)
    if budget is not None and found.choice is not None:
        assert measured[found.choice].latency_ms.p95 <= budget
    if found.choice not in (None, "bm25"):
        chosen = measured[found.choice].versus
        assert chosen.p_corrected < 0.05
        assert chosen.difference >= WORTH
    if budget is None:
        assert (found.choice != "bm25") == (found.worth_it in ("yes", "hybrid only"))
    if found.worth_it != "yes":
        assert not (found.choice or "").startswith("cross-encoder")
    texts = [text for one in found.answers for text in (one.question, one.answer, one.reason)]
    assert all(text.strip() for text in texts)
    assert "None" not in " ".join(texts)
    gain = max(one.quality for one in measured.values() if one.depth is not None) - measured["bm25"].quality
    warned = found.worth_it not in ("yes", "hybrid only") and gain < WORTH - SAME
    assert (found.do_not_rerank is not None) == warned


def test_systems_without_comparisons_get_no_false_verdict():
    systems = [figures("bm25", 0.5, 1.0), figures("ce", 0.7, 9.0, kind="cross-encoder")]
    found = made(systems, by_query={}, queries=60).verdict
    assert found.worth_it == "nothing to compare"
    assert "No system that re-ranks was compared" in answer(found, "worth_it").reason
