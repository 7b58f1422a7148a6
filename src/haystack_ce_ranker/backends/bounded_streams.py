"""
Connections of httpx whose waits all end at one time: httpx bounds each read alone, not all of a request together.

A server that sends a byte now and then would keep a request, and the thread that waits for it, for ever.
"""

import threading
import time
from typing import Any

import httpcore

_PIECE = 1 << 16
"""Bytes that are sent before the time is looked at again."""


class Ending(threading.local):
    """When the waiting of this thread ends, as a time of `time.monotonic()`; None for never."""

    at: float | None = None

    def bound(self, timeout: float | None) -> float | None:
        """
        Return a timeout that is no longer than what is left.

        :raises httpcore.ReadTimeout: If nothing is left.
        """
        if self.at is None:
            return timeout
        left = self.at - time.monotonic()
        if left <= 0.0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)


class BoundedBackend(httpcore.NetworkBackend):
    """Opens the connections of another backend. What a thread does with them ends when `ending` says."""

    def __init__(self, inner: httpcore.NetworkBackend, ending: Ending) -> None:
        self._inner = inner
        self._ending = ending

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *arguments: Any, **options: Any
    ) -> httpcore.NetworkStream:
        """Connect to a host."""
        made = self._inner.connect_tcp(host, port, self._ending.bound(timeout), *arguments, **options)
        return _BoundedStream(made, self._ending)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, *arguments: Any, **options: Any
    ) -> httpcore.NetworkStream:
        """Connect to a socket of this machine."""
        made = self._inner.connect_unix_socket(path, self._ending.bound(timeout), *arguments, **options)
        return _BoundedStream(made, self._ending)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._inner.sleep(seconds)


class _BoundedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, ending: Ending) -> None:
        self._inner = inner
        self._ending = ending

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._ending.bound(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], self._ending.bound(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        made = self._inner.start_tls(ssl_context, server_hostname, self._ending.bound(timeout))
        return _BoundedStream(made, self._ending)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def bound(client: Any, ending: Ending) -> None:
    """
    Let all connections of an httpx client, also those through a proxy, end when `ending` says.

    httpx has no public place for a network backend. Where a release keeps its pools elsewhere, nothing is changed.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = BoundedBackend(pool._network_backend, ending)
