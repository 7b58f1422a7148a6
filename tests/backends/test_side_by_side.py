"""Parts of batches side by side: when another pass may begin, and small batches of torch that have a thread each."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fakes import bert_tokenizer, tiny_model
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.exported import OneByOne
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.backends.side_by_side import SideBySide, _threads
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.tokenizing.pairs import PackedPair


def test_models_with_equal_threads_share_them():
    pools = [_threads(OneByOne(threads).threads) for threads in (1, 2, 2)]
    assert pools[1] is pools[2]
    assert pools[0] is not pools[1]


class Steps:
    """A logit is the first id of its pair, and is there once it is let through."""

    def __init__(self, *names):
        self.begun = {name: threading.Event() for name in names}
        self.go_on = {name: threading.Event() for name in names}

    def run(self, batch):
        name = int(batch.pairs[0].ids[0])
        self.begun[name].set()
        assert self.go_on[name].wait(30)
        if name < 0:
            raise ZeroDivisionError
        return np.array([name], dtype=np.float32)


class Given:
    """A batch that is run in a thread of its own. `idle` says that another one may begin."""

    def __init__(self, threads, steps, *names):
        self.idle, self.found, self.error = threading.Event(), None, None
        pairs = [PackedPair(np.array([name]), np.array([0])) for name in names]
        self.thread = threading.Thread(target=self._run, args=(threads, steps, Batch(pairs, 0, on_idle=self.idle.set)))
        self.thread.start()

    def _run(self, threads, steps, batch):
        try:
            self.found = OneByOne(threads).logits(batch, steps.run).tolist()
        except ZeroDivisionError as error:
            self.error = error

    def over(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self


def test_another_pass_may_begin_once_a_thread_has_nothing_to_do():
    steps = Steps(1, 2, 3, 4, 5)
    first = Given(2, steps, 1, 2, 3)
    assert steps.begun[1].wait(30)
    assert steps.begun[2].wait(30)
    steps.go_on[1].set()
    assert steps.begun[3].wait(30)
    assert not first.idle.is_set()
    steps.go_on[3].set()
    assert first.idle.wait(30)
    second = Given(2, steps, 4, 5)  # beside the second pair of the first batch
    assert steps.begun[4].wait(30)
    assert not steps.begun[5].is_set()
    assert not second.idle.is_set()
    steps.go_on[2].set()
    assert first.over().found == [1, 2, 3]
    assert steps.begun[5].wait(30)
    assert not second.idle.is_set()
    steps.go_on[5].set()
    assert second.idle.wait(30)
    steps.go_on[4].set()
    assert second.over().found == [4, 5]


def test_fewer_pairs_than_threads_leave_room_at_once_until_others_fill_it():
    steps = Steps(1, 2, 3)
    first = Given(3, steps, 1)
    assert first.idle.wait(30)
    second = Given(3, steps, 2)
    assert second.idle.wait(30)
    third = Given(3, steps, 3)
    assert steps.begun[3].wait(30)
    assert not third.idle.is_set()
    steps.go_on[1].set()  # a pair of another batch makes the room
    assert third.idle.wait(30)
    steps.go_on[2].set()
    steps.go_on[3].set()
    assert [one.over().found for one in (first, second, third)] == [[1], [2], [3]]


def test_a_pair_that_fails_drops_those_that_have_not_begun_and_leaves_no_room_taken():
    steps = Steps(-1, 1, 2, 3)
    steps.go_on[-1].set()
    assert isinstance(Given(1, steps, -1, 1, 2).over().error, ZeroDivisionError)
    steps.go_on[1].set()  # the thread has taken it, and nobody waits for it
    steps.go_on[3].set()
    last = Given(1, steps, 3)
    assert last.over().found == [3]
    assert last.idle.is_set()
    assert not steps.begun[2].is_set()
    assert _threads(1)._wanted == 0
    assert _threads(1)._on_idle == []


def test_a_part_that_wants_all_threads_runs_beside_no_other():
    at_work, most, lock = [], [], threading.Lock()

    def run(each):
        with lock:
            at_work.append(each)
            most.append(sum(at_work))
        threading.Event().wait(0.01)
        with lock:
            at_work.remove(each)
        return each

    def ask(each):
        return SideBySide(3).map(run, [each] * 6, each=each)

    with ThreadPoolExecutor(6) as several:
        asked = [1, 3, 2, 1, 3, 1]
        assert list(several.map(ask, asked)) == [[each] * 6 for each in asked]
    assert max(most) == 3


def test_when_the_process_ends_whoever_still_asks_runs_the_parts(monkeypatch):
    threads = _threads(5)
    threads._executor.shutdown()
    here = []
    assert SideBySide(5).map(lambda part: here.append(threading.get_ident()) or part, [1, 2]) == [1, 2]
    assert set(here) == {threading.get_ident()}
    _threads.after_fork()  # makes them anew


torch = pytest.importorskip("torch")


def pairs_of(*lengths):
    rng = np.random.default_rng(0)
    return [PackedPair(rng.integers(5, 20, length).astype(np.int32), np.zeros(length, np.int32)) for length in lengths]


def watched(model, threads, meet=None):
    """A backend of torch, and what its passes saw: the pairs, and the threads that compute them."""
    backend = loading.load("torch", ModelOptions(model, device="cpu", threads=threads))
    seen = []

    def before(_model, _given, named):
        seen.append((len(named["input_ids"]), torch.get_num_threads(), threading.get_ident()))
        if meet is not None:
            meet.wait(30)

    backend.cross_encoder.model.register_forward_pre_hook(before, with_kwargs=True)
    return backend, seen


def test_torch_runs_small_batches_side_by_side_each_on_one_thread(tiny_bert, own_number):
    lengths = (40, 38, 12, 11, 10, 40)
    pairs = pairs_of(*lengths)
    whole = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=2))
    whole.splits = False
    expected = whole.logits(Batch(pairs, 0))
    backend, seen = watched(tiny_bert, 2, threading.Barrier(2))
    runner, cost = PairRunner(backend), ScoringCost()
    found = runner.run(pairs, cost)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.tolist() != [found[0]] * len(found)
    assert sorted(pairs for pairs, _, _ in seen) == [1, 1, 1, 3]  # the barrier let two of them begin together
    assert {threads for _, threads, _ in seen} == {1}
    assert (cost.pairs, cost.batches, cost.tokens, cost.slots) == (6, 4, sum(lengths), 40 + 40 + 38 + 3 * 12)
    assert backend.logits(Batch(pairs, 0)).tolist() == pytest.approx(expected.tolist(), abs=1e-5)  # as they came
    assert torch.get_num_threads() == own_number
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == own_number


def test_few_pairs_run_on_all_threads_together(tiny_bert, own_number):
    backend, seen = watched(tiny_bert, 4)
    found = backend.logits(Batch(pairs_of(40, 9), 0))
    assert found.shape == (2,)
    assert [(pairs, threads) for pairs, threads, _ in seen] == [(2, 4)]
    assert torch.get_num_threads() == own_number


@pytest.mark.parametrize("family", ["DebertaV2", "Bert"])
def test_only_models_that_may_run_twice_at_once_do(tmp_path, family):
    tiny_model(family, vocab_size=len(bert_tokenizer())).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    backend, seen = watched(str(tmp_path), 2)
    backend.logits(Batch(pairs_of(30, 30, 30, 30), 0))
    known = family == "Bert"
    assert (backend.splits, backend.pads, backend.batch_tokens) == (known, not known, 2048 if known else 1024)
    assert [pairs for pairs, _, _ in seen] == ([2, 2] if known else [4])


def test_an_error_in_a_part_is_that_of_its_batch_alone(tiny_bert):
    backend, _ = watched(tiny_bert, 2)

    def fail(_model, _given, named):
        if named["input_ids"].shape[1] == 33:
            raise RuntimeError("can't allocate memory")

    backend.cross_encoder.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        backend.logits(Batch(pairs_of(33, 20, 20), 0))
    assert backend.is_out_of_memory(caught.value)
    assert backend.logits(Batch(pairs_of(20, 20, 20), 0)).shape == (3,)
