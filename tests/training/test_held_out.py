import pytest

from fakes import FakeBackend
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.held_out import HeldOut, graded_by_order, rank


def held_out(texts, query="the hut"):
    return HeldOut({"q": query}, {"q": texts}, {"q": {"d1": 1}})


def test_candidates_are_ranked_by_the_model_and_ties_keep_the_first_stages_order():
    texts = {"d1": "snow", "d2": "the hut in the snow", "d3": "snow", "d4": " "}
    scorer = CrossEncoderScorer(FakeBackend())
    scored = {
        name: one.logit
        for name, one in zip(texts, scorer.score("the hut", list(texts.values()))[0].documents, strict=True)
    }
    run = rank(scorer, held_out(texts))["q"]
    known = [name for name in texts if scored[name] is not None]
    assert list(run) == [*sorted(known, key=lambda name: -scored[name]), "d4"]  # without text it cannot be scored
    assert list(run).index("d1") < list(run).index("d3")
    assert sorted(run.values(), reverse=True) == list(run.values())
    assert len(set(run.values())) == 4


def test_the_first_stage_is_the_order_that_came_in():
    assert list(held_out({"d9": "a", "d1": "b"}).first_stage()["q"]) == ["d9", "d1"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (({}, {}, {}), "at least one held-out query"),
        (({"q": "a"}, {}, {"q": {}}), "documents must have an entry for every query, but 'q' has none"),
        (({"q": "a"}, {"q": {}}, {}), "judgments must have an entry for every query, but 'q' has none"),
    ],
)
def test_what_is_missing_is_refused(given, error):
    with pytest.raises(ValueError, match=error):
        HeldOut(*given)


def test_a_ranking_becomes_judgments_with_falling_grades():
    run = {"q": {f"d{place}": 1.0 / (1 + place) for place in range(12)}}
    grades = graded_by_order(run)["q"]
    assert [grades[f"d{place}"] for place in range(12)] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
