"""
Training data: for each query the documents to learn from, and their files, as JSON Lines or Parquet.

A file has a row for each query with flat lists, so that `datasets` reads it, and the listwise losses of
sentence-transformers take its columns. Who fills the groups and who learns from them is left to others.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from haystack_ce_ranker.checks import number, text
from haystack_ce_ranker.data.parquet import write_rows
from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.data_files import beside

SUFFIXES = (".jsonl", ".parquet")
"""The forms that `write_groups` knows, by the file's suffix."""

JUDGED = "judged"
"""The `source` of a document that comes from the judgments."""

EXPECTED_GROUPS = (
    (
        '{"query_id": "q1", "query": "how do I send something back", "document_ids": ["d1", "d7"], '
        '"documents": ["Goods can be sent back.", "Parcels leave at noon."], "labels": [1.0, 0.0], '
        '"teacher_logits": [4.2, -3.1], "sources": ["judged", "bm25"], "also_relevant": ["d4"]}'
    ),
)

_COLUMNS = {
    "query_id": "string",
    "query": "string",
    "document_ids": "[string]",
    "documents": "[string]",
    "labels": "[double]",
    "teacher_logits": "[double]",
    "sources": "[string]",
    "also_relevant": "[string]",
}
"""The columns of a Parquet file with what they hold; see `parquet.write_rows`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    A document to learn from, for one query.

    :ivar document_id: Its id in the collection; with `#` and a number for a window that is learnt as a text of its own.
    :ivar text: What the model reads: the document, or one of its windows for this query.
    :ivar label: Relevance from 0 to 1: the judged grade by the collection's highest one, or 0 where a document is
        assumed not to be relevant; None if it is neither judged nor assumed.
    :ivar teacher: The teacher's raw logit for query and text; None if no teacher was asked.
    :ivar source: What found it: `JUDGED`, or a first stage such as `bm25` or `dense`.
    :raises ValueError: If a value is not what its field takes.
    """

    document_id: str
    text: str
    label: float | None = None
    teacher: float | None = None
    source: str = JUDGED

    def __post_init__(self) -> None:
        """Check the numbers, and keep them as plain floats."""
        label = number("label", self.label, least=0, most=1, optional=True)
        teacher = number("teacher", self.teacher, optional=True)
        object.__setattr__(self, "label", None if label is None else float(label))
        object.__setattr__(self, "teacher", None if teacher is None else float(teacher))


@dataclass(frozen=True, slots=True)
class Group:
    """
    A query with documents to learn from.

    :ivar candidates: The positives first, then the negatives by their rank.
    :ivar also_relevant: The ids of other documents that are relevant for the query, or may be. They are kept out of its
        batches where there is room elsewhere.
    """

    query_id: str
    query: str
    candidates: tuple[Candidate, ...]
    also_relevant: tuple[str, ...] = ()


def row_of(group: Group) -> dict[str, Any]:
    """Return a group as the row of a file: plain values and flat lists, one entry for each candidate."""
    candidates = group.candidates
    return {
        "query_id": group.query_id,
        "query": group.query,
        "document_ids": [one.document_id for one in candidates],
        "documents": [one.text for one in candidates],
        "labels": [one.label for one in candidates],
        "teacher_logits": [one.teacher for one in candidates],
        "sources": [one.source for one in candidates],
        "also_relevant": list(group.also_relevant),
    }


def check_path(path: str | Path) -> Path:
    """
    Return the path of a file of groups.

    :raises ValueError: If its suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the name of a file of groups must end in {' or '.join(SUFFIXES)}, but got {str(path)!r}.")
    return path


def write_groups(path: str | Path, groups: Iterable[Group]) -> int:
    """
    Write groups to a file, over the one that is there. If this is interrupted, the old file stays.

    Equal groups make equal bytes.

    :param path: Its suffix, one of `SUFFIXES`, decides on the form. The folder is made if it is not there.
    :returns: How many groups were written.
    :raises ValueError: If the suffix is another one, or a query's id comes twice.
    :raises ImportError: If it is a Parquet file and pyarrow is missing.
    """
    path = check_path(path)
    write = _write_lines if path.suffix == ".jsonl" else partial(write_rows, columns=_COLUMNS, extra="train")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = beside(path)
    try:
        count = write(unfinished, map(row_of, _each_once(groups)))
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    return count


def read_groups(path: str | Path) -> list[Group]:
    """
    Read a file of groups: of `write_groups`, or made by others in that form.

    `labels`, `teacher_logits` and `sources` may be missing as a whole or hold nulls, and `also_relevant` may be
    missing. JSON Lines may be packed (`.gz`, `.zst`).

    :raises CollectionError: If the file is missing or has another form. The error names the line and shows the form.
    """
    source = Source(Path(path), EXPECTED_GROUPS)
    groups: dict[str, Group] = {}
    for row in source.objects():
        group = _group_of(source, row)
        if group.query_id in groups:
            raise source.error(f"'query_id' {group.query_id!r} appears twice")
        groups[group.query_id] = group
    if not groups:
        raise source.error("it has no groups")
    return list(groups.values())


def _each_once(groups: Iterable[Group]) -> Iterator[Group]:
    seen: set[str] = set()
    for group in groups:
        if group.query_id in seen:
            raise ValueError(f"the query id {group.query_id!r} appears twice: make one group of its candidates.")
        seen.add(group.query_id)
        yield group


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _group_of(source: Source, row: Mapping[str, Any]) -> Group:
    for key in ("query_id", "query", "document_ids", "documents"):
        if key not in row:
            raise source.error(f"the key {key!r} is missing (found: {', '.join(row) or 'none'})")
    query = source.string("query", row["query"])
    if not query.strip():
        raise source.error(f"'query' must be a text that is not empty, but got {query!r}")
    ids = [source.identity("document_ids", one) for one in _list(source, row, "document_ids")]
    columns = [
        [source.string("documents", one) for one in _list(source, row, "documents", len(ids))],
        _list(source, row, "labels", len(ids)),
        _list(source, row, "teacher_logits", len(ids)),
        [JUDGED if one is None else one for one in _list(source, row, "sources", len(ids))],
    ]
    if len(set(ids)) < len(ids):
        raise source.error(f"'document_ids' holds {next(one for one in ids if ids.count(one) > 1)!r} twice")
    try:
        candidates = tuple(
            Candidate(document, shown, label, teacher, text("source", found))
            for document, shown, label, teacher, found in zip(ids, *columns, strict=True)
        )
    except ValueError as error:
        raise source.error(str(error).rstrip(".")) from None
    also = [source.identity("also_relevant", one) for one in _list(source, row, "also_relevant", None, optional=True)]
    return Group(source.identity("query_id", row["query_id"]), query, candidates, tuple(also))


def _list(
    source: Source, row: Mapping[str, Any], key: str, length: int | None = None, *, optional: bool = False
) -> Sequence[Any]:
    """Return the list under a key; as many nulls if there is none, or with `optional` an empty one."""
    value = row.get(key)
    if value is None and (optional or (length is not None and key != "documents")):
        return [None] * (length or 0)
    if not isinstance(value, list):
        raise source.error(f"{key!r} must be a list, but got {value!r}")
    if length is not None and len(value) != length:
        raise source.error(f"{key!r} must have as many entries as 'document_ids' ({length}), but has {len(value)}")
    return value
