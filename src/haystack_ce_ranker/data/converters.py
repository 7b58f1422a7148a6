"""
Makes a folder in BEIR format of other forms: a CSV of query, document and label, or TREC topics, judgments and texts.

`collections` says what a BEIR folder is. Nothing is written before all of it was read and found sound.
"""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.data.collections import Text, relevant_ids, text_of
from haystack_ce_ranker.data.sources import Source, trimmed
from haystack_ce_ranker.data.tables import (
    EXPECTED_QRELS,
    REPEATED,
    TRAILING,
    Judgments,
    judgments_of,
    whole,
)
from haystack_ce_ranker.data.topics import (
    EXPECTED_TOPICS,
    TOPIC_FIELDS,
    id_and_text,
    names_columns,
    read_topics,
)

EXPECTED_CSV = (
    "query,document,label",
    '"how do I send something back","Goods can be sent back within 30 days.",1',
    '"how do I send something back","Parcels leave the warehouse at noon.",0',
)
EXPECTED_TEXTS = (
    '{"_id": "d1", "title": "Returns", "text": "Goods can be sent back within 30 days."}',
    "d1\tGoods can be sent back within 30 days.",
    "d1\tReturns\tGoods can be sent back within 30 days.",
)

TRAILING_CELLS = "empty cells at the end of a row are left out"

_DELIMITERS = (",", ";", "\t")
_LONGEST_FIELD = 2**28  # characters; csv's own limit of 131,072 is less than many a document
_INNER_RETURN = re.compile("\r(?!\n|\\Z)")
_STAND_IN = "\udfff"  # which no file in UTF-8 holds


class CsvColumns(NamedTuple):
    """What the columns of a CSV are called."""

    query: str = "query"
    document: str = "document"
    label: str = "label"


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. `notes` says in words what was left out or is odd."""

    folder: Path
    documents: int
    queries: int
    judgments: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"{self.documents} documents, {self.queries} queries, {self.judgments} judgments"
        lines = [f"wrote {self.folder}: {counts}", *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, f"next: haystack-ce-ranker evaluate {shlex.quote(str(self.folder))}"])


def convert_csv(path: str | Path, folder: str | Path, *, columns: CsvColumns | None = None) -> Converted:
    """
    Turn a CSV with a header into a BEIR folder: each row a query, a document and a label.

    Equal queries become one, and equal documents; both get ids by the order in which they appear. Commas, semicolons or
    tabs part the columns. All distinct documents together are the collection that is searched.

    :param path: The CSV, in UTF-8.
    :param folder: Where to write; it must not hold a collection yet.
    :param columns: What the columns are called.
    :raises CollectionError: If a column is missing or empty, a label is not a whole number, or a pair has two labels.
    :raises FileExistsError: If the folder holds a collection.
    """
    columns = CsvColumns() if columns is None else columns
    source = Source(Path(path), (",".join(columns), *EXPECTED_CSV[1:]))
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    judgments: Judgments = {}
    for line, (query, document, label) in csv_rows(source, columns):
        grade = whole(label.strip())
        if grade is None:
            problem = f"column {columns.label!r} must be a whole number (0: not relevant), but got {label!r}"
            raise source.error(problem, line)
        for name, value in ((columns.query, query), (columns.document, document)):
            if not value.strip():
                raise source.error(f"column {name!r} is empty", line)
        query_id = queries.setdefault(query.strip(), f"q{len(queries) + 1}")
        document_id = documents.setdefault(document.strip(), f"d{len(documents) + 1}")
        grades = judgments.setdefault(query_id, {})
        if (before := grades.setdefault(document_id, grade)) != grade:
            raise source.error(f"this query and document had the label {before} before, and here {grade}", line)
    if not judgments:
        raise source.error("it has no rows below its header")
    if not relevant_ids(judgments):
        raise source.error(f"no row has a {columns.label!r} above 0: nothing is relevant")
    texts = (Text(document_id, "", text) for text, document_id in documents.items())
    asked = {query_id: text for text, query_id in queries.items()}
    return _write(Path(folder), texts, asked, judgments, [source])


def convert_trec(
    topics: str | Path, qrels: str | Path, texts: str | Path, folder: str | Path, *, field: str = "title"
) -> Converted:
    """
    Turn TREC topics, TREC judgments and a collection of texts into a BEIR folder.

    Each file may be packed (`.gz`, `.zst`); those of JSON lines may be parquet instead.

    :param topics: `<top>` or `<topic>` blocks as TREC publishes them, lines of id, tab, text, or BEIR's JSON lines.
    :param qrels: Four columns without a header (query, iteration, document, grade), or BEIR's three with one.
    :param texts: The documents: JSON lines with an id, a text and perhaps a title and metadata, or lines of id, tab,
        (title, tab,) text.
    :param folder: Where to write; it must not hold a collection yet.
    :param field: What of a `<top>` block becomes the query: a key of `TOPIC_FIELDS`.
    :raises CollectionError: If a file has another form, or the files' ids do not fit together.
    :raises FileExistsError: If the folder holds a collection.
    :raises ValueError: If `field` is unknown.
    """
    choice("field", field, TOPIC_FIELDS)
    source, judged_in = Source(Path(topics), EXPECTED_TOPICS), Source(Path(qrels), EXPECTED_QRELS)
    judgments = judgments_of([judged_in])
    queries = read_topics(source, field, judgments)
    if not queries.keys() & judgments.keys():
        there = f"{source.path.name} (such as {next(iter(queries))!r} there)"
        raise judged_in.error(f"none of its {len(judgments)} query ids is in {there}")
    described_in = Source(Path(texts), EXPECTED_TEXTS)
    return _write(Path(folder), read_texts(described_in), queries, judgments, [judged_in, source, described_in])


def csv_rows(source: Source, columns: CsvColumns) -> list[tuple[int, tuple[str, str, str]]]:
    """Return the rows with the line that each begins on; a quoted text may have several lines."""
    previous = csv.field_size_limit(_LONGEST_FIELD)
    wanted = [name.strip().lower() for name in columns]
    rows: list[tuple[int, tuple[str, str, str]]] = []
    line = 1
    try:
        headers = {delimiter: _header(source, delimiter) for delimiter in _DELIMITERS}
        delimiter = max(_DELIMITERS, key=lambda each: (sum(n in headers[each] for n in wanted), len(headers[each])))
        header = headers[delimiter]
        reader = csv.reader(_csv_lines(source), delimiter=delimiter, strict=True)
        next(reader, None)
        if missing := [name for name in columns if name.strip().lower() not in header]:
            problem = f"column {', '.join(map(repr, missing))} is missing (found: {', '.join(header) or 'none'})"
            raise source.error(problem)
        query, document, label = map(header.index, wanted)
        line = reader.line_num + 1
        for row in reader:
            cells = [cell.replace(_STAND_IN, "\r") for cell in row]
            if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
                source.mend(TRAILING_CELLS)
                cells = cells[: len(header)]
            if row and len(cells) != len(header):
                problem = f"it has {len(row)} columns where {len(header)} are expected (is a text without its quotes?)"
                raise source.error(problem, line)
            if any(cell.strip() for cell in cells):
                rows.append((line, (cells[query], cells[document], cells[label])))
            line = reader.line_num + 1
    except csv.Error as error:
        raise source.error(f"it is not a CSV ({error})", line) from None
    finally:
        csv.field_size_limit(previous)
    return rows


def _csv_lines(source: Source) -> Generator[str, None, None]:
    """Yield the lines; `csv` takes a carriage return for the end of a row, so another character stands in for it."""
    return (_INNER_RETURN.sub(_STAND_IN, text) for text in source.lines(raw=True))


def _header(source: Source, delimiter: str) -> list[str]:
    with closing(_csv_lines(Source(source.path, source.expected))) as lines:
        first = next(csv.reader(lines, delimiter=delimiter), [])
    return [name.strip().lower() for name in first]


def read_texts(source: Source) -> Iterator[Text]:
    """Yield the documents one by one: a collection may be larger than the memory."""
    seen: dict[str, int] = {}
    for document in _object_texts(source) if source.holds_objects() else _tabbed_texts(source):
        held = hash((document.title, document.text, repr(document.metadata)))
        if document.id not in seen:
            seen[document.id] = held
            yield document
        elif seen[document.id] == held:
            source.mend(REPEATED)
        else:
            raise source.error(f"document {document.id!r} appears twice, with different texts")
    if not seen:
        raise source.error("it has no documents")


def _object_texts(source: Source) -> Iterator[Text]:
    for row in source.objects():
        document_id, text = id_and_text(source, row)
        yield text_of(source, document_id, row, text)


def _tabbed_texts(source: Source) -> Iterator[Text]:
    width: int | None = None
    for text in source.lines():
        fields = [trimmed(field) for field in text.split("\t")]
        is_first, most = width is None, 3 if width is None else width
        if len(fields) > most and not any(fields[most:]):
            source.mend(TRAILING)
            fields = fields[:most]
        width = len(fields) if width is None else width
        if len(fields) != width or width not in (2, 3):
            wanted = width if width in (2, 3) else "2 (id, text) or 3 (id, title, text)"
            problem = f"it has {len(fields)} columns where {wanted} are expected (are they separated by tabs?)"
            raise source.error(problem)
        if is_first and names_columns(fields):
            continue
        if not fields[0].strip():
            raise source.error("an id is empty")
        yield Text(fields[0], fields[1] if width == 3 else "", fields[-1])


def _write(
    folder: Path, documents: Iterable[Text], queries: Mapping[str, str], judgments: Judgments, sources: Sequence[Source]
) -> Converted:
    """Write beside the folder and rename at the end, so that an error or a crash leaves nothing half done."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: name another one, or remove it first")
    made = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)  # fails where somebody else put a file or a link of that name
    (made / "qrels").mkdir()
    try:
        known = set()
        with (made / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            for document in documents:
                known.add(document.id)
                row = {"_id": document.id, "title": document.title, "text": document.text}
                more = {"metadata": dict(document.metadata)} if document.metadata else {}
                stream.write(_json_line(row | more))
        relevant = relevant_ids(judgments)
        absent = sum(document_id not in known for document_id in relevant)
        if absent == len(relevant):
            problem = f"none of its {len(relevant)} relevant document ids is among the {len(known)} documents"
            raise sources[0].error(problem)
        lines = [_json_line({"_id": query_id, "text": text}) for query_id, text in queries.items()]
        (made / "queries.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        rows = [
            f"{query_id}\t{document_id}\t{grade}\n"
            for query_id, grades in judgments.items()
            for document_id, grade in grades.items()
        ]
        text = EXPECTED_QRELS[0] + "\n" + "".join(rows)
        (made / "qrels" / "test.tsv").write_text(text, encoding="utf-8", newline="\n")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    notes = [note for source in sources for note in source.counts.notes()]
    if absent:
        notes.append(f"{absent} of {len(relevant)} relevant documents are not among the documents")
    if unjudged := len(queries.keys() - judgments.keys()):
        notes.append(f"{unjudged} queries have no judgment and will not be measured")
    if unasked := len(judgments.keys() - queries.keys()):
        notes.append(f"judgments of {unasked} queries without a text will not be used")
    return Converted(folder, len(known), len(queries), len(rows), tuple(notes))


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
