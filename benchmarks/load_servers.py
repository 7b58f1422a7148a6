"""
The servers of `load.py`: a `hayhooks run` for each system, with the same wrapper, and what memory it takes.

    python benchmarks/load.py
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.utils import ComponentDevice

from common import HERE, THREAD_VARIABLES, CannotRun
from haystack_ce_ranker import CrossEncoderRanker

WRAPPER = HERE / "load_server" / "pipeline_wrapper.py"
STOCK = "SentenceTransformersSimilarityRanker"
TORCH, EXACT, INT8 = (f"CrossEncoderRanker, {kind}" for kind in ("torch float32", "openvino float32", "int8"))
BACKENDS = {
    TORCH: {"model": "ce-minilm-l12", "backend": "torch", "dtype": "float32"},
    EXACT: {"model": "ce-minilm-l12", "backend": "openvino", "dtype": "float32"},
    INT8: {"model": "ce-minilm-l12-int8", "backend": "onnx"},
}
"""The systems that are ours: `backend: auto` takes OpenVINO for float32 where it is installed."""


@dataclass(frozen=True)
class Served:
    """
    A system as it is served.

    :ivar threads: Of the process, and of each forward pass.
    :ivar workers: Processes of the server.
    :ivar options: Further parameters of CrossEncoderRanker.
    """

    system: str
    models: Path
    threads: int
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def pipeline(self) -> str:
        """Return the pipeline as YAML: one component, `ranker`, that returns all candidates."""
        made = Pipeline()
        made.add_component("ranker", self._ranker())
        return made.dumps()

    def _ranker(self) -> Any:
        device = ComponentDevice.from_str("cpu")
        if self.system == STOCK:
            try:
                from haystack_integrations.components.rankers.sentence_transformers import (
                    SentenceTransformersSimilarityRanker,
                )
            except ImportError as error:
                raise CannotRun(str(error)) from error
            return SentenceTransformersSimilarityRanker(model=str(self.models / "ce-minilm-l12"), device=device)
        kind: dict[str, Any] = {**BACKENDS[self.system], **self.options}
        kind["model"] = str(self.models / kind["model"])
        return CrossEncoderRanker(**kind, device=device, threads=self.threads)


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    process: int

    def cpu_seconds(self) -> float:
        """Return the time that its processes have computed: what else the machine does counts little in it."""
        return sum(_computed(one) for one in _family(self.process))

    def memory_mb(self) -> float:
        """Return the memory of its processes together; what they share counts once."""
        return sum(_proportional_mb(one) for one in _family(self.process))


@contextlib.contextmanager
def running(served: Served) -> Iterator[Server]:
    """Start a server on a free port of this machine, and stop it by its process id."""
    if find_spec("hayhooks") is None:
        raise CannotRun("hayhooks is not installed (extra `serve`)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "pipelines" / "load_server").mkdir(parents=True)
        shutil.copy(WRAPPER, place / "pipelines" / "load_server")
        (place / "pipelines" / "load_server" / "pipeline.yml").write_text(served.pipeline(), encoding="utf-8")
        words = [str(Path(sys.executable).with_name("hayhooks")), "run", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--pipelines-dir", str(place / "pipelines"), "--workers", str(served.workers)]
        environment = dict.fromkeys(THREAD_VARIABLES, str(served.threads))
        # At INFO hayhooks writes the texts of each request into its log.
        environment |= {"HAYHOOKS_LOG_LEVEL": "WARNING", "XDG_CACHE_HOME": str(place / "cache")}
        with (place / "log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(words, cwd=place, env=os.environ | environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, place / "log")
            yield Server(f"{url}/load_server/run", process.pid)
        finally:
            _stop(process)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path, patience: float = 120.0) -> None:
    import httpx

    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        try:
            found = httpx.get(f"{url}/status", timeout=10, trust_env=False).json()
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if "load_server" in found["pipelines"]:
            return
        break
    text = log.read_text(encoding="utf-8")
    raise RuntimeError(f"the server does not serve the pipeline:\n{text}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    family = _family(process.pid)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(15)
    for one in family[1:]:  # workers that their parent left
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, 9)


def _family(process: int) -> list[int]:
    """Return a process and its children, as far as /proc tells."""
    found = [process]
    for one in found:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{one}/task/{one}/children").read_text(encoding="utf-8")
            found += [int(word) for word in text.split()]
    return found


def _computed(process: int) -> float:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _proportional_mb(process: int) -> float:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0
