"""Runs a node of OpenSearch on this machine for the benchmarks, or takes the one that `CE_RANKER_OPENSEARCH` names."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from common import CannotRun


@contextlib.contextmanager
def opensearch_server(folder: Path, *, heap: str = "512m") -> Iterator[str]:
    """Lend the address of a node; one that is started here keeps its data in the folder, and ends with the block."""
    if named := os.environ.get("CE_RANKER_OPENSEARCH"):
        yield named.rstrip("/")
        return
    data = Path(os.environ.get("CE_RANKER_DATA", common.REPOSITORY.parent / "shared" / "data"))
    command = data.resolve().parent / "tools" / "opensearch" / "opensearch"
    if not command.is_file() or shutil.which("java") is None:
        raise CannotRun(f"OpenSearch needs {command} and Java, or CE_RANKER_OPENSEARCH=http://... of one that runs")
    port = str(_free_port())
    try:
        subprocess.run(
            [command, "start", folder, "--port", port, "--heap", heap], check=True, stdout=subprocess.DEVNULL
        )
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([command, "stop", folder, "--kill"], check=False, capture_output=True)


def _free_port() -> int:
    """Return a port whose neighbour a hundred further, for the node's own use, is free as well."""
    while True:
        with contextlib.closing(socket.socket()) as one, contextlib.closing(socket.socket()) as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                other.bind(("127.0.0.1", port + 100))
                return port


def asked(url: str, path: str) -> Any:
    """Return what the server answers to a GET."""
    with urllib.request.urlopen(f"{url}/{path}") as answer:
        return json.load(answer)


def resident_gb(url: str) -> float | None:
    """Return the memory of the node's process in GB; None if it runs on another machine."""
    (node,) = asked(url, "_nodes/process")["nodes"].values()
    status = Path(f"/proc/{node['process']['id']}/status")
    if "127.0.0.1" not in url or not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024**2
