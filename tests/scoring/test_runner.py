"""The runner: packed pairs in, logits out; memory, speed, deadline and queue, without a text."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.backends.protocol import OutOfTimeError
from haystack_ce_ranker.scoring import line
from haystack_ce_ranker.scoring import runner as module
from haystack_ce_ranker.scoring.runner import LearntBatchSizes, PairRunner
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.tokenizing.pairs import PackedPair


class Model:
    """A logit is the sum of a pair's ids; takes time by a clock, and runs out of memory above some slots."""

    name, dtype, device, pads, batch_tokens = "model", "float32", "cpu", True, 64
    mixes_lengths = True
    tokenizer = SimpleNamespace(pad_id=0, pads_left=False)

    def __init__(self, *, room=10**9, clock=None):
        self.room, self.clock = room, clock
        self.batches = []

    def logits(self, batch):
        lengths = [len(pair.ids) for pair in batch.pairs]
        if max(lengths) * len(lengths) > self.room:
            raise MemoryError
        self.batches.append(lengths)
        if self.clock is not None:
            self.clock.now += 0.01 * sum(lengths)
        return np.array([pair.ids.sum() for pair in batch.pairs], dtype=np.float32)

    def is_out_of_memory(self, error):
        return isinstance(error, MemoryError)

    def free_memory(self):
        pass


class Gpu(Model):
    """Works by itself: started batches are waited for later, at most two at a time."""

    device = "cuda:0"
    waiting = most = 0

    def start(self, batch):
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def wait():
            self.waiting -= 1
            return self.logits(batch)

        return wait


def pairs_of(lengths):
    return [PackedPair(np.full(length, place + 1), np.zeros(length)) for place, length in enumerate(lengths)]


def expected(lengths):
    return [float((place + 1) * length) for place, length in enumerate(lengths)]


LENGTHS = st.lists(st.integers(1, 40), max_size=30)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(40, 200), st.sampled_from([Model, Gpu]), st.booleans())
def test_each_pair_gets_its_own_logit_whatever_the_memory(lengths, room, kind, pads):
    model = kind(room=room)
    model.pads = pads
    cost = ScoringCost()
    found = PairRunner(model, batch_tokens=300).run(pairs_of(lengths), cost)
    assert found.tolist() == expected(lengths)
    assert (cost.pairs, cost.tokens, cost.batches) == (len(lengths), sum(lengths), len(model.batches))
    assert cost.slots == sum(max(batch) * len(batch) if pads else sum(batch) for batch in model.batches)
    assert not lengths or 0.0 <= cost.padding_share < 1.0


@settings(max_examples=30, deadline=None)
@given(LENGTHS)
def test_pairs_of_different_lengths_run_apart_if_padding_would_move_their_scores(lengths):
    model = Model()
    model.mixes_lengths = False
    assert PairRunner(model).run(pairs_of(lengths), ScoringCost()).tolist() == expected(lengths)
    assert all(len(set(batch)) == 1 for batch in model.batches)


def test_no_pairs_are_no_work():
    cost = ScoringCost()
    assert PairRunner(Model()).run([], cost).tolist() == []
    assert cost.batches == 0


def test_the_next_batch_is_queued_before_the_last_is_waited_for():
    model = Gpu()
    found = PairRunner(model, batch_size=2).run(pairs_of([5] * 9), ScoringCost())
    assert found.tolist() == expected([5] * 9)
    assert model.most == 2
    assert model.waiting == 0


def test_a_report_follows_each_batch_and_ends_with_all():
    seen = []
    model = Model()
    model.pads = False  # so that batches are as full as they can be
    runner = PairRunner(model, batch_size=2)
    runner.run(pairs_of([3, 9, 4, 4, 1]), ScoringCost(), report=lambda done: seen.append(int(done.sum())))
    assert seen == [2, 4, 5]


@pytest.fixture
def clock(monkeypatch):
    made = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(monotonic=lambda: made.now, perf_counter=lambda: made.now)
    for one in (module, line):
        monkeypatch.setattr(one, "time", fake)
    return made


@pytest.mark.parametrize("seconds", [0.4, 1.0, 1.7, 3.0])
def test_until_a_deadline_whole_documents_are_scored_in_their_order(clock, seconds):
    model = Model(clock=clock)
    runner = PairRunner(model, batch_tokens=30)
    runner.run(pairs_of([5]), ScoringCost())  # the speed is known from here on
    owners = [0, 0, 1, 1, 1, 2, 3, 3, 4, 4]
    started = clock.now
    found = runner.run(pairs_of([10] * 10), ScoringCost(), owners=owners, deadline=started + seconds)
    assert clock.now <= started + seconds
    done = ~np.isnan(found)
    assert done.any()
    assert done.tolist() == sorted(done.tolist(), reverse=True)
    assert all(len(set(done[np.asarray(owners) == owner])) == 1 for owner in owners)


def test_the_first_call_with_a_deadline_tries_a_single_document(clock):
    model = Model(clock=clock)
    PairRunner(model).run(pairs_of([9] * 6), ScoringCost(), owners=[0, 0, 1, 2, 3, 4], deadline=clock.now + 0.19)
    assert model.batches == [[9, 9]]


def test_a_deadline_that_is_over_scores_nothing(clock):
    found = PairRunner(Model(clock=clock)).run(pairs_of([4, 4]), ScoringCost(), owners=[0, 1], deadline=clock.now)
    assert np.isnan(found).all()


def test_after_a_stall_the_speed_is_tried_anew(clock):
    model = Model(clock=clock)
    runner = PairRunner(model)
    runner._seconds_per_token = 50.0
    tries = [runner.run(pairs_of([5]), ScoringCost(), owners=[0], deadline=clock.now + 1.0) for _ in range(15)]
    assert np.isnan(tries[0]).all()
    assert not np.isnan(tries[-1]).any()


class Server(Model):
    """Answers pair after pair, and says what it has when the deadline of a batch passes."""

    device, pads = "remote", False

    def logits(self, batch):
        found = np.full(len(batch.pairs), np.nan)
        for place, pair in enumerate(batch.pairs):
            if self.clock.now + 0.01 * len(pair.ids) > batch.deadline:
                self.clock.now = batch.deadline
                raise OutOfTimeError("late", found)
            self.clock.now += 0.01 * len(pair.ids)
            found[place] = pair.ids.sum()
        return found


def test_what_a_late_batch_gave_counts_by_whole_documents_and_teaches_the_speed(clock):
    runner, cost = PairRunner(Server(clock=clock)), ScoringCost()
    runner._seconds_per_token = 1e-6
    found = runner.run(pairs_of([10] * 6), cost, owners=[0, 0, 1, 1, 2, 2], deadline=clock.now + 0.35)
    assert found[:2].tolist() == expected([10] * 2)
    assert np.isnan(found[2:]).all()
    assert (cost.pairs, cost.batches) == (3, 1)
    assert runner._seconds_per_token == pytest.approx((1e-6 + 0.35 / 30) / 2)


def test_after_a_batch_that_gave_nothing_in_time_twice_its_time_is_expected(clock):
    runner = PairRunner(Server(clock=clock))
    runner._seconds_per_token = 1e-6
    found = runner.run(pairs_of([50, 5]), ScoringCost(), owners=[0, 1], deadline=clock.now + 0.4)
    assert np.isnan(found).all()
    assert runner._seconds_per_token == pytest.approx(2 * 0.4 / 50)
    found = runner.run(pairs_of([5, 50]), ScoringCost(), owners=[0, 1], deadline=clock.now + 0.4)
    assert found[:1].tolist() == expected([5])
    assert np.isnan(found[1])


def test_learnt_sizes_are_kept_by_key_and_only_fall():
    sizes = LearntBatchSizes()
    assert sizes.affordable(("a",), 512) == 512
    assert sizes.lower(("a",), 512, 512) == 256
    assert sizes.lower(("a",), 512, 512) == 256  # a thread that failed at the same time
    assert sizes.lower(("a",), 250, 512) == 125
    assert sizes.affordable(("a",), 512) == 125
    assert sizes.affordable(("a",), 64) == 64
    assert sizes.affordable(("b",), 512) == 512
    assert sizes.lower(("a",), 1, 512) == 1


def test_other_errors_and_wrong_values_are_errors():
    model = Model()
    model.logits = lambda batch: np.full(len(batch.pairs), np.inf)
    for model.name, model.dtype, remedy in [
        ("torch", "float32", "its weights are damaged, or too large for it"),
        ("torch", "bfloat16", "try dtype='float32'"),
        ("openvino", "float16", "try dtype='float32'"),
        ("openvino", "int8", "use a file that holds float32"),
        ("onnx", "float16", "use a file that holds float32"),
    ]:
        with pytest.raises(ValueError, match=f"not finite for 2 of 2 pairs in {model.dtype}; {remedy}"):
            PairRunner(model).run(pairs_of([3, 3]), ScoringCost())
    with pytest.raises(MemoryError, match="single pair of 30 tokens does not fit into the memory of cpu"):
        PairRunner(Model(room=10)).run(pairs_of([30]), ScoringCost())
    with pytest.raises(ValueError, match="batch_size must be a whole number >= 1 or None"):
        PairRunner(Model(), batch_size=0)


def test_the_work_of_a_model_without_a_closed_form_is_not_known_and_that_of_no_pair_is_none():
    nothing, cost = ScoringCost(), ScoringCost()
    PairRunner(Model()).run([], nothing)
    PairRunner(Model()).run(pairs_of([3, 9]), cost)
    assert (nothing.flops, nothing.padding_flops) == (0, 0)
    assert math.isnan(cost.flops)
    known = ScoringCost(flops=5.0)
    known.add(cost)
    assert math.isnan(known.flops)
