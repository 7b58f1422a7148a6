"""The line of a CPU: one pass at a time, in turns, shared where that moves no score; errors, deadlines, withdrawals."""

import os
import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import numpy as np
import pytest

from fakes import in_a_child, with_time_enough
from haystack_ce_ranker.scoring import line as module
from haystack_ce_ranker.scoring.line import Line, Turn, line_of
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.scoring.visits import Visit
from haystack_ce_ranker.tokenizing.pairs import PackedPair

HARDLY = 1e-6
"""Seconds that let requests share passes, and wait for nobody."""


class Model:
    """A logit is the first id of its pair; the passes are remembered, and the first one lasts until `go_on` is set."""

    name, dtype, device, pads, mixes_lengths, batch_tokens = "model", "float32", "cpu", False, True, 40
    tokenizer = SimpleNamespace(pad_id=0, pads_left=False)

    def __init__(self, *, independent=False, holds=True, broken=None):
        self.independent = independent
        self.go_on = threading.Event()
        if not holds:
            self.go_on.set()
        self.broken = broken
        self.passes = []

    def logits(self, batch):
        found = [int(pair.ids[0]) for pair in batch.pairs]
        self.passes.append(found)
        assert self.go_on.wait(30)
        if self.broken in found:
            raise ZeroDivisionError(self.broken)
        return np.array(found, dtype=np.float32)

    def is_out_of_memory(self, error):
        return False

    def free_memory(self):
        pass


@pytest.fixture(autouse=True)
def own_line(monkeypatch):
    """A line that no other test stands in."""
    made = Line()
    monkeypatch.setattr("haystack_ce_ranker.scoring.runner.line_of", lambda _: made)
    return made


def pairs_of(name, count, length=10):
    return [PackedPair(np.full(length, name), np.zeros(length)) for _ in range(count)]


class Asked:
    """A request in a thread of its own, which has its batch in the line when this returns."""

    def __init__(self, line, runner, pairs, **options):
        self.cost, self.found, self.error = ScoringCost(), None, None
        waiting, behind_others = len(line._waiting), line.is_busy
        self.thread = threading.Thread(target=self._run, args=(runner, pairs, options))
        self.thread.start()
        if behind_others:
            await_true(lambda: len(line._waiting) == waiting + 1)
        else:
            await_true(lambda: runner.backend.passes)

    def _run(self, runner, pairs, options):
        try:
            self.found = runner.run(pairs, self.cost, **options)
        except Exception as error:
            self.error = error

    def over(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self


def await_true(condition):
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends


def test_a_long_request_takes_turns_with_those_that_come_after_it(own_line):
    class Stepped(Model):
        """Each pass lasts until it is allowed to end."""

        ends = threading.Semaphore(0)

        def logits(self, batch):
            found = super().logits(batch)
            assert self.ends.acquire(timeout=30)
            return found

    model = Stepped(holds=False)
    runner = PairRunner(model)
    long, short = Asked(own_line, runner, pairs_of(1, 24)), Asked(own_line, runner, pairs_of(2, 4))
    third = Asked(own_line, runner, pairs_of(3, 8))
    for number, waiting in enumerate([2, 2, 1, 1, 1, 0, 0, 0, 0], start=1):
        await_true(lambda: len(model.passes) == number and len(own_line._waiting) == waiting)  # noqa: B023
        model.ends.release()
    for one in (long, short, third):
        one.over()
    assert [batch[0] for batch in model.passes] == [1, 2, 3, 1, 3, 1, 1, 1, 1]
    assert all(len(set(batch)) == 1 for batch in model.passes)  # this model's scores may depend on their batch
    assert (long.cost.batches, long.cost.shared, short.cost.batches) == (6, 0, 1)
    assert short.cost.waited > 0.0
    await_true(lambda: not own_line.is_busy)


def test_requests_share_a_pass_where_no_score_depends_on_its_batch(own_line):
    model = Model(independent=True)
    runner, small = PairRunner(model, max_wait=HARDLY), PairRunner(model, max_wait=HARDLY, batch_size=2)
    held = Asked(own_line, runner, pairs_of(9, 1))
    asked = [Asked(own_line, runner, pairs_of(name, 1)) for name in (1, 2, 3)]
    asked.append(Asked(own_line, runner, pairs_of(4, 2)))  # no room for it
    asked.append(Asked(own_line, small, pairs_of(5, 2)))  # nor would it have four pairs in its batch
    asked.append(Asked(own_line, runner, pairs_of(6, 1)))
    model.go_on.set()
    for name, one in enumerate(asked, start=1):
        assert one.over().found.tolist() == [name] * len(one.found)
    assert held.over().found.tolist() == [9]
    assert model.passes == [[9], [1, 2, 3, 6], [4, 4], [5, 5]]
    assert [one.cost.shared for one in asked] == [1, 1, 1, 0, 0, 1]
    assert [one.cost.tokens for one in asked] == [10, 10, 10, 20, 20, 10]


def test_a_pass_takes_in_no_pairs_that_would_bring_it_beyond_a_deadline(own_line):
    model = Model(independent=True)
    held = Asked(own_line, PairRunner(model), pairs_of(9, 1))
    deadlines = [time.monotonic() + 1000, None, None]  # one pair takes 600 seconds
    turns = [
        Turn(model, pairs_of(name, 1), 40, shares=True, deadline=deadline, seconds_per_token=60.0)
        for name, deadline in enumerate(deadlines, start=1)
    ]
    for turn in turns:
        own_line.enter(turn)
    model.go_on.set()
    held.over()
    assert [turn.result(None).shared for turn in turns] == [False, True, True]
    assert model.passes == [[9], [1], [2, 3]]


def test_without_a_time_to_wait_requests_share_no_pass(own_line):
    model = Model(independent=True)
    runner = PairRunner(model)
    asked = [Asked(own_line, runner, pairs_of(name, 1)) for name in (1, 2, 3)]
    model.go_on.set()
    for one in asked:
        assert one.over().cost.shared == 0
    assert model.passes == [[1], [2], [3]]


def test_padding_counts_in_a_shared_pass(own_line):
    model = Model(independent=True)
    model.pads = True
    runner = PairRunner(model, max_wait=HARDLY)
    held = Asked(own_line, runner, pairs_of(9, 1))
    asked = [Asked(own_line, runner, pairs_of(name, 1, length)) for name, length in ((1, 15), (2, 5), (3, 5))]
    model.go_on.set()
    for one in (held, *asked):
        one.over()
    assert model.passes == [[9], [1, 2], [3]]


@pytest.mark.parametrize("mixes", [True, False])
def test_models_never_share_a_pass_nor_lengths_that_must_not_mix(own_line, mixes):
    first, second = Model(independent=True), Model(independent=True, holds=False)
    first.mixes_lengths = second.mixes_lengths = mixes
    runner, other = PairRunner(first, max_wait=HARDLY), PairRunner(second, max_wait=HARDLY)
    asked = [Asked(own_line, one, pairs_of(1, 1)) for one in (runner, other, runner, runner)]
    first.go_on.set()
    for one in asked:
        one.over()
    assert first.passes == ([[1], [1, 1]] if mixes else [[1]] * 3)
    assert second.passes == [[1]]


def test_one_pass_at_a_time_whatever_the_models_and_requests():
    at_work, most = [], []

    class Busy(Model):
        def logits(self, batch):
            at_work.append(1)
            most.append(len(at_work))
            found = super().logits(batch)
            at_work.pop()
            return found

    runners = [PairRunner(Busy(holds=False)) for _ in range(3)]
    found = [None] * 24

    def ask(place):
        found[place] = runners[place % 3].run(pairs_of(place, 9), ScoringCost()).tolist()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [[place] * 9 for place in range(24)]
    assert max(most) == 1


class Yielding(Model):
    """Says during a pass that another one may begin, and ends each pass when it is let."""

    def __init__(self):
        super().__init__(holds=False)
        self.say, self.end = ({name: threading.Event() for name in range(1, 5)} for _ in range(2))

    def logits(self, batch):
        found = super().logits(batch)
        name = int(found[0])
        while not self.end[name].is_set():
            if self.say[name].wait(0.001):
                batch.on_idle()
        return found


def test_the_next_pass_of_a_model_begins_when_the_one_before_has_nothing_to_do_for_a_thread(own_line):
    model, other = Yielding(), Model(holds=False)
    asked = [Asked(own_line, PairRunner(model), pairs_of(name, 1)) for name in (1, 2)]
    asked.append(Asked(own_line, PairRunner(other), pairs_of(9, 1)))
    asked.append(Asked(own_line, PairRunner(model), pairs_of(3, 1)))
    assert model.passes == [[1]]
    model.say[1].set()
    await_true(lambda: model.passes == [[1], [2]])
    assert own_line.is_busy
    model.say[2].set()  # another model's passes may have threads of their own: it waits for both
    model.end[2].set()
    assert asked[1].over().found.tolist() == [2]
    assert other.passes == []
    assert model.passes == [[1], [2]]  # who came later does not overtake
    model.end[1].set()
    model.end[3].set()
    for one in asked:
        one.over()
    assert (other.passes, model.passes[2:]) == ([[9]], [[3]])
    await_true(lambda: not own_line.is_busy)


def test_what_is_withdrawn_while_it_waits_for_another_models_pass_is_never_run(own_line):
    model, other, visit = Yielding(), Model(holds=False), Visit()
    first = Asked(own_line, PairRunner(model), pairs_of(1, 1))
    waiting = Asked(own_line, PairRunner(other), pairs_of(9, 1), visit=visit)
    after = Asked(own_line, PairRunner(model), pairs_of(2, 1))
    model.say[1].set()
    visit.withdraw()
    assert isinstance(waiting.over().error, CancelledError)
    model.end[1].set()
    model.end[2].set()
    assert (first.over().found.tolist(), after.over().found.tolist(), other.passes) == ([1], [2], [])


def test_an_error_concerns_only_the_request_whose_pairs_raise_it(own_line):
    model = Model(independent=True, broken=2)
    runner = PairRunner(model, max_wait=HARDLY)
    held = Asked(own_line, runner, pairs_of(9, 1))
    asked = [Asked(own_line, runner, pairs_of(name, 1)) for name in (1, 2, 3)]
    model.go_on.set()
    first, broken, third = (one.over() for one in asked)
    assert model.passes == [[9], [1, 2, 3], [1], [2], [3]]
    assert isinstance(broken.error, ZeroDivisionError)
    assert (held.over().found.tolist(), first.found.tolist(), third.found.tolist()) == ([9], [1], [3])
    assert (first.cost.shared, third.cost.shared) == (0, 0)
    await_true(lambda: not own_line.is_busy)


@pytest.mark.parametrize("wrong", [np.array([np.nan, 3.0]), np.array([1.0])], ids=["not finite", "too few"])
def test_scores_that_are_wrong_concern_only_their_request(own_line, wrong):
    model = Model(independent=True)
    real = model.logits
    model.logits = lambda batch: wrong if len(real(batch)) == 2 else real(batch)
    runner = PairRunner(model, max_wait=HARDLY)
    held = Asked(own_line, runner, pairs_of(9, 1))
    first, second = (Asked(own_line, runner, pairs_of(name, 1)) for name in (1, 3))
    model.go_on.set()
    assert held.over().error is None
    assert second.over().found.tolist() == [3]
    if len(wrong) == 2:
        assert "not finite" in str(first.over().error)
    else:
        assert first.over().found.tolist() == [1]  # alone it is right
        model.logits = lambda _: np.zeros(2)
        with pytest.raises(ValueError, match="2 logits for 1 pairs"):
            runner.run(pairs_of(1, 1), ScoringCost())


def test_a_batch_with_room_waits_for_others_as_long_as_it_may(own_line):
    model = Model(independent=True, holds=False)
    runner = PairRunner(model, batch_size=2, max_wait=1e6)
    first, second = (threading.Thread(target=runner.run, args=(pairs_of(one, 1), ScoringCost())) for one in (1, 2))
    first.start()
    second.start()
    first.join(30)
    second.join(30)
    assert sorted(model.passes[0]) == [1, 2]
    alone = threading.Thread(target=runner.run, args=(pairs_of(3, 1), ScoringCost()))
    alone.start()
    await_true(lambda: own_line._running)
    assert len(model.passes) == 1
    other = PairRunner(Model(holds=False))
    assert other.run(pairs_of(4, 1), ScoringCost()).tolist() == [4]  # nobody else waits with it
    alone.join(30)
    assert model.passes[1:] == [[3]]


def test_half_of_the_time_to_a_deadline_ends_the_waiting_for_others(own_line, monkeypatch):
    turns, enter = [], own_line.enter
    monkeypatch.setattr(own_line, "enter", lambda turn: turns.append(turn) or enter(turn))

    def run(seconds):  # by a runner that has no idea yet how long a pass takes
        runner = PairRunner(Model(independent=True, holds=False), max_wait=1e6)
        return runner.run(pairs_of(1, 2), ScoringCost(), owners=[1, 2], deadline=time.monotonic() + seconds)

    def ended_before_the_deadline(found):
        return not np.isnan(found[0]) and turns[-1].since + turns[-1].max_wait < turns[-1].deadline

    assert with_time_enough(run, ended_before_the_deadline)[0] == 1.0


def test_a_pass_waits_no_longer_than_any_of_its_batches_may(own_line):
    model = Model(independent=True, holds=False)
    patient, hasty = (Turn(model, pairs_of(name, 1), 40, shares=True, max_wait=1e6) for name in (1, 2))
    hasty.max_wait = 0.01
    own_line.enter(patient)
    own_line.enter(hasty)
    try:
        assert hasty.result(30).shared
    finally:
        own_line.enter(Turn(Model(holds=False), pairs_of(9, 1), 40))  # nobody waits any longer, whatever went wrong
    assert patient.result(30).shared
    assert model.passes == [[1, 2]]


def test_a_request_whose_deadline_passes_in_the_line_is_answered_then_and_never_run(own_line):
    model = Model()
    runner = PairRunner(model)
    held = Asked(own_line, runner, pairs_of(1, 1))
    runner._seconds_per_token = 1e-9

    def run(seconds):
        cost = ScoringCost()
        return runner.run(pairs_of(2, 3), cost, owners=[1, 2, 3], deadline=time.monotonic() + seconds), cost

    found, cost = with_time_enough(run, lambda found: found[1].waited > found[1].score)
    assert np.isnan(found).all()  # the first pass still lasts
    assert cost.batches == 0
    assert runner._seconds_per_token == 1e-9  # waiting says nothing of the speed
    model.go_on.set()
    held.over()
    assert runner.run(pairs_of(3, 1), ScoringCost()).tolist() == [3]
    assert model.passes == [[1], [3]]


def test_a_batch_that_could_not_end_in_time_does_not_begin(own_line):
    model = Model()
    runner = PairRunner(model)
    held = Asked(own_line, runner, pairs_of(1, 1))
    runner._seconds_per_token = 1e6  # a stall, for all that is known
    late = runner.run(pairs_of(2, 1), ScoringCost(), owners=[1], deadline=time.monotonic() + 60)
    assert np.isnan(late).all()
    assert runner._seconds_per_token == 1e6  # those at work will teach it
    model.go_on.set()
    held.over()


def test_the_slowest_of_the_latest_passes_says_whether_a_batch_would_end_in_time(own_line):
    model = Model(holds=False)
    runner = PairRunner(model)
    runner._learn(seconds=1e6, tokens=1)
    for _ in range(3):
        runner._learn(seconds=1e-6, tokens=1)
    runner._seconds_per_token = 1e-6
    model.go_on.clear()
    held = Asked(own_line, runner, pairs_of(1, 1))
    late = runner.run(pairs_of(2, 1), ScoringCost(), owners=[1], deadline=time.monotonic() + 1000)
    assert np.isnan(late).all()
    model.go_on.set()
    held.over()
    for _ in range(200):
        runner._learn(seconds=1e-6, tokens=1)
    assert runner._slowest == pytest.approx(1e-6)


def test_what_a_withdrawn_request_has_in_the_line_is_dropped(own_line):
    model = Model()
    runner, visit = PairRunner(model), Visit()
    held = Asked(own_line, runner, pairs_of(1, 1))
    left = Asked(own_line, runner, pairs_of(2, 8), visit=visit)
    after = Asked(own_line, runner, pairs_of(3, 1), visit=Visit())
    visit.withdraw()
    assert isinstance(left.over().error, CancelledError)  # while the first pass lasts
    model.go_on.set()
    held.over()
    assert after.over().found.tolist() == [3]
    assert model.passes == [[1], [3]]
    with pytest.raises(CancelledError):
        runner.run(pairs_of(4, 1), ScoringCost(), visit=visit)
    assert model.passes == [[1], [3]]


def test_a_request_withdrawn_during_its_pass_begins_no_other():
    model, visit = Model(holds=False), Visit()
    real = model.logits

    def logits(batch):
        visit.withdraw()
        return real(batch)

    model.logits = logits
    with pytest.raises(CancelledError):
        PairRunner(model).run(pairs_of(1, 40), ScoringCost(), visit=visit)
    assert len(model.passes) == 1


def test_a_caller_that_is_interrupted_leaves_the_line(own_line, monkeypatch):
    model = Model()
    runner = PairRunner(model)
    held = Asked(own_line, runner, pairs_of(1, 1))

    here, real = threading.current_thread(), module.Future.result

    def interrupted(*given):
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(pairs_of(2, 1), ScoringCost())
    monkeypatch.undo()
    model.go_on.set()
    held.over()
    await_true(lambda: not own_line.is_busy)
    assert model.passes == [[1]]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_request_given_up_while_it_enters_the_line_is_not_run(own_line, monkeypatch, interrupted):
    model, visit, enter = Model(), Visit(), own_line.enter
    runner = PairRunner(model)
    held = Asked(own_line, runner, pairs_of(1, 1))

    def given_up(turn):
        enter(turn)
        if interrupted:
            raise KeyboardInterrupt
        visit.withdraw()
        model.go_on.set()
        held.over()
        own_line._threads.shutdown()  # all that had a turn has run
        return True

    monkeypatch.setattr(own_line, "enter", given_up)
    with pytest.raises(KeyboardInterrupt if interrupted else CancelledError):
        runner.run(pairs_of(2, 1), ScoringCost(), visit=visit)
    model.go_on.set()
    held.over()
    await_true(lambda: not own_line.is_busy)
    assert model.passes == [[1]]


def test_an_error_that_looks_like_a_timeout_is_the_backends():
    model = Model(holds=False)

    def late(_):
        raise TimeoutError("the backend's")

    model.logits = late
    with pytest.raises(TimeoutError, match="the backend's"):
        PairRunner(model).run(pairs_of(1, 1), ScoringCost(), owners=[1], deadline=time.monotonic() + 1e6)


def test_at_the_end_of_the_process_whoever_asks_runs_the_batch(own_line):
    own_line._threads.shutdown()
    model = Model(holds=False)
    assert PairRunner(model).run(pairs_of(1, 5), ScoringCost()).tolist() == [1] * 5


def test_a_turn_tells_whether_others_are_before_it(own_line):
    model = Model()
    first = Turn(model, pairs_of(1, 1), 40)
    assert own_line.enter(first) is False
    assert own_line.enter(Turn(model, pairs_of(2, 1), 40)) is True
    model.go_on.set()
    assert first.result(None).tokens == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_a_line_of_its_own(monkeypatch):
    monkeypatch.undo()
    model, visit = Model(), Visit()
    runner = PairRunner(model)
    parents = line_of("cpu")
    held = Asked(parents, runner, pairs_of(1, 1))
    waiting = Asked(parents, runner, pairs_of(2, 1), visit=visit)

    def runs_its_own():
        model.go_on.set()
        return line_of("cpu") is not parents and runner.run(pairs_of(3, 5), ScoringCost()).tolist() == [3] * 5

    assert in_a_child(runs_its_own) == 0
    model.go_on.set()
    assert held.over().found.tolist() == [1]
    assert waiting.over().found.tolist() == [2]
    assert [batch[0] for batch in model.passes] == [1, 2]
