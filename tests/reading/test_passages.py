"""Windows, evidence, and offsets that slice back to the text."""

import tracemalloc
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fakes import LEARNT, SCRIPTS, bert_tokenizer
from haystack_ce_ranker.reading.documents import DOCUMENT_COST, DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.passages import (
    AGGREGATES,
    STRATEGIES,
    Span,
    WindowSettings,
    characters,
    evidence,
    windows,
)
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

TOKENIZER = PairTokenizer(bert_tokenizer())


def encoded(text, header="", footer=""):
    return DocumentEncoder(TOKENIZER).encode([DocumentText(text, header, footer)])[0]


@pytest.mark.parametrize("header", ["", "the city "])
def test_sentences_start_behind_marks_with_a_space_and_behind_lines(header):
    text = '\n\nthe hut 3.5 is.\n\nsnow? "car." paris. '
    document = encoded(text, header=header)
    starts = document.body.starts[document.sentence_starts].tolist()
    assert starts == [text.index(word) for word in ("the", "snow", '"car', "paris")]
    assert encoded("", header=header).sentence_starts.tolist() == []


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 100))
def test_windows_cover_the_document(tokens, size, stride):
    starts = windows(tokens, size=size, stride=stride)
    seen = np.zeros(tokens, dtype=bool)
    for start in starts:
        assert start >= 0
        seen[start : start + size] = True
    assert seen.all()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_stays_in_its_room_and_in_the_text(script, strategy):
    text = SCRIPTS[script]
    document = encoded(text)
    query = TOKENIZER.encode(["snow hut"])[0].ids
    settings = WindowSettings(24, 12, 4, 0.5)
    pieces = STRATEGIES[strategy](document, query, 40, settings)
    assert pieces
    seen = np.zeros(len(document.body.ids), dtype=bool)
    for piece in pieces:
        assert 0 < piece.tokens <= 40
        for span in piece.spans:
            start, end = characters(document, text, span)
            assert 0 <= start < end <= len(text)
            first, last = document.body.starts[span.start], document.body.ends[span.stop - 1]
            assert start <= first
            assert end >= last
            assert unicodedata.combining(text[end]) == 0 if end < len(text) else True
            seen[span.start : span.stop] = True
    if strategy == "windows":
        assert seen.all()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kind", LEARNT)
def test_offsets_slice_out_exactly_what_the_tokens_of_a_window_say(kind, script):
    tokenizer, content = LEARNT[kind], SCRIPTS[script]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    encoder = DocumentEncoder(PairTokenizer(fast))
    document = encoder.encode([DocumentText(content, header="a car ", footer=" paris")])[0]

    def said(span):
        ids = document.body.ids[span.start : span.stop].tolist()
        if kind == "bytes":
            return "".join(tokenizer.decode(ids, skip_special_tokens=False).strip("\ufffd").split())
        return "".join(tokenizer.id_to_token(token).removeprefix("##").strip("▁") for token in ids)

    def shown(text):
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
        return "".join(normal.split())

    tokens = len(document.body.ids)
    assert tokens > 30
    exact = 0
    for size in (1, 2, 7, 20):
        for first in range(tokens - size + 1):
            span = Span(first, first + size)
            start, end = characters(document, content, span)
            text = content[start:end]
            assert said(span) in shown(text)
            assert len(shown(text)) - len(said(span)) <= 2 * len("👩‍👩‍👧")
            exact += said(span) == shown(text)
            assert not unicodedata.combining(text[0])
            assert end == len(content) or not unicodedata.combining(content[end])
    spans = 4 * tokens - 26
    # More than the tokens say is shown only where a tokenizer parts what a reader sees as one character.
    parted = {"emoji"} if kind != "bytes" else {"emoji", "chinese", "arabic", "accents", "nfd"}
    assert exact == spans or script in parted
    assert exact > 0


def test_what_a_reader_sees_as_one_character_is_not_cut():
    text = "a 👩‍👩‍👧 b"
    document = encoded(text)
    for span in (Span(0, 2), Span(1, 2), Span(1, 3)):
        start, end = characters(document, text, span)
        assert "👩‍👩‍👧" in text[start:end]
    decomposed = unicodedata.normalize("NFD", "é")
    fast = PreTrainedTokenizerFast(tokenizer_object=LEARNT["bytes"], pad_token="<pad>")
    document = DocumentEncoder(PairTokenizer(fast)).encode([DocumentText(f"a {decomposed} b")])[0]
    for first in range(len(document.body.ids)):
        start, end = characters(document, f"a {decomposed} b", Span(first, first + 1))
        assert f"a {decomposed} b"[start:end].strip() in ("a", decomposed, "b", "")


def test_the_window_with_the_rare_word_has_most_evidence():
    words = ["the hut"] * 40
    words[30] = "the hut berlin"
    document = encoded(" ".join(words))
    query = TOKENIZER.encode(["the hut berlin"])[0].ids
    best = STRATEGIES["best_passages"](document, query, 100, WindowSettings(16, 8, 1, 0.8))
    (span,) = best[0].spans
    ids = document.body.ids[span.start : span.stop]
    assert query[-1] in ids


def test_without_evidence_one_window_is_read():
    document = encoded("the hut " * 60)
    query = TOKENIZER.encode(["berlin"])[0].ids
    assert len(STRATEGIES["best_passages"](document, query, 100, WindowSettings(16, 8, 4, 0.0))) == 1
    assert not evidence(document.body.ids, query, np.array([0, 8]), size=16).any()


def test_the_parts_of_a_document_are_kept_apart():
    document = encoded("the snow", header="a car ", footer=" paris")
    assert len(document.header) == 2
    assert len(document.footer) == 1
    assert document.body.starts.tolist() == [0, 4]
    assert document.embedded == 3


def test_aggregates():
    logits = np.array([1.0, 3.0, 2.0])
    values = {name: function(logits) for name, function in AGGREGATES.items()}
    assert values["max"] == 3.0
    assert values["first"] == 1.0
    assert values["mean_top2"] == 2.5
    assert values["logsumexp"] == pytest.approx(np.log(np.exp(logits).sum()))
    assert values["level"] == pytest.approx(values["logsumexp"], abs=0.05)


def test_level_is_logsumexp_where_an_answer_is_found_and_nearly_the_mean_where_none_is():
    level = AGGREGATES["level"]
    found, lost = np.array([12.0, 3.0, -8.0]), np.array([-8.0, -9.0, -10.0])
    assert level(found) == pytest.approx(AGGREGATES["logsumexp"](found), abs=1e-6)
    assert level(lost) == pytest.approx(lost.mean() + np.log(3), abs=0.05)


@pytest.mark.parametrize("logit", [-9.0, -1.0, 0.0, 1.0, 9.0])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_level_puts_windows_that_say_the_same_where_logsumexp_puts_them(logit, number):
    logits = np.full(number, logit)
    assert AGGREGATES["level"](logits) == pytest.approx(AGGREGATES["logsumexp"](logits))


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), st.integers(0, 5), st.floats(0.01, 100))
def test_level_lies_between_mean_and_logsumexp_and_rises_with_each_logit(values, place, more):
    level, logits = AGGREGATES["level"], np.array(values)
    assert logits.mean() - 1e-6 <= level(logits) - np.log(len(logits)) <= logits.max() + 1e-6
    assert level(logits) <= AGGREGATES["logsumexp"](logits) + 1e-6
    higher = logits.copy()
    higher[place % len(values)] += more
    assert level(higher) >= level(logits) - 1e-6
    assert level(logits[:1]) == logits[0]


def test_the_cache_is_bounded_and_follows_the_content():
    encoder = DocumentEncoder(TOKENIZER, cache_tokens=4 + 2 * DOCUMENT_COST)
    first = encoder.encode([DocumentText("the hut")])[0]
    assert encoder.encode([DocumentText("the hut")])[0] is first
    assert encoder.encode([DocumentText("the car")])[0] is not first
    encoder.encode([DocumentText("the snow in berlin")])
    assert encoder.encode([DocumentText("the hut")])[0] is not first
    with pytest.raises(ValueError, match="cache_tokens"):
        DocumentEncoder(TOKENIZER, cache_tokens=-1)


def test_short_documents_take_no_more_memory_than_the_cache_may():
    def held(count):
        encoder = DocumentEncoder(TOKENIZER, cache_tokens=100_000)
        texts = [DocumentText(f"the hut {number}") for number in range(count)]
        tracemalloc.start()
        try:
            encoder.encode(texts)
            del texts
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert held(3000) < 12 * 100_000 * 1.3
