"""
Collections in BEIR format and runs as they lie on disk: read, check, sample.

Every error names the file, the line and the column, and shows three lines of the form that was expected.
"""

import hashlib
import json
import random
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from haystack_ce_ranker.checks import whole_number

Run = dict[str, dict[str, float]]
"""For each query id, document ids with scores, best first."""

Judgments = dict[str, dict[str, int]]
"""For each query id, document ids with grades; a document that is not listed is unjudged."""

EXPECTED_FOLDER = (
    'corpus.jsonl    a document a line: {"_id": "d1", "title": "Returns", "text": "Goods can be sent back."}',
    'queries.jsonl   a query a line: {"_id": "q1", "text": "how do I send something back"}',
    "qrels/test.tsv  judgments: query-id, corpus-id and score, parted by tabs, below a header of these names",
)
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
EXPECTED_QRELS = ("query-id\tcorpus-id\tscore", "q1\td1\t2", "q2\td2\t1")
EXPECTED_RUN = ("qid\tdocid\trank\tscore", "q1\td1\t1\t12.5", "q1\td2\t2\t9.25")

_QUERY_COLUMNS = ("query-id", "qid", "query_id", "query")
_DOCUMENT_COLUMNS = ("corpus-id", "docid", "doc_id", "document-id", "document_id", "did", "docno")
_OTHER_FORMS = "; `haystack-ce-ranker convert` makes such a folder of TREC files or of a CSV"
_SHOWN = 8  # names of files in an error
_SCORE_COLUMNS = ("score", "grade", "relevance", "label", "rel")


class CollectionError(ValueError):
    """A file of a collection or a run does not have the expected form; the message says where and shows the form."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is read, and the lines that show the form it must have."""

    path: Path
    expected: tuple[str, ...]

    def error(self, problem: str, line: int | None = None) -> CollectionError:
        """Return the error that names the file, the line and the problem, and shows the form."""
        where = f"{self.path}" if line is None else f"{self.path}, line {line}"
        form = "\n".join(f"    {text}" for text in self.expected)
        return CollectionError(f"{where}: {problem}.\n  Expected form ({self.path.name or self.path}):\n{form}")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield line number and text of the lines that are not empty; a byte order mark is no text."""
        with self._open(None) as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip():
                    yield number, text.rstrip("\r\n")

    def text(self) -> str:
        """Return the whole text, its line ends as they are; a byte order mark is no text."""
        with self._open("") as stream:
            return stream.read()

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line number and object of JSON lines."""
        for line, text in self.lines():
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                problem = f"it is not a JSON object a line ({error.msg} at column {error.colno})"
                raise self.error(problem, line) from None
            if not isinstance(row, dict):
                raise self.error(f"it must be a JSON object a line, but got {type(row).__name__}", line)
            yield line, row

    @contextmanager
    def _open(self, newline: str | None) -> Iterator[TextIO]:
        if not self.path.is_file():
            raise self.error("there is no such file")
        try:
            with self.path.open(encoding="utf-8-sig", newline=newline) as stream:
                yield stream
        except UnicodeDecodeError as error:
            raise self.error(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None


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
    """Documents, queries with judgments (no other can be measured), and notes on what was left out."""

    name: str
    documents: Mapping[str, Text]
    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()

    def sample(self, queries: int | None, *, seed: int = 0) -> "Collection":
        """Return it with at most that many queries, drawn at random but in their order, and with all its documents."""
        queries = whole_number("queries", queries, optional=True)
        if queries is None or queries >= len(self.queries):
            return self
        drawn = set(random.Random(seed).sample(list(self.queries), queries))
        return self.only(drawn, f"{queries} of {len(self.queries)} queries, drawn at random with seed {seed}")

    def only(self, query_ids: Container[str], note: str) -> "Collection":
        """Return the collection with those of its queries alone, in their order, and a note that says why."""
        return replace(
            self,
            queries={query_id: text for query_id, text in self.queries.items() if query_id in query_ids},
            judgments={query_id: grades for query_id, grades in self.judgments.items() if query_id in query_ids},
            notes=(*self.notes, note),
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
    Read a folder in BEIR format: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.

    :param folder: The collection's folder; its name becomes the collection's name.
    :param split: The judgments to use; by default `test`, or the only file there is.
    :raises CollectionError: If a file is missing or has another form.
    """
    folder = Path(folder)
    _check_shape(folder)
    documents = _load_corpus(Source(folder / "corpus.jsonl", EXPECTED_CORPUS))
    all_queries = _load_queries(Source(folder / "queries.jsonl", EXPECTED_QUERIES))
    judged_in = Source(_split_path(Source(folder / "qrels", EXPECTED_QRELS), split), EXPECTED_QRELS)
    judgments = load_judgments(judged_in.path)
    known = {query_id: grades for query_id, grades in judgments.items() if query_id in all_queries}
    queries = {query_id: text for query_id, text in all_queries.items() if query_id in known}
    if not queries:
        problem = f"none of its {len(judgments)} query ids is in queries.jsonl (which has {len(all_queries)})"
        raise judged_in.error(problem)
    relevant = relevant_ids(known)
    absent = sum(document_id not in documents for document_id in relevant)
    if relevant and absent == len(relevant):
        raise judged_in.error(f"none of its {len(relevant)} relevant document ids is in corpus.jsonl")
    unjudged, unasked = len(all_queries) - len(queries), len(judgments) - len(known)
    barren = sum(not any(grade > 0 for grade in grades.values()) for grades in known.values())
    told = (
        (unjudged, f"{unjudged} queries without judgments are left out"),
        (unasked, f"judgments of {unasked} queries that queries.jsonl lacks are left out"),
        (absent, f"{absent} of {len(relevant)} relevant documents are not in the corpus (they count as missed)"),
        (barren, f"{barren} queries have no relevant document and count as 0"),
    )
    notes, name = tuple(note for count, note in told if count), folder.resolve().name
    return Collection(name, documents, queries, {query_id: known[query_id] for query_id in queries}, notes)


def load_judgments(path: Path) -> Judgments:
    """
    Read judgments: tab-separated with a header (`query-id`, `corpus-id`, `score`), or TREC's four columns without one.

    :raises CollectionError: If a column is missing, a grade is not a whole number, or a pair has two grades.
    """
    source = Source(path, EXPECTED_QRELS)
    judgments: Judgments = {}
    for line, (query_id, document_id, grade) in _rows(source, trec=(0, 2, 3), trec_width=4):
        try:
            value = int(grade)
        except ValueError:
            raise source.error(f"column 'score' must be a whole number, but got {grade!r}", line) from None
        grades = judgments.setdefault(query_id, {})
        if grades.setdefault(document_id, value) != value:
            before = grades[document_id]
            raise source.error(f"query {query_id!r} and document {document_id!r} were judged {before} before", line)
    if not judgments:
        raise source.error("it has no judgments")
    return judgments


def load_run(path: str | Path, *, collection: Collection | None = None, depth: int | None = None) -> Run:
    """
    Read a run: tab-separated with a header (`qid`, `docid`, `score`), or TREC's six columns without one.

    Documents are ordered by score, highest first; equal scores keep the file's order.

    :param collection: If given, only its queries are kept, and every document must be in its corpus.
    :param depth: Keep at most that many documents a query.
    :raises CollectionError: If a column is missing, a score is not a number, or a document is unknown or repeated.
    """
    source = Source(Path(path), EXPECTED_RUN)
    run: Run = {}
    for line, (query_id, document_id, text) in _rows(source, trec=(0, 2, 4), trec_width=6):
        try:
            score = float(text)
        except ValueError:
            raise source.error(f"column 'score' must be a number, but got {text!r}", line) from None
        if score != score:
            raise source.error("column 'score' is NaN, which has no order", line)
        if collection is not None:
            if query_id not in collection.queries:
                continue
            if document_id not in collection.documents:
                raise source.error(f"document {document_id!r} is not in the corpus of {collection.name!r}", line)
        scores = run.setdefault(query_id, {})
        if document_id in scores:
            raise source.error(f"document {document_id!r} appears twice for {query_id!r}", line)
        scores[document_id] = score
    if not run:
        raise source.error("it has no rows for the collection's queries")
    ordered = {}
    for query_id, scores in run.items():
        best_first = sorted(scores.items(), key=lambda item: -item[1])
        ordered[query_id] = dict(best_first if depth is None else best_first[:depth])
    return ordered


def _check_shape(folder: Path) -> None:
    source = Source(folder, EXPECTED_FOLDER)
    if not folder.is_dir():
        raise source.error(
            f"it is a file, not a folder{_OTHER_FORMS}" if folder.exists() else "there is no such folder"
        )
    missing = [name for name in ("corpus.jsonl", "queries.jsonl", "qrels") if not (folder / name).exists()]
    if missing:
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        problem = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing (found: {shown or 'nothing'})"
        raise source.error(problem + _OTHER_FORMS)


def _load_corpus(source: Source) -> dict[str, Text]:
    documents: dict[str, Text] = {}
    for line, document_id, row in _with_ids(source, "documents"):
        text = _string(row, "text", source, line, may_be_empty=True)
        title = title_of(row, source, line)
        metadata = row.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise source.error(f"'metadata' must be an object, but got {metadata!r}", line)
        documents[document_id] = Text(document_id, title, text, {} if metadata is None else metadata)
    return documents


def _load_queries(source: Source) -> dict[str, str]:
    return {query_id: _string(row, "text", source, line) for line, query_id, row in _with_ids(source, "queries")}


def _with_ids(source: Source, what: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield line number, id and object of JSON lines; there must be some, and each id must be there once."""
    seen: set[str] = set()
    for line, row in source.objects():
        one = _string(row, "_id", source, line)
        if one in seen:
            raise source.error(f"'_id' {one!r} appears twice", line)
        seen.add(one)
        yield line, one, row
    if not seen:
        raise source.error(f"it has no {what}")


def _split_path(qrels: Source, split: str | None) -> Path:
    found = sorted(qrels.path.glob("*.tsv"))
    wanted = qrels.path / f"{'test' if split is None else split}.tsv"
    if wanted in found:
        return wanted
    if split is not None:
        named = ", ".join(path.stem for path in found) or "none"
        raise replace(qrels, path=wanted).error(f"there are no judgments named {split!r} (found: {named})")
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found)
    raise qrels.error(
        f"it must hold test.tsv (found: {names})" if found else "there are no judgments: it must hold test.tsv"
    )


def title_of(row: Mapping[str, Any], source: Source, line: int) -> str:
    """Return the title in a document's line, which may lack one."""
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise source.error(f"'title' must be a string, but got {title!r}", line)
    return "" if title is None else title


def relevant_ids(judgments: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the documents judged relevant, once for each query that they are relevant for."""
    return [document_id for grades in judgments.values() for document_id, grade in grades.items() if grade > 0]


def _string(row: Mapping[str, Any], key: str, source: Source, line: int, *, may_be_empty: bool = False) -> str:
    if key not in row:
        raise source.error(f"the key {key!r} is missing (found: {', '.join(row) or 'none'})", line)
    value = row[key]
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        kind = "a string" if may_be_empty else "a string that is not empty"
        raise source.error(f"{key!r} must be {kind}, but got {value!r}", line)
    return value


def _rows(source: Source, *, trec: tuple[int, int, int], trec_width: int) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Yield line number and (query, document, score) of a table with a header, or of TREC's columns without one."""
    columns: tuple[int, ...] | None = None
    width = 0
    for line, text in source.lines():
        if columns is None:
            header = [name.strip().lower() for name in text.split("\t")]
            columns, width = _columns(header, source, line), len(header)
            if columns is not None:
                continue
            if len(text.split()) != trec_width:
                raise source.error(f"it has no header with the columns {source.expected[0].split(chr(9))}", line)
            columns, width = trec, trec_width
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) != width:
            problem = f"it has {len(fields)} columns where {width} are expected (are they separated by tabs?)"
            raise source.error(problem, line)
        query_id, document_id, score = (fields[index].strip() for index in columns)
        if not query_id or not document_id:
            raise source.error("an id is empty", line)
        yield line, (query_id, document_id, score)


def _columns(header: list[str], source: Source, line: int) -> tuple[int, ...] | None:
    """Return where query, document and score stand; None if the line is no header."""
    wanted = (*source.expected[0].split("\t")[:2], "score")
    found = [
        next((header.index(name) for name in names if name in header), None)
        for names in (_QUERY_COLUMNS, _DOCUMENT_COLUMNS, _SCORE_COLUMNS)
    ]
    known = tuple(index for index in found if index is not None)
    if known and len(known) < len(found):
        lacking = ", ".join(repr(name) for name, index in zip(wanted, found, strict=True) if index is None)
        raise source.error(f"column {lacking} is missing (found: {', '.join(header)})", line)
    return known or None
