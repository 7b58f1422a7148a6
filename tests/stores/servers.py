"""A real OpenSearch of this machine for tests: started once for all of pytest's processes, and stopped by its pid."""

import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fakes import REPOSITORY

GUARD = 120  # seconds after which a start or stop that hangs fails


def opensearch_command() -> Path:
    """Return the command that starts and stops nodes; skips the test where it or Java is missing."""
    beside = Path(os.environ.get("CE_RANKER_DATA", REPOSITORY.parent / "shared" / "data")).resolve().parent
    command = beside / "tools" / "opensearch" / "opensearch"
    if not command.is_file():
        pytest.skip(f"{command} is not there; CE_RANKER_OPENSEARCH may name a server that runs already")
    for program in ("java", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"OpenSearch needs {program}, which is not on the PATH; CE_RANKER_OPENSEARCH may name a server")
    return command


def free_port() -> int:
    """Return a port whose neighbour a hundred further, for the node's own use, is free as well."""
    while True:
        with closing(socket.socket()) as one, closing(socket.socket()) as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 100))
            except (OSError, OverflowError):
                continue
            return port


def start_node(home: Path, *settings: str, port: int | None = None) -> str:
    """Start a node that keeps all it has in `home`, and return its URL."""
    command = [opensearch_command(), "start", home, "--port", str(free_port() if port is None else port), *settings]
    started = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)
    if started.returncode:
        stop_node(home, kill=True)
        raise RuntimeError(started.stderr)
    return started.stdout.strip()


def stop_node(home: Path, *, kill: bool = False) -> None:
    """Stop the node of `home` if one was started there; its data stay."""
    if (home / "pid").is_file():
        command = [opensearch_command(), "stop", home, *(["--kill"] if kill else [])]
        subprocess.run(command, capture_output=True, timeout=GUARD, check=True)


@contextmanager
def shared_opensearch(folder: Path) -> Iterator[str]:
    """
    Lend the URL of a server: the one that `CE_RANKER_OPENSEARCH` names, or one that all users of `folder` share.

    The first user starts it and the last one stops it. A user that died counts no more.
    """
    if named := os.environ.get("CE_RANKER_OPENSEARCH"):
        yield named.rstrip("/")
        return
    home, users = folder / "opensearch", folder / "opensearch-users"
    mine = users / str(os.getpid())
    with _locked(folder / "opensearch.lock"):
        users.mkdir(exist_ok=True)
        if not _living(users):
            stop_node(home, kill=True)
            shutil.rmtree(home, ignore_errors=True)
            url = start_node(home)
            (home / "url").write_text(url)
        url = (home / "url").read_text()
        mine.touch()
    try:
        yield url
    finally:
        with _locked(folder / "opensearch.lock"):
            mine.unlink()
            if not _living(users):
                stop_node(home, kill=True)
                shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time, and that ends with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _living(users: Path) -> bool:
    """Return whether a process that uses the server is still there."""
    return any(_lives(int(user.name)) for user in users.iterdir())


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
