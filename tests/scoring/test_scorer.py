"""The scorer: budgets, order, neighbours, running out of memory."""

import math
import time
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import FakeBackend, logits
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

words = st.text(alphabet="abc ", max_size=300)


def scorer(backend=None, **policy):
    policy = {"passage_tokens": 16, "passage_stride": 8, **policy}
    return CrossEncoderScorer(backend or FakeBackend(), ReadingPolicy(**policy))


strategies = st.sampled_from(["best_passages", "head", "head_tail", "windows"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words, st.lists(words, max_size=6), strategies)
def test_no_pair_exceeds_the_models_limit_and_all_are_counted(query, documents, strategy):
    backend = FakeBackend()
    scores, stats = scorer(backend, long_documents=strategy).score(query, documents)
    assert backend.longest <= 64
    assert backend.read == scores.tokens == stats.tokens
    assert len(scores.documents) == len(documents)
    for text, document in zip(documents, scores.documents, strict=True):
        assert 0.0 <= document.coverage <= 1.0
        assert all(0 <= part.start <= part.end <= len(text) for part in document.read)
    if strategy == "windows":
        assert all(document.coverage == 1.0 for document in scores.documents)


@settings(max_examples=25, deadline=None)
@given(words, st.lists(words, min_size=1, max_size=6), st.integers(64, 400))
def test_a_document_scores_the_same_whatever_its_neighbours_order_and_batches(query, documents, batch_tokens):
    together = logits(scorer().score(query, documents)[0])
    alone = [logits(scorer().score(query, [document])[0])[0] for document in documents]
    assert together == pytest.approx(alone)
    other = CrossEncoderScorer(
        FakeBackend(), ReadingPolicy(passage_tokens=16, passage_stride=8), batch_tokens=batch_tokens, batch_size=2
    )
    assert logits(other.score(query, documents[::-1])[0])[::-1] == pytest.approx(together)
    many, _ = scorer().score_many([(query, documents), ("other", documents[:1])])
    assert logits(many[0]) == pytest.approx(together)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="abc ", max_size=150), st.lists(words, min_size=1, max_size=4), strategies)
def test_the_query_stands_whole_in_every_pair_when_it_fits(query, documents, strategy):
    backend = FakeBackend()
    made = scorer(backend, long_documents=strategy)
    scores, _ = made.score(query, documents)
    ids = backend.tokenizer.encode([query])[0].ids.tolist()
    room = 64 - backend.tokenizer.format.special_tokens
    fits = len(ids) + 16 <= room or len(ids) <= room // 2
    if fits:
        assert scores.query_tokens_read == scores.query_tokens == len(ids)
        assert all(pair[1 : 1 + len(ids) + 1] == [*ids, 3] for pair in backend.fed)
    else:
        assert scores.query_tokens_read >= room // 2


@settings(max_examples=10, deadline=None)
@given(words, st.lists(words, min_size=2, max_size=6), st.integers(128, 1024), st.integers(1, 4))
def test_on_torch_in_float32_a_score_does_not_move_by_more_than_a_ten_thousandth(
    tiny_bert, query, documents, batch_tokens, batch_size
):
    backend = torch_backend(tiny_bert)
    policy = ReadingPolicy(passage_tokens=24, passage_stride=12)
    together = values(CrossEncoderScorer(backend, policy).score(query, documents)[0])
    other = CrossEncoderScorer(backend, policy, batch_tokens=batch_tokens, batch_size=batch_size)
    expected = pytest.approx(together, abs=1e-4, rel=0, nan_ok=True)
    assert values(other.score(query, documents[::-1])[0])[::-1] == expected
    assert [values(other.score(query, [document])[0])[0] for document in documents] == expected


def values(scores):
    """The logits, NaN for a text of spaces alone, which has none."""
    return [math.nan if logit is None else logit for logit in logits(scores)]


@lru_cache
def torch_backend(folder):
    return loading.load("torch", ModelOptions(folder, dtype="float32", threads=1))


around = st.text(alphabet="abc ", max_size=12)


@settings(max_examples=60, deadline=None)
@given(words, st.lists(st.builds(DocumentText, words, around, around), min_size=1, max_size=6), st.integers(1, 700),
       strategies, st.integers(1, 8))  # fmt: skip
def test_a_shared_budget_is_never_exceeded(query, documents, budget, strategy, top_k):
    backend = FakeBackend()
    made = scorer(backend, max_tokens_per_query=budget, long_documents=strategy)
    scores, stats = made.score(query, documents, top_k=top_k)
    assert backend.read == scores.tokens == stats.tokens <= budget
    if budget >= 64 * len(documents):
        assert {document.why_unscored for document in scores.documents} <= {None, "no_text", "no_query"}


def test_what_a_shared_budget_leaves_goes_to_the_most_promising_documents():
    documents = [" ".join(f"{letter} b c" for _ in range(30)) for letter in "adefghij"]
    generous, _ = scorer(passage_evidence=0.0).score("b c", documents)
    assert all(document.pairs > 1 for document in generous.documents)
    first, _ = scorer(passages_per_document=1).score("b c", documents)
    budget = first.tokens + 2 * max(first.tokens // len(documents), 1) + 4
    shared, _ = scorer(passage_evidence=0.0, max_tokens_per_query=budget).score("b c", documents, top_k=1)
    assert shared.tokens <= budget
    ranked = sorted(range(len(documents)), key=lambda place: -first.documents[place].logit)
    assert [place for place in range(len(documents)) if shared.documents[place].pairs > 1] == sorted(ranked[:2])


def test_a_large_enough_shared_budget_changes_nothing():
    documents = ["abc " * 60, "cab " * 50, "a"]
    assert logits(scorer(max_tokens_per_query=10_000).score("abc", documents)[0]) == pytest.approx(
        logits(scorer().score("abc", documents)[0])
    )


def test_running_out_of_memory_halves_the_batches_and_loses_nothing():
    documents = ["abc " * n for n in range(1, 12)]
    expected = logits(scorer().score("abc", documents)[0])
    backend = FakeBackend(room_for=130)
    small = scorer(backend)
    assert logits(small.score("abc", documents)[0]) == pytest.approx(expected)
    assert backend.freed > 0
    assert small.runner.affordable_batch_tokens < 512
    freed = backend.freed
    small.score("abc", documents)
    assert backend.freed == freed  # the lesson lasts


def test_a_single_pair_that_does_not_fit_is_a_clear_error():
    with pytest.raises(MemoryError, match="single pair of .* tokens"):
        scorer(FakeBackend(room_for=5)).score("abc", ["abc " * 9])


def test_other_errors_are_not_taken_for_memory():
    backend = FakeBackend()
    backend.logits = lambda batch: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        scorer(backend).score("abc", ["a"])


def test_scores_that_are_not_finite_are_an_error():
    backend = FakeBackend()
    backend.logits = lambda batch: np.full(len(batch.pairs), np.nan)
    with pytest.raises(ValueError, match="not finite for 1 of 1"):
        scorer(backend).score("abc", ["a"])


def test_a_deadline_keeps_what_was_reached_and_names_the_rest():
    documents = ["abc " * 60] * 8
    scores, _ = scorer().score("abc", documents, deadline=time.monotonic() - 1)
    assert logits(scores) == [None] * 8
    scores, _ = scorer().score("abc", documents, deadline=time.monotonic() + 60)
    assert None not in logits(scores)


def test_pairs_of_many_queries_come_back_in_order_with_progress():
    seen = []
    queries, documents = ["a", "b", "a"], ["abc", "cab", DocumentText("bca", header="c ")]
    found = scorer().score_pairs(queries, documents, progress=lambda done, of: seen.append((done, of)))
    alone = [scorer().score(q, [d])[0].documents[0].logit for q, d in zip(queries, documents, strict=True)]
    assert found.tolist() == pytest.approx(alone)
    assert seen[-1] == (3, 3)
    shared = scorer(max_tokens_per_query=500).score_pairs(queries, documents, progress=lambda done, of: None)
    assert shared.tolist() == pytest.approx(alone)
    with pytest.raises(ValueError, match="one length"):
        scorer().score_pairs(["a"], [])


def test_a_query_longer_than_the_model_is_reduced_and_counted():
    scores, _ = scorer().score("abc " * 200, ["abc " * 100])
    assert scores.query_tokens > scores.query_tokens_read >= 30
    assert scores.documents[0].tokens_read > 0


def test_what_is_embedded_stands_in_every_window_and_must_leave_room():
    backend = FakeBackend()
    header, footer = (tokens.ids.tolist() for tokens in backend.tokenizer.encode(["hut in ", " car"]))
    for strategy in ("best_passages", "head", "head_tail", "windows"):
        made = scorer(backend, long_documents=strategy, passage_evidence=0.0)
        scores, _ = made.score("a b", [DocumentText("abc " * 60, header="hut in ", footer=" car")])
        assert scores.documents[0].pairs >= (1 if strategy.startswith("head") else 2)
    assert all(pair[4 : 4 + len(header)] == header for pair in backend.fed)
    assert all(pair[-1 - len(footer) : -1] == footer for pair in backend.fed)
    with pytest.raises(ValueError, match="document_prefix and document_suffix take .* document 0"):
        scorer().score("a", [DocumentText("abc", prefix="abc " * 60)])
    without_room, read = scorer().score("a", [DocumentText("abc", header="abc " * 60), "abc"])[0].documents
    assert (without_room.why_unscored, without_room.tokens_read) == ("no_room", 0)
    assert read.logit is not None


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"max_length": 0}, "max_length must be a whole number >= 1"),
        ({"passage_tokens": 0}, "passage_tokens must be a whole number >= 1"),
        ({"passage_stride": 17}, "passage_stride must be <= passage_tokens"),
        ({"passage_evidence": 1.5}, "passage_evidence must be a finite number >= 0 and <= 1"),
        ({"long_documents": "tail"}, "long_documents must be one of .* 'tail'"),
        ({"aggregate": "median"}, "aggregate must be one of"),
        ({"max_length": 65}, "max_length must be at most 64"),
        ({"max_query_tokens": 61}, "max_query_tokens must be between 1 and 60"),
    ],
)
def test_settings_out_of_range_are_errors(policy, message):
    with pytest.raises(ValueError, match=message):
        scorer(**policy)


class Alike(FakeBackend):
    """A backend that shows one token as like another, and all others at right angles."""

    def __init__(self, token, other):
        super().__init__()
        self._pair = [self.tokenizer.encode([text])[0].ids[0] for text in (token, other)]

    def token_embeddings(self):
        table = np.eye(len(self.tokenizer.vocabulary()))
        one, other = self._pair
        table[other] += 2.0 * table[one]
        return table


def test_soft_matches_choose_other_windows_and_a_model_without_embeddings_chooses_as_before(caplog):
    text = "paris " * 60 + "brake " + "paris " * 60
    exact = scorer(passages_per_document=1).score("hut", [text])[0].documents
    soft = scorer(Alike("hut", "brake"), passages_per_document=1, passage_matches="soft")
    [found] = soft.score("hut", [text])[0].documents
    assert soft.passage_matches == "soft"
    assert any("brake" in text[part.start : part.end] for part in found.read)
    assert not any("brake" in text[part.start : part.end] for part in exact[0].read)
    assert not caplog.records
    without = scorer(passages_per_document=1, passage_matches="soft")
    assert without.passage_matches == "exact"
    assert without.score("hut", [text])[0].documents == exact
    assert "passage_matches='soft'" in caplog.text
