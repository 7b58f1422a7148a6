"""
A long document as windows of model tokens, and the choice of the windows worth reading.

Token ids and indexes in, spans of token indexes out. The model scores the windows, and `budget.py` decides how many
tokens there are.

Reading by passages goes back to Callan, "Passage-level evidence in document retrieval" (SIGIR 1994). The maximum over
passages with a cross-encoder goes back to Dai and Callan, "Deeper text understanding for IR with contextual neural
language modeling" (SIGIR 2019).
"""

import math
import unicodedata
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.reading.documents import EncodedDocument
from haystack_ce_ranker.tokenizing.tokens import Ids

_K1 = 1.2
_EVIDENCE_TOLERANCE = 1e-9
_WARMEST, _STEEPNESS = 16.0, 2.0  # of `_level`
_LARGEST_EXPONENT = 700.0


class Span(NamedTuple):
    """A run of consecutive body tokens, `stop` excluded."""

    start: int
    stop: int


class Piece(NamedTuple):
    """The part of a document that one pair shows: one span, or two for head and tail, and its lexical evidence."""

    spans: tuple[Span, ...]
    evidence: float = 0.0

    @property
    def tokens(self) -> int:
        """Body tokens of the piece."""
        return sum(span.stop - span.start for span in self.spans)

    def shortened(self, tokens: int) -> "Piece":
        """Return the piece without some tokens at its end; its last span keeps at least one."""
        *others, last = self.spans
        return self._replace(spans=(*others, Span(last.start, max(last.stop - tokens, last.start + 1))))


class WindowSettings(NamedTuple):
    """How a document that does not fit is read. `policy.ReadingPolicy` describes the values and has the defaults."""

    passage_tokens: int
    passage_stride: int
    passages_per_document: int
    passage_evidence: float
    evidence: "Evidence | None" = None
    """How windows are weighed; None for `evidence`."""


def windows(tokens: int, *, size: int, stride: int) -> NDArray[np.intp]:
    """
    Return the starts of windows that together cover all tokens, ascending; the last one ends with the document.

    :param tokens: Tokens of the document's body.
    :param size: Tokens of a window.
    :param stride: Tokens from one window's start to the next one's.
    """
    if tokens <= size:
        return np.zeros(1, dtype=np.intp)
    return np.append(np.arange(0, tokens - size, min(stride, size)), tokens - size)


def align(starts: NDArray[np.intp], document: EncodedDocument, *, slack: int) -> NDArray[np.intp]:
    """
    Move window starts back to where a sentence begins, else to where a word begins, if that is within `slack` tokens.

    Starts only move backwards. So consecutive windows still cover the document if their overlap is at least `slack`.
    The last window stays, since it has to reach the end.
    """
    sentences = _last_at_or_before(document.sentence_starts, starts)
    words = _last_at_or_before(document.word_starts, starts)
    aligned = np.where(starts - sentences <= slack, sentences, np.where(starts - words <= slack, words, starts))
    return np.unique(np.append(aligned[:-1], starts[-1:]))


def evidence(body: Ids, query: Ids, starts: NDArray[np.intp], *, size: int) -> NDArray[np.float64]:
    """
    Score the windows of one document by the query tokens they hold: BM25 over the document's own windows.

    The inverse document frequencies come from the windows of this document, not from other documents. A token that all
    windows hold does not tell them apart. And a document's score must not depend on the others that are scored with it.
    All windows have one length, so BM25's length normalisation is not needed. benchmarks/token_balance.md also measures
    frequencies over all candidates, and stems instead of tokens.

    :param body: Token ids of the document; shape (tokens,).
    :param query: Token ids of the query; shape (query tokens,).
    :param starts: Window starts; shape (windows,).
    :param size: Tokens of a window.
    :returns: One value per window, not negative; shape (windows,).
    """
    total = np.zeros(len(starts))
    stops = starts + size
    for term in np.unique(query):
        positions = np.flatnonzero(body == term)
        if not len(positions):
            continue
        frequency = np.searchsorted(positions, stops) - np.searchsorted(positions, starts)
        total += bm25(frequency, holding=int(np.count_nonzero(frequency)))
    return total


def bm25(frequency: NDArray[np.number], *, holding: float) -> NDArray[np.float64]:
    """
    Return what one token of the query adds to the evidence in each window.

    :param frequency: How often each window holds it; shape (windows,).
    :param holding: How many windows hold it.
    """
    idf = np.log1p((len(frequency) - holding + 0.5) / (holding + 0.5))
    found: NDArray[np.float64] = idf * frequency * (_K1 + 1) / (frequency + _K1)
    return found


class Evidence(Protocol):
    """Weighs the windows of one document by a query; see `evidence`."""

    def __call__(self, body: Ids, query: Ids, starts: NDArray[np.intp], *, size: int) -> NDArray[np.float64]:
        """Return one value per window, not negative; shape (windows,)."""
        ...


def _head(document: EncodedDocument, _query: Ids, room: int, _settings: WindowSettings) -> list[Piece]:
    return [Piece((Span(0, min(room, len(document.body.ids))),))]


def _head_tail(document: EncodedDocument, _query: Ids, room: int, _settings: WindowSettings) -> list[Piece]:
    """Use three quarters of the room for the start, and the rest for the end."""
    tokens = len(document.body.ids)
    tail = room // 4
    return [Piece((Span(0, room - tail), Span(tokens - tail, tokens)) if tail else (Span(0, room),))]


def _windows(document: EncodedDocument, query: Ids, room: int, settings: WindowSettings) -> list[Piece]:
    """Return all windows, in the order of the document."""
    starts, size, found = _weighed_windows(document, query, room, settings)
    return [_piece(document, start, size, value) for start, value in zip(starts, found, strict=True)]


def _best_passages(document: EncodedDocument, query: Ids, room: int, settings: WindowSettings) -> list[Piece]:
    """Return the windows with most evidence, best first; ties keep the order of the document."""
    starts, size, found = _weighed_windows(document, query, room, settings)
    best = np.argsort(-found, kind="stable")[: settings.passages_per_document]
    if found[best[0]] <= 0.0:
        best = best[:1]
    enough = settings.passage_evidence * found[best[0]] - _EVIDENCE_TOLERANCE
    return [_piece(document, starts[place], size, found[place]) for place in best if found[place] >= enough]


def _weighed_windows(
    document: EncodedDocument, query: Ids, room: int, settings: WindowSettings
) -> tuple[NDArray[np.intp], int, NDArray[np.float64]]:
    """Return the starts of a document's windows, their size, and the evidence in each."""
    size = min(settings.passage_tokens, room)
    overlap = max(size - settings.passage_stride, 0)
    starts = windows(len(document.body.ids), size=size, stride=settings.passage_stride)
    starts = align(starts, document, slack=overlap // 2)
    weigh = evidence if settings.evidence is None else settings.evidence
    return starts, size, weigh(document.body.ids, query, starts, size=size)


def _piece(document: EncodedDocument, start: np.intp, size: int, value: np.float64) -> Piece:
    return Piece((Span(int(start), min(int(start) + size, len(document.body.ids))),), float(value))


STRATEGIES: dict[str, Callable[[EncodedDocument, Ids, int, WindowSettings], list[Piece]]] = {
    "best_passages": _best_passages,
    "head": _head,
    "head_tail": _head_tail,
    "windows": _windows,
}
"""How a document that does not fit is read, by name. If there is room for one piece only, the first is read."""


TRUNCATIONS = frozenset({"head", "head_tail"})
"""Strategies that cut a document where the room ends, as other libraries do, instead of choosing windows of it."""


def _logsumexp(logits: NDArray[np.float64]) -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - top).sum()))


def _level(logits: NDArray[np.float64]) -> float:
    """
    Return `logsumexp` at a temperature that the highest logit decides, less what the temperature adds for the number.

    The temperature is 1 where the model has found an answer in one window: where a logit, taken for log-odds, is well
    above 0. The result is `logsumexp` then. Where it has found none, the temperature is up to `_WARMEST`, and the
    result is nearly the mean, plus log(number of logits): it takes many windows to tell such documents apart. That
    number counts for as much as in `logsumexp` at any temperature. Or else a document read by windows would fall behind
    one read whole. The result rises with each logit. One logit stays what it is.
    """
    top = float(logits.max())
    temperature = 1.0 + (_WARMEST - 1.0) / (1.0 + math.exp(min(_STEEPNESS * top, _LARGEST_EXPONENT)))
    return top + temperature * math.log(float(np.exp((logits - top) / temperature).mean())) + math.log(len(logits))


AGGREGATES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "max": lambda logits: float(logits.max()),
    "first": lambda logits: float(logits[0]),
    "mean_top2": lambda logits: float(np.sort(logits)[-2:].mean()),
    "logsumexp": _logsumexp,
    "level": _level,
}
"""One logit from those of a document's pieces, by name; the pieces stand in the order that the strategy gave them."""


def characters(document: EncodedDocument, content: str, span: Span) -> tuple[int, int]:
    """
    Return where a span stands in the content, as offsets in characters: `content[start:end]`.

    A character stays whole at both ends as a reader sees it, even if a tokenizer splits it. An accent in decomposed
    form stays with its letter, and a joiner with the characters that it joins.
    """
    if span.stop <= span.start:
        return 0, 0
    start = int(document.body.starts[span.start])
    end = int(document.body.ends[span.stop - 1])
    while 0 < start < len(content) and _joined(content, start):
        start -= 1
    return start, whole_characters(content, end)


def whole_characters(content: str, end: int) -> int:
    """Return the first place from `end` on where a reader sees one character end and another begin."""
    while 0 < end < len(content) and _joined(content, end):
        end += 1
    return end


def _joined(content: str, place: int) -> bool:
    """Tell whether the character at `place` belongs to the one before: a mark, a skin tone, or a joiner between."""
    character = content[place]
    return (
        "\u200d" in (character, content[place - 1])
        or unicodedata.category(character).startswith("M")
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _last_at_or_before(boundaries: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each start the last boundary that is not behind it, or the start itself if there is none."""
    if not len(boundaries):
        return starts
    places = np.searchsorted(boundaries, starts, side="right") - 1
    return np.where(places >= 0, boundaries[np.maximum(places, 0)], starts)
