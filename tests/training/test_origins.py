"""A made query's right document is the one that it was made of, and what may be right as well is not learnt."""

import pytest

from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.made_queries import MadeQuery
from haystack_ce_ranker.training.origins import ORIGINS, by_origin, origins_sought

QUERIES = [MadeQuery("made", "the hut", "title", "b"), MadeQuery("log", "a train", "given", "")]


def group(name="made", **logits):
    candidates = (Candidate(key, f"text {key}", teacher=logit, source="bm25") for key, logit in logits.items())
    return Group(name, "the hut", tuple(candidates))


def labels(found):
    return [{one.document_id: one.label for one in of_query.candidates} for of_query in found.groups]


def test_only_what_the_teacher_scores_lower_is_wrong():
    found = by_origin([group(a=2.0, b=1.0, c=0.9, d=1.0)], QUERIES, drops=True)
    assert labels(found) == [{"a": None, "b": 1.0, "c": 0.0, "d": None}]
    assert found.doubtful == 2


def test_a_base_that_judges_alone_drops_nothing():
    found = by_origin([group(a=2.0, b=1.0, c=0.9)], QUERIES, drops=False)
    assert labels(found) == [{"a": 0.0, "b": 1.0, "c": 0.0}]
    assert found.doubtful == 0


@pytest.mark.parametrize("drops", [True, False])
def test_a_copy_of_the_right_document_is_not_wrong(drops):
    copied = Group("made", "q", (Candidate("a", "same", teacher=0.0), *group(b=1.0, c=0.0).candidates))
    copied = Group("made", "q", (*copied.candidates[:1], Candidate("b", "same", teacher=1.0), copied.candidates[2]))
    assert labels(by_origin([copied], QUERIES, drops=drops)) == [{"a": None, "b": 1.0, "c": 0.0}]


def test_the_teachers_best_is_right_for_a_query_of_a_log():
    found = by_origin([group("log", a=-2.0, b=-3.0, c=-1.0)], QUERIES, drops=True)
    assert labels(found) == [{"a": 0.0, "b": 0.0, "c": 1.0}]


def test_queries_without_a_right_or_a_wrong_document_are_counted():
    found = by_origin([group(a=1.0, c=0.0), group(a=1.0, b=0.0)], QUERIES, drops=True)
    assert (found.groups, found.unread, found.alone, found.doubtful) == ((), 1, 1, 0)


def test_the_test_asks_for_the_right_document_among_the_wrong_ones():
    test = origins_sought(by_origin([group(a=2.0, b=1.0, c=0.9)], QUERIES, drops=True).groups)
    assert test.documents == {"made": {"b": "text b", "c": "text c"}}
    assert test.judgments == {"made": {"b": 1, "c": 0}}
    assert test.judged_by == ORIGINS
