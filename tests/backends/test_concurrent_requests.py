"""Requests that come at once, on every runtime: each gets exactly the scores that it gets alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document

from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.protocol import Independent

WORDS = ["the hut", "in the snow", "a car", "berlin is a city", "of germany", "paris", "brake", "is in france"]


def request(number):
    """A query, and 3 to 14 documents of all lengths, some of which are read by their windows."""
    texts = [
        " ".join(WORDS[(number + place + word) % len(WORDS)] for word in range(1 + place * number % 40))
        for place in range(3 + number % 12)
    ]
    documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
    return {"query": f"{WORDS[number % len(WORDS)]} {number}", "documents": documents}


@pytest.mark.parametrize("name", ["torch", "float_onnx", "int8_onnx", "openvino"])
def test_many_requests_at_once_get_exactly_the_scores_of_one_after_another(request_of, name):
    model, backend = request_of(name)
    ranker = CrossEncoderRanker(
        model=model, backend=backend, threads=2, dtype=None, batch_tokens=200, max_wait_ms=0.001
    )
    alone = [ranker.run(**request(number))["report"] for number in range(32)]
    ready = threading.Barrier(33)

    def run(number):
        ready.wait(60)
        return ranker.run(**request(number))["report"]

    async def run_all():
        ready.wait(60)
        return await asyncio.gather(*(ranker.run_async(**request(number)) for number in range(32)))

    with ThreadPoolExecutor(33) as pool:
        by_coroutines = pool.submit(asyncio.run, run_all())
        by_threads = list(pool.map(run, range(32)))
    by_coroutines = [found["report"] for found in by_coroutines.result()]
    for found in (by_threads, by_coroutines):
        assert [report["scored"] for report in found] == [report["scored"] for report in alone]
        assert [report["pairs"] for report in found] == [report["pairs"] for report in alone]
    shared = sum(report["shared_batches"] for report in (*by_threads, *by_coroutines))
    assert (shared > 0) == (backend != "torch")  # its last bits depend on what else is in a batch
    assert sum(report["waited_ms"] for report in by_threads) > 0.0


@pytest.fixture
def request_of(request, tiny_bert):
    def model_of(name):
        if name in ("torch", "openvino"):
            pytest.importorskip(loading.BACKENDS[name].package)
            return tiny_bert, name
        return request.getfixturevalue(name), "onnx"

    return model_of


def test_only_what_runs_each_pair_alone_says_so(tiny_bert, float_onnx):
    def says(backend, model):
        loaded = loading.load(backend, loading.ModelOptions(model, device="cpu"))
        return isinstance(loaded, Independent) and loaded.independent

    assert says("onnx", float_onnx)
    assert not says("torch", tiny_bert)
