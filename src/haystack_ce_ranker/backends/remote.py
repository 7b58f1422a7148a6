"""
A server that others run as a backend: the texts of each pair go out, its scores come back as logits.

`rerank_servers.py` knows what requests and answers look like, and `server_client.py` sends them.
"""

import ipaddress
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import checks
from haystack_ce_ranker.backends.configuration import load_tokenizer
from haystack_ce_ranker.backends.model_files import HUB_KWARGS, ModelOptions, locate, not_found
from haystack_ce_ranker.backends.protocol import Batch, OutOfTimeError
from haystack_ce_ranker.backends.rerank_servers import (
    FORMS,
    SCORES,
    AnswerError,
    Form,
    Logits,
    as_logits,
    look_like_probabilities,
    read_scores,
)
from haystack_ce_ranker.backends.server_client import Call, Client, ServerError, TooLargeError
from haystack_ce_ranker.backends.taken import refuse_others
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

TAKEN = ("api", "served_model", "tokenizer", "scores", "max_texts", "concurrency", "timeout", "retries", *HUB_KWARGS)
"""What this backend uses of `model_kwargs`; the last ones are for the tokenizer's files."""
MAX_TEXTS, CONCURRENCY, TIMEOUT, RETRIES = 32, 4, 10.0, 3
"""The defaults of `model_kwargs`: texts of a request, requests at once, seconds of an attempt, and further attempts."""
BATCH_TOKENS = 65536
"""Tokens of a batch: so many that all candidates of a query go out together."""
ENOUGH_SCORES = 8
"""So many scores between 0 and 1, and none outside, are taken for a sign that a server sends no logits."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """
    How a server is asked for scores.

    :ivar form: The form of its requests and answers.
    :ivar served_model: The name of the model that a request has; None for none.
    :ivar scores: What its scores are, if the user said so; None for what the form says.
    :ivar max_texts: The most texts of a request.
    """

    form: Form
    served_model: str | None
    scores: str | None
    max_texts: int


class RemoteBackend:
    """See `Backend`."""

    name, dtype, device = "remote", "server", "remote"
    pads, mixes_lengths = False, True
    batch_tokens = BATCH_TOKENS

    def __init__(
        self, client: Client, scoring: Scoring, tokenizer: PairTokenizer, *, max_length: int | None, prompt: str
    ) -> None:
        self.client = client
        self.scoring = scoring
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = self.query_prompt = prompt
        self._probabilities = (scoring.scores or scoring.form.scores) == "probabilities"
        self._doubts = scoring.scores is None and not self._probabilities
        self._seen = 0

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """
        Return the logit of each pair, shape (pairs,).

        :raises ServerError: If the server does not give a score for each.
        :raises OutOfTimeError: If the batch's deadline passed before. It holds the logits that are there.
        """
        call = Call(batch.deadline, batch.withdrawn)
        threads = self.client.connection.threads
        asked = [
            (places, threads.submit(self._scores, query, texts, call)) for query, texts, places in self._requests(batch)
        ]
        found = np.full(len(batch.pairs), np.nan)
        try:
            for places, scores in asked:
                found[list(places)] = _waited_for(scores, call)
        except OutOfTimeError as late:
            for places, scores in asked:
                if scores.done() and scores.exception() is None:
                    found[list(places)] = scores.result()
            raise OutOfTimeError(str(late), found.astype(np.float32)) from None
        finally:
            call.unwanted.set()
            for _, scores in asked:
                scores.cancel()
        self._doubt(found)
        return found.astype(np.float32)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether the server refused a request for its size."""
        return isinstance(error, TooLargeError)

    def free_memory(self) -> None:
        """Do nothing: the memory is the server's."""

    def _requests(self, batch: Batch) -> list[tuple[str, list[str], Sequence[int]]]:
        """Split a batch into requests of one query each, with the places of their texts in the batch."""
        pairs = [pair.texts() for pair in batch.pairs]
        by_query: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            by_query.setdefault(pair.query, []).append(place)
        return [
            (query, [pairs[place].document for place in part], part)
            for query, places in by_query.items()
            for part in _parts(places, self.scoring.max_texts)
        ]

    def _scores(self, query: str, texts: Sequence[str], call: Call) -> Logits:
        """Ask for the logits of some texts for one query."""
        form = self.scoring.form
        body = form.body(query, texts)
        if self.scoring.served_model is not None:
            body["model"] = self.scoring.served_model
        answer = self.client.ask(form.path, body, call)
        try:
            scores = read_scores(form, answer, len(texts))
            return as_logits(scores) if self._probabilities else scores
        except AnswerError as error:
            wrong = str(error)
        raise ServerError(
            f"{self.client.url}{form.path} gave a wrong answer: {wrong}. Check that model_kwargs['api'] names the "
            "kind of this server."
        )

    def _doubt(self, scores: Logits) -> None:
        """Warn once if no score is outside of 0 to 1 though logits were asked for."""
        if not self._doubts:
            return
        self._seen += len(scores)
        self._doubts = look_like_probabilities(scores)
        if self._doubts and self._seen >= ENOUGH_SCORES:
            self._doubts = False
            logger.warning(
                "All %d scores of %s are between 0 and 1: it may send probabilities, though logits were asked for. If "
                "so, set model_kwargs['scores']='probabilities', else 'logits'. They are used as logits.",
                self._seen,
                self.client.url,
            )


def load(options: ModelOptions) -> RemoteBackend:
    """
    Connect to the server at the address `model`, and load the tokenizer that its pairs are cut with.

    :raises ValueError: If an option has no effect or is not what it must be.
    :raises ServerError: If a server that should describe itself does not.
    :raises ModelNotFoundError: If the tokenizer is not found.
    """
    try:
        import httpx
    except ImportError as error:
        raise ImportError("backend='remote' needs httpx, which is not installed: pip install httpx.") from error

    given = options.model_kwargs
    refuse_others("model_kwargs", given, TAKEN, "backend='remote'")
    _refuse_what_is_the_servers(options)
    form = FORMS[checks.choice("model_kwargs['api']", given.get("api"), FORMS)]
    scoring = _scoring(form, given)
    client = Client(
        httpx,
        _address(options.model, form, options.api_key),
        options.api_key,
        concurrency=checks.whole_number("model_kwargs['concurrency']", given.get("concurrency", CONCURRENCY)),
        timeout=checks.number("model_kwargs['timeout']", given.get("timeout", TIMEOUT), above=0.0),
        retries=checks.whole_number("model_kwargs['retries']", given.get("retries", RETRIES), least=0),
    )
    told = _description(client, form, has_tokenizer="tokenizer" in given)
    if "max_texts" not in given:
        scoring = replace(scoring, max_texts=_count(told, "max_client_batch_size") or MAX_TEXTS)
    place = locate(_tokenizer_of(options, told))
    try:
        tokenizer = load_tokenizer(place, options)
    except OSError as error:
        raise not_found(place, error) from error
    return RemoteBackend(
        client,
        scoring,
        PairTokenizer(tokenizer),
        max_length=_count(told, "max_input_length"),
        prompt=options.prompt if options.prompt is not None else "",
    )


def _refuse_what_is_the_servers(options: ModelOptions) -> None:
    given = {
        "dtype": options.dtype,
        "device": options.device,
        "threads (or speed_profile, which sets it)": options.threads,
        "config_kwargs": options.config_kwargs or None,
        "label": options.label,
    }
    useless = [name for name, value in given.items() if value is not None]
    if useless:
        raise ValueError(
            f"{', '.join(useless)} would have no effect with backend='remote': the server decides that. Remove it, and "
            "set it where the server is started."
        )


def _scoring(form: Form, given: Mapping[str, Any]) -> Scoring:
    served = checks.text("model_kwargs['served_model']", given.get("served_model"), empty=False, optional=True)
    if served is None and form.names_model:
        raise ValueError(
            f"model_kwargs['served_model'] must name the model with api={given['api']!r}; it is not given."
        )
    return Scoring(
        form,
        served,
        checks.choice("model_kwargs['scores']", given.get("scores"), SCORES, optional=True),
        checks.whole_number("model_kwargs['max_texts']", given.get("max_texts", MAX_TEXTS)),
    )


def _address(model: str, form: Form, key: str | None) -> str:
    """
    Return a server's address without what the form puts behind it.

    :raises ValueError: If it is none, holds a password, or a key would be sent to it unencrypted.
    """
    parts = _split(model)
    if parts.username is not None or parts.password is not None:
        raise ValueError("model must be an address without a user and a password; set api_key to the server's key.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"model must be the address of a server with backend='remote', such as 'https://host:8080', "
            f"without '?' and '#', but got {model!r:.100}."
        )
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip() != ""):
        raise ValueError("api_key must be printable ASCII without white space around it; does it end in a line feed?")
    if key is not None and parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ValueError(
            f"api_key is not sent to {parts.hostname!r} over http, where others can read it: use https in model."
        )
    return model.rstrip("/").removesuffix(form.path)


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises an error if it is no number
        return parts
    except ValueError:
        return SplitResult("", "", "", "", "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _description(client: Client, form: Form, *, has_tokenizer: bool) -> dict[str, Any]:
    """Return what a server says of itself; nothing if its form knows no such question."""
    if form.info is None:
        return {}
    try:
        answer = client.ask(form.info, None, Call())
    except ServerError as error:
        if error.status != 404 or not has_tokenizer:
            raise
        return {}  # a gateway may let only scores through
    return answer if isinstance(answer, dict) else {}


def _tokenizer_of(options: ModelOptions, told: dict[str, Any]) -> str:
    """
    Return where the tokenizer is: what the user says, or the model that the server names.

    :raises ValueError: If nobody says it, or the server's word is not enough.
    """
    given = options.model_kwargs.get("tokenizer")
    if given is not None:
        return checks.text("model_kwargs['tokenizer']", given, empty=False)
    named = told.get("model_id")
    # A path is one of the server's machine. Code of its own comes only with a tokenizer that the user names.
    if isinstance(named, str) and _HUB_ID.fullmatch(named) and not (Path(named).exists() or options.trust_remote_code):
        return named
    raise ValueError(
        "model_kwargs['tokenizer'] must be the hub id or the folder of the tokenizer of the server's model, by which "
        f"texts are measured and cut, but is not given, and the server names {named!r:.100} as its model."
    )


def _parts(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[first : first + size] for first in range(0, len(places), size)]


def _count(told: dict[str, Any], name: str) -> int | None:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _waited_for(scores: "Future[Logits]", call: Call) -> Logits:
    """Return the scores as soon as they are there, and not later than the deadline."""
    if call.deadline is None:
        return scores.result()
    try:
        return scores.result(timeout=call.seconds(threading.TIMEOUT_MAX))
    except TimeoutError:
        raise OutOfTimeError("the deadline passed before the server had answered.") from None
