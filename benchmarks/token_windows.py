"""
Which windows of a document are chosen, by what evidence, and what ranking comes of it.

    python benchmarks/token_balance.py finding choices
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import Stemmer

from common import Report
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText, EncodedDocument
from haystack_ce_ranker.reading.passages import STRATEGIES, Piece, Span, WindowSettings, align, evidence, windows
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from token_scoring import DEFAULT, backend_of, collections, logits, mean_of, quality, requests


class Choice(NamedTuple):
    """
    A way to choose windows.

    :ivar stems: Whether evidence counts stems of words instead of tokens.
    :ivar shared: Whether the document frequencies are those of all candidates' windows instead of the document's own.
    :ivar aligned: Where windows may begin: at `sentences` (else words), at `words`, or `anywhere`.
    """

    stems: bool = False
    shared: bool = False
    aligned: str = "sentences"


CHOICES = {
    "tokens, the document's idf, sentences (default)": Choice(),
    "tokens, the candidates' idf, sentences": Choice(shared=True),
    "stems, the document's idf, sentences": Choice(stems=True),
    "stems, the candidates' idf, sentences": Choice(stems=True, shared=True),
    "tokens, the document's idf, words": Choice(aligned="words"),
    "tokens, the document's idf, anywhere": Choice(aligned="anywhere"),
}


class Chooser:
    """
    A strategy for long documents by a `Choice`, for models whose tokens are WordPieces of English.

    `begin` must be told the candidates of each query: what the engine's own strategies never know.
    """

    def __init__(self, choice: Choice, backend: Any, encoder: DocumentEncoder | None = None) -> None:
        self._choice = choice
        self._encoder = encoder if encoder is not None else DocumentEncoder(backend.tokenizer, cache_tokens=50_000_000)
        self._names = {place: token for token, place in backend.tokenizer.vocabulary().items()}
        self._stemmer = Stemmer.Stemmer("english")
        self._stems: dict[str, int] = {}
        self._units: dict[bytes, Any] = {}
        self._holding = Counter[int]()
        self._total = 0

    def begin(self, query: Any, texts: Sequence[DocumentText], settings: WindowSettings) -> None:
        self._holding.clear()
        self._total = 0
        if not self._choice.shared:
            return
        for document in self._encoder.encode(texts):
            size = settings.passage_tokens
            starts = self._starts(document, size, settings)
            self._total += len(starts)
            body = self._as_units(document.body.ids)
            for unit in set(self._as_units(query).tolist()) - {-1}:
                places = np.flatnonzero(body == unit)
                self._holding[unit] += int(
                    np.count_nonzero(np.searchsorted(places, starts + size) - np.searchsorted(places, starts))
                )

    def __call__(self, document: EncodedDocument, query: Any, room: int, settings: WindowSettings) -> list[Piece]:
        size = min(settings.passage_tokens, room)
        starts = self._starts(document, size, settings)
        body, wanted = self._as_units(document.body.ids), self._as_units(query)
        found = self._evidence(body, wanted[wanted >= 0], starts, size)
        best = np.argsort(-found, kind="stable")[: settings.passages_per_document]
        enough = settings.passage_evidence * found[best[0]] - 1e-9
        kept = best[:1] if found[best[0]] <= 0.0 else best[found[best] >= enough]
        tokens = len(body)
        return [
            Piece((Span(int(starts[one]), min(int(starts[one]) + size, tokens)),), float(found[one])) for one in kept
        ]

    def _evidence(self, body: Any, query: Any, starts: Any, size: int) -> Any:
        if not self._choice.shared:
            return evidence(body, query, starts, size=size)
        total = np.zeros(len(starts))
        for unit in np.unique(query):
            places = np.flatnonzero(body == unit)
            frequency = np.searchsorted(places, starts + size) - np.searchsorted(places, starts)
            holding = self._holding[int(unit)]
            idf = np.log1p((self._total - holding + 0.5) / (holding + 0.5))
            total += idf * frequency * 2.2 / (frequency + 1.2)
        return total

    def _starts(self, document: EncodedDocument, size: int, settings: WindowSettings) -> Any:
        starts = windows(len(document.body.ids), size=size, stride=settings.passage_stride)
        slack = max(size - settings.passage_stride, 0) // 2
        if self._choice.aligned == "anywhere":
            return starts
        if self._choice.aligned == "words":
            document = replace(document, sentence_starts=document.word_starts)
        return align(starts, document, slack=slack)

    def _as_units(self, ids: Any) -> Any:
        """For each token the stem of the word that begins there, -1 where none begins; or the tokens themselves."""
        if not self._choice.stems:
            return ids
        key = ids.tobytes()
        if key not in self._units:
            names = [self._names[token] for token in ids.tolist()]
            units = np.full(len(ids), -1, dtype=np.int64)
            firsts = [place for place, name in enumerate(names) if not name.startswith("##")]
            for first, after in zip(firsts, [*firsts[1:], len(names)], strict=True):
                word = "".join(name.removeprefix("##") for name in names[first:after])
                units[first] = self._stems.setdefault(self._stemmer.stemWord(word), len(self._stems))
            self._units[key] = units
        return self._units[key]


def finding(arguments: argparse.Namespace, report: Report) -> None:
    """
    Without the model: whether the chosen windows hold what answers the query, in relevant candidates that do not fit.

    covidqa: the token where the annotated answer begins; dl19-long: the middle of the window lies in the passage.
    """
    backend = backend_of(arguments)
    headings = ("collection", "documents", "evidence", "in the best window", "in one of the chosen", "chosen windows")
    report.table(None, *headings)
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long", None):
        answers = answers_of(arguments.data, name, collection)
        encoder = DocumentEncoder(backend.tokenizer, cache_tokens=50_000_000)
        for label, choice in CHOICES.items():
            chooser = Chooser(choice, backend, encoder)
            held = []
            for query_id, (query, texts) in zip(found, requests(collection, found), strict=True):
                ids = backend.tokenizer.encode([query])[0].ids
                chooser.begin(ids, texts, DEFAULT.windows)
                for one, document in zip(found[query_id], encoder.encode(texts), strict=True):
                    room = 509 - len(ids)
                    if (query_id, one) in answers and len(document) > room:
                        chosen = chooser(document, ids, room, DEFAULT.windows)
                        held.append(_hold(chosen, document, answers[query_id, one], whole=name != "covidqa"))
            first, any_ = mean_of(of[0] for of in held), mean_of(any(of) for of in held)
            report.row(name, len(held), label, f"{first:.1%}", f"{any_:.1%}", mean_of(map(len, held)))


def _hold(chosen: Sequence[Piece], document: EncodedDocument, answer: tuple[int, int], *, whole: bool) -> list[bool]:
    """For each window whether it holds the answer's first token or, with `whole`, has its middle in the answer."""
    low = int(np.searchsorted(document.body.starts, answer[0], side="right")) - 1
    high = int(np.searchsorted(document.body.starts, answer[1]))
    spans = [piece.spans[0] for piece in chosen]
    return [low <= sum(span) // 2 < high if whole else span.start <= low < span.stop for span in spans]


def answers_of(data: Path, name: str, collection: Collection) -> dict[tuple[str, str], tuple[int, int]]:
    """Where in a relevant document its query's answer stands, in characters."""
    if name == "covidqa":
        source = Source(data / name / "answers.tsv", ("qid\tdocid\tanswer_start_char",))
        header, *rows = (line.split("\t") for line in source.lines())
        named = [dict(zip(header, row, strict=True)) for row in rows]
        starts = [(row["qid"], row["docid"], int(row["answer_start_char"])) for row in named]
        return {(query, document): (start, start + 1) for query, document, start in starts}
    passages = load_collection(data / "dl19").documents
    answers = {}
    for query_id, grades in collection.judgments.items():
        for one, grade in grades.items():
            if grade >= 2 and one in collection.documents:
                start = int(collection.documents[one].metadata["needle_start_char"])
                answers[query_id, one] = (start, start + len(passages[one.split("@")[0]].content))
    return answers


def choices(arguments: argparse.Namespace, report: Report) -> None:
    """Which window is found (one per document), and what the default settings make of it."""
    backend = backend_of(arguments)
    headings = ("best passage", "tokens / query", "default settings", "tokens / query")
    report.table(None, "collection", "queries", "evidence", *headings)
    for name, collection, found in collections(arguments, report, "covidqa,dl19-long", 60):
        for label, choice in CHOICES.items():
            STRATEGIES["choice"] = chooser = Chooser(choice, backend)
            cells = []
            for most in (1, DEFAULT.passages_per_document):
                policy = replace(DEFAULT, long_documents="choice", passages_per_document=most)
                scorer = CrossEncoderScorer(backend, policy, cache_tokens=50_000_000)
                scores, tokens = {}, 0
                for query_id, request in zip(found, requests(collection, found), strict=True):
                    chooser.begin(backend.tokenizer.encode([request[0]])[0].ids, request[1], policy.windows)
                    scores[query_id], stats = scorer.score(*request)
                    tokens += stats.tokens
                cells += [f"{quality(logits(found, scores), collection):.4f}", f"{tokens / len(found):,.0f}"]
            del STRATEGIES["choice"]
            report.row(name, len(found), label, *cells)
