"""Threads of the torch backend: the number that was set, one pass at a time, and the process's own number after it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

DOCUMENTS = ["the hut in the snow", "a car", "berlin is a city of germany. " * 3]


def in_a_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def own_number():
    """A number of threads for this process that none of the backends below has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_backends_with_other_numbers_of_threads_never_meet_and_leave_no_trace(tiny_bert, own_number):
    seen, running, most = {}, [], []
    lock = threading.Lock()

    def watch(model, threads):
        def before(*_):
            with lock:
                running.append(threads)
                most.append(len(running))
            seen.setdefault(threads, set()).add(torch.get_num_threads())
            time.sleep(0.002)  # long enough for another pass to begin, were it allowed to

        def after(*_):
            with lock:
                running.remove(threads)

        model.register_forward_pre_hook(before)
        model.register_forward_hook(after)

    scorers = []
    for threads in (1, 2, None):
        backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=threads))
        watch(backend.cross_encoder.model, threads)
        scorers.append(CrossEncoderScorer(backend, batch_size=1))
    afterwards = []

    def ask(place):
        for _ in range(4):
            scorers[place % 3].score("the hut", DOCUMENTS)
        afterwards.append(torch.get_num_threads())

    for _ in range(3):  # each time with threads that are new to torch
        threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    assert seen == {1: {1}, 2: {2}, None: {own_number}}
    assert set(most) == {1}
    assert set(afterwards) == {own_number}
    assert in_a_new_thread(torch.get_num_threads) == torch.get_num_threads() == own_number


def test_the_number_of_threads_is_restored_when_a_pass_fails(tiny_bert, own_number):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=1))

    def fail(*_):
        raise RuntimeError(f"with {torch.get_num_threads()} threads")

    backend.cross_encoder.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="with 1 threads"):
        CrossEncoderScorer(backend).score("the hut", DOCUMENTS)
    assert torch.get_num_threads() == own_number
    other = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=2))
    assert None not in [d.logit for d in CrossEncoderScorer(other).score("the hut", DOCUMENTS)[0].documents]
