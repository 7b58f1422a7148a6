"""A re-ranking server that drips, never ends, or breaks off in the middle: the call ends, and the next one works."""

import email.utils
import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fake_servers import GUARD, answer_to, batch_of, expected, status
from haystack_ce_ranker.backends import server_client
from haystack_ce_ranker.backends.server_client import ServerError

PAIR = [("a hut", "snow")]


def dripping(handler, body):
    """Send the line of the status and one header, a byte at a time, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.released.wait(0.02):
        handler.wfile.write(b"x")
        handler.wfile.flush()
    handler.close_connection = True
    return True


def endless(handler, body):
    """Send an answer without an end, as fast as it goes."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    handler.close_connection = True
    while not handler.server.released.is_set():
        handler.wfile.write(b"[" * 65536)
    return True


def reset(handler, body):
    """Send half an answer, and reset the connection."""
    content = json.dumps(answer_to(handler.server.api, body, False)).encode()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    return True


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (dripping, "no answer within 0.3 s"),
        (endless, "more than"),
        (reset, "the connection broke"),
        (status(200, b"[" * 100_000), "not JSON"),
    ],
    ids=["drip", "endless", "reset", "nested"],
)
def test_the_call_ends_with_an_error_and_the_next_one_works(connect, server, monkeypatch, fault, told):
    monkeypatch.setattr(server_client, "LARGEST_ANSWER", 1 << 20)
    backend = connect(concurrency=1, retries=0, timeout=0.3 if fault is dripping else 30)
    server.faults = [fault]
    with ThreadPoolExecutor(1) as pool:  # so that a call without an end fails the test
        call = pool.submit(backend.logits, batch_of(PAIR))
        try:
            with pytest.raises(ServerError, match=told):
                call.result(GUARD)
        finally:
            server.released.set()
    server.released = threading.Event()
    server.faults = [None]
    backend.client._timeout = 30  # how soon a server answers that does is no part of this
    assert backend.logits(batch_of(PAIR)).tolist() == expected(PAIR)
    assert len(server.asked) == 2


def test_a_time_to_wait_for_is_read_by_the_servers_clock(connect, server, sleeps, monkeypatch):
    a_day_ahead = SimpleNamespace(time=lambda: time.time() + 86_400, monotonic=time.monotonic)
    monkeypatch.setattr(server_client, "time", a_day_ahead)
    until = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.faults = [status(503, Retry_After=until)]
    assert connect().logits(batch_of(PAIR)).tolist() == expected(PAIR)
    assert sleeps == [pytest.approx(30, abs=2)]
