"""
Makes a folder in BEIR format of other forms: a CSV of query, document and label, or TREC topics, judgments and texts.

`collections` says what a BEIR folder is. Nothing is written before all of it was read and found sound.
"""

import csv
import html
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.evaluation.data.collections import (
    EXPECTED_QRELS,
    Judgments,
    Source,
    Text,
    load_judgments,
    relevant_ids,
    title_of,
)

EXPECTED_CSV = (
    "query,document,label",
    '"how do I send something back","Goods can be sent back within 30 days.",1',
    '"how do I send something back","Parcels leave the warehouse at noon.",0',
)
EXPECTED_TOPICS = (
    "<top> <num> Number: 301 <title> international organized crime <desc> Description: ... </top>",
    '<topic number="301"><query>international organized crime</query></topic>',
    "301\tinternational organized crime",
)
EXPECTED_TEXTS = (
    '{"_id": "d1", "title": "Returns", "text": "Goods can be sent back within 30 days."}',
    "d1\tGoods can be sent back within 30 days.",
    "d1\tReturns\tGoods can be sent back within 30 days.",
)

TOPIC_FIELDS: Mapping[str, tuple[str, ...]] = {
    "title": ("title", "query"),
    "description": ("desc", "description", "question"),
    "narrative": ("narr", "narrative"),
}
"""What of a topic can become the query, and the tags under which TREC's tracks have it."""

_TOPIC = re.compile(r"<(top|topic)\b([^>]*)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
_TOPIC_TAG = re.compile(r"<(num|title|query|desc|description|question|narr|narrative)\b[^>]*>([^<]*)", re.IGNORECASE)
_TOPIC_NUMBER = re.compile(r"""\b(?:number|id)\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_TOPIC_LABEL = re.compile(r"^\s*(number|topic|title|description|narrative)\s*:", re.IGNORECASE)
_ID_KEYS = ("_id", "id", "docid", "doc_id", "docno", "document_id", "pid")
_TEXT_KEYS = ("text", "contents", "content", "body", "passage", "document")
_DELIMITERS = (",", ";", "\t")
_LONGEST_FIELD = 2**31 - 1  # characters; csv's own limit of 131,072 is less than many a document


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
    for line, (query, document, label) in _csv_rows(source, columns):
        grade = _whole(label)
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
    return _write(Path(folder), texts, {query_id: text for text, query_id in queries.items()}, judgments, source)


def convert_trec(
    topics: str | Path, qrels: str | Path, texts: str | Path, folder: str | Path, *, field: str = "title"
) -> Converted:
    """
    Turn TREC topics, TREC judgments and a collection of texts into a BEIR folder.

    :param topics: `<top>` or `<topic>` blocks as TREC publishes them, lines of id, tab, text, or BEIR's JSON lines.
    :param qrels: Four columns without a header (query, iteration, document, grade), or BEIR's three with one.
    :param texts: The documents: JSON lines with an id, a text and perhaps a title, or lines of id, tab, (title, tab,)
        text.
    :param folder: Where to write; it must not hold a collection yet.
    :param field: What of a `<top>` block becomes the query: a key of `TOPIC_FIELDS`.
    :raises CollectionError: If a file has another form, or the files' ids do not fit together.
    :raises FileExistsError: If the folder holds a collection.
    :raises ValueError: If `field` is unknown.
    """
    choice("field", field, TOPIC_FIELDS)
    source, judged_in = Source(Path(topics), EXPECTED_TOPICS), Source(Path(qrels), EXPECTED_QRELS)
    queries = _topics(source, field)
    judgments = load_judgments(judged_in.path)
    if not queries.keys() & judgments.keys():
        there = f"{source.path.name} (such as {next(iter(queries))!r} there)"
        raise judged_in.error(f"none of its {len(judgments)} query ids is in {there}")
    documents = _texts(Source(Path(texts), EXPECTED_TEXTS))
    return _write(Path(folder), documents, queries, judgments, judged_in)


def _csv_rows(source: Source, columns: CsvColumns) -> list[tuple[int, tuple[str, str, str]]]:
    """Return the rows with the line that each begins on; a quoted text may have several lines."""
    content = source.text()
    previous = csv.field_size_limit(_LONGEST_FIELD)
    try:
        wanted = [name.strip().lower() for name in columns]
        headers = {delimiter: _header(content, delimiter) for delimiter in _DELIMITERS}
        delimiter = max(_DELIMITERS, key=lambda each: (sum(n in headers[each] for n in wanted), len(headers[each])))
        header = headers[delimiter]
        if missing := [name for name in columns if name.strip().lower() not in header]:
            problem = f"column {', '.join(map(repr, missing))} is missing (found: {', '.join(header) or 'none'})"
            raise source.error(problem, 1)
        query, document, label = map(header.index, wanted)
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        next(reader)
        rows, line = [], reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                problem = f"it has {len(row)} columns where {len(header)} are expected (is a text without its quotes?)"
                raise source.error(problem, line)
            if row:
                rows.append((line, (row[query], row[document], row[label])))
            line = reader.line_num + 1
        return rows
    except csv.Error as error:
        raise source.error(f"it is not a CSV ({error})") from None
    finally:
        csv.field_size_limit(previous)


def _header(content: str, delimiter: str) -> list[str]:
    first = next(csv.reader(io.StringIO(content, newline=""), delimiter=delimiter), [])
    return [name.strip().lower() for name in first]


def _topics(source: Source, field: str) -> dict[str, str]:
    start = source.text().lstrip()[:1]
    if start == "<":
        found = _marked_topics(source, field)
    elif start == "{":
        found = ((line, *_id_and_text(source, line, row)) for line, row in source.objects())
    else:
        found = _tabbed_topics(source)
    queries: dict[str, str] = {}
    for line, query_id, text in found:
        if not query_id or not text:
            raise source.error(f"topic {query_id!r} has no {'text' if query_id else 'id'}", line)
        if query_id in queries:
            raise source.error(f"topic {query_id!r} appears twice", line)
        queries[query_id] = text
    if not queries:
        raise source.error("it has no topics")
    return queries


def _marked_topics(source: Source, field: str) -> Iterator[tuple[int, str, str]]:
    """`<top>` blocks, whose inner tags are mostly not closed, and `<topic number="...">` blocks of XML."""
    content = source.text()
    for block in _TOPIC.finditer(content):
        line = content.count("\n", 0, block.start()) + 1
        fields = {tag.lower(): _unlabelled(text) for tag, text in _TOPIC_TAG.findall(block[3])}
        attribute = _TOPIC_NUMBER.search(block[2])
        number = attribute[1].strip() if attribute else fields.pop("num", "")
        if not number:
            raise source.error("a topic has no <num> and no number=", line)
        text = next((fields[tag] for tag in TOPIC_FIELDS[field] if fields.get(tag)), None)
        if text is None:
            has = ", ".join(f"<{tag}>" for tag in fields) or "no field"
            raise source.error(f"topic {number!r} has no {field} (it has {has})", line)
        yield line, number, text


def _unlabelled(text: str) -> str:
    return " ".join(html.unescape(_TOPIC_LABEL.sub("", text)).split())


def _tabbed_topics(source: Source) -> Iterator[tuple[int, str, str]]:
    for line, text in source.lines():
        fields = text.split("\t")
        if len(fields) != 2:
            problem = f"it has {len(fields)} columns where an id and a text are expected (are they separated by a tab?)"
            raise source.error(problem, line)
        yield line, fields[0].strip(), fields[1].strip()


def _texts(source: Source) -> Iterator[Text]:
    """Yield the documents one by one: a collection may be larger than the memory."""
    first = next(source.lines(), None)
    if first is None:
        raise source.error("it has no documents")
    seen: set[str] = set()
    for line, document in _json_texts(source) if first[1].lstrip().startswith("{") else _tabbed_texts(source):
        if not document.id:
            raise source.error("an id is empty", line)
        if document.id in seen:
            raise source.error(f"document {document.id!r} appears twice", line)
        seen.add(document.id)
        yield document


def _json_texts(source: Source) -> Iterator[tuple[int, Text]]:
    for line, row in source.objects():
        document_id, text = _id_and_text(source, line, row)
        yield line, Text(document_id, title_of(row, source, line), text)


def _tabbed_texts(source: Source) -> Iterator[tuple[int, Text]]:
    width: int | None = None
    for line, text in source.lines():
        fields = [field.strip() for field in text.split("\t")]
        is_first, width = width is None, len(fields) if width is None else width
        if len(fields) != width or width not in (2, 3):
            wanted = width if width in (2, 3) else "2 (id, text) or 3 (id, title, text)"
            problem = f"it has {len(fields)} columns where {wanted} are expected (are they separated by tabs?)"
            raise source.error(problem, line)
        if is_first and fields[0].lower() in _ID_KEYS and fields[-1].lower() in _TEXT_KEYS:
            continue
        yield line, Text(fields[0], fields[1] if width == 3 else "", fields[-1])


def _id_and_text(source: Source, line: int, row: Mapping[str, object]) -> tuple[str, str]:
    found = []
    for what, keys in (("id", _ID_KEYS), ("text", _TEXT_KEYS)):
        key = next((key for key in keys if key in row), None)
        if key is None:
            problem = f"there is no {what}: one of the keys {', '.join(keys)} (found: {', '.join(row) or 'none'})"
            raise source.error(problem, line)
        value = row[key]
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise source.error(f"{key!r} must be a string, but got {value!r}", line)
        found.append(str(value).strip())
    if not found[0]:
        raise source.error("an id is empty", line)
    return found[0], found[1]


def _whole(label: str) -> int | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return int(value) if value.is_integer() and value >= 0 else None


def _write(
    folder: Path, documents: Iterable[Text], queries: Mapping[str, str], judgments: Judgments, judged_in: Source
) -> Converted:
    """Write beside the folder and rename at the end, so that an error or a crash leaves nothing half done."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: name another one, or remove it first")
    made = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(made, ignore_errors=True)
    (made / "qrels").mkdir(parents=True)
    try:
        known = set()
        with (made / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            for document in documents:
                known.add(document.id)
                stream.write(_json_line({"_id": document.id, "title": document.title, "text": document.text}))
        relevant = relevant_ids(judgments)
        absent = sum(document_id not in known for document_id in relevant)
        if absent == len(relevant):
            problem = f"none of its {len(relevant)} relevant document ids is among the {len(known)} documents"
            raise judged_in.error(problem)
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
    notes = []
    if absent:
        notes.append(f"{absent} of {len(relevant)} relevant documents are not among the documents")
    if unjudged := len(queries.keys() - judgments.keys()):
        notes.append(f"{unjudged} queries have no judgment and will not be measured")
    if unasked := len(judgments.keys() - queries.keys()):
        notes.append(f"judgments of {unasked} queries without a text will not be used")
    return Converted(folder, len(known), len(queries), len(rows), tuple(notes))


def _json_line(row: Mapping[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
