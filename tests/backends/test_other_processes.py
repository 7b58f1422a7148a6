"""Rankers in other processes, on every runtime: in a forked child, and pickled."""

import os
import pickle

import pytest
from haystack import Document

from fakes import in_a_new_process
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RANKING = """
import multiprocessing, os, signal, sys, threading
from haystack import Document
from haystack_ce_ranker import CrossEncoderRanker

model, backend, *counts = sys.argv[1:]
documents = [Document(id=str(number), content="the hut in the snow, near berlin. " * number) for number in range(1, 49)]


def made(threads):
    return CrossEncoderRanker(
        model=model, backend=backend, dtype="float32", threads=None if threads == "None" else int(threads), top_k=48,
        cache_size=100, long_documents="head", batch_tokens=100_000,
    )


def ranking(ranker, query="the hut"):
    found = ranker.run(query, documents)["documents"]
    return {document.id: round(document.score, 4) for document in found}


def in_a_child(work):
    def run():
        signal.alarm(100)  # ends a child that waits for ever
        work()

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    return child.exitcode


def compare(*rankers):
    for one in rankers:
        for _ in range(2):
            assert ranking(one) == expected
        assert ranking(one, "a car") != expected


"""

AS_IT_IS = """
for threads in counts:
    ranker = made(threads)
    expected = ranking(ranker)

    def by_a_grandchild():
        compare(ranker)
        assert in_a_child(lambda: compare(ranker, made(threads))) == 0

    works = [lambda: compare(ranker), lambda: compare(made(threads)), by_a_grandchild]
    print(*[in_a_child(work) for work in works], flush=True)
    compare(ranker)
    child = os.fork()
    if not child:
        signal.alarm(100)
        compare(ranker)
        sys.exit()  # objects are destroyed, as in a server's worker that ends
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

AMID_PASSES = """
ranker = made(*counts)
expected = ranking(ranker)
stop = threading.Event()


def busy():
    while not stop.is_set():
        ranking(ranker, f"the hut {os.urandom(4).hex()}")


threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
codes = [in_a_child(lambda: compare(ranker)) for _ in range(4)]
stop.set()
for thread in threads:
    thread.join()
print(*codes)
"""


def model_for(request, name, tiny_bert):
    pytest.importorskip(loading.BACKENDS[name].package)
    return request.getfixturevalue("float_onnx") if name == "onnx" else tiny_bert


@needs_fork
@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_child_ranks_with_what_the_parent_loaded_and_with_what_it_loads(request, tiny_bert, name):
    model = model_for(request, name, tiny_bert)
    # Of one thread first: the first that computes with several starts a team of them, which no child has.
    assert in_a_new_process(RANKING + AS_IT_IS, model, name, "1", "2", "None") == ["0"] * 12


@needs_fork
@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_a_fork_amid_passes_of_other_threads_gives_a_child_that_works(request, tiny_bert, name):
    model = model_for(request, name, tiny_bert)
    assert in_a_new_process(RANKING + AMID_PASSES, model, name, "2") == ["0"] * 4


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino", "auto"])
def test_a_ranker_that_has_run_is_pickled_without_its_model(request, tiny_bert, name):
    model = tiny_bert if name == "auto" else model_for(request, name, tiny_bert)
    documents = [Document(id=str(number), content="the hut " * number) for number in range(1, 9)]
    ranker = CrossEncoderRanker(model=model, backend=name, dtype="float32", cache_size=10)

    def scores(one):
        return {document.id: document.score for document in one.run("the hut", documents)["documents"]}

    expected = scores(ranker)
    kept = pickle.dumps(ranker)
    assert len(kept) < 10_000
    again = pickle.loads(kept)
    assert again._scorer is None
    assert again.to_dict() == ranker.to_dict()
    assert scores(again) == pytest.approx(expected)
    assert ranker._scorer is not None
