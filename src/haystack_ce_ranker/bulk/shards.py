"""
Shards: the parts of a run that are scored, kept and taken up again as one, and what is found of each.

Batches never reach beyond a shard. So the scores of a shard are the same to the last bit whoever scores it, whenever,
and beside whatever else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from haystack_ce_ranker.checks import is_finite
from haystack_ce_ranker.reading.documents import content_key
from haystack_ce_ranker.scoring.scores import QueryScores


class Asked(NamedTuple):
    """
    A query with documents to score for it, in the order of the run.

    :ivar first_stage: The scores that the run has.
    """

    query_id: str
    query: str
    document_ids: tuple[str, ...]
    texts: tuple[str, ...]
    first_stage: tuple[float, ...]


@dataclass(frozen=True)
class Shard:
    """
    Consecutive queries of a run, or a part of one that has many documents.

    :ivar number: Its place among the shards.
    """

    number: int
    asked: tuple[Asked, ...]

    @cached_property
    def key(self) -> str:
        """Names its texts: a shard of the same texts has the same scores."""
        return content_key(*(text for one in self.asked for text in (one.query, str(len(one.texts)), *one.texts))).hex()

    @property
    def requests(self) -> list[tuple[str, tuple[str, ...]]]:
        """What a scorer is asked."""
        return [(one.query, one.texts) for one in self.asked]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return sum(len(one.texts) for one in self.asked)


@dataclass(frozen=True)
class ShardScores:
    """
    What was found of a shard: a column each, with an entry for each pair in the order of the shard.

    :ivar logits: None for a pair that was not scored.
    :ivar tokens: Tokens of the document.
    :ivar tokens_read: How many of them the model saw.
    :ivar windows: Forward passes that it took.
    :ivar why_unscored: Why pairs were not scored, by their place; see `DocumentScore.why_unscored`.
    :ivar queries_cut: How many queries were not shown whole in a pair.
    :ivar how: What ran the model: runtime, number format and device.
    :ivar seconds: How long it took.
    :ivar cpu_seconds: The time that CPUs worked on it.
    """

    logits: list[float | None]
    tokens: list[int]
    tokens_read: list[int]
    windows: list[int]
    why_unscored: dict[int, str] = field(default_factory=dict)
    queries_cut: int = 0
    how: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, found: Sequence[QueryScores], **measured: Any) -> "ShardScores":
        """Return the scores of a shard's queries as columns."""
        documents = [one for of_query in found for one in of_query.documents]
        return cls(
            [one.logit for one in documents],
            [one.tokens for one in documents],
            [one.tokens_read for one in documents],
            [one.pairs for one in documents],
            {place: one.why_unscored for place, one in enumerate(documents) if one.why_unscored is not None},
            sum(of_query.query_tokens_read < of_query.query_tokens for of_query in found),
            **measured,
        )

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "why_unscored": {str(place): why for place, why in self.why_unscored.items()}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], pairs: int) -> "ShardScores":
        """
        Return what `plain` gave of a shard of so many pairs.

        :raises ValueError: If it has another form.
        """
        found = cls(**{**plain, "why_unscored": {int(place): why for place, why in plain["why_unscored"].items()}})
        counts = (found.tokens, found.tokens_read, found.windows)
        if not all(isinstance(column, list) and len(column) == pairs for column in (found.logits, *counts)):
            raise ValueError(f"a column does not have {pairs} entries")
        if not all(type(one) is int for column in counts for one in column):
            raise ValueError("a count is no whole number")
        unscored = {place for place, logit in enumerate(found.logits) if logit is None}
        if unscored != found.why_unscored.keys() or not all(is_finite(one) for one in found.logits if one is not None):
            raise ValueError("a logit is no number")
        numbers = (found.queries_cut, found.seconds, found.cpu_seconds)
        if not isinstance(found.how, str) or not all(map(is_finite, numbers)):
            raise ValueError("what it says of the work has another form")
        return found


def shards_of(asked: Sequence[Asked], size: int, *, whole: bool) -> list[Shard]:
    """
    Return the shards of a run.

    :param size: The most pairs of a shard.
    :param whole: Whether a query's documents stay together even if they are more, as a shared token budget needs it.
    """
    shards: list[Shard] = []
    part: list[Asked] = []
    for one in asked:
        for piece in [one] if whole else _pieces(one, size):
            if part and sum(len(some.texts) for some in part) + len(piece.texts) > size:
                shards.append(Shard(len(shards), tuple(part)))
                part = []
            part.append(piece)
    return [*shards, Shard(len(shards), tuple(part))] if part else shards


def _pieces(asked: Asked, size: int) -> Iterator[Asked]:
    for start in range(0, len(asked.texts), size):
        of_piece = slice(start, start + size)
        yield asked._replace(
            document_ids=asked.document_ids[of_piece],
            texts=asked.texts[of_piece],
            first_stage=asked.first_stage[of_piece],
        )
