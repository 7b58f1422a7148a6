"""Local servers that speak each documented form of re-ranking, and that fail in every way."""

import json
import threading
import zlib
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.backends.rerank_servers import FORMS
from haystack_ce_ranker.tokenizing.pairs import PackedPair, PairTexts

GUARD = 60  # seconds after which a test that hangs fails


def logit_of(query, text):
    """What the servers score: any fixed function of the two texts, on both sides of 0 and beyond 1."""
    return zlib.crc32(f"{query}\0{text}".encode()) / 2**28 - 8.0


def answer_to(api, body, probabilities):
    """The answer of a server of one kind, the best first, as servers give it; it checks what it was asked."""
    query, texts = {
        "tei": lambda: (body["query"], body["texts"]),
        "vllm_score": lambda: (body["text_1"], body["text_2"]),
    }.get(api, lambda: (body["query"], body["documents"]))()
    flags = {
        "tei": {"raw_scores": True, "truncate": False, "return_text": False},
        "infinity": {"raw_scores": True, "return_documents": False},
        "vllm": {"use_activation": False, "activation": False},
        "vllm_score": {"use_activation": False, "activation": False},
        "jina": {"return_documents": False},
    }.get(api, {})
    assert {name: body[name] for name in flags} == flags
    scores = [logit_of(query, text) for text in texts]
    if probabilities:
        scores = [1.0 / (1.0 + np.exp(-score)) for score in scores]
    key = "score" if api in ("tei", "vllm_score") else "relevance_score"
    rows = [{"index": place, key: score} for place, score in enumerate(scores)]
    if api == "vllm":
        rows = [{**row, "document": {"text": texts[row["index"]]}} for row in rows]
    rows.sort(key=lambda row: -row[key])
    return {"tei": rows, "vllm_score": {"id": "s", "data": rows}}.get(api, {"id": "s", "results": rows})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers), None))
        self.send(200, self.server.info) if self.server.info is not None else self.send(404, {})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((self.path, dict(self.headers), body))
            fault = server.faults.pop(0) if server.faults else server.always
        if self.path != FORMS[server.api].path:
            self.send(404, {})
        elif fault is None or not fault(self, body):
            self.send(200, answer_to(server.api, body, server.probabilities))

    def send(self, status, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True

    def log_message(self, *_):
        """Keep the output quiet."""


class Server(ThreadingHTTPServer):
    """A local server of one kind, that fails as it is told to: first `faults`, one for each request, then `always`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.api, self.probabilities = "vllm", False
        self.info = None
        self.faults, self.always = [], None
        self.asked, self.lock = [], threading.Lock()
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Clients that hang up are a part of the tests."""

    def speak(self, api):
        self.api, self.probabilities = api, FORMS[api].scores == "probabilities"
        self.info = {"model_id": "some/model", "max_input_length": 100, "max_client_batch_size": 4}
        return self

    @property
    def texts(self):
        """All texts that were sent, and how many each request had."""
        found = [body.get("documents", body.get("texts", body.get("text_2"))) for _, _, body in self.asked if body]
        return [text for texts in found for text in texts], [len(texts) for texts in found]


def status(code, body=b"{}", **headers):
    return lambda handler, _: handler.send(code, body, **headers)


def hang(handler, _):
    """Answer nothing until the test is over."""
    handler.server.released.wait(GUARD)
    handler.close_connection = True
    return True


def cut_off(handler, body):
    """Announce an answer, send half of it, and hang up."""
    content = json.dumps(answer_to(handler.server.api, body, False)).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True
    return True


def changed(change):
    """Answer with rows that a function has changed."""

    def fault(handler, body):
        answer = answer_to(handler.server.api, body, False)
        change(answer["results"])
        return handler.send(200, answer)

    return fault


def batch_of(texts, **given):
    """A batch of texts alone; the tokens do not matter to a server."""
    ids = np.arange(3, dtype=np.int32)
    return Batch([PackedPair(ids, ids, partial(PairTexts, *pair)) for pair in texts], 0, **given)


def expected(texts):
    return [pytest.approx(logit_of(*pair), abs=1e-5) for pair in texts]
