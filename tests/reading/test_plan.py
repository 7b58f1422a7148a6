"""A plan of what to read: pairs within the budget, and pairs that give back the texts they were made of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import SCRIPTS, bert_tokenizer
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.passages import STRATEGIES
from haystack_ce_ranker.reading.plan import Planner
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import EncodedQuery, QueryText
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.pairs import PackedPair

TOKENIZER = PairTokenizer(bert_tokenizer())
MAX_LENGTH = 48


def planned(query, text, **policy):
    planner = Planner(ReadingPolicy(**{"passage_tokens": 12, "passage_stride": 6, **policy}), MAX_LENGTH, TOKENIZER)
    [tokens] = TOKENIZER.encode([query])
    [document] = DocumentEncoder(TOKENIZER).encode([text])
    return planner.plan(EncodedQuery(query, tokens), text, document, place=0)


@pytest.mark.parametrize("around", [QueryText("hut", "snow snow "), QueryText("hut", suffix=" snow snow")])
def test_windows_are_chosen_by_what_is_asked_and_not_by_what_stands_around(around):
    content = "the city. " * 40 + "snow snow snow. " + "the city. " * 40 + "hut hut hut. " + "the city. " * 40
    planner = Planner(
        ReadingPolicy(passage_tokens=12, passage_stride=6, passages_per_document=1), MAX_LENGTH, TOKENIZER
    )
    [tokens] = TOKENIZER.encode([around.whole()])
    [document] = DocumentEncoder(TOKENIZER).encode([DocumentText(content)])
    plan = planner.plan(EncodedQuery.of(around, tokens), DocumentText(content), document, place=0)
    read = plan.texts(plan.pieces[0]).document
    assert "hut" in read
    assert "snow" not in read


def encoded_pair(texts):
    """What the model reads of two texts."""
    query, document = TOKENIZER.encode(list(texts))
    return TOKENIZER.format.pack(query.ids, document.ids).ids.tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.text(alphabet="abc ", max_size=60),
    st.text(alphabet="the hut. ", max_size=300),
    st.sampled_from(sorted(STRATEGIES)),
)
def test_every_pair_fits_and_costs_what_the_plan_says(query, content, strategy):
    plan = planned(query, DocumentText(content, "a car. ", " snow"), long_documents=strategy)
    assert plan.pieces
    for piece in plan.pieces:
        assert len(plan.pack(piece).ids) == plan.cost(piece) <= MAX_LENGTH


def test_a_pair_that_is_read_whole_gives_back_exactly_what_was_given():
    text = DocumentText("The  hut is\tin the SNOW.", "city: ", " (paris)")
    plan = planned("Is the hut  in Berlin?", text)
    [piece] = plan.pieces
    pair = plan.pack(piece)
    assert pair.texts() == ("Is the hut  in Berlin?", "city: The  hut is\tin the SNOW. (paris)")
    assert encoded_pair(pair.texts()) == pair.ids.tolist()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_windows_text_is_a_slice_of_the_content_between_what_is_embedded(script, strategy):
    text = DocumentText(SCRIPTS[script], "city: ", " end")
    plan = planned("snow hut", text, long_documents=strategy)
    for piece in plan.pieces:
        query, document = plan.pack(piece).texts()
        assert query == "snow hut"
        assert document.startswith("city: ")
        assert document.endswith(" end")
        passage = document.removeprefix("city: ").removesuffix(" end")
        parts = [text.content[slice(*plan.offsets(span))] for span in piece.spans]
        assert passage == " ".join(parts)
        assert all(part and part in text.content for part in parts)


def test_the_text_of_a_window_is_read_as_the_window_was():
    """Windows begin at words here, so that reading their text anew gives the same tokens."""
    text = DocumentText("the hut is in the snow of berlin. " * 20)
    plan = planned("snow", text, passages_per_document=3, passage_evidence=0.0)
    assert len(plan.pieces) == 3
    for piece in plan.pieces:
        pair = plan.pack(piece)
        assert encoded_pair(pair.texts()) == pair.ids.tolist()


def test_a_query_that_is_cut_shows_what_is_left_of_it():
    plan = planned("a b c " * 30 + "berlin", DocumentText("the hut. " * 40), max_query_tokens=5)
    for piece in plan.pieces:
        query = plan.pack(piece).texts().query
        assert "berlin" in query
        assert len(TOKENIZER.encode([query])[0].ids) == 5


def test_a_pair_of_tokens_alone_has_no_texts_and_says_so():
    [tokens] = TOKENIZER.encode(["hut"])
    with pytest.raises(ValueError, match="packed from tokens alone"):
        PackedPair(tokens.ids, tokens.ids).texts()


def test_what_is_embedded_must_leave_room():
    with pytest.raises(ValueError, match="take .* tokens of the .* that a pair has for document 0"):
        planned("snow", DocumentText("hut", prefix="a b c d " * 20))
    plan = planned("snow", DocumentText("hut", "a b c d " * 20))
    assert (plan.pieces, plan.why_unread) == ((), "no_room")
    assert planned("snow", DocumentText("hut")).why_unread is None


@pytest.mark.parametrize("prefix", ["", "city: "])
@pytest.mark.parametrize("content", ["", " \n", "\u200b"])
def test_a_plan_for_nothing_has_no_pieces_and_says_why(prefix, content):
    for strategy in STRATEGIES:
        plan = planned("snow " * 90, DocumentText(content, prefix=prefix, footer=prefix), long_documents=strategy)
        assert (plan.pieces, plan.why_unread) == ((), "no_text")
