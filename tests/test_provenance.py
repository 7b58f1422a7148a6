"""Which records speak for a list: those that agree with the scores that the documents have now."""

import math
from typing import Any

import numpy as np
import pytest

from haystack_ce_ranker.provenance import noted_scores, raw_score, records, stage_of, with_record


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def metas(name: str, *noted: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{} if one is None else with_record({}, name, one) for one in noted]


def scores_of(shown: list[Any], meta: list[dict[str, Any]], name: str) -> list[float | None] | None:
    found = noted_scores(shown, meta, name)
    return None if found is None else found.scores


def test_a_record_is_borne_out_by_its_own_score_and_by_its_sigmoids() -> None:
    logits = metas("ce", {"logit": 12.0}, {"logit": -3.0})
    assert scores_of([12.0, -3.0], logits, "ce") == [12.0, -3.0]
    assert scores_of([sigmoid(12.0), sigmoid(-3.0)], logits, "ce") == [12.0, -3.0]
    assert scores_of([float(np.float32(sigmoid(12.0))), np.float32(sigmoid(-3.0))], logits, "ce") == [12.0, -3.0]
    found = metas("bm25", {"score": 20.0}, {"score": 5.0})
    assert scores_of([sigmoid(20.0 / 8), sigmoid(5.0 / 8)], found, "bm25") == [20.0, 5.0]


@pytest.mark.parametrize(
    "shown", [[0.9, 0.8], [20.1, 5.1], [5.0, 20.0], [None, None], [math.nan, math.inf], ["20", "5"]]
)
def test_a_record_of_an_earlier_run_does_not_speak_for_other_scores(shown: list[Any]) -> None:
    assert noted_scores(shown, metas("bm25", {"score": 20.0}, {"score": 5.0}), "bm25") is None


def test_a_later_stage_that_left_a_record_does_not_contradict_the_earlier_ones() -> None:
    both = [with_record(meta, "ce", {"logit": 1.5}) for meta in metas("bm25", {"score": 20.0})]
    assert scores_of([sigmoid(1.5)], both, "bm25") == [20.0]
    assert scores_of([sigmoid(1.5)], both, "ce") == [1.5]
    assert noted_scores([0.3], both, "bm25") is None


def test_of_a_mixed_list_what_is_contradicted_or_was_not_noted_counts_as_unknown() -> None:
    fresh_and_stale = metas("bm25", {"score": 20.0}, {"score": 5.0}, {"score": 9.0}, None)
    assert scores_of([20.0, 5.0, 0.7, 0.6], fresh_and_stale, "bm25") == [20.0, 5.0, None, None]
    mostly_stale = metas("bm25", {"score": 1.0}, {"score": 5.0}, {"score": 9.0}, None)
    assert noted_scores([1.0, 0.8, 0.7, 0.6], mostly_stale, "bm25") is None  # one is equal by chance


def test_the_records_of_a_stage_of_another_name_speak_only_if_every_score_bears_them_out() -> None:
    found = noted_scores([sigmoid(2.0), sigmoid(-1.0)], metas("ce", {"logit": 2.0}, {"logit": -1.0}), "reranker")
    assert found is not None
    assert (found.stage, found.scores, found.logits) == ("ce", [2.0, -1.0], True)
    unscored = noted_scores([sigmoid(2.0), None], metas("ce", {"logit": 2.0}, {"logit": None}), "reranker")
    assert unscored is not None
    assert unscored.scores == [2.0, None]
    assert noted_scores([sigmoid(2.0), 0.3], metas("ce", {"logit": 2.0}, {"logit": -1.0}), "reranker") is None
    assert noted_scores([sigmoid(2.0), 0.3], metas("ce", {"logit": 2.0}, None), "reranker") is None


def test_odd_records_and_lists_are_survived() -> None:
    odd = [{"ce_ranker": 3}, {"ce_ranker": {"bm25": 4.0}}, {"ce_ranker": {"bm25": {"score": "4.0"}}}]
    assert noted_scores([4.0, 4.0, 4.0], odd, "bm25") is None
    assert noted_scores([], [], "bm25") is None
    extreme = metas("ce", {"logit": math.inf}, {"logit": -1e6}, {"logit": 1e6})
    assert scores_of([math.inf, 0.0, 1.0], extreme, "ce") == [None, -1e6, 1e6]


def test_records_are_written_beside_the_others_and_the_logit_is_the_raw_score() -> None:
    meta = with_record({"page": 1, "ce_ranker": {"bm25": {"score": 3.0}}}, "ce", {"logit": 1.0, "score": 0.7})
    assert meta["page"] == 1
    assert set(records(meta)) == {"bm25", "ce"}
    assert raw_score(meta, "ce") == 1.0
    assert raw_score(meta, "bm25") == 3.0
    assert raw_score(meta, "other") is None


@pytest.mark.parametrize(
    ("scores", "stage"), [([], "bm25"), ([0.0, 1.0], "dense"), ([0.2, 1.1], "bm25"), ([-0.1, 30.0], "dense")]
)
def test_scores_out_of_a_file_are_bm25s_unless_they_cannot_be(scores: list[float], stage: str) -> None:
    run = {"q": {str(place): score for place, score in enumerate(scores)}, "none": {}}
    assert stage_of(run) == stage
