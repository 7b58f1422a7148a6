"""What was found about a pipeline: figures for each query and in all, without a text of a query or a document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from haystack_ce_ranker.inspecting.mixing import MixedScores
from haystack_ce_ranker.inspecting.readings import Reading, added

VERSION = 1
"""Raised when a key of the file changes its meaning."""


@dataclass(frozen=True)
class AtRanker:
    """
    What happened at a ranker and before it, for a query or for all.

    :ivar reading: What it read.
    :ivar lost: Candidates that were found and never arrived.
    :ivar dropped_by: How many of them each component before it dropped, by its name.
    """

    reading: Reading
    lost: int
    dropped_by: Mapping[str, int]


@dataclass(frozen=True)
class QueryFindings:
    """
    What happened for one query.

    :ivar found: Different documents that all components returned.
    :ivar without_text: Of these, how many have no text.
    :ivar milliseconds: Time of the whole retrieval part.
    :ivar rankers: By the ranker's name; one that did not run is missing.
    """

    found: int
    without_text: int
    milliseconds: float
    rankers: Mapping[str, AtRanker]


@dataclass(frozen=True)
class Ranker:
    """
    A ranker of the pipeline.

    :ivar kind: Its class.
    :ivar ours: Whether it is a CrossEncoderRanker.
    :ivar most: The most tokens of a pair; None if that is not known.
    :ivar known: Whether it is known what it reads.
    :ivar total: The sums over all queries.
    """

    kind: str
    ours: bool
    most: int | None
    known: bool
    total: AtRanker


@dataclass(frozen=True)
class Findings:
    """
    All that was found.

    :ivar pipeline: The name of its file.
    :ivar notes: In words, what is not run, and what was done with the stores.
    :ivar limits: The `top_k` of the components that have one, by name.
    :ivar mixed: Joiners that mix scores which do not compare.
    :ivar queries: By query id.
    """

    pipeline: str
    notes: tuple[str, ...]
    limits: Mapping[str, int]
    rankers: Mapping[str, Ranker]
    mixed: tuple[MixedScores, ...]
    queries: Mapping[str, QueryFindings]

    def plain(self, sentences: Sequence[str]) -> dict[str, Any]:
        """Return what the file holds: all figures, and the sentences that were printed."""
        found = asdict(self)
        for ranker in found["rankers"].values():
            ranker["total"] = _with_shares(ranker["total"])
        for query in found["queries"].values():
            query["rankers"] = {name: _with_shares(one) for name, one in query["rankers"].items()}
        return {"version": VERSION, "sentences": list(sentences), **found}


def total_of(some: Sequence[AtRanker]) -> AtRanker:
    """Return the sum over queries."""
    names = dict.fromkeys(name for one in some for name in one.dropped_by)
    dropped = {name: sum(one.dropped_by.get(name, 0) for one in some) for name in names}
    return AtRanker(added([one.reading for one in some]), sum(one.lost for one in some), dropped)


def _with_shares(plain: dict[str, Any]) -> dict[str, Any]:
    reading = Reading(**plain.pop("reading"))
    shares = {"unread_share": reading.unread_share, "padding_share": reading.padding_share}
    return {**asdict(reading), **shares, **plain}
