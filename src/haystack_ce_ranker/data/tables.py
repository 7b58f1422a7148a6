"""Reads judgments and runs: tables with a header, TREC's columns without one, JSON lines or parquet."""

import logging
import math
import re
from collections.abc import Container, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.data.sources import PADDED, Source, trimmed

Run = dict[str, dict[str, float]]
"""For each query id, document ids with scores, best first."""

Judgments = dict[str, dict[str, int]]
"""For each query id, document ids with grades; a document that is not listed is unjudged."""

EXPECTED_QRELS = ("query-id\tcorpus-id\tscore", "q1\td1\t2", "q2\td2\t1")
EXPECTED_RUN = ("qid\tdocid\trank\tscore", "q1\td1\t1\t12.5", "q1\td2\t2\t9.25")

MIXED = "spaces and tabs together part the columns"
TRAILING = "tabs at the end of a line are left out"
REPEATED = "lines that stand there twice are read once"

UNASKED = "rows of queries that are not measured are left out"

_QUERY_COLUMNS = ("query-id", "qid", "query_id", "query")
_DOCUMENT_COLUMNS = ("corpus-id", "docid", "doc_id", "document-id", "document_id", "did", "docno")
_SCORE_COLUMNS = ("score", "grade", "relevance", "label", "rel")
_COLUMNS = (_QUERY_COLUMNS, _DOCUMENT_COLUMNS, _SCORE_COLUMNS)
_BLANKS = re.compile("[ \t]+")  # str.split would part an id at a no-break space
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.ASCII | re.IGNORECASE)
_LARGEST_GRADE = 2**31 - 1

logger = logging.getLogger(__name__)


class Known(Protocol):
    """What a run is checked against; a collection is one."""

    @property
    def name(self) -> str: ...
    @property
    def queries(self) -> Container[str]: ...
    @property
    def documents(self) -> Container[str]: ...
    def own(self, query_id: str) -> str | None: ...


class ReadRun(NamedTuple):
    """A run with its file's name, and notes on what was mended or left out."""

    name: str
    scores: Run
    notes: tuple[str, ...]


class _Form(NamedTuple):
    """Where query, document and number stand, and how many columns there are."""

    columns: tuple[int, int, int]
    width: int


_TREC_QRELS, _TREC_RUN = _Form((0, 2, 3), 4), _Form((0, 2, 4), 6)


def load_judgments(path: Path) -> Judgments:
    """
    Read judgments: a table with a header (`query-id`, `corpus-id`, `score`), or TREC's four columns without one.

    JSON lines and parquet with those keys are read, too. What had to be mended is logged as a warning.

    :raises CollectionError: If a column is missing, a grade is not a whole number, or a pair has two grades.
    """
    source = Source(path, EXPECTED_QRELS)
    judgments = judgments_of([source])
    warn_of_mends(source)
    return judgments


def judgments_of(sources: Sequence[Source]) -> Judgments:
    """Read the judgments that lie in one or several files."""
    judgments: Judgments = {}
    for source in sources:
        for query_id, document_id, given in _rows(source, _TREC_QRELS):
            grade = whole(given)
            if grade is None:
                raise source.error(f"column 'score' must be a whole number, but got {given!r}")
            grades = judgments.setdefault(query_id, {})
            if document_id not in grades:
                grades[document_id] = grade
            elif grades[document_id] == grade:
                source.mend(REPEATED)
            else:
                before = grades[document_id]
                raise source.error(f"query {query_id!r} and document {document_id!r} were judged {before} before")
    if not judgments:
        raise sources[0].error("it has no judgments")
    return judgments


def has_judgments(path: Path) -> bool:
    """Tell whether a file of judgments holds any; one with a header alone holds none."""
    with closing(_rows(Source(path, EXPECTED_QRELS), _TREC_QRELS)) as rows:
        return next(rows, None) is not None


def load_run(path: str | Path, *, collection: Known | None = None, depth: int | None = None) -> Run:
    """
    Read a run: a table with a header (`qid`, `docid`, `score`), or TREC's six columns without one.

    JSON lines and parquet with those keys are read, too. Documents are ordered by score, highest first; equal scores
    keep the file's order. What had to be mended is logged as a warning.

    :param collection: If given, only its queries are kept, and every document must be in its corpus. A query that is a
        document does not find itself.
    :param depth: Keep at most that many documents a query.
    :raises CollectionError: If a column is missing, a score is not a number, or a document is unknown or repeated.
    """
    found = read_run(path, collection=collection, depth=depth)
    for note in found.notes:
        logger.warning("%s", note)
    return found.scores


def read_run(path: str | Path, *, collection: Known | None = None, depth: int | None = None) -> ReadRun:
    """Read a run as `load_run` does, and return with it what would be logged."""
    source = Source(Path(path), EXPECTED_RUN)
    scores = run_of(source, collection=collection, depth=depth)
    return ReadRun(Path(path).stem, scores, tuple(source.counts.notes()))


def run_of(source: Source, *, collection: Known | None = None, depth: int | None = None) -> Run:
    """Read a run as `load_run` does; what was mended is left to the source's counts."""
    depth = whole_number("depth", depth, optional=True)
    run: Run = {}
    for query_id, document_id, given in _rows(source, _TREC_RUN):
        score = number(given)
        if score is None:
            raise source.error(f"column 'score' must be a number, but got {given!r}")
        if math.isnan(score):
            raise source.error("column 'score' is NaN, which has no order")
        if collection is not None:
            if query_id not in collection.queries:
                source.mend(UNASKED)
                continue
            if document_id not in collection.documents:
                raise source.error(f"document {document_id!r} is not in the corpus of {collection.name!r}")
            if document_id == query_id and document_id == collection.own(query_id):
                continue
        scores = run.setdefault(query_id, {})
        if document_id in scores:
            raise source.error(f"document {document_id!r} appears twice for {query_id!r}")
        scores[document_id] = score
    if not run:
        raise source.error("it has no rows" if collection is None else "it has no rows for the collection's queries")
    ordered = {}
    for query_id, scores in run.items():
        best_first = sorted(scores.items(), key=lambda item: -item[1])
        ordered[query_id] = dict(best_first if depth is None else best_first[:depth])
    return ordered


def warn_of_mends(source: Source) -> None:
    """Log what was mended in a file that is read outside a collection, whose notes would say it."""
    for note in source.counts.notes():
        logger.warning("%s", note)


def number(value: object) -> float | None:
    """Return a number, or a text as a number; None if it is neither. NaN and infinity are numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """Return a grade, however its whole number is written (`1`, `1.0`, `-1`); None if it is none."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) <= _LARGEST_GRADE else None


def _rows(source: Source, trec: _Form) -> Generator[tuple[str, str, Any], None, None]:
    """Yield query, document and number of each row."""
    if source.holds_objects():
        for row in source.objects():
            query, document, score = (_value(source, row, keys) for keys in _COLUMNS)
            yield source.identity(*query), source.identity(*document), score[1]
        return
    form: _Form | None = None
    for text in source.lines():
        if form is None:
            form = _form(source, text, trec)
            if form is not trec:
                continue
        query_id, document_id, given = _fields(source, text, form, has_header=form is not trec)
        if not query_id.strip() or not document_id.strip():
            raise source.error("an id is empty")
        yield query_id, document_id, given


def _value(source: Source, row: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, Any]:
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise source.error(f"column {keys[0]!r} is missing (found: {', '.join(row) or 'none'})")
    return key, row[key]


def _fields(source: Source, text: str, form: _Form, *, has_header: bool) -> list[str]:
    """Part a line at its tabs, or at any blanks where only that gives the columns, and return the three that count."""
    tabbed = text.split("\t")
    is_longer = len(tabbed) > form.width and not any(map(trimmed, tabbed[form.width :]))
    tabbed = tabbed[: form.width] if is_longer else tabbed
    if len(tabbed) == form.width:
        fields = [trimmed(tabbed[index]) for index in form.columns]
        needed = fields if has_header else map(trimmed, tabbed)  # TREC's columns are never empty
        if all(needed) and number(fields[2]) is not None:
            if is_longer:
                source.mend(TRAILING)
            if fields != [tabbed[index] for index in form.columns]:
                source.mend(PADDED)
            return fields
    parted = _BLANKS.split(trimmed(text))
    if len(parted) == form.width:
        if "\t" in text:
            source.mend(MIXED if "\t" in trimmed(text) else TRAILING)
        return [parted[index] for index in form.columns]
    if len(tabbed) == form.width:
        return fields
    columns = max(len(tabbed), len(parted)) if len(tabbed) == 1 else len(tabbed)
    raise source.error(f"it has {columns} columns where {form.width} are expected (are they separated by tabs?)")


def _form(source: Source, text: str, trec: _Form) -> _Form:
    """Return the form that a first line shows: `trec` itself if it is a row of that, or that of a header."""
    ways = [name.strip() for name in text.rstrip(" \t\r").split("\t")], _BLANKS.split(trimmed(text))
    row = next((fields for fields in ways if len(fields) == trec.width), None)
    if row is not None and number(row[trec.columns[2]]) is not None:
        return trec
    wanted = source.expected[0].split("\t")
    places = [[_place(fields, names) for names in _COLUMNS] for fields in ways]
    for fields, (query, document, score) in zip(ways, places, strict=True):
        if query is not None and document is not None and score is not None:
            if fields is not ways[0] and "\t" in trimmed(text):
                source.mend(MIXED)
            return _Form((query, document, score), len(fields))
    if any(place is not None for place in places[0]):
        names = zip((*wanted[:2], "score"), places[0], strict=True)
        lacking = ", ".join(repr(name) for name, place in names if place is None)
        raise source.error(f"column {lacking} is missing (found: {', '.join(ways[0]).lower()})")
    if row is None:
        raise source.error(f"it has no header with the columns {wanted}")
    return trec


def _place(fields: Sequence[str], names: Sequence[str]) -> int | None:
    known = [field.lower() for field in fields]
    return next((known.index(name) for name in names if name in known), None)
