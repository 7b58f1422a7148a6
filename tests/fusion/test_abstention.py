"""Abstaining: the threshold that tells queries without an answer, and how well it does where it was not chosen."""

from dataclasses import replace

import numpy as np
import pytest

from haystack_ce_ranker.fusion.abstention import FEWEST, Abstention, Tops, abstention, in_words, tops_of, without
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting
from haystack_ce_ranker.fusion.normalizers import parse_normalizations

SETTING = Setting(Frame("none", parse_normalizations("none", ["ce", "bm25"])), {"ce": 0.5, "bm25": 0.5})
QUERY = JudgedQuery(
    "q",
    {
        "ce": ScoredList(["a", "b", "c"], np.array([0.9, 0.2, 0.4]), floor=0.1, scale="logits"),
        "bm25": ScoredList(["b", "a"], [0.6, 0.5]),
    },
    {"a": 1, "b": 0, "x": 2},
    ["a", "b", "c"],
)


def test_a_query_counts_with_its_relevant_candidates_and_without() -> None:
    assert tops_of(QUERY, SETTING) == Tops(pytest.approx(0.7), pytest.approx(0.5))  # a, then c with b's BM25 score
    assert tops_of(replace(QUERY, judgments={"x": 1}), SETTING) is None  # it has no relevant candidate
    assert tops_of(replace(QUERY, judgments=dict.fromkeys("abc", 1)), SETTING) is None  # nothing else was found


def test_what_is_left_out_is_in_no_list_and_the_rest_of_a_list_stays() -> None:
    rest = without(QUERY, {"a"})
    assert list(rest.lists["ce"].ids) == ["b", "c"]
    assert list(rest.lists["ce"].scores) == [0.2, 0.4]
    assert (rest.lists["ce"].floor, rest.lists["ce"].scale) == (0.1, "logits")
    assert list(rest.lists["bm25"].ids) == ["b"]
    assert rest.candidates == ["b", "c"]
    assert list(QUERY.lists["ce"].ids) == ["a", "b", "c"]
    assert without(replace(QUERY, candidates=None), {"a"}).candidates is None


def test_what_is_told_apart_is_told_apart_on_the_other_half() -> None:
    found = abstention([Tops(0.8 + n / 1000, 0.2 + n / 1000) for n in range(40)])
    assert found is not None
    assert 0.2 < found.threshold <= 0.8
    assert (found.precision, found.recall, found.answered, found.queries) == (1.0, 1.0, 1.0, 40)


def test_scores_that_say_nothing_are_not_said_to() -> None:
    random = np.random.default_rng(0)
    found = abstention([Tops(*random.random(2)) for _ in range(400)])
    assert found is not None
    assert found.precision == pytest.approx(0.5, abs=0.06)


def test_a_threshold_is_judged_on_the_half_that_did_not_choose_it() -> None:
    """The two halves have scores of their own scales, so that the threshold of one says nothing on the other."""
    order = np.random.default_rng(0).permutation(20)
    tops = [Tops(0.0, 0.0)] * 20
    for place, number in enumerate(order):
        tops[number] = Tops(0.3, 0.1) if place % 2 else Tops(0.8, 0.2)
    found = abstention(tops, seed=0)
    assert found is not None
    # 0.5, from the first half, leaves nothing of the second; 0.2, from the second, leaves all of the first
    assert (found.precision, found.recall, found.answered) == (0.5, 0.5, 0.5)


def test_few_queries_choose_no_threshold_and_equal_scores_do() -> None:
    assert abstention([Tops(0.8, 0.2)] * (FEWEST - 1)) is None
    same = abstention([Tops(0.5, 0.5)] * FEWEST)
    assert same is not None
    assert (same.recall, same.answered, same.precision) == (0.0, 1.0, 0.0)


def test_words_have_every_figure() -> None:
    told = in_words(Abstention(0.42, 0.75, 0.81, 0.66, 149))
    for figure in ("0.42", "75%", "81%", "66%", "149"):
        assert figure in told
    assert f"fewer than {FEWEST}" in in_words(None)
