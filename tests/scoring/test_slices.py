"""Many documents go through in slices: same scores, bounded memory, and on a GPU tokenised while the device works."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeBackend, logits
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import EncodedQuery
from haystack_ce_ranker.scoring import slices as slicing
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.requests import Request
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.slices import plan_slices
from haystack_ce_ranker.tokenizing.tokens import Tokens

REQUESTS = [
    ("abc", ["abc " * (1 + place % 13) for place in range(40)]),
    ("nothing", []),
    ("cab", ["cab a"]),
    ("bca", ["bca " * (1 + place % 40) for place in range(25)]),
]
EVERYTHING = 66
NO_QUERY = EncodedQuery("", Tokens(*np.empty((3, 0), dtype=np.int32)))


class Device(FakeBackend):
    """Stands for a GPU: works by itself, and tells which thread it was called from."""

    device = "cuda:0"

    def start(self, batch):
        values = self.logits(batch)
        return lambda: values


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(slicing, "SLICE_TOKENS", 60)
    monkeypatch.setattr(slicing, "SLICE_BATCHES", 1)


def scorer(backend, **options):
    policy = ReadingPolicy(passage_tokens=16, passage_stride=8)
    return CrossEncoderScorer(backend, policy, **{"batch_tokens": 60, "cache_tokens": 0, **options})


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ce-ranker-tokenise")]


@pytest.mark.parametrize("backend", [FakeBackend, Device])
def test_slices_change_no_score(monkeypatch, backend):
    whole, in_one = scorer(backend()).score_many(REQUESTS)
    monkeypatch.setattr(slicing, "SLICE_TOKENS", 60)
    monkeypatch.setattr(slicing, "SLICE_BATCHES", 1)
    sliced, stats = scorer(backend()).score_many(REQUESTS)
    assert len(scorer(backend())._slices([Request(NO_QUERY, [f"{'abc ' * 9}{place}" for place in range(40)])])) > 3
    for found, expected in zip(sliced, whole, strict=True):
        assert logits(found) == pytest.approx(logits(expected))
        assert [document.read for document in found.documents] == [document.read for document in expected.documents]
        assert (found.pairs, found.tokens, found.query_tokens_read) == (
            expected.pairs,
            expected.tokens,
            expected.query_tokens_read,
        )
    assert (stats.pairs, stats.tokens) == (in_one.pairs, in_one.tokens)
    alone = [scorer(backend()).score(query, documents)[0] for query, documents in REQUESTS]
    assert [logits(found) for found in alone] == [pytest.approx(logits(expected)) for expected in whole]
    assert helpers() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30_000), max_size=8), max_size=6), st.integers(200, 3000))
def test_slices_hold_each_document_once_in_order_and_little_at_a_time(lengths, batch_tokens):
    before = slicing.SLICE_TOKENS
    try:
        slicing.SLICE_TOKENS = 400
        slices = plan_slices(
            lengths, [3] * len(lengths), max_length=64, batch_tokens=batch_tokens, pads=True, starts_small=False
        )
    finally:
        slicing.SLICE_TOKENS = before
    held = [(number, place) for one in slices for number, documents in one for place in documents]
    assert held == [(number, place) for number, of_query in enumerate(lengths) for place in range(len(of_query))]
    room = max(400, slicing.SLICE_BATCHES * batch_tokens)
    for one in slices:
        characters = [lengths[number][place] for number, documents in one for place in documents]
        assert sum(min(length // 4 + 3, 64) for length in characters[:-1]) < room
        assert sum(length // 4 for length in characters[:-1]) < room * slicing.UNREAD_SHARE
    assert all(slices) or slices == [[]]


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(("backend", "most"), [(FakeBackend, 1), (Device, 2)])
def test_no_more_than_the_slice_at_work_and_the_next_one_are_held(monkeypatch, backend, most):
    made = scorer(backend())
    lock = threading.Lock()
    prepared, finished, held = 0, 0, []
    prepare, run = made._prepare, made._run

    def counted_prepare(*arguments):
        nonlocal prepared
        with lock:
            prepared += 1
            held.append(prepared - finished)
        return prepare(*arguments)

    def counted_run(*arguments, **named):
        nonlocal finished
        done = run(*arguments, **named)
        with lock:
            finished += 1
        return done

    monkeypatch.setattr(made, "_prepare", counted_prepare)
    monkeypatch.setattr(made, "_run", counted_run)
    made.score_many(REQUESTS)
    assert prepared == finished > 5
    assert max(held) <= most


@pytest.mark.usefixtures("small_slices")
def test_the_next_documents_are_tokenised_while_the_device_works(monkeypatch):
    backend = Device()
    made = scorer(backend)
    encode, real = made._documents.encode, backend.start
    calls, second = [], threading.Event()

    def watched(texts):
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            second.set()
        return encode(texts)

    def start(batch):
        assert second.wait(timeout=30), "the second slice was not tokenised while the first was being scored"
        return real(batch)

    monkeypatch.setattr(made._documents, "encode", watched)
    monkeypatch.setattr(backend, "start", start)
    made.score(*REQUESTS[0])
    assert len(calls) > 2
    assert all(name.startswith("ce-ranker-tokenise") for name in calls)
    assert helpers() == []


@pytest.mark.usefixtures("small_slices")
def test_on_cpu_the_cores_are_left_to_the_model(monkeypatch):
    made = scorer(FakeBackend())
    encode, names = made._documents.encode, set()
    monkeypatch.setattr(
        made._documents, "encode", lambda texts: names.add(threading.current_thread().name) or encode(texts)
    )
    made.score_many(REQUESTS)
    assert names == {threading.current_thread().name}


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("failing", [1, 2, 4])
def test_a_tokenizer_that_fails_ahead_raises_in_the_caller(monkeypatch, failing):
    made = scorer(Device())
    encode, calls = made._documents.encode, []

    def broken(texts):
        calls.append(texts)
        if len(calls) == failing:
            raise RuntimeError("cannot read this")
        return encode(texts)

    monkeypatch.setattr(made._documents, "encode", broken)
    with pytest.raises(RuntimeError, match="cannot read this"):
        made.score_many(REQUESTS)
    assert helpers() == []
    assert len(calls) == failing
    monkeypatch.setattr(made._documents, "encode", encode)
    assert None not in logits(made.score(*REQUESTS[0])[0])


@pytest.mark.usefixtures("small_slices")
def test_a_device_that_fails_leaves_no_thread_behind():
    backend = Device()
    backend.start = lambda batch: (_ for _ in ()).throw(RuntimeError("lost the device"))
    with pytest.raises(RuntimeError, match="lost the device"):
        scorer(backend).score_many(REQUESTS)
    assert helpers() == []


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("scores", [None, ScoreCache(100)])
def test_a_document_of_a_later_slice_is_named_by_its_place(scores):
    documents = [f"{'abc ' * 12}{place}" for place in range(33)] + [DocumentText("abc", prefix="abc " * 60)]
    with pytest.raises(ValueError, match="for document 33,"):
        scorer(Device(), scores=scores).score("abc", documents)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("options", [{}, {"max_tokens_per_query": 1000}])
def test_progress_counts_documents_up_to_all_of_them(options):
    seen = []
    policy = ReadingPolicy(passage_tokens=16, passage_stride=8, long_documents="windows", **options)
    made = CrossEncoderScorer(Device(), policy, batch_tokens=100)
    made.score_many(REQUESTS, progress=lambda done, everything: seen.append((done, everything)))
    done = [one for one, _ in seen]
    assert {everything for _, everything in seen} == {EVERYTHING}
    assert done == sorted(done)
    assert done[-1] == EVERYTHING
    assert len(set(done)) >= 3


class PackedDevice(Device):
    """A device that runs pairs without padding."""

    pads = False


def test_the_first_slices_of_packed_pairs_are_small_so_that_the_device_need_not_wait():
    request = Request(NO_QUERY, [f"{place:040}" for place in range(60_000)])
    sizes = [sum(len(part.documents) for part in one) for one in scorer(PackedDevice())._slices([request])]
    assert sum(sizes) == len(request.texts)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)
    assert sizes[2] == pytest.approx(4 * sizes[0], rel=0.01)
    assert sizes[3] == sizes[4] == pytest.approx(8 * sizes[0], rel=0.01)
    for backend in (FakeBackend(), Device()):
        equal = [sum(len(part.documents) for part in one) for one in scorer(backend)._slices([request])]
        assert equal[0] == equal[1] == sizes[3]


def test_a_device_that_pads_gets_batches_of_like_lengths_though_all_would_fit_into_one():
    texts = [f"{'abc ' * (1 + place % 60)}{place}" for place in range(600)]
    _, stats = scorer(Device(), batch_tokens=1_000_000).score("abc", texts)
    assert stats.batches > 1
    assert stats.padding_share < 0.05
