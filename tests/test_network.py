"""Nothing connects that the user has not named, and nothing lands in the home folder but what SECURITY.md names."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fakes import REPOSITORY

EVERYTHING = """
import sys, time

step, connections = "imports", []


def audit(event, given):
    if event == "socket.connect" or event == "socket.getaddrinfo":
        address = given[1] if event == "socket.connect" else given[0]
        if not isinstance(address, str | bytes) or event == "socket.getaddrinfo":  # a path is no network
            connections.append(f"{step}: {event} {address}")


sys.addaudithook(audit)

from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore
from typer.testing import CliRunner

from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner, RerankGate
from haystack_ce_ranker.cli import app

model, examples, output = sys.argv[1:]
documents = [Document(id=str(number), content=f"the hut {number}", score=1.0 / (1 + number)) for number in range(8)]


def command(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)


for step in ("onnx", "openvino"):
    written = f"{output}/{step}"
    command("quantize", model, written, "--backend", step, "--min-correlation", "-1", "--min-overlap", "0")
for step, folder in [("onnx", "/onnx"), ("openvino", "/openvino"), ("torch", ""), ("auto", ""), ("auto", "/onnx")]:
    folder = f"{output}{folder}" if folder else model
    found = CrossEncoderRanker(model=folder, backend=step, threads=2).run("the hut", documents)
    assert len(found["documents"]) == 8
step = "openvino, converted"
CrossEncoderRanker(model=model, backend="openvino").run("the hut", documents)

step = "the other components"
store = InMemoryDocumentStore()
store.write_documents(documents)
pipeline = Pipeline()
pipeline.add_component("retriever", BM25Retriever(store, index_path=f"{output}/index"))
pipeline.add_component("gate", RerankGate(threshold=0.0))
pipeline.connect("retriever", "gate")
pipeline.run({"retriever": {"query": "hut"}, "gate": {"query": "hut"}})
HybridScoreJoiner(weights={"bm25": 0.5, "dense": 0.5}).run(bm25=documents, dense=documents)

step = "evaluate"
chosen = ["--queries", "3", "--depth", "5", "--no-memory", "--backend", "torch", "--backend", "openvino"]
command("evaluate", f"{examples}/handbook", "--model", model, *chosen, "--output", f"{output}/evaluated")

step = "mine"
command("mine", f"{examples}/handbook", f"{output}/mined.jsonl", "--teacher", model, "--queries", "3")

step = "score"
command("score", f"{output}/evaluated/run.bm25.trec", "--collection", f"{examples}/handbook", "--model", model,
        "--depth", "2", "--output", f"{output}/scored.parquet")

step = "train"
how = ["--save", "always", "--epochs", "1", "--threads", "1"]
command("train", f"{examples}/handbook", f"{output}/trained", "--base", model, *how)

time.sleep(5)  # native code reports from a thread of its own, seconds later
print(connections)
"""

NAMED = (".cache/huggingface/", ".cache/matplotlib/", ".config/matplotlib/", ".cache/numba/")
"""The folders below the home folder that SECURITY.md names."""


SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "NO_PROXY", "ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR")
"""What may be set here, and would hide a fault."""


class Listener:
    """A server on this machine that takes connections, as a proxy would, and keeps what they begin with."""

    def __init__(self):
        self.heard = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(5)
                try:
                    self.heard.append(connection.recv(200))
                except OSError as error:
                    self.heard.append(repr(error))

    def close(self):
        self._socket.close()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.close()


def in_a_process_that_is_watched(code, *arguments, home: Path, listener: Listener, **environment):
    """Run code with an empty home and the listener as its proxy; return what it printed, and the files at home."""
    switches = (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HOME",
        "NO_PROXY",
        "ORT_DISABLE_TELEMETRY",
        "MPLCONFIGDIR",
    )
    kept = {name: value for name, value in os.environ.items() if name.upper() not in switches}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), listener.url)
    proxies |= {name.lower(): url for name, url in proxies.items()}
    homes = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "XDG_CONFIG_HOME": str(home / ".config")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**kept, **proxies, **homes, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())


def test_nothing_connects_and_the_home_folder_stays_empty_but_for_named_caches(tiny_bert, tmp_path, listener):
    for package in ("onnx", "onnxruntime", "openvino", "nncf", "ir_measures", "datasets", "codecarbon"):
        pytest.importorskip(package)
    home, output = tmp_path / "home", tmp_path / "output"
    home.mkdir()
    output.mkdir()
    printed, files = in_a_process_that_is_watched(
        EVERYTHING, tiny_bert, str(REPOSITORY / "examples"), str(output), home=home, listener=listener
    )
    assert printed[-1] == "[]"
    assert listener.heard == []
    assert [file for file in files if not file.startswith(NAMED)] == []
    security = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    assert all(f"`~/{folder.rstrip('/')}`" in security for folder in NAMED)


@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_onnxruntime_is_told_not_to_report_unless_the_user_has_said_otherwise(tmp_path, listener, given, found):
    code = (
        "import os, sys, haystack_ce_ranker.backends.loading\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    printed, _ = in_a_process_that_is_watched(code, home=tmp_path, listener=listener, **given)
    assert printed == [found]


def test_only_one_place_imports_onnxruntime():
    places = [
        file.name
        for file in (REPOSITORY / "src").rglob("*.py")
        if "import onnxruntime" in file.read_text(encoding="utf-8")
    ]
    assert places == ["onnx_backend.py"]


def test_the_listener_hears_what_connects(tmp_path, listener):
    code = "import os, urllib.request as r\ntry:\n    r.urlopen('http://example.com')\nexcept OSError:\n    print('no')"
    printed, _ = in_a_process_that_is_watched(code, home=tmp_path, listener=listener)
    assert (printed, len(listener.heard)) == (["no"], 1)
