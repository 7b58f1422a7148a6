"""
A collection: documents, queries and judgments, read from a folder in BEIR's layout and checked against each other.

`layout` finds the files, and `sources` and `tables` read them. Every error names the file and the line, and shows three
lines of the form that was expected.
"""

import hashlib
import json
import random
from collections.abc import Collection as Ids
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.data.layout import find, find_texts
from haystack_ce_ranker.data.left_out import LeftOut, part
from haystack_ce_ranker.data.sources import CollectionError, ReadCounts, Source
from haystack_ce_ranker.data.tables import (
    EXPECTED_QRELS,
    REPEATED,
    Judgments,
    ReadRun,
    Run,
    has_judgments,
    judgments_of,
    load_judgments,
    load_run,
    read_run,
)

__all__ = [
    "Collection",
    "CollectionError",
    "Judgments",
    "ReadCounts",
    "ReadRun",
    "Run",
    "Text",
    "load_collection",
    "load_judgments",
    "load_queries",
    "load_run",
    "load_texts",
    "load_unjudged",
    "read_run",
]

EXPECTED_CORPUS = (
    '{"_id": "d1", "title": "Returns", "text": "Goods can be sent back within 30 days."}',
    '{"_id": "d2", "title": "", "text": "Parcels leave the warehouse at noon."}',
    '{"_id": "d3", "title": "Invoices", "text": "Invoices are sent by e-mail."}',
)
EXPECTED_QUERIES = (
    '{"_id": "q1", "text": "how do I send something back"}',
    '{"_id": "q2", "text": "when is my parcel sent"}',
    '{"_id": "q3", "text": "copy of an invoice"}',
)

EMPTY_QUERIES = "empty queries that nothing judges are left out"

_ID_KEYS, _PARQUET_ID_KEYS = ("_id",), ("_id", "id")


@dataclass(frozen=True, slots=True)
class Text:
    """One document of a collection. `metadata` is whatever else its line holds under that key."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Title, newline, text; the text alone where there is no title."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Collection:
    """
    Documents, queries with judgments (no other can be measured), and notes on what was mended or sampled.

    :ivar left_out: What cannot be measured.
    :ivar files: What became of the lines of each file that was read; the notes say what of it matters.
    """

    name: str
    documents: Mapping[str, Text]
    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()
    files: tuple[ReadCounts, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def own(self, query_id: str) -> str | None:
        """
        Return the id of the document that a query is itself, as in ArguAna: that it finds itself is no answer.

        Of equal ids with other texts both are something of their own. A document that was judged relevant stays, too.
        """
        document = self.documents.get(query_id)
        if document is None or self.judgments.get(query_id, {}).get(query_id, 0) > 0:
            return None
        asked = self.queries[query_id].split()
        return query_id if asked in (document.text.split(), document.content.split()) else None

    @property
    def all_left_out(self) -> tuple[LeftOut, ...]:
        """What cannot be measured, and what is ignored of its queries' hits."""
        count = sum(self.own(query_id) is not None for query_id in self.queries)
        told = (
            f"{count} of {len(self.queries)} queries are documents of the collection: that each finds itself is ignored"
        )
        return (*self.left_out, *([LeftOut(f"{told}, as BEIR does")] if count else []))

    def sample(self, queries: int | None, *, seed: int = 0) -> "Collection":
        """Return it with at most that many queries, drawn at random but in their order, and with all its documents."""
        queries = whole_number("queries", queries, optional=True)
        if queries is None or queries >= len(self.queries):
            return self
        drawn = set(random.Random(seed).sample(list(self.queries), queries))
        return self.only(drawn, f"{queries} of {len(self.queries)} queries, drawn at random with seed {seed}")

    def only(self, query_ids: Container[str], *notes: str) -> "Collection":
        """Return the collection with those of its queries alone, in their order, and notes that say why."""
        return replace(
            self,
            queries={query_id: text for query_id, text in self.queries.items() if query_id in query_ids},
            judgments={query_id: grades for query_id, grades in self.judgments.items() if query_id in query_ids},
            notes=(*self.notes, *notes),
        )

    def fingerprint(self) -> str:
        """Return a short key of the documents' texts and metadata; queries and judgments are no part of it."""
        digest = hashlib.blake2b(digest_size=12)
        for document in self.documents.values():
            parts = (document.id, document.title, document.text, dict(document.metadata))
            digest.update(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load_collection(folder: str | Path, *, split: str | None = None) -> Collection:
    """
    Read a folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.

    Each of them may be packed (`.gz`, `.zst`), be parquet, or be a folder of parts, as on the Hugging Face Hub.

    :param folder: The collection's folder; its name becomes the collection's name.
    :param split: The judgments to use; by default `test`, or the only file there is.
    :raises CollectionError: If a file is missing or has another form.
    """
    folder = Path(folder)
    files = find(folder, split)
    corpus = [Source(path, EXPECTED_CORPUS) for path in files.corpus]
    asked = [Source(path, EXPECTED_QUERIES) for path in files.queries]
    judged_in = [Source(path, EXPECTED_QRELS) for path in files.judgments]
    documents = _load_corpus(corpus)
    judgments = judgments_of(judged_in)
    all_queries = _load_queries(asked, judgments)
    known = {query_id: grades for query_id, grades in judgments.items() if query_id in all_queries}
    queries = {query_id: text for query_id, text in all_queries.items() if query_id in known}
    if not queries:
        problem = f"none of its {len(judgments)} query ids is in queries.jsonl (which has {len(all_queries)})"
        raise judged_in[0].error(problem)
    judged = [one for grades in known.values() for one in grades]
    relevant = relevant_ids(known)
    missing, absent = (sum(one not in documents for one in some) for some in (judged, relevant))
    if relevant and absent == len(relevant):
        raise judged_in[0].error(f"none of its {len(relevant)} relevant document ids is in corpus.jsonl")
    unjudged, unasked = len(all_queries) - len(queries), len(judgments) - len(known)
    barren = sum(not any(grade > 0 for grade in grades.values()) for grades in known.values())
    left_out = (
        *part(absent, len(relevant), "relevant documents are not in the corpus (they count as missed)"),
        *part(unasked, len(judgments), "judged queries are not in queries.jsonl"),
        *part(barren, len(known), "judged queries have no relevant document (they count as 0)"),
    )
    if missing > absent:
        others = f"{missing - absent} of {len(judged) - len(relevant)} documents judged not relevant"
        left_out += (LeftOut(f"{others} are not in the corpus"),)
    if unjudged:
        left_out += (LeftOut(f"{unjudged} of {len(all_queries)} queries have no judgments"),)
    counts = tuple(source.counts for source in (*corpus, *asked, *judged_in))
    notes = [f"{path.relative_to(folder)} is left unread" for path in files.unread]
    notes += [note for one in counts for note in one.notes()]
    kept = {query_id: known[query_id] for query_id in queries}
    return Collection(folder.resolve().name, documents, queries, kept, tuple(notes), counts, left_out)


def load_unjudged(folder: str | Path, *, split: str | None = None) -> Collection:
    """
    Read a folder as `load_collection` does, or its documents alone if it has no judgments.

    :param split: The judgments to use; if it is named, they must be there.
    :returns: Without judgments, a collection without queries.
    :raises CollectionError: If the corpus is missing, or what is there has another form.
    """
    folder = Path(folder)
    files = find(folder, split, judged=False)
    if split is not None or any(map(has_judgments, files.judgments)):
        return load_collection(folder, split=split)
    corpus = [Source(path, EXPECTED_CORPUS) for path in files.corpus]
    documents = _load_corpus(corpus)
    counts = tuple(source.counts for source in corpus)
    notes = [f"{path.relative_to(folder)} is left unread" for path in files.unread]
    notes += [note for one in counts for note in one.notes()]
    return Collection(folder.resolve().name, documents, {}, {}, tuple(notes), counts)


def load_texts(folder: str | Path) -> Collection:
    """
    Read the documents of a folder and all of its queries, whether they are judged or not. Judgments are left unread.

    :returns: A collection without judgments. Empty queries are left out, as the notes say.
    :raises CollectionError: If one of the two is missing or has another form.
    """
    folder = Path(folder)
    files = find_texts(folder)
    corpus = [Source(path, EXPECTED_CORPUS) for path in files.corpus]
    asked = [Source(path, EXPECTED_QUERIES) for path in files.queries]
    documents, queries = _load_corpus(corpus), _load_queries(asked, ())
    counts = tuple(source.counts for source in (*corpus, *asked))
    notes = [f"{path.relative_to(folder)} is left unread" for path in files.unread]
    notes += [note for one in counts for note in one.notes()]
    return Collection(folder.resolve().name, documents, queries, {}, tuple(notes), counts)


def load_queries(path: str | Path) -> dict[str, str]:
    """
    Read queries without judgments, as from a log: the lines of `queries.jsonl`, or a text with a query a line.

    :returns: Texts by id. The queries of a text are named by their lines. Empty queries are left out.
    :raises CollectionError: If the file is missing, has another form, or holds no query.
    """
    source = Source(Path(path), EXPECTED_QUERIES)
    if source.holds_objects():
        return _load_queries([source], ())
    queries = {
        f"line-{number}": text for number, line in enumerate(source.lines(raw=True), 1) if (text := line.strip())
    }
    if not queries:
        raise source.error("it has no queries")
    return queries


def _load_corpus(sources: Sequence[Source]) -> dict[str, Text]:
    documents: dict[str, Text] = {}
    for source, document_id, row in _with_ids(sources):
        document = text_of(source, document_id, row)
        if documents.setdefault(document_id, document) is document:
            continue
        if documents[document_id] != document:
            raise source.error(f"'_id' {document_id!r} appears twice, with different texts")
        source.mend(REPEATED)
    if not documents:
        raise sources[0].error("it has no documents")
    return documents


def _load_queries(sources: Sequence[Source], judged: Ids[str]) -> dict[str, str]:
    queries: dict[str, str] = {}
    for source, query_id, row in _with_ids(sources):
        text = _text_in(source, row)
        if query_id in queries:
            if queries[query_id] != text:
                raise source.error(f"'_id' {query_id!r} appears twice, with different texts")
            source.mend(REPEATED)
        elif text.strip():
            queries[query_id] = text
        elif query_id in judged:
            raise source.error(
                f"'text' must be a string that is not empty, but got {text!r} for a query with judgments"
            )
        else:
            source.mend(EMPTY_QUERIES)
    if not queries:
        raise sources[0].error("it has no queries")
    return queries


def _with_ids(sources: Sequence[Source]) -> Iterator[tuple[Source, str, dict[str, Any]]]:
    """Yield source, id and object of each line."""
    for source in sources:
        keys = _PARQUET_ID_KEYS if source.path.suffix == ".parquet" else _ID_KEYS
        for row in source.objects():
            key = next((key for key in keys if key in row), None)
            if key is None:
                raise source.error(f"the key '_id' is missing (found: {', '.join(row) or 'none'})")
            yield source, source.identity(key, row[key]), row


def _text_in(source: Source, row: Mapping[str, Any]) -> str:
    if "text" not in row:
        raise source.error(f"the key 'text' is missing (found: {', '.join(row) or 'none'})")
    return source.string("text", row["text"])


def text_of(source: Source, document_id: str, row: Mapping[str, Any], text: str | None = None) -> Text:
    """
    Return the document of a line, which may lack a title and metadata.

    :param text: Its text, if that does not stand under the key `text`.
    """
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise source.error(f"'metadata' must be an object, but got {metadata!r}")
    title = source.string("title", row.get("title", ""))
    text = _text_in(source, row) if text is None else text
    return Text(document_id, title, text, {} if metadata is None else metadata)


def relevant_ids(judgments: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the documents judged relevant, once for each query that they are relevant for."""
    return [document_id for grades in judgments.values() for document_id, grade in grades.items() if grade > 0]
