"""benchmarks/long_context.py: what each reading reads, counted without a model. Nothing is timed."""

import pytest
from haystack import Document

import long_context_cost
from fakes import FakeBackend
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from long_context_cost import DEFAULT, READINGS, WHOLE, WINDOW
from speed_tasks import Task

LONG, SHORT = "berlin is the city in germany. " * 40, "the city"
TASK = Task("q", "where is berlin", [Document(content=LONG), Document(content=SHORT)])


@pytest.mark.parametrize("reading", READINGS)
def test_counting_gives_what_scoring_reads_and_runs_no_model(reading):
    backend = FakeBackend()
    counted = long_context_cost.count(backend, reading, 64, TASK)
    assert backend.fed == []
    _, scored = CrossEncoderScorer(backend, READINGS[reading](64)).score(TASK.query, [LONG, SHORT])
    assert (counted.pairs, counted.tokens) == (scored.pairs, scored.tokens)
    assert sum(map(len, backend.fed)) == counted.tokens


def test_one_window_fills_a_pair_and_every_window_reads_the_whole_text():
    backend = FakeBackend()
    read = {reading: long_context_cost.count(backend, reading, 48, TASK) for reading in (DEFAULT, WINDOW, WHOLE)}
    whole = len(backend.tokenizer.encode([LONG])[0].ids)
    short = long_context_cost.count(backend, WINDOW, 48, TASK._replace(documents=TASK.documents[1:])).tokens
    assert read[WINDOW].pairs == 2
    assert read[WINDOW].tokens == 48 + short
    assert read[WHOLE].pairs > 2
    assert read[WHOLE].tokens > whole
