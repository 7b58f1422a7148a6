"""Soft matches: what is like a token counts in part, and what is like nothing counts as before."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from fakes import FakeBackend, bert_tokenizer
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.passages import STRATEGIES, WindowSettings, evidence, windows
from haystack_ce_ranker.reading.soft_matches import LEAST_COSINE, SoftMatches, soft_matches_of
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

TOKENIZER = PairTokenizer(bert_tokenizer())
TOKENS = len(bert_tokenizer())
QUERY, TEXT = "the hut brake", "the hut is cold. " * 40 + "a brake in the snow. " * 20


class Showing(FakeBackend):
    """A backend whose tokens "hut" and "brake" are like each other."""

    def __init__(self, table=None):
        super().__init__()
        self.table = vectors() if table is None else table
        self.shown = 0

    def token_embeddings(self):
        self.shown += 1
        return self.table


def ids(text):
    return TOKENIZER.encode([text])[0].ids


def vectors(like=0.9):
    """A row for each token, at right angles to all others but that of "brake" to that of "hut"."""
    table = np.eye(TOKENS, dtype=np.float32)
    hut, brake = ids("hut")[0], ids("brake")[0]
    table[brake] = like * table[hut] + np.sqrt(1 - like**2) * table[brake]
    return table


def weighed(weigh, query=QUERY, text=TEXT, size=32):
    body = ids(text)
    return weigh(body, ids(query), windows(len(body), size=size, stride=size // 2), size=size)


def test_tokens_that_are_like_no_other_count_as_the_querys_own():
    assert weighed(SoftMatches(np.eye(TOKENS)).evidence) == pytest.approx(weighed(evidence))


def test_a_window_is_found_by_a_token_that_is_like_the_querys():
    text = "snow " * 200 + "brake " + "snow " * 200
    [document] = DocumentEncoder(TOKENIZER).encode([DocumentText(text)])
    settings = WindowSettings(32, 16, 1, 0.0)
    [exact] = STRATEGIES["best_passages"](document, ids("hut"), 100, settings)
    soft = SoftMatches(vectors())
    [found] = STRATEGIES["best_passages"](document, ids("hut"), 100, settings._replace(evidence=soft.evidence))
    assert exact.evidence == 0.0
    assert found.evidence > 0.0
    assert found.spans[0].start <= 200 < found.spans[0].stop


def test_a_token_itself_counts_more_than_one_that_is_like_it():
    soft = SoftMatches(vectors())
    text = "snow " * 60 + "brake " + "snow " * 60 + "hut " + "snow " * 60
    found = weighed(soft.evidence, "hut", text)
    body, starts = ids(text), windows(len(ids(text)), size=32, stride=16)
    best = starts[int(found.argmax())]
    assert ids("hut")[0] in body[best : best + 32]
    assert np.count_nonzero(found) > np.count_nonzero(weighed(evidence, "hut", text))


def test_cosines_are_those_of_the_table_around_its_mean():
    table = np.random.default_rng(0).normal(3.0, 1.0, (9000, 12)).astype(np.float32)  # more rows than a block has
    around = table - table.mean(axis=0)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    tokens = np.array([5, 8999, 5, 4096])
    found = SoftMatches(table).alike(tokens)
    for token, like in zip(tokens, found, strict=True):
        cosines = around @ around[token]
        assert cosines[like.ids] == pytest.approx(like.cosines, abs=0.01)
        missed = np.setdiff1d(np.flatnonzero(cosines >= LEAST_COSINE + 0.01), like.ids)
        assert not len(missed)
        assert like.cosines[like.ids.tolist().index(token)] == 1.0
    assert np.array_equal(found[0].ids, found[2].ids)


def test_the_unknown_token_and_those_outside_of_the_table_match_only_themselves():
    unknown, beyond = int(TOKENIZER.unknown_id), TOKENS + 5
    table = vectors()
    table[unknown] = table[7]
    assert unknown in SoftMatches(table).alike(np.array([7]))[0].ids
    soft = SoftMatches(table, alone=[unknown])
    for token in (unknown, beyond):
        [like] = soft.alike(np.array([token]))
        assert like.ids.tolist() == [token]
        assert like.cosines.tolist() == [1.0]
    assert unknown not in soft.alike(np.array([7]))[0].ids
    body = np.array([beyond, 3, 4] * 20)
    assert soft.evidence(body, np.array([beyond, unknown]), np.array([0, 30]), size=30).min() >= 0.0


def test_rows_without_a_direction_are_like_nothing():
    table = vectors()
    table -= table.mean(axis=0)
    table[7] = 0.0
    table -= table.mean(axis=0)
    table[7] = table.mean(axis=0)
    [like] = SoftMatches(table).alike(np.array([7]))
    assert np.isfinite(like.cosines).all()
    assert 7 in like.ids


@pytest.mark.parametrize(("query", "text"), [("", TEXT), (QUERY, "")])
def test_without_tokens_there_is_no_evidence(query, text):
    assert not SoftMatches(vectors()).evidence(ids(text), ids(query), np.array([0]), size=8).any()


def test_threads_find_the_same():
    soft, found = SoftMatches(vectors()), []

    def ask():
        found.append(weighed(soft.evidence))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert all(np.array_equal(one, found[0]) for one in found)


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent():
    soft = SoftMatches(vectors())
    before = weighed(soft.evidence)
    soft._lock.acquire()
    soft.after_fork()
    assert np.array_equal(weighed(soft.evidence), before)


def test_a_document_of_a_megabyte_takes_memory_for_itself_alone():
    body = np.resize(ids(TEXT), 250_000)
    soft, starts = SoftMatches(vectors()), windows(len(body), size=64, stride=32)
    many = np.arange(min(TOKENS, 60))
    soft.evidence(body, many, starts, size=64)
    tracemalloc.start()
    soft.evidence(body, many, starts, size=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(body)  # some arrays of the document's length, however many tokens the query has


def test_a_models_table_is_read_once_and_forgotten_with_the_model():
    backend = Showing()
    soft = soft_matches_of(backend)
    assert soft_matches_of(backend) is soft
    assert backend.shown == 1
    assert soft_matches_of(Showing()) is not soft
    model, matches = weakref.ref(backend), weakref.ref(soft)
    del soft, backend
    gc.collect()
    assert model() is None
    assert matches() is None


@pytest.mark.parametrize("kind", [FakeBackend, Showing])
def test_a_model_without_a_table_is_said_to_have_none(kind, caplog):
    backend = kind()
    backend.table = None
    assert soft_matches_of(backend) is None
    assert "passage_matches='soft'" in caplog.text
    assert "'fake'" in caplog.text
