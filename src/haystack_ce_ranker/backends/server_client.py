"""
Requests to a server as JSON: so many at once, each within a timeout, again after a fault that may pass.

Nothing of what is sent or answered, and no key, gets into an error or a log. What the requests mean is known in
`remote.py`.
"""

import email.utils
import json
import logging
import math
import os
import random
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple

from haystack_ce_ranker.backends.protocol import OutOfTimeError

FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds before the second attempt, and before any; the wait doubles from one attempt to the next."""
LONGEST_RETRY_AFTER = 60.0
"""Seconds that a server may ask for in `Retry-After` where no deadline says how long is too long."""

LARGEST_ANSWER = 16 << 20
"""Bytes of an answer that are read, beside eight times what was sent: some servers send the texts back."""

_PASSING = (429, 502, 503, 504)
_ONCE_MORE = 500
_ADVICE = {
    400: "The server does not take the request: check model_kwargs['api'] and model_kwargs['served_model']. If its "
    "model reads fewer tokens than max_length, lower max_length",
    401: "Set api_key to a key of this server",
    403: "The key in api_key may not use this server or this model",
    404: "Nothing is there: check the address in model, model_kwargs['api'] and model_kwargs['served_model']",
    422: "The server does not take the request: check model_kwargs['api']. If its model reads fewer tokens than "
    "max_length, lower max_length, or set model_kwargs['tokenizer'] to the tokenizer of that model",
    424: "The server's model failed: see the server's log, and whether its model is a re-ranker",
    429: "The server has too many requests: lower model_kwargs['concurrency'], or raise model_kwargs['retries']",
}
_ELSEWHERE = "See the server's log"

logger = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """
    A server gave no scores. The message holds nothing of what was sent or answered.

    :ivar status: The status of its answer; None if there was none, or the answer was wrong.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(ServerError):
    """A server refused a request for its size."""


class _Reply(NamedTuple):
    """What came of one attempt: an answer, or, with a status of None, the fault of the connection in words."""

    status: int | None
    body: bytes = b""
    retry_after: str | None = None
    date: str | None = None
    fault: str = ""


class _Connection(NamedTuple):
    """What a process has of its own: a client, and threads that bound how many requests it sends at once."""

    client: Any
    threads: ThreadPoolExecutor


class Call:
    """One call of `logits`: its deadline, and whether somebody still waits for it, or for the request it belongs to."""

    def __init__(self, deadline: float | None = None, withdrawn: threading.Event | None = None) -> None:
        self.deadline = deadline
        self._withdrawn = withdrawn if withdrawn is not None else threading.Event()
        self.unwanted = threading.Event()

    def seconds(self, most: float) -> float:
        """
        Return how long to wait: `most`, or what is left.

        :raises OutOfTimeError: If nothing is left.
        """
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0.0 or self.unwanted.is_set() or self._withdrawn.is_set():
            raise OutOfTimeError("the deadline passed before the server had answered.")
        return min(left, most)

    def pause(self, seconds: float) -> None:
        """
        Wait before another attempt.

        :raises OutOfTimeError: If the deadline would pass meanwhile, without waiting for that.
        """
        if self.seconds(seconds) < seconds:
            raise OutOfTimeError("the server asks for more time than the deadline leaves.")
        sleep(self.unwanted, seconds)


def sleep(unwanted: threading.Event, seconds: float) -> None:
    """Wait for some seconds, or until nobody wants the answer any longer."""
    unwanted.wait(seconds)


class Client:
    """
    Sends requests to a server, and tries again where that can help. Safe from several threads, and in a forked child.

    :param httpx: The library, so that it is imported only where a server is used.
    :param url: The server's address.
    :param key: The key that is sent with each request; None for none.
    :param concurrency: The most requests at once, of all threads of a process.
    :param timeout: Seconds that an attempt may take.
    :param retries: Further attempts after one that failed.
    """

    def __init__(
        self, httpx: Any, url: str, key: str | None, *, concurrency: int, timeout: float, retries: int
    ) -> None:
        self._httpx = httpx
        self.url = url
        self._concurrency = concurrency
        self._timeout = timeout
        self._retries = retries
        # Answers come as they are: nothing is unpacked that could be larger than what was sent.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        from haystack_ce_ranker.backends import bounded_streams  # needs httpx

        self._ending = bounded_streams.Ending()
        self._bound = bounded_streams.bound
        self._by_process: dict[int, _Connection] = {}
        weakref.finalize(self, _close, self._by_process).atexit = False

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def connection(self) -> _Connection:
        """What this process sends with. No lock guards it, since a fork could leave a lock taken for ever."""
        process = os.getpid()
        found = self._by_process.get(process)
        if found is None:
            made = self._connect()
            found = self._by_process.setdefault(process, made)
            if found is not made:
                made.client.close()
        return found

    def ask(self, path: str, body: dict[str, Any] | None, call: Call) -> Any:
        """
        Return what the server answers, as JSON.

        :param path: What is put behind the address.
        :param body: What is sent; None asks with GET.
        :raises ServerError: If there is no such answer.
        :raises TooLargeError: If the request is too large for the server.
        :raises OutOfTimeError: If the deadline passed before.
        """
        content = None if body is None else json.dumps(body).encode("ascii")
        attempts = 0
        while True:
            reply = self._attempt(path, content, call.seconds(self._timeout))
            if reply.status is not None and 200 <= reply.status < 300:
                return self._parsed(path, reply.body)
            call.seconds(self._timeout)  # a deadline that has passed is the reason, whatever the fault looks like
            attempts += 1
            if not self._is_worth_another(reply, attempts):
                raise self._error(path, reply, attempts)
            wait = _wait(reply, attempts)
            if call.deadline is None and wait > LONGEST_RETRY_AFTER:
                raise ServerError(f"{self.url}{path} asks to wait {wait:.0f} s (Retry-After). Try again later.")
            logger.debug("%s%s: %s. Trying again in %.2f s.", self.url, path, _told(reply), wait)
            call.pause(wait)

    def _attempt(self, path: str, content: bytes | None, seconds: float) -> _Reply:
        method = "GET" if content is None else "POST"
        most = LARGEST_ANSWER + 8 * (0 if content is None else len(content))
        client = self.connection.client
        body = bytearray()
        self._ending.at = time.monotonic() + seconds
        try:
            with client.stream(method, self.url + path, content=content, timeout=seconds) as answer:
                for part in answer.iter_raw():
                    body += part
                    if len(body) > most:
                        raise ServerError(f"{self.url}{path} gave a wrong answer: it has more than {most:,} bytes.")
                headers = answer.headers
                return _Reply(answer.status_code, bytes(body), headers.get("retry-after"), headers.get("date"))
        except self._httpx.TimeoutException:
            return _Reply(None, fault=f"no {'whole ' if body else ''}answer within {seconds:.3g} s")
        except self._httpx.ConnectError as error:
            return _Reply(None, fault=f"no connection ({error})")
        except self._httpx.TransportError as error:  # its message may hold what the server sent
            return _Reply(None, fault=f"the connection broke ({type(error).__name__})")
        finally:
            self._ending.at = None

    def _is_worth_another(self, reply: _Reply, attempts: int) -> bool:
        if reply.status == _ONCE_MORE:
            return attempts <= min(self._retries, 1)
        return (reply.status is None or reply.status in _PASSING) and attempts <= self._retries

    def _error(self, path: str, reply: _Reply, attempts: int) -> ServerError:
        told = f"{self.url}{path} gave no scores: {_told(reply)}, after {attempts} attempt(s)."
        if _is_too_large(reply):
            return TooLargeError(f"{told} Lower model_kwargs['max_texts'], or max_length.", reply.status)
        if reply.status is None:
            advice = "Check that the server runs and can be reached, or raise model_kwargs['timeout'] or ['retries']"
        elif 300 <= reply.status < 400:
            advice = "Set model to the address that it leads to: keys and texts follow no redirect"
        else:
            advice = _ADVICE.get(reply.status, _ELSEWHERE)
        return ServerError(f"{told} {advice}.", reply.status)

    def _parsed(self, path: str, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass  # raised below: the error of json holds the whole body
        raise ServerError(
            f"{self.url}{path} answered with something that is not JSON. Check that the address in model is "
            "the server's own, and not that of a page in front of it."
        )

    def _connect(self) -> _Connection:
        limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=self._concurrency)
        client = self._httpx.Client(headers=self._headers, limits=limits, follow_redirects=False)
        self._bound(client, self._ending)
        return _Connection(client, ThreadPoolExecutor(self._concurrency, thread_name_prefix="ce-ranker-remote"))


def _is_too_large(reply: _Reply) -> bool:
    return reply.status == 413 or (reply.status in (400, 422) and b"batch size" in reply.body.lower())


def _told(reply: _Reply) -> str:
    if reply.status is None:
        return reply.fault
    phrases = {status.value: f" ({status.phrase})" for status in HTTPStatus}
    return f"status {reply.status}{phrases.get(reply.status, '')}"


def _wait(reply: _Reply, attempts: int) -> float:
    """Return the seconds before the next attempt: what the server asks for, or about twice as many each time."""
    asked = _seconds_of(reply.retry_after, reply.date) if reply.retry_after is not None else None
    if asked is not None:
        return asked
    return min(FIRST_WAIT * 2.0 ** (attempts - 1), LONGEST_WAIT) * random.uniform(0.5, 1.0)


def _seconds_of(retry_after: str, date: str | None) -> float | None:
    """
    Read a `Retry-After`: seconds, or a time of HTTP. None if it is neither.

    :param date: The time of the answer by the server's clock, so that a wrong clock here does not count; None where it
        does not say it.
    """
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    until, now = _timestamp(retry_after), None if date is None else _timestamp(date)
    return None if until is None else max(until - (time.time() if now is None else now), 0.0)


def _timestamp(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _close(by_process: dict[int, _Connection]) -> None:
    """Close what this process has, when nothing refers to the client any longer. A parent's is left alone."""
    own = by_process.pop(os.getpid(), None)
    if own is not None:
        own.client.close()
