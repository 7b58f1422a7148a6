"""
The documented forms of re-ranking servers: how a request looks, and how an answer is read.

Pure functions; `remote.py` sends and receives. To add a form, add its line to `FORMS`, and a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.checks import is_finite

Logits = NDArray[np.float64]

SCORES = ("logits", "probabilities")
"""What the scores of an answer can be."""

_LEAST_PROBABILITY = 1e-9  # so that 0 and 1 stay finite: logits of -20.7 and 20.7

_LARGEST = float(np.finfo(np.float32).max)


class AnswerError(ValueError):
    """An answer is not what its form says. The message holds nothing of the answer but numbers."""


@dataclass(frozen=True)
class Form:
    """
    How one kind of server is asked for scores.

    :ivar path: What is put behind the server's address.
    :ivar body: Makes the body of a request from a query and its texts, without the name of the model.
    :ivar rows: The key of the list of scores in an answer; None if the answer is that list.
    :ivar score: The key of the score in a row.
    :ivar scores: What the scores are, unless the user says otherwise: one of `SCORES`.
    :ivar names_model: Whether a request must name the model.
    :ivar info: The path that describes the server; None if there is none.
    """

    path: str
    body: Callable[[str, Sequence[str]], dict[str, Any]]
    rows: str | None
    score: str
    scores: str
    names_model: bool = False
    info: str | None = None


def _tei(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "texts": list(texts), "raw_scores": True, "truncate": False, "return_text": False}


def _infinity(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": list(texts), "raw_scores": True, "return_documents": False}


# vLLM has had two names for the same flag, and ignores names that it does not know.
_NO_ACTIVATION = {"use_activation": False, "activation": False}


def _vllm(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": list(texts), **_NO_ACTIVATION}


def _vllm_score(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"text_1": query, "text_2": list(texts), **_NO_ACTIVATION}


def _cohere(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": list(texts)}


def _jina(query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": list(texts), "return_documents": False}


FORMS: Mapping[str, Form] = {
    "tei": Form("/rerank", _tei, None, "score", "logits", info="/info"),
    "infinity": Form("/rerank", _infinity, "results", "relevance_score", "logits"),
    "vllm": Form("/rerank", _vllm, "results", "relevance_score", "logits"),
    "vllm_score": Form("/score", _vllm_score, "data", "score", "logits"),
    "cohere": Form("/v2/rerank", _cohere, "results", "relevance_score", "probabilities", names_model=True),
    "jina": Form("/v1/rerank", _jina, "results", "relevance_score", "probabilities", names_model=True),
}
"""The forms, by the name that `model_kwargs["api"]` gives."""


def read_scores(form: Form, answer: Any, count: int) -> Logits:
    """
    Return the scores of an answer in the order of the texts that were sent.

    :param answer: What the body of the answer holds, as JSON.
    :param count: How many texts were sent.
    :returns: Shape (count,).
    :raises AnswerError: If there is not one finite score for each text.
    """
    rows = answer if form.rows is None else answer.get(form.rows) if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise AnswerError("it holds no list of scores")
    if len(rows) != count:
        raise AnswerError(f"it holds {len(rows)} scores for {count} texts")
    found = np.full(count, np.nan)
    for row in rows:
        place, score = (row.get("index"), row.get(form.score)) if isinstance(row, dict) else (None, None)
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
            raise AnswerError(f"a score has no index from 0 to {count - 1}")
        if score is None or not is_finite(score) or abs(score) > _LARGEST:
            raise AnswerError(f"the score at index {place} is no finite number")
        if not np.isnan(found[place]):
            raise AnswerError(f"it holds two scores for index {place}")
        found[place] = score
    return found


def as_logits(scores: Logits) -> Logits:
    """
    Return probabilities as logits.

    :raises AnswerError: If one is not between 0 and 1.
    """
    if not look_like_probabilities(scores):
        raise AnswerError(
            "a score is not between 0 and 1; if the scores are logits, set model_kwargs['scores']='logits'"
        )
    inside = np.clip(scores, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
    logits: Logits = np.log(inside) - np.log1p(-inside)
    return logits


def look_like_probabilities(scores: Logits) -> bool:
    """Tell whether all scores are between 0 and 1."""
    return bool(((scores >= 0.0) & (scores <= 1.0)).all())
