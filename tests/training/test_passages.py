"""What is shown in training is what the scorer reads in serving, and a window alone has the window's logit."""

import pytest

from fakes import FakeBackend
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.passages import PassageReader, Shown

QUERY = "the hut in the snow"
LONG = (
    "a car of berlin. " * 12 + "the hut is in the snow. " * 3 + "paris is a city. " * 12 + "snow in the hut of paris. "
)
DOCUMENTS = ["the hut", LONG, "a brake is a brake", "the hut", " \n"]


def reader(**policy):
    values = {"passage_tokens": 16, "passage_stride": 8, "passage_evidence": 0.1, **policy}
    return PassageReader(CrossEncoderScorer(FakeBackend(), ReadingPolicy(**values)))


def read_of(score, content):
    return [content[span.start : span.end] for span in sorted(score.read, key=lambda span: -span.evidence)]


@pytest.mark.parametrize("strategy", ["best_passages", "windows", "head"])
def test_the_texts_shown_are_those_that_the_scorer_reads(strategy):
    reading = reader(long_documents=strategy)
    scores, _ = reading.scorer.score(QUERY, DOCUMENTS)
    shown = reading.shown(QUERY, DOCUMENTS)
    assert [sorted(texts) for texts in shown] == [
        sorted(read_of(score, content)) for score, content in zip(scores.documents, DOCUMENTS, strict=True)
    ]
    assert len(shown[1]) > 1 or strategy == "head"


def test_the_texts_come_best_first_by_their_evidence():
    reading = reader()
    [score] = reading.scorer.score(QUERY, [LONG])[0].documents
    assert reading.shown(QUERY, [LONG]) == [read_of(score, LONG)]
    assert "hut" in reading.shown(QUERY, [LONG])[0][0]


def test_a_document_that_fits_is_shown_whole_and_one_without_text_not_at_all():
    assert reader().shown(QUERY, ["the hut ", "", "\u200b"]) == [["the hut "], [], []]
    assert reader().shown(" ", ["the hut"]) == [[]]


def test_the_best_text_is_the_one_with_the_highest_logit():
    reading = reader()
    best = reading.best(QUERY, DOCUMENTS)
    for one, texts in zip(best, reading.shown(QUERY, DOCUMENTS), strict=True):
        if texts:
            logits = [found.logit for found in reading.best(QUERY, texts)]
            assert one == Shown(texts[logits.index(max(logits))], max(logits))
    assert best[-1] == Shown(" \n", None)
    assert best[0] == best[3]


def test_head_and_tail_of_one_pair_are_one_text():
    reading = reader(long_documents="head_tail")
    [[text]] = reading.shown(QUERY, [LONG])
    [best] = reading.best(QUERY, [LONG])
    assert best.text == text
    assert text.startswith(LONG[:20])
    assert text.endswith(LONG[-5:].strip())
    assert len(text) < len(LONG) / 2


def test_many_queries_are_read_as_each_alone_with_their_progress():
    reading, told = reader(), []
    requests = [(QUERY, DOCUMENTS), ("a city", DOCUMENTS[:2]), ("", ["the hut"])]
    found = reading.best_of_many(requests, progress=lambda done, total: told.append((done, total)))
    assert found == [reading.best(query, documents) for query, documents in requests]
    assert found[2] == [Shown("the hut", None)]
    assert told[-1] == (8, 8)


def test_a_prompt_of_the_model_is_part_of_the_query():
    backend = FakeBackend()
    backend.query_prompt = "the city of berlin and of paris: "
    plain, prompted = reader(), PassageReader(CrossEncoderScorer(backend, reader().scorer.policy))
    document = "the hut in the snow " * 2 + "a a a a"
    assert plain.shown("a car", [document]) == [[document]]
    [score] = prompted.scorer.score("a car", [document])[0].documents
    assert sorted(prompted.shown("a car", [document])[0]) == sorted(read_of(score, document))
