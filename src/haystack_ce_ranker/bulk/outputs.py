"""Writes the scores of a run: as a run in TREC's form, or as a Parquet file with what was read of each document."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from haystack_ce_ranker.bulk.shards import Shard, ShardScores
from haystack_ce_ranker.data.parquet import write_rows
from haystack_ce_ranker.data_files import replacing
from haystack_ce_ranker.evaluation.showing.files import trec

SUFFIXES = (".run", ".parquet")
"""The forms of an output, by the file's suffix."""

TAG = "ce-ranker"
"""The last column of a run."""

COLUMNS = {
    "query_id": "string",
    "document_id": "string",
    "rank": "int64",
    "logit": "double",
    "first_stage_score": "double",
    "tokens": "int64",
    "tokens_read": "int64",
    "windows": "int64",
    "why_unscored": "string",
}
"""The columns of a Parquet file, with what each holds."""


class Ranked(NamedTuple):
    """A document with its score; the fields are those of `COLUMNS`."""

    document_id: str
    logit: float | None
    first_stage_score: float
    tokens: int
    tokens_read: int
    windows: int
    why_unscored: str | None


def check_path(path: Path, *, force: bool = False) -> None:
    """
    Check where an output is to be written.

    :param force: Whether it may be there already.
    :raises ValueError: If its suffix is none of `SUFFIXES`, it is a folder, or is there already.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output must end in {' or '.join(SUFFIXES)}, but got {str(path)!r}.")
    if path.is_dir():
        raise ValueError(f"output must be a file to write, but {str(path)!r} is a folder.")
    if path.exists() and not force:
        raise ValueError(f"output {str(path)!r} is there already: name another file, or write over it with --force.")


def write_scores(path: Path, shards: Sequence[Shard], scores: Mapping[int, ShardScores]) -> None:
    """
    Write the scores of all shards at once or not at all. Equal scores make equal bytes.

    Queries stand in the order of the run. Their documents are ordered by logit, and equal logits by the run. A run has
    no documents without a score; a Parquet file has them last, with the reason.

    :param scores: By the shard's number.
    """
    ranked = rankings(shards, scores)
    if path.suffix == ".run":
        logits = {
            query_id: {one.document_id: one.logit for one in documents if one.logit is not None}
            for query_id, documents in ranked.items()
        }
        with replacing(path) as file:
            for query_id, of_query in logits.items():
                file.write(trec({query_id: of_query}, TAG))
        return
    with replacing(path) as file:
        write_rows(file.buffer, _rows(ranked), columns=COLUMNS, extra="ray")


def rankings(shards: Sequence[Shard], scores: Mapping[int, ShardScores]) -> dict[str, list[Ranked]]:
    """Return for each query its documents, best first and those without a score last."""
    found: dict[str, list[Ranked]] = {}
    for shard in shards:
        own = scores[shard.number]
        place = 0
        for asked in shard.asked:
            ranking = found.setdefault(asked.query_id, [])
            for document_id, first in zip(asked.document_ids, asked.first_stage, strict=True):
                counts = (own.tokens[place], own.tokens_read[place], own.windows[place])
                ranking.append(Ranked(document_id, own.logits[place], first, *counts, own.why_unscored.get(place)))
                place += 1
    for ranking in found.values():
        ranking.sort(key=lambda one: (one.logit is None, 0.0 if one.logit is None else -one.logit))
    return found


def _rows(ranked: Mapping[str, Sequence[Ranked]]) -> Iterator[dict[str, Any]]:
    for query_id, documents in ranked.items():
        for rank, one in enumerate(documents, 1):
            yield {"query_id": query_id, "rank": None if one.logit is None else rank, **one._asdict()}
