"""
Collections in BEIR format and runs as they lie on disk: read, check, sample.

Every error names the file, the line and the column, and shows three lines of the form that was expected.
"""

import hashlib
import json
import random
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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

    def __init__(self, path: Path, problem: str, expected: tuple[str, ...], line: int | None = None) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        form = "\n".join(f"    {text}" for text in expected)
        super().__init__(f"{where}: {problem}.\n  Expected form ({path.name or path}):\n{form}")


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
    Documents, queries and judgments. Only queries that have a judgment are kept: no other can be measured.

    `notes` says in words what was left out when it was read or sampled.
    """

    name: str
    documents: Mapping[str, Text]
    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()

    def sample(self, queries: int | None, *, seed: int = 0) -> "Collection":
        """
        Return the collection with at most that many of its queries, drawn at random with `seed`, in their order.

        All documents stay, so a query is as hard as before.
        """
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
    documents = _load_corpus(folder / "corpus.jsonl")
    all_queries = _load_queries(folder / "queries.jsonl")
    judged_in = _split_path(folder / "qrels", split)
    judgments = load_judgments(judged_in)
    known = {query_id: grades for query_id, grades in judgments.items() if query_id in all_queries}
    queries = {query_id: text for query_id, text in all_queries.items() if query_id in known}
    if not queries:
        problem = f"none of its {len(judgments)} query ids is in queries.jsonl (which has {len(all_queries)})"
        raise CollectionError(judged_in, problem, EXPECTED_QRELS)
    relevant = relevant_ids(known)
    absent = sum(document_id not in documents for document_id in relevant)
    if relevant and absent == len(relevant):
        problem = f"none of its {len(relevant)} relevant document ids is in corpus.jsonl"
        raise CollectionError(judged_in, problem, EXPECTED_QRELS)
    notes = []
    if len(all_queries) > len(queries):
        notes.append(f"{len(all_queries) - len(queries)} queries without judgments are left out")
    if len(judgments) > len(known):
        notes.append(f"judgments of {len(judgments) - len(known)} queries that queries.jsonl lacks are left out")
    if absent:
        notes.append(f"{absent} of {len(relevant)} relevant documents are not in the corpus (they count as missed)")
    barren = sum(not any(grade > 0 for grade in grades.values()) for grades in known.values())
    if barren:
        notes.append(f"{barren} queries have no relevant document and count as 0")
    name = folder.resolve().name
    return Collection(name, documents, queries, {query_id: known[query_id] for query_id in queries}, tuple(notes))


def load_judgments(path: Path) -> Judgments:
    """
    Read judgments: tab-separated with a header (`query-id`, `corpus-id`, `score`), or TREC's four columns without one.

    :raises CollectionError: If a column is missing, a grade is not a whole number, or a pair has two grades.
    """
    judgments: Judgments = {}
    for line, (query_id, document_id, grade) in _rows(path, EXPECTED_QRELS, trec=(0, 2, 3), trec_width=4):
        try:
            value = int(grade)
        except ValueError:
            raise CollectionError(
                path, f"column 'score' must be a whole number, but got {grade!r}", EXPECTED_QRELS, line
            ) from None
        grades = judgments.setdefault(query_id, {})
        if grades.setdefault(document_id, value) != value:
            problem = f"query {query_id!r} and document {document_id!r} were judged {grades[document_id]} before"
            raise CollectionError(path, problem, EXPECTED_QRELS, line)
    if not judgments:
        raise CollectionError(path, "it has no judgments", EXPECTED_QRELS)
    return judgments


def load_run(path: str | Path, *, collection: Collection | None = None, depth: int | None = None) -> Run:
    """
    Read a run: tab-separated with a header (`qid`, `docid`, `score`), or TREC's six columns without one.

    Documents are ordered by score, highest first; equal scores keep the file's order.

    :param collection: If given, only its queries are kept, and every document must be in its corpus.
    :param depth: Keep at most that many documents a query.
    :raises CollectionError: If a column is missing, a score is not a number, or a document is unknown or repeated.
    """
    path = Path(path)
    run: Run = {}
    for line, (query_id, document_id, text) in _rows(path, EXPECTED_RUN, trec=(0, 2, 4), trec_width=6):
        try:
            score = float(text)
        except ValueError:
            problem = f"column 'score' must be a number, but got {text!r}"
            raise CollectionError(path, problem, EXPECTED_RUN, line) from None
        if score != score:
            raise CollectionError(path, "column 'score' is NaN, which has no order", EXPECTED_RUN, line)
        if collection is not None:
            if query_id not in collection.queries:
                continue
            if document_id not in collection.documents:
                problem = f"document {document_id!r} is not in the corpus of {collection.name!r}"
                raise CollectionError(path, problem, EXPECTED_RUN, line)
        scores = run.setdefault(query_id, {})
        if document_id in scores:
            raise CollectionError(path, f"document {document_id!r} appears twice for {query_id!r}", EXPECTED_RUN, line)
        scores[document_id] = score
    if not run:
        raise CollectionError(path, "it has no rows for the collection's queries", EXPECTED_RUN)
    ordered = {}
    for query_id, scores in run.items():
        best_first = sorted(scores.items(), key=lambda item: -item[1])
        ordered[query_id] = dict(best_first if depth is None else best_first[:depth])
    return ordered


def _check_shape(folder: Path) -> None:
    if not folder.is_dir():
        problem = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise CollectionError(folder, f"{problem}{_OTHER_FORMS if folder.exists() else ''}", EXPECTED_FOLDER)
    missing = [name for name in ("corpus.jsonl", "queries.jsonl", "qrels") if not (folder / name).exists()]
    if missing:
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        problem = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing (found: {shown or 'nothing'})"
        raise CollectionError(folder, problem + _OTHER_FORMS, EXPECTED_FOLDER)


def _load_corpus(path: Path) -> dict[str, Text]:
    documents: dict[str, Text] = {}
    for line, row in json_lines(path, EXPECTED_CORPUS):
        document_id = _string(row, "_id", path, EXPECTED_CORPUS, line)
        if document_id in documents:
            raise CollectionError(path, f"'_id' {document_id!r} appears twice", EXPECTED_CORPUS, line)
        text = _string(row, "text", path, EXPECTED_CORPUS, line, may_be_empty=True)
        title = title_of(row, path, EXPECTED_CORPUS, line)
        metadata = row.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise CollectionError(path, f"'metadata' must be an object, but got {metadata!r}", EXPECTED_CORPUS, line)
        documents[document_id] = Text(document_id, title, text, {} if metadata is None else metadata)
    if not documents:
        raise CollectionError(path, "it has no documents", EXPECTED_CORPUS)
    return documents


def _load_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line, row in json_lines(path, EXPECTED_QUERIES):
        query_id = _string(row, "_id", path, EXPECTED_QUERIES, line)
        if query_id in queries:
            raise CollectionError(path, f"'_id' {query_id!r} appears twice", EXPECTED_QUERIES, line)
        queries[query_id] = _string(row, "text", path, EXPECTED_QUERIES, line)
    if not queries:
        raise CollectionError(path, "it has no queries", EXPECTED_QUERIES)
    return queries


def _split_path(folder: Path, split: str | None) -> Path:
    found = sorted(folder.glob("*.tsv"))
    if split is not None:
        path = folder / f"{split}.tsv"
        if path not in found:
            problem = f"there are no judgments named {split!r} (found: {', '.join(p.stem for p in found) or 'none'})"
            raise CollectionError(path, problem, EXPECTED_QRELS)
        return path
    if folder / "test.tsv" in found:
        return folder / "test.tsv"
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found)
    problem = f"it must hold test.tsv (found: {names})" if found else "there are no judgments: it must hold test.tsv"
    raise CollectionError(folder, problem, EXPECTED_QRELS)


def json_lines(path: Path, expected: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of a file of JSON lines; `expected` is shown in errors."""
    for line, text in text_lines(path, expected):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            problem = f"it is not a JSON object a line ({error.msg} at column {error.colno})"
            raise CollectionError(path, problem, expected, line) from None
        if not isinstance(row, dict):
            raise CollectionError(
                path, f"it must be a JSON object a line, but got {type(row).__name__}", expected, line
            )
        yield line, row


def text_lines(path: Path, expected: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield line number and text of the lines that are not empty; a byte order mark is no text."""
    if not path.is_file():
        raise CollectionError(path, "there is no such file", expected)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip():
                    yield number, text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CollectionError(path, f"it is not UTF-8 ({error.reason} at byte {error.start})", expected) from None


def read_text(path: Path, expected: tuple[str, ...]) -> str:
    """Return the whole text of a file, its line ends as they are; a byte order mark is no text."""
    if not path.is_file():
        raise CollectionError(path, "there is no such file", expected)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CollectionError(path, f"it is not UTF-8 ({error.reason} at byte {error.start})", expected) from None


def title_of(row: Mapping[str, Any], path: Path, expected: tuple[str, ...], line: int) -> str:
    """Return the title in a document's line, which may lack one; `expected` is shown in errors."""
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise CollectionError(path, f"'title' must be a string, but got {title!r}", expected, line)
    return "" if title is None else title


def relevant_ids(judgments: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the documents judged relevant, once for each query that they are relevant for."""
    return [document_id for grades in judgments.values() for document_id, grade in grades.items() if grade > 0]


def _string(
    row: Mapping[str, Any], key: str, path: Path, expected: tuple[str, ...], line: int, *, may_be_empty: bool = False
) -> str:
    if key not in row:
        raise CollectionError(path, f"the key {key!r} is missing (found: {', '.join(row) or 'none'})", expected, line)
    value = row[key]
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        kind = "a string" if may_be_empty else "a string that is not empty"
        raise CollectionError(path, f"{key!r} must be {kind}, but got {value!r}", expected, line)
    return value


def _rows(
    path: Path, expected: tuple[str, ...], *, trec: tuple[int, int, int], trec_width: int
) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Yield line number and (query, document, score) of a table with a header, or of TREC's columns without one."""
    columns: tuple[int, int, int] | None = None
    width = 0
    for line, text in text_lines(path, expected):
        if columns is None:
            header = [name.strip().lower() for name in text.split("\t")]
            found = [
                next((header.index(name) for name in names if name in header), -1)
                for names in (_QUERY_COLUMNS, _DOCUMENT_COLUMNS, _SCORE_COLUMNS)
            ]
            if any(index >= 0 for index in found):
                if -1 in found:
                    missing = expected[0].split("\t")
                    names = (missing[0], missing[1], "score")
                    lacking = ", ".join(repr(name) for name, index in zip(names, found, strict=True) if index < 0)
                    problem = f"column {lacking} is missing (found: {', '.join(header)})"
                    raise CollectionError(path, problem, expected, line)
                columns, width = (found[0], found[1], found[2]), len(header)
                continue
            if len(text.split()) != trec_width:
                problem = f"it has no header with the columns {expected[0].split(chr(9))}"
                raise CollectionError(path, problem, expected, line)
            columns, width = trec, trec_width
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) != width:
            problem = f"it has {len(fields)} columns where {width} are expected (are they separated by tabs?)"
            raise CollectionError(path, problem, expected, line)
        query_id, document_id, score = (fields[index].strip() for index in columns)
        if not query_id or not document_id:
            raise CollectionError(path, "an id is empty", expected, line)
        yield line, (query_id, document_id, score)
