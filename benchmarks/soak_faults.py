"""
What goes wrong in the soak: a world of components on files, a store and a server, and one fault after another in it.

Each fault lasts about half a second and then is mended. `EXPECTED` says which errors docs/faults.md names for it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from haystack import Document

from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.backends.model_files import UnreadableWeightsError, locate
from haystack_ce_ranker.backends.onnx_backend import OnnxBackend
from haystack_ce_ranker.backends.server_client import ServerError
from haystack_integrations.components.retrievers.ce_ranker.listing import StoreAnswerError
from haystack_integrations.components.routers.ce_ranker import RerankGate
from soak_requests import Question, Tally, alone, is_right, scores_of, words

DEADLINE = 5.0
"""Seconds that a request with a deadline may take; a second more is allowed for what runs in a thread beside it."""
_LASTS = 0.5
_BEYOND = 2.5
"""Seconds that the server hangs or drips: longer than the timeout of an attempt."""
_MAY_STILL_FAIL = 3.0
"""Seconds after a fault in which what it broke may still be on its way."""


class Store:
    """A document store that can be told to raise, to hang, or to answer rubbish."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = {document.id: document for document in documents}
        self.answer: Callable[[], Any] | None = None

    def count_documents(self) -> Any:
        """Return the number of documents, or what it is told to."""
        return len(self.documents) if self.answer is None else self.answer()

    def filter_documents(self, filters: Any = None) -> Any:  # noqa: ARG002 - the protocol has it
        """Return all documents, or what it is told to."""
        return list(self.documents.values()) if self.answer is None else self.answer()

    def to_dict(self) -> dict[str, Any]:
        """Return a description that nothing reads."""
        return {}


def server_logit(query: str, text: str) -> float:
    """Return what the server scores: any fixed function of both texts."""
    return zlib.crc32(f"{query}\0{text}".encode()) / 2**29 - 4.0


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does, or fails as its server is told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a request for scores."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        how = self.server.how  # type: ignore[attr-defined]
        rows = [
            {"index": place, "relevance_score": server_logit(body["query"], text)}
            for place, text in enumerate(body["documents"])
        ]
        content = b"<html>" if how == "answers rubbish" else json.dumps({"results": rows}).encode()
        if how == "hangs":
            time.sleep(_BEYOND)
        if how == "drips":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            with contextlib.suppress(OSError):
                for _ in range(int(_BEYOND / 0.02)):
                    self.wfile.write(b"x")
                    time.sleep(0.02)
            self.close_connection = True
            return
        self.send_response(500 if how == "fails" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if how == "breaks off" else content)
        self.close_connection = how == "breaks off"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """A server of scores on this machine."""

    daemon_threads = True
    how = ""

    def handle_error(self, *_: Any) -> None:
        """Clients hang up when a deadline has passed."""


class World:
    """The components, what they stand on, and the faults."""

    def __init__(self, model: str, folder: Path, arguments: argparse.Namespace) -> None:
        self.model = shutil.copytree(locate(model), folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
        self.weights = next(self.model.glob("*.onnx"))
        self.intact = self.weights.read_bytes()
        self.arguments, self.index = arguments, folder / "index"
        chance = random.Random(arguments.seed)
        options: dict[str, Any] = {"model": str(self.model), "backend": "onnx", "top_k": 1000}
        self.ranker = CrossEncoderRanker(**options, threads=arguments.threads, cache_size=100)
        self.hurried = CrossEncoderRanker(**options, threads=arguments.threads, deadline_ms=1000 * DEADLINE)
        self.questions = alone(CrossEncoderRanker(**options, threads=1), arguments.seed, 50, arguments.candidates)
        self.store = Store([Document(id=f"s{n}", content=words(chance, 60)) for n in range(500)])
        self.retriever = BM25Retriever(
            self.store, index_path=str(self.index), refresh_seconds=0.2, top_k=arguments.candidates
        )
        self.joiner = HybridScoreJoiner(weights={"cross_encoder": 0.8, "bm25": 0.2}, top_k=10)
        self.gate = RerankGate(threshold=math.inf)
        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        told = {"api": "vllm", "tokenizer": str(self.model), "scores": "logits", "timeout": 1.0, "retries": 1}
        self.remote = CrossEncoderRanker(
            model=f"http://127.0.0.1:{self.server.server_port}",
            backend="remote",
            model_kwargs=told,
            deadline_ms=1000 * DEADLINE,
            top_k=1000,
            scale_score=False,
        )
        self.found = self._found()
        self.store.documents["extra"] = Document(id="extra", content=words(chance, 60))
        self.retriever.refresh_index()
        self.found_with_extra = self._found()
        self.asked_of_server = [self._of_server(question) for question in self.questions]
        self.tally = Tally(every=20, documented=self._documented)
        self.active: dict[str, float] = {}
        self.begun: Counter[str] = Counter()
        self.broken_pass: Callable[[Any], Any] | None = None
        self._logits = OnnxBackend.logits
        self._stopping = threading.Event()
        self._breaker: threading.Thread | None = None

    def __enter__(self) -> "World":
        """Let passes of the model be broken."""

        def logits(backend: Any, batch: Any) -> Any:
            broken = self.broken_pass
            return self._logits(backend, batch) if broken is None else broken(batch)

        OnnxBackend.logits = logits  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        self.stop()
        OnnxBackend.logits = self._logits  # type: ignore[method-assign]
        self.server.shutdown()
        self.server.server_close()
        self.retriever.close()

    def _found(self) -> list[list[str]]:
        return [
            [document.id for document in self.retriever.run(question.query)["documents"]] for question in self.questions
        ]

    def _of_server(self, question: Question) -> Question:
        scores = scores_of(self.remote.run(question.query, question.documents))
        return question._replace(scores=scores)  # type: ignore[arg-type]

    # Requests

    def _chosen(self, number: int) -> tuple[str, int]:
        chance = random.Random(f"{self.arguments.seed}:{number}")
        kinds = ["rank"] * 3 + ["hurried", "retrieve", "pipeline", "remote"]
        return chance.choice(kinds), chance.randrange(len(self.questions))

    def _judged(self, kind: str, place: int, output: dict[str, Any]) -> bool:
        question = self.questions[place]
        if kind == "retrieve":
            found = [document.id for document in output["documents"]]
            return found in (self.found[place], self.found_with_extra[place])
        if kind == "pipeline":
            found = sorted(document.id for document in output["documents"])
            return found in (sorted(self.found[place][:10]), sorted(self.found_with_extra[place][:10]))
        if kind == "remote":
            return is_right(self.asked_of_server[place], output, partly=True)
        return is_right(question, output, partly=kind == "hurried")

    def _pipeline(self, query: str) -> dict[str, Any]:
        found = self.retriever.run(query)["documents"]
        routed = self.gate.run(query=query, documents=found)
        ranked = self.ranker.run(query, routed.get("rerank", routed.get("keep")))
        given = {"cross_encoder": ranked["documents"], "bm25": found, "cross_encoder_report": ranked["report"]}
        joined: dict[str, Any] = self.joiner.run(**given)
        return joined

    def ask(self, number: int) -> None:
        """Send a request from a thread."""
        kind, place = self._chosen(number)
        query, documents, _ = self.questions[place]
        calls: dict[str, Callable[[], dict[str, Any]]] = {
            "rank": lambda: self.ranker.run(query, documents),
            "hurried": lambda: self.hurried.run(query, documents),
            "remote": lambda: self.remote.run(query, documents),
            "retrieve": lambda: self.retriever.run(query),
            "pipeline": lambda: self._pipeline(query),
        }
        began = time.perf_counter()
        try:
            output = calls[kind]()
        except Exception as error:
            return self.tally.failed(kind, error, time.perf_counter() - began, limit=_limit(kind))
        right = self._judged(kind, place, output)
        return self.tally.note(kind, right, time.perf_counter() - began, limit=_limit(kind))

    async def ask_async(self, number: int) -> None:
        """Send a request from the event loop."""
        kind, place = self._chosen(number)
        query, documents, _ = self.questions[place]
        calls: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "rank": lambda: self.ranker.run_async(query, documents),
            "hurried": lambda: self.hurried.run_async(query, documents),
            "remote": lambda: self.remote.run_async(query, documents),
            "retrieve": lambda: self.retriever.run_async(query),
            "pipeline": lambda: asyncio.to_thread(self._pipeline, query),
        }
        began = time.perf_counter()
        try:
            output = await calls[kind]()
        except Exception as error:
            return self.tally.failed(kind, error, time.perf_counter() - began, limit=_limit(kind))
        right = self._judged(kind, place, output)
        return self.tally.note(kind, right, time.perf_counter() - began, limit=_limit(kind))

    # Faults

    def start(self, ends: float) -> None:
        """Begin a fault each second until a time of `time.monotonic()`."""
        self._breaker = threading.Thread(target=self._break, args=(ends,), daemon=True)
        self._breaker.start()

    def stop(self) -> None:
        """Wait until the last fault is mended."""
        self._stopping.set()
        if self._breaker is not None:
            self._breaker.join(60)

    def _break(self, ends: float) -> None:
        chance = random.Random(self.arguments.seed)
        begins = time.monotonic()
        for name in itertools.chain.from_iterable(chance.sample(list(FAULTS), len(FAULTS)) for _ in itertools.count()):
            if self._stopping.wait(max(begins - time.monotonic(), 0.0)) or time.monotonic() > ends:
                return
            self.active[name] = math.inf
            self.begun[name] += 1
            try:
                with FAULTS[name](self):
                    time.sleep(_LASTS)
            except Exception as error:
                self.tally.failed(name, error, 0.0)
            self.active[name] = time.monotonic() + _MAY_STILL_FAIL
            begins += 1.0

    def _documented(self, error: Exception) -> str | None:
        """Return the fault of the last seconds that the manual names this error for."""
        now = time.monotonic()
        for name, until in sorted(self.active.items(), key=lambda one: -one[1]):  # what is going on comes first
            if until >= now and any(
                isinstance(error, kind) and word in str(error) for kind, word in EXPECTED.get(name, ())
            ):
                return name
        return None


def _limit(kind: str) -> float:
    return DEADLINE + 1.0 if kind in ("hurried", "remote") else 60.0


Fault = Callable[[World], contextlib.AbstractContextManager[None]]


def weights_become(content: Callable[[bytes], bytes]) -> Fault:
    """Return the fault that the model's file has another content, and its own again later."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[None]:
        with world.weights.open("r+b") as file:
            file.truncate(0)
            file.write(content(world.intact))
        yield
        world.weights.write_bytes(world.intact)

    return fault


def passes(broken: Callable[[Any], Any]) -> Fault:
    """Return the fault that passes of the model end so."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[None]:
        world.broken_pass = broken
        time.sleep(0.05)
        world.broken_pass = None
        yield

    return fault


def out_of_memory(_: Any) -> Any:
    """Fail as an allocator does."""
    raise MemoryError("bad_alloc")


def kernel_fails(_: Any) -> Any:
    """Fail as a runtime does."""
    raise RuntimeError("a kernel failed")


def store(answer: Callable[[], Any]) -> Fault:
    """Return the fault that the store answers so."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[None]:
        world.store.answer = answer
        yield
        world.store.answer = None

    return fault


def no_route() -> Any:
    """Fail as a store's client does."""
    raise OSError("no route")


def server(how: str) -> Fault:
    """Return the fault that the server fails so."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[None]:
        world.server.how = how
        yield
        world.server.how = ""

    return fault


@contextlib.contextmanager
def no_folder(world: World) -> Iterator[None]:
    """Put a file in the way of the index while a document goes or comes, so that it cannot be saved."""
    shutil.rmtree(world.index, ignore_errors=True)
    world.index.write_text("in the way")
    extra = world.store.documents.pop("extra", None)
    yield
    if extra is not None:
        world.store.documents["extra"] = extra
    world.index.unlink()


@contextlib.contextmanager
def worker_is_killed(world: World) -> Iterator[None]:
    """Fork a worker that ranks, and kill it."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            while True:
                world.ranker.run(world.questions[0].query, world.questions[0].documents)
        os._exit(1)
    yield
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@contextlib.contextmanager
def clock_jumps(_: World) -> Iterator[None]:
    """Let the clock of the day jump by years, back and forth."""
    now = time.time()
    with mock.patch("time.time", side_effect=itertools.cycle((now + 1e8, now - 1e8))):
        yield


@contextlib.contextmanager
def poison(world: World) -> Iterator[None]:
    """Send what nobody should send, beside the other requests."""
    meta: dict[str, Any] = {}
    for _ in range(5000):
        meta = {"inside": meta}
    query, documents, expected = world.questions[1]
    bad = [
        Document(id="p1", content="a" * 200_000, meta=meta),
        Document(id="p2", content="\ud800 [SEP] \x00\u200b", embedding=[math.nan]),
    ]
    found = scores_of(world.ranker.run(query, [*documents, *bad]))
    for hostile in (" ".join(f"word{n}" for n in range(20_000)), "[SEP] </s> \u200b", "\udfff <script>"):
        world.ranker.run(hostile, documents[:2])
        world.retriever.run(hostile)
    right = {name: found[name] for name in expected}
    if not all(math.isclose(score, expected[name], abs_tol=1e-5) for name, score in right.items() if score is not None):
        raise ValueError("a poisoned document changed the scores of others")
    yield


@contextlib.contextmanager
def cancelled(world: World) -> Iterator[None]:
    """Cancel requests while they run."""

    async def cancel() -> None:
        tasks = [asyncio.create_task(world.ranker.run_async(one.query, one.documents)) for one in world.questions[:8]]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(cancel())
    yield


@contextlib.contextmanager
def closed(world: World) -> Iterator[None]:
    """Close all components while they run; the next requests load them again."""
    world.ranker.close()
    world.hurried.close()
    world.remote.close()
    world.retriever.close()
    yield


FAULTS: dict[str, Fault] = {
    "model file cut off": weights_become(lambda intact: intact[: len(intact) // 3]),
    "model file overwritten": weights_become(lambda intact: intact[::-1]),
    "model file emptied": weights_become(lambda _: b""),
    "model gives NaN": passes(lambda batch: np.full(len(batch.pairs), np.nan, np.float32)),
    "out of memory": passes(out_of_memory),
    "a pass fails": passes(kernel_fails),
    "store raises": store(no_route),
    "store answers rubbish": store(lambda: None),
    "store hangs": store(lambda: time.sleep(2 * _LASTS)),
    "index folder in the way": no_folder,
    "server fails": server("fails"),
    "server hangs": server("hangs"),
    "server drips": server("drips"),
    "server answers rubbish": server("answers rubbish"),
    "server breaks off": server("breaks off"),
    "worker killed": worker_is_killed,
    "clock jumps": clock_jumps,
    "poison": poison,
    "requests cancelled": cancelled,
    "components closed": closed,
}
_UNREADABLE = (UnreadableWeightsError, "cannot be opened"), (ValueError, "is no ONNX file")
_STORE = (OSError, "no route"), (StoreAnswerError, "Store")
EXPECTED: dict[str, tuple[tuple[type[Exception], str], ...]] = {
    "model file cut off": _UNREADABLE,  # by a request that loads it while it is
    "model file overwritten": _UNREADABLE,
    "model file emptied": _UNREADABLE,
    "model gives NaN": ((ValueError, "not finite"),),
    "out of memory": ((MemoryError, "single pair"),),
    "a pass fails": ((RuntimeError, "a kernel failed"),),
    "store raises": _STORE,  # by a request that builds the index
    "store answers rubbish": _STORE,
    "store hangs": _STORE,
    **{name: ((ServerError, ""),) for name in FAULTS if name.startswith("server")},
}
"""The errors that docs/faults.md names for each fault, with a word of their message."""
