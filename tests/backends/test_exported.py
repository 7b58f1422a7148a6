"""What the runtimes of exported models share: checks of a file, and threads that models share."""

import threading

import numpy as np
import pytest

from haystack_ce_ranker.backends.exported import OneByOne, require_classifier, stored_dtype
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from onnx_models import save_operator


def test_models_with_equal_threads_share_them():
    pools = [OneByOne(threads)._pool for threads in (1, 2, 2)]
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
    assert OneByOne(1)._pool._unfinished == 0
    assert OneByOne(1)._pool._on_idle == []


def test_what_is_no_cross_encoder_is_refused_as_far_as_its_file_tells():
    class Config:
        architectures = ("Qwen2ForCausalLM",)

    require_classifier([None, 1], None, "fine")
    require_classifier([None, None], None, "open")
    with pytest.raises(ValueError, match="'m' is not a sequence-classification cross-encoder but Qwen2ForCausalLM"):
        require_classifier([None, 1], Config(), "m")
    with pytest.raises(ValueError, match="an output of 3 dimensions"):
        require_classifier([None, None, 50], None, "m")


@pytest.mark.parametrize(
    ("operator", "number", "expected"),
    [
        ("MatMul", np.float32, "float32"),
        ("MatMul", np.float16, "float16"),
        ("QLinearMatMul", np.int8, "int8"),
        ("MatMulInteger", np.int8, "int8"),
        ("DequantizeLinear", np.int8, "int8"),
    ],
)
def test_an_onnx_file_tells_what_it_holds(tmp_path, operator, number, expected):
    save_operator(tmp_path / "model.onnx", operator, number)
    assert stored_dtype(tmp_path / "model.onnx") == expected


@pytest.mark.parametrize(("content", "expected"), [(b'element_type="f32"', "float32"), (b'element_type="i8"', "int8")])
def test_an_openvino_file_tells_what_it_holds(tmp_path, content, expected):
    (tmp_path / "model.xml").write_bytes(b"\x00" + content)
    assert stored_dtype(tmp_path / "model.xml") == expected
