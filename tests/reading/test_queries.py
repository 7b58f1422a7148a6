"""Which tokens of a query stay when it does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeBackend
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import REDUCTIONS, EncodedQuery, QueryText
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.tokens import Tokens

TOKENS = np.array([4, 9, 0, 7, 1, 1])


def query_of(ids, text=""):
    places = np.arange(len(ids))
    return EncodedQuery(text, Tokens(np.asarray(ids), 2 * places, 2 * places + 1))


@pytest.mark.parametrize(
    ("reduction", "kept"),
    [("head", [4, 9, 0, 7]), ("tail", [0, 7, 1, 1]), ("head_tail", [4, 9, 1, 1]), ("rarest", [4, 9, 7, 1])],
)
def test_each_reduction_keeps_its_side(reduction, kept):
    assert query_of(TOKENS).reduced(4, reduction).tokens.ids.tolist() == kept


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from(sorted(REDUCTIONS)))
def test_a_reduced_query_keeps_its_order_and_takes_all_the_room(length, room, reduction):
    query = query_of(np.arange(length))
    kept = query.reduced(room, reduction)
    assert len(kept) == min(length, room)
    assert (np.diff(kept.tokens.ids) > 0).all()
    assert (kept.tokens.starts == 2 * kept.tokens.ids).all()
    if length <= room:
        assert kept is query


def around(prefix, content, suffix, prompt=""):
    """A query whose every letter is a token, by the letter's number."""
    text = prompt + prefix + content + suffix
    places = np.arange(len(text))
    return EncodedQuery.of(
        QueryText(content, prefix, suffix), Tokens(np.array(list(map(ord, text))), places, places + 1), prompt=prompt
    )


def test_what_stands_around_every_query_asks_nothing():
    query = around("in: ", "dog", " ?", prompt="say ")
    assert query.text == "say in: dog ?"
    assert query.asked.tolist() == list(map(ord, "dog"))
    assert query.has_text
    assert not around("in: ", " ", "?").has_text
    assert query_of(TOKENS).asked.tolist() == TOKENS.tolist()
    assert EncodedQuery.of("dog", query.tokens).own is None


@pytest.mark.parametrize(
    ("tokens", "left", "asked"),
    [(11, "in: dogs a?", "dogs a"), (8, "in: dogs", "dogs"), (4, "indo", "do"), (1, "d", "d")],
)
def test_a_query_is_cut_before_what_stands_around_it_but_keeps_half_of_the_room(tokens, left, asked):
    kept = around("in: ", "dogs and", "?").reduced(tokens, "head")
    assert ["".join(map(chr, ids.tolist())) for ids in (kept.tokens.ids, kept.asked)] == [left, asked]


def test_a_query_shows_its_text_or_the_runs_of_tokens_that_stayed():
    query = query_of([4, 9, 0, 7, 1, 1], "a b c d e f")
    assert query.shown() == "a b c d e f"
    assert query.reduced(4, "head_tail").shown() == "a b e f"
    assert query.reduced(4, "rarest").shown() == "a b d e"
    assert query.reduced(1, "tail").shown() == "f"
    pieces = np.arange(6)  # six tokens of one word: a run of them stays one piece of text
    word = EncodedQuery("berlin", Tokens(pieces, pieces, pieces + 1))
    assert word.reduced(4, "head_tail").shown() == "be in"


def test_the_policy_decides_which_part_of_a_long_query_is_read():
    query = "a b c a b c b b b b c c"
    by_reduction = {}
    for reduction in REDUCTIONS:
        policy = ReadingPolicy(max_query_tokens=4, query_reduction=reduction)
        scores, _ = CrossEncoderScorer(FakeBackend(), policy).score(query, ["c b a"])
        assert scores.query_tokens_read == 4
        by_reduction[reduction] = scores.documents[0].logit
    assert len(set(by_reduction.values())) == len(REDUCTIONS)
    with pytest.raises(ValueError, match="query_reduction must be one of 'head', .*, but got 'idf'"):
        ReadingPolicy(query_reduction="idf")


def test_what_was_read_tells_the_evidence_it_was_chosen_by():
    text = " ".join(["a"] * 60 + ["b c"] + ["a"] * 60)
    policy = ReadingPolicy(passage_tokens=16, passage_stride=8, passages_per_document=2, passage_evidence=0.0)
    scores, _ = CrossEncoderScorer(FakeBackend(), policy).score("b c", [text, "b c"])
    long, short = scores.documents
    assert max(part.evidence for part in long.read) > 0.0
    assert [part.evidence for part in short.read] == [0.0]
