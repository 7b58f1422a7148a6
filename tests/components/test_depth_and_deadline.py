"""Depth and deadline: what is scored, what is left in its order, what a join makes of it. Time is a fake clock."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from haystack import Document, Pipeline

from fakes import bert_tokenizer
from haystack_ce_ranker import CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.provenance import with_record
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring import line, visits
from haystack_ce_ranker.scoring import runner as pair_runner
from haystack_ce_ranker.scoring import scorer as scorer_module
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

TEXTS = ["a car", "the hut in the snow", "berlin is a city of germany", "paris", "brake", "a city", "the snow", "car"]


PAIRS_OF_WORDS = ["a car", "a hut", "the car", "the hut", "a city", "the city", "a is", "is a", "in a"]


class Clock:
    """A clock that only moves when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class SlowBackend:
    """Takes a fixed time per token by the clock, whatever the machine; remembers the batches it was given."""

    name, dtype, device, pads, mixes_lengths, prompt, query_prompt = "slow", "float32", "cpu", True, True, "", ""

    def __init__(self, clock, *, seconds_per_token=0.01, batch_tokens=40):
        self.clock = clock
        self.seconds_per_token = seconds_per_token
        self.tokenizer = PairTokenizer(bert_tokenizer())
        self.max_length = 64
        self.batch_tokens = batch_tokens
        self.batches = []

    def logits(self, batch):
        self.batches.append([len(pair.ids) for pair in batch.pairs])
        self.clock.now += self.seconds_per_token * sum(self.batches[-1])
        return np.array([float(np.sin(pair.ids).sum()) for pair in batch.pairs])

    def is_out_of_memory(self, error):
        return False

    def free_memory(self):
        raise AssertionError


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    fake = SimpleNamespace(monotonic=made, perf_counter=made)
    monkeypatch.setattr(pair_runner, "time", fake)
    monkeypatch.setattr(line, "time", fake)
    monkeypatch.setattr(scorer_module, "time", fake)
    monkeypatch.setattr(visits, "time", fake)
    return made


def scorer(backend, **policy):
    return CrossEncoderScorer(backend, ReadingPolicy(passage_tokens=16, passage_stride=8, **policy))


def reached(scores):
    return [document.logit is not None for document in scores.documents]


def different(count):
    """Different texts of six tokens."""
    words = ["a", "the", "car", "hut", "city", "snow", "paris"]
    return [f"{first} {second} is in the city" for first in words for second in words][:count]


def first_stage(texts=TEXTS):
    """Documents as BM25 hands them over, best first."""
    return [
        Document(
            id=f"d{rank}",
            content=text,
            score=20.0 - rank,
            meta=with_record({}, "bm25", {"score": 20.0 - rank, "rank": rank}),
        )
        for rank, text in enumerate(texts, start=1)
    ]


@pytest.mark.parametrize("seconds", [0.25, 0.5, 1.0, 2.5, 7.0])
def test_scoring_stops_in_time_and_takes_the_first_documents(clock, seconds):
    backend = SlowBackend(clock)
    made = scorer(backend)
    texts = different(40)  # pairs of 11 tokens: 0.11 s
    made.score("car", texts[:1])  # the speed is known from here on
    started = clock.now
    scores, stats = made.score("car", texts, deadline=started + seconds)
    assert started < clock.now <= started + seconds
    done = reached(scores)
    assert done == sorted(done, reverse=True)
    assert stats.pairs == scores.pairs == sum(done) > 0
    assert scores.out_of_time == (not all(done))
    left_over = started + seconds - clock.now
    assert all(done) or left_over < 0.11 + 1e-9  # not one more would have fitted
    assert all(sum(lengths) <= backend.batch_tokens for lengths in backend.batches)


def test_enough_time_changes_nothing(clock):
    texts = [*TEXTS, "a car. " * 90, ""]
    expected, _ = scorer(SlowBackend(clock)).score("the hut", texts)
    for policy in ({}, {"max_tokens_per_query": 10_000}):
        scores, _ = scorer(SlowBackend(clock), **policy).score("the hut", texts, deadline=clock.now + 1e6)
        assert not scores.out_of_time
        assert [d.logit for d in scores.documents] == pytest.approx([d.logit for d in expected.documents])
        assert [d.read for d in scores.documents] == [d.read for d in expected.documents]
        assert (scores.tokens, scores.pairs) == (expected.tokens, expected.pairs)


def test_the_very_first_batch_is_one_document_as_no_speed_is_known(clock):
    backend = SlowBackend(clock)
    made = scorer(backend)
    scores, _ = made.score(
        "car",
        PAIRS_OF_WORDS[:9],
        deadline=clock.now + 0.1,
    )  # 0.06 s each
    assert reached(scores) == [True] + [False] * 8
    assert [len(lengths) for lengths in backend.batches] == [1]


def test_nothing_is_tokenised_once_the_time_is_up(clock, monkeypatch):
    made = scorer(SlowBackend(clock))
    encoded = []
    encode = made._documents.encode
    monkeypatch.setattr(made._documents, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    scores, stats = made.score("car", TEXTS, deadline=clock.now - 1.0)
    assert encoded == []
    assert scores.out_of_time
    assert not any(reached(scores))
    assert len(scores.documents) == len(TEXTS)
    assert stats.pairs == 0
    made.score("car", [f"the car is in the snow {place} " * 4 for place in range(50)], deadline=clock.now + 1.0)
    assert 0 < len(encoded) < 10  # about a batch at a time, not all 50


def test_a_document_is_scored_by_all_its_windows_or_not_at_all(clock):
    backend = SlowBackend(clock, batch_tokens=25)
    made = scorer(backend, long_documents="windows")
    long = "the car is in the snow " * 30
    made.score("car", ["a"])
    scores, _ = made.score("car", ["a car", long, "a hut"], deadline=clock.now + 1.0)
    assert reached(scores) == [True, False, False]  # the order holds: a later, shorter one does not jump ahead
    assert scores.documents[1].pairs == 0
    scores, _ = made.score("car", ["a car", long], deadline=clock.now + 100.0)
    assert scores.documents[1].coverage == 1.0


def test_one_stall_does_not_rule_out_every_later_run(clock):
    backend = SlowBackend(clock)
    made = scorer(backend)
    clock_per_token, backend.seconds_per_token = backend.seconds_per_token, 5.0  # another process had the machine
    made.score("car", ["a car"])
    backend.seconds_per_token = clock_per_token
    scored = [sum(reached(made.score("car", PAIRS_OF_WORDS[:4], deadline=clock.now + 1.0)[0])) for _ in range(12)]
    assert scored[0] == 0
    assert scored[-1] == 4


def test_a_deadline_and_a_token_budget_hold_together(clock):
    backend = SlowBackend(clock)
    made = scorer(backend, max_tokens_per_query=120)
    made.score("car", ["a car"])
    long_texts = [f"the car is in the snow {place} " * 20 for place in range(6)]
    started, before = clock.now, sum(map(sum, backend.batches))
    scores, _ = made.score("car", long_texts, deadline=started + 0.6)
    assert clock.now <= started + 0.6
    assert scores.out_of_time
    assert sum(map(sum, backend.batches)) - before == scores.tokens <= 60
    done = reached(scores)
    assert done == sorted(done, reverse=True)
    assert any(done)


def made_ranker(backend, **parameters):
    parameters = {"top_k": 100, **parameters}
    ranker = CrossEncoderRanker(model="none", passage_tokens=16, passage_stride=8, **parameters)
    ranker._scorer = CrossEncoderScorer(backend, ranker._policy)
    return ranker


def test_depth_scores_the_first_and_keeps_the_rest_in_their_order_below(clock):
    given = first_stage()
    before = copy.deepcopy(given)
    found = made_ranker(SlowBackend(clock), depth=3).run("the hut", [given[0], *given])
    ranked, report = found["documents"], found["report"]
    assert given == before
    assert {d.id for d in ranked[:3]} == {"d1", "d2", "d3"} == set(report["scored"])  # the duplicate takes no place
    assert [d.id for d in ranked[3:]] == ["d4", "d5", "d6", "d7", "d8"] == report["unscored"]
    assert [d.score for d in ranked[3:]] == [None] * 5
    note = ranked[3].meta["ce_ranker"]["cross_encoder"]
    assert (note["logit"], note["rank"], note["read"], note["coverage"], note["scored"]) == (None, 4, [], 0.0, 3)
    assert note["lowest"] == min(report["scored"].values())
    assert report["documents"] == 8
    assert report["pairs"] == 3
    assert report["beyond_depth"] == 5
    assert report["documents_cut"] == report["tokens_unread"] == 0
    assert report["deadline_reached"] is False


def test_a_depth_beyond_the_candidates_changes_nothing(clock):
    plain = made_ranker(SlowBackend(clock)).run("the hut", first_stage())
    deep = made_ranker(SlowBackend(clock), depth=9).run("the hut", first_stage())
    assert deep["documents"] == plain["documents"]
    assert deep["report"]["beyond_depth"] == 0
    assert deep["report"]["unscored"] == []


def test_a_text_beyond_the_depth_is_no_truncation(clock, caplog):
    given = first_stage(["a car", "the car is in the snow " * 40])
    strict = made_ranker(SlowBackend(clock), depth=1, on_truncation="error")
    assert [d.id for d in strict.run("the hut", given)["documents"]] == ["d1", "d2"]
    with pytest.raises(ValueError, match="d2"):
        made_ranker(SlowBackend(clock), on_truncation="error").run("the hut", given)
    with caplog.at_level(logging.WARNING):
        made_ranker(SlowBackend(clock), depth=1, on_truncation="warn").run("the hut", given)
    assert caplog.text == ""


def test_a_threshold_leaves_unscored_documents_out(clock):
    found = made_ranker(SlowBackend(clock), depth=3).run("the hut", first_stage(), score_threshold=0.0)
    assert {d.id for d in found["documents"]} == {"d1", "d2", "d3"}
    assert len(found["report"]["unscored"]) == 5


def test_more_than_200_candidates_without_a_depth_warn_once(clock, caplog):
    given = first_stage(["car"] * 201)
    with caplog.at_level(logging.WARNING):
        made_ranker(SlowBackend(clock), depth=201).run("the hut", given)
        made_ranker(SlowBackend(clock)).run("the hut", given[:200])
        made_ranker(SlowBackend(clock), max_tokens_per_query=900).run("the hut", given)
        made_ranker(SlowBackend(clock), deadline_ms=900).run("the hut", given)
        assert caplog.text == ""
        unlimited = made_ranker(SlowBackend(clock))
        unlimited.run("the hut", given)
        unlimited.run("the hut", given)
    assert caplog.text.count("all 201 candidates are scored") == 1
    assert "depth" in caplog.text


def test_a_ranker_with_a_deadline_says_what_it_did_not_reach(clock):
    backend = SlowBackend(clock)
    ranker = made_ranker(backend, deadline_ms=300.0)
    ranker._scorer.score("hut", ["a car"])
    started = clock.now
    found = ranker.run("hut", first_stage())
    assert clock.now <= started + 0.3
    report = found["report"]
    count = len(report["scored"])
    assert 0 < count < 8
    assert report["deadline_reached"] is True
    assert report["unscored"] == [f"d{rank}" for rank in range(count + 1, 9)]
    assert [d.id for d in found["documents"][count:]] == report["unscored"]
    assert report["documents_cut"] == 0
    enough = made_ranker(SlowBackend(clock), deadline_ms=1e6).run("hut", first_stage())["report"]
    assert enough["deadline_reached"] is False
    assert enough["unscored"] == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"depth": 0}, "depth must be a whole number >= 1 or None, but got 0"),
        ({"depth": True}, "depth must be a whole number"),
        ({"depth": 2.5}, "depth must be a whole number"),
        ({"deadline_ms": 0}, "deadline_ms must be a finite number > 0 or None, but got 0"),
        ({"deadline_ms": -1.0}, "deadline_ms must be a finite number > 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms must be a finite number > 0"),
        ({"deadline_ms": True}, "deadline_ms must be a finite number > 0"),
        ({"deadline_ms": "50"}, "deadline_ms must be a finite number > 0"),
    ],
)
def test_values_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderRanker(**parameters)


def test_depth_and_deadline_survive_a_yaml():
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(depth=30, deadline_ms=80.5))
    again = Pipeline.loads(pipeline.dumps())
    assert again.get_component("ranker").depth == 30
    assert again.get_component("ranker").deadline_ms == 80.5
    assert again.dumps() == pipeline.dumps()


@pytest.mark.parametrize("with_report", [True, False])
@pytest.mark.parametrize("top_k", [2, 100])
@pytest.mark.parametrize("how", [{"depth": 4}, {"deadline_ms": 350.0}])
@pytest.mark.parametrize("normalize", ["none", "min_max", "z_score"])
def test_a_hybrid_join_neither_loses_unscored_documents_nor_prefers_them(clock, with_report, top_k, how, normalize):
    given = first_stage()
    ranker = made_ranker(SlowBackend(clock), top_k=top_k, **how)
    ranker._scorer.score("hut", ["a car"])
    found = ranker.run("hut", given)
    unscored = found["report"]["unscored"]
    assert 0 < len(unscored) < 8
    joiner = HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}, normalize=normalize)
    report = {"cross_encoder_report": found["report"]} if with_report else {}
    joined = joiner.run(cross_encoder=found["documents"], bm25=given, **report)["documents"]
    assert {d.id for d in joined} == {d.id for d in given}
    # What came behind in the first stage and was never scored can pass nothing that was scored.
    assert [d.id for d in joined][-len(unscored) :] == unscored
    lowest = min(
        d.meta["ce_ranker"]["hybrid"]["inputs"]["cross_encoder"]["normalized"] for d in joined if d.id not in unscored
    )
    for document in joined:
        if document.id in unscored:
            inputs = document.meta["ce_ranker"]["hybrid"]["inputs"]["cross_encoder"]
            assert inputs["score"] is None
            assert inputs["normalized"] == pytest.approx(lowest)


@pytest.mark.parametrize("method", ["weighted_sum", "reciprocal_rank"])
@pytest.mark.parametrize("with_report", [True, False])
def test_a_join_after_a_deadline_that_left_no_time_is_the_first_stage(clock, with_report, method):
    backend = SlowBackend(clock)
    ranker = made_ranker(backend, deadline_ms=1.0)
    ranker._scorer.score("hut", ["a car"])
    given = first_stage()
    found = ranker.run("hut", given)
    assert found["report"]["scored"] == {}
    assert [d.id for d in found["documents"]] == [d.id for d in given]
    joiner = HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}, method=method)
    report = {"cross_encoder_report": found["report"]} if with_report else {}
    joined = joiner.run(cross_encoder=found["documents"], bm25=given, **report)["documents"]
    assert [d.id for d in joined] == [d.id for d in given]
