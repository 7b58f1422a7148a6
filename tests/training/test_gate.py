import io

import numpy as np
import pytest

from haystack_ce_ranker.evaluation.judging.comparison import Versus
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10
from haystack_ce_ranker.significance import randomisation_test
from haystack_ce_ranker.training.gate import BASE, FIRST_STAGE, TEACHER, TRAINED, Better, ShareOf, judge
from haystack_ce_ranker.training.held_out import HeldOut

pytest.importorskip("ir_measures")

DEPTH = 10


def held_out(queries, judged_by="labels"):
    names = [f"q{number:02}" for number in range(queries)]
    documents = {name: {f"{name}-{place}": "text" for place in range(DEPTH)} for name in names}
    return HeldOut(dict.fromkeys(names, "query"), documents, {name: {f"{name}-0": 1} for name in names}, judged_by)


def run_with(test, place):
    """A ranking with each query's relevant document at a place, which may depend on the query's number."""
    made = {}
    for number, name in enumerate(test.queries):
        others = [f"{name}-{one}" for one in range(1, DEPTH)]
        at = place(number) if callable(place) else place
        order = [*others[:at], f"{name}-0", *others[at:]]
        made[name] = {document: float(-rank) for rank, document in enumerate(order)}
    return made


def judged(before, after, *, queries=40, rule=None, **known):
    test = held_out(queries)
    runs = {BASE: run_with(test, before), TRAINED: run_with(test, after), **known}
    return judge("never loaded", "never loaded", test, rule=rule, known=runs)


def test_a_clearly_better_model_is_kept():
    found = judged(3, 0)
    assert found.decision.met
    assert found.saves("better")
    assert "better: nDCG@10 1.0000 against 0.4307 of the untouched base (+0.5693, corrected p <0.001)" in (
        found.decision.reason
    )


def test_an_equal_model_is_refused_and_the_gain_that_is_asked_for_is_named():
    found = judged(2, 2)
    assert not found.saves("better")
    assert found.saves("always")
    assert "not better by at least 0.005: nDCG@10 0.5000 against 0.5000" in found.decision.reason


def test_a_significantly_worse_model_is_refused_as_such():
    found = judged(0, 1)
    assert not found.decision.met
    assert found.decision.reason.startswith("the trained model is significantly worse")


def test_a_slightly_better_model_is_kept_without_significance_and_a_slightly_worse_one_is_not():
    assert judged(1, lambda number: 0 if number == 0 else 1, queries=20).decision.met  # one query of twenty
    assert not judged(1, lambda number: 2 if number == 0 else 1, queries=20).decision.met


@pytest.mark.parametrize(("gain", "met"), [(0.005, True), (0.0051, False)])
def test_the_bound_itself_is_enough(gain, met):
    versus = {BASE: Versus(0.005, 0.0, 0.01, 0.5, 1, 1, 1, 0.5)}
    assert Better(gain=gain).decide({TRAINED: 0.505, BASE: 0.5}, versus).met is met


def test_the_test_is_paired_and_corrected_for_the_number_of_comparisons():
    found = judged(lambda number: number % 3, lambda number: (number + 1) % 3 // 2, queries=12)
    test = held_out(12)
    p = {}
    for name in (FIRST_STAGE, BASE):
        ours, theirs = (ndcg_at_10(found.runs[one], test.grades) for one in (TRAINED, name))
        p[name] = randomisation_test(np.array([ours[query] - theirs[query] for query in test.queries]))
        assert found.versus[name].p == pytest.approx(p[name])
    low, high = sorted(p.values())
    assert sorted(one.p_corrected for one in found.versus.values()) == pytest.approx(
        sorted([min(2 * low, 1.0), max(min(2 * low, 1.0), high)])
    )


def test_without_a_base_that_ranks_the_first_stage_is_what_to_beat():
    test = held_out(20)
    found = judge(None, "never loaded", test, known={TRAINED: run_with(test, 0)})
    assert "of the first stage" in found.decision.reason
    assert BASE not in found.by_query
    assert not found.decision.met  # the relevant document comes first in the first stage as well


def test_a_share_of_nothing_is_reached_by_nobody():
    found = ShareOf().decide({TRAINED: 0.0, TEACHER: 0.0}, {})
    assert not found.met
    assert "the test tells nothing" in found.reason


@pytest.mark.parametrize(("place", "met"), [(0, True), (1, False)])
def test_a_share_of_a_teachers_quality_can_be_asked_for(place, met):
    test = held_out(20)
    found = judged(5, place, queries=20, rule=ShareOf(share=0.95), **{TEACHER: run_with(test, 0)})
    assert found.decision.met is met
    assert f"is {'100.0%' if met else '63.1%'} of the teacher's 1.0000, and " in found.decision.reason
    assert ("at least 95.0% is asked for" in found.decision.reason) is not met
    assert set(found.versus) == {FIRST_STAGE, BASE, TEACHER}


def test_where_nobody_judged_it_is_said():
    test = held_out(20, "the teacher's own order, which nobody judged")
    found = judge(None, "x", test, known={TRAINED: run_with(test, 0), BASE: run_with(test, 3)})
    assert found.decision.reason.endswith("the test is the teacher's own order, which nobody judged")
    assert found.plain()["judged_by"] == test.judged_by


def test_models_are_scored_as_the_ranker_scores(learner, task):
    from haystack import Document

    from haystack_ce_ranker import CrossEncoderRanker

    found = judge(learner, learner, task.test)
    assert found.runs[BASE] == found.runs[TRAINED]
    ranker = CrossEncoderRanker(model=learner)
    for query_id, query in task.test.queries.items():
        documents = [Document(id=name, content=text) for name, text in task.test.documents[query_id].items()]
        assert [one.id for one in ranker.run(query, documents)["documents"]] == list(found.runs[BASE][query_id])


def test_what_is_asked_for_is_checked():
    with pytest.raises(ValueError, match="save must be one of 'better', 'always'"):
        judged(0, 0).saves("maybe")
    with pytest.raises(ValueError, match="share must be"):
        ShareOf(share=1.5)
    with pytest.raises(ValueError, match="gain must be"):
        Better(gain=-1)


def test_the_table_has_a_row_for_each_system_and_says_who_judged():
    from rich.console import Console

    from haystack_ce_ranker.training.showing import gate_table

    console = Console(width=140, record=True, file=io.StringIO())
    console.print(gate_table(judged(3, 0)))
    said = console.export_text()
    assert "40 queries that training never saw, judged by labels" in said
    for name in (FIRST_STAGE, BASE, TRAINED):
        assert name in said
    assert "+0.5693" in said
    assert "40 / 0 / 0" in said
