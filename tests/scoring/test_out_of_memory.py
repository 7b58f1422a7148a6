"""Running out of memory: batches shrink, what is finished stays finished, and the lesson lasts for the process."""

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeBackend, logits
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring import runner as pair_runner
from haystack_ce_ranker.scoring.runner import LearntBatchSizes
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

DOCUMENTS = ["abc " * n for n in (1, 9, 3, 14, 5, 11, 7, 2, 13, 4, 12, 6, 10, 8)]
EXPECTED = logits(CrossEncoderScorer(FakeBackend()).score("abc", DOCUMENTS)[0])


def slots(batch):
    return max(len(pair.ids) for pair in batch.pairs) * len(batch.pairs)


def scorer(backend, name="model", **settings):
    return CrossEncoderScorer(backend, ReadingPolicy(), model_name=name, **settings)


@pytest.fixture(autouse=True)
def _full_batches(monkeypatch):
    monkeypatch.setattr(pair_runner, "CPU_PASS_TOKENS", None)  # every batch as full as it goes


class CountingBackend(FakeBackend):
    """Remembers how often each pair was scored, and the batches that did not fit."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scored = []
        self.refused = []

    def logits(self, batch):
        try:
            found = super().logits(batch)
        except MemoryError:
            self.refused.append(slots(batch))
            assert len(self.refused) < 50, "the same batch is tried again and again"
            raise
        self.scored += [pair.ids.tobytes() for pair in batch.pairs]
        return found


class QueueingBackend(CountingBackend):
    """Works by itself, as a GPU does: memory can run out when a batch is queued, or when its logits are waited for."""

    device = "cuda:0"

    def __init__(self, *, fails="start", **options):
        super().__init__(**options)
        self.fails = fails
        self.queued = 0
        self.most_queued = 0

    def start(self, batch):
        if self.fails == "start":
            values = self.logits(batch)
        self.queued += 1
        self.most_queued = max(self.most_queued, self.queued)

        def wait():
            self.queued -= 1
            return values if self.fails == "start" else self.logits(batch)

        return wait


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["cpu", "start", "wait"]),
    st.integers(64, 700),
    st.integers(64, 700),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_whatever_fits_all_is_scored_right_and_nothing_twice(kind, room, batch_tokens, batch_size):
    backend = CountingBackend(room_for=room) if kind == "cpu" else QueueingBackend(room_for=room, fails=kind)
    made = scorer(backend, batch_tokens=batch_tokens, batch_size=batch_size)
    scores, stats = made.score("abc", DOCUMENTS)
    assert logits(scores) == pytest.approx(EXPECTED)
    assert len(backend.scored) == len(set(backend.scored)) == stats.pairs == len(DOCUMENTS)
    assert backend.freed == len(backend.refused)
    if batch_size is None:
        assert bool(backend.refused) == (batch_tokens > room and any(r > room for r in backend.refused))
    assert all(size > room for size in backend.refused)
    assert made.runner.affordable_batch_tokens <= batch_tokens
    if kind != "cpu":
        assert backend.most_queued <= 2
        assert backend.queued == 0


def test_two_queued_batches_that_both_do_not_fit_are_both_made_smaller():
    documents = [
        "abc " * 12,
        "cab " * 12,
        "abc " * 9,
        "bca " * 9,
        "cab " * 9,
    ]  # batches of 2 x 40 and 3 x 31 tokens: the second is larger
    expected = logits(scorer(FakeBackend()).score("a", documents)[0])
    backend = QueueingBackend(room_for=79, fails="wait")
    assert logits(scorer(backend, batch_tokens=100).score("a", documents)[0]) == pytest.approx(expected)
    assert backend.refused == [80, 93]


def test_a_batch_is_halved_each_time_it_does_not_fit():
    backend = CountingBackend(room_for=70)
    made = scorer(backend)
    made.score("abc", DOCUMENTS)
    assert 2 <= len(backend.refused) <= 4  # 512 tokens, about 256, about 128
    assert all(later <= earlier // 2 for earlier, later in zip(backend.refused, backend.refused[1:], strict=False))
    assert made.runner.affordable_batch_tokens <= backend.refused[-1] // 2


def test_the_lesson_lasts_for_later_scorers_of_the_same_model_and_no_other():
    sizes = LearntBatchSizes()
    scorer(FakeBackend(room_for=130), batch_sizes=sizes).score("abc", DOCUMENTS)
    later = FakeBackend(room_for=130)
    scorer(later, batch_sizes=sizes).score("abc", DOCUMENTS)
    assert later.freed == 0
    half = FakeBackend()
    half.dtype = "float16"
    others = (scorer(half, batch_sizes=sizes), scorer(FakeBackend(), "other", batch_sizes=sizes), scorer(FakeBackend()))
    assert [other.runner.affordable_batch_tokens for other in others] == [512] * 3


def test_a_pair_that_does_not_fit_alone_is_an_error_that_says_what_to_do():
    kinds = (CountingBackend(room_for=5), QueueingBackend(room_for=5), QueueingBackend(room_for=5, fails="wait"))
    for backend in kinds:
        with pytest.raises(MemoryError, match="a single pair of .* tokens does not fit .* lower max_length") as raised:
            scorer(backend).score("abc", DOCUMENTS)
        assert isinstance(raised.value.__cause__, MemoryError)


def test_what_the_failed_pass_held_is_gone_when_the_memory_is_freed():
    class Activations(np.ndarray):
        pass

    alive = []

    class Holding(FakeBackend):
        held = None

        def logits(self, batch):
            activations = np.zeros(3).view(Activations)
            self.held = weakref.ref(activations)
            return super().logits(batch)

        def free_memory(self):
            alive.append(self.held() is not None)

    scorer(Holding(room_for=100)).score("abc", DOCUMENTS)
    assert alive
    assert not any(alive)


def test_threads_that_run_out_at_the_same_moment_halve_once():
    backend = FakeBackend()
    backend.device = "cuda:0"  # on a CPU they take turns
    together = threading.Barrier(4)
    first = threading.local()
    real = backend.logits

    def fail_once(batch):
        if not hasattr(first, "done"):
            first.done = slots(batch)
            together.wait(timeout=30)
            raise MemoryError("all at once")
        return real(batch)

    backend.logits = fail_once
    made = scorer(backend)
    found = [None] * 4

    def ask(place):
        found[place] = logits(made.score("abc", DOCUMENTS)[0])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(one == pytest.approx(EXPECTED) for one in found)
    assert made.runner.affordable_batch_tokens == 336 // 2  # not 21, as if each had halved what the others left


def test_threads_that_share_a_memory_all_finish_and_learn_from_each_other():
    lock = threading.Lock()

    class OneAtATime(CountingBackend):
        """As the torch backend: a single pass at a time on a device."""

        def logits(self, batch):
            with lock:
                return super().logits(batch)

    backend = OneAtATime(room_for=130)
    made = scorer(backend)
    found = [None] * 6
    threads = [
        threading.Thread(target=lambda place=place: found.__setitem__(place, logits(made.score("abc", DOCUMENTS)[0])))
        for place in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(one == pytest.approx(EXPECTED) for one in found)
    assert len(backend.scored) == 6 * len(set(backend.scored)) == 6 * len(DOCUMENTS)
    assert made.runner.affordable_batch_tokens <= 130


def test_batches_still_to_come_follow_what_another_thread_has_learnt():
    backend = FakeBackend()
    learnt = LearntBatchSizes()
    made = scorer(backend, batch_tokens=200, batch_sizes=learnt)
    sizes = []
    real = backend.logits

    def learns(batch):
        sizes.append(slots(batch))
        learnt.lower(made.runner._key, 200, 200)  # as another thread does, whose batch of 200 did not fit
        return real(batch)

    backend.logits = learns
    assert logits(made.score("abc", DOCUMENTS)[0]) == pytest.approx(EXPECTED)
    assert sizes[0] > 100
    assert len(sizes) > 3
    assert max(sizes[1:]) <= 100
