"""
The losses that a cross-encoder can learn by: their classes in sentence-transformers, and the rows that each takes.

A loss learns from labels, or from a teacher's logits. All of them see raw logits: no loss gets an activation function.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.training.groups import Group

LEARNS = ("labels", "teacher")
"""What the targets come from."""

LABEL_MARGIN = 5.0
"""How many logits the highest grade is to stand above grade 0, where `margin_mse` learns labels."""

MOST_OTHERS = 8
"""The most other documents of its own query that a row of `contrastive` tells a relevant one apart from."""

CONTRASTIVE = "contrastive"
"""The loss that tells a relevant document apart from others, in whatever order those are."""

_BATCH = 16
_OTHER = "other_"

Row = dict[str, Any]
"""A row of the data set: the query, its text or texts, and the label, in the order in which the loss takes them."""


class Target(NamedTuple):
    """A document with what the model is to learn of it."""

    document_id: str
    text: str
    value: float


class Apart(NamedTuple):
    """
    Which documents a row brings into a batch, and which must not come into it.

    A contrastive loss also tells a query's document apart from those of the batch's other queries. None of these may be
    one that is, or may be, relevant for the query.

    :ivar brought: The ids of the documents that the row's query is learnt with.
    :ivar spared: Those that are relevant for it, or may be.
    """

    brought: frozenset[str]
    spared: frozenset[str]


@dataclass(frozen=True)
class Loss:
    """
    A line of `LOSSES`.

    :ivar library_name: The class in `sentence_transformers.cross_encoder.losses`.
    :ivar rows: Makes the rows of one query.
    :ivar drawn: Whether chance decides which documents stand in a row together.
    :ivar in_batch: From how many documents of other queries in the batch a document is told apart, drawn at random; 0
        for a loss that looks at each row alone.
    :ivar batch: Pairs of a step, if nothing else is asked for.
    """

    library_name: str
    rows: Callable[[str, Sequence[Target]], Iterator[Row]]
    drawn: bool = False
    in_batch: int = 0
    batch: int = _BATCH

    def make(self, cross_encoder: Any, *, at_once: int) -> Any:
        """
        Return the library's loss for a model.

        :param at_once: Pairs that are computed at once, by a loss that needs the whole batch to know its gradients.
        """
        from sentence_transformers.cross_encoder import losses
        from torch.nn import Identity

        made = getattr(losses, self.library_name)
        if not self.in_batch:
            return made(cross_encoder)
        raw: dict[str, Any] = {"activation_fn": Identity(), "scale": 1.0}
        return made(cross_encoder, num_negatives=self.in_batch, mini_batch_size=at_once, **raw)


@dataclass(frozen=True)
class Rows:
    """
    What a loss learns from.

    :ivar rows: Of all queries, in their order.
    :ivar queries: How many queries have rows; those of one id are one.
    :ivar pairs: How many pairs of a query and a text the rows hold, each time that one stands there.
    :ivar unused_queries: Queries without rows: they have no two documents with different targets.
    :ivar unused_documents: Documents without a target.
    :ivar apart: Of each row, which others must not stand in its batch; empty for a loss that looks at each row alone.
    """

    rows: tuple[Row, ...]
    queries: int
    pairs: int
    unused_queries: int
    unused_documents: int
    apart: tuple[Apart, ...] = ()

    @property
    def pairs_per_row(self) -> float:
        """How many pairs a row holds on average."""
        return self.pairs / len(self.rows)


def _pairs(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    for one in targets:
        yield {"query": query, "document": one.text, "label": one.value}


def _triples(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    """
    Yield pairs of documents that have different targets, until each document stands in one.

    All pairs of eight documents would have each of them read seven times, and say little more than four pairs that read
    each once. A document for which no other is left is told apart from one that was taken before, the least often.
    """
    taken: Counter[int] = Counter()
    for place, one in enumerate(targets):
        if not taken[place]:
            unlike = (n for n, other in enumerate(targets) if other.value != one.value)
            partner = min(unlike, key=lambda n: (taken[n], (n - place) % len(targets)))
            taken.update((place, partner))
            worse, better = sorted((one, targets[partner]), key=lambda target: target.value)
            yield {"query": query, "better": better.text, "worse": worse.text, "label": better.value - worse.value}


def _lists(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    yield {"query": query, "documents": [one.text for one in targets], "labels": [one.value for one in targets]}


def _contrasts(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    """Yield a row for each relevant document and each `MOST_OTHERS` others; `_filled` makes the rows equally long."""
    others = [one.text for one in targets if one.value == 0]
    for one in targets:
        if one.value > 0:
            for start in range(0, len(others), MOST_OTHERS):
                chosen = others[max(0, min(start, len(others) - MOST_OTHERS)) :][:MOST_OTHERS]
                named = {f"{_OTHER}{place}": text for place, text in enumerate(chosen)}
                yield {"query": query, "document": one.text, **named}


LOSSES = {
    "bce": Loss("BinaryCrossEntropyLoss", _pairs),
    "margin_mse": Loss("MarginMSELoss", _triples, drawn=True),
    "lambda": Loss("LambdaLoss", _lists),
    "ranknet": Loss("RankNetLoss", _lists),
    # it scores the whole batch before it learns from parts of it: a large batch takes no more memory than a part
    CONTRASTIVE: Loss("CachedMultipleNegativesRankingLoss", _contrasts, in_batch=4, batch=96),
}
"""The losses by the names that a recipe has."""


FEW_QUERIES = 100
"""
How many queries to learn from are few; see `usual_loss`.

65 were measured, and 270: the line between them is a choice.
"""


def usual_loss(queries: int) -> str:
    """
    Return the loss that learns labels best, by how many queries there are to learn from.

    With hundreds of queries `bce` gains. With a few dozen it was below the untouched model on three collections, and
    `lambda`, which only looks at the order of a query's documents, above it on one and as `bce` on two. On that one the
    other losses lie between them. None of these differences is significant; benchmarks/training.md has the figures.
    """
    return "lambda" if queries < FEW_QUERIES else "bce"


def usual_batch(loss: str) -> int:
    """
    Return how many pairs a step has, if nothing else is asked for.

    :raises ValueError: If there is no such loss.
    """
    return LOSSES[choice("loss", loss, LOSSES)].batch


def rows_for(loss: str, groups: Sequence[Group], *, learns: str = "labels", seed: int = 0) -> Rows:
    """
    Make the rows that a loss learns from.

    The targets of `bce` are labels from 0 to 1, or the sigmoid of the teacher's logits. `margin_mse` learns by how many
    logits one document stands above another: for labels, the highest grade stands `LABEL_MARGIN` above grade 0. Which
    two documents of a query are a row is drawn, and each stands in one, or in more where there is no other for it.
    `lambda` and `ranknet` learn the order, with the label as gain, or the teacher's logit within the query's range of
    them. `contrastive` learns to tell each document with a label above 0, or the teacher's best one, apart from those
    with the label 0, or the teacher's others. Documents without a target are left out, and so are queries whose
    documents all have the same target.

    :param loss: One of `LOSSES`.
    :param seed: Draws what chance decides.
    :raises ValueError: If there is no such loss, or nothing to learn from.
    """
    used_loss = LOSSES[choice("loss", loss, LOSSES)]
    choice("learns", learns, LEARNS)
    rows: list[Row] = []
    apart: list[Apart] = []
    missing = 0
    used: set[str] = set()
    for group in groups:
        targets = _targets(loss, group, learns)
        missing += len(group.candidates) - len(targets)
        if used_loss.drawn:
            random.Random(f"{seed} {group.query_id}").shuffle(targets)
        made = list(used_loss.rows(group.query, targets)) if len({one.value for one in targets}) > 1 else []
        rows += made
        used |= {group.query_id} if made else set()
        if used_loss.in_batch:
            apart += [_apart(group, targets)] * len(made)
    if not rows:
        raise ValueError(
            f"groups must hold queries to learn from, but none of the {len(groups)} has two documents with different "
            f"{'labels' if learns == 'labels' else 'logits of the teacher'}."
        )
    whole = _filled(rows) if used_loss.in_batch else rows
    pairs = sum(map(pairs_of, whole)) + used_loss.in_batch * len(whole)
    unused = {group.query_id for group in groups} - used
    return Rows(tuple(whole), len(used), pairs, len(unused), missing, tuple(apart))


def pairs_of(row: Row) -> int:
    """Return how many pairs of a query and a text a row holds."""
    return len(_texts_of(row))


def characters_of(row: Row) -> int:
    """Return the length of the longest pair of a row: what its tokens are guessed by."""
    return len(row["query"]) + max(map(len, _texts_of(row)))


def _texts_of(row: Row) -> Sequence[str]:
    return row["documents"] if "documents" in row else [row[key] for key in row if key not in ("query", "label")]


def _targets(loss: str, group: Group, learns: str) -> list[Target]:
    """Return the documents that have a target."""
    if learns == "labels":
        scale = LABEL_MARGIN if loss == "margin_mse" else 1.0
        labelled = ((one, one.label) for one in group.candidates if one.label is not None)
        return [Target(one.document_id, one.text, scale * label) for one, label in labelled]
    logits = [Target(one.document_id, one.text, one.teacher) for one in group.candidates if one.teacher is not None]
    if loss == "margin_mse" or not logits:
        return logits
    low, high = (extreme(one.value for one in logits) for extreme in (min, max))
    if loss == "bce":
        return [one._replace(value=_sigmoid(one.value)) for one in logits]
    if loss == CONTRASTIVE:
        return [one._replace(value=float(one.value == high)) for one in logits]
    return [one._replace(value=(one.value - low) / (high - low) if high > low else 0.0) for one in logits]


def _apart(group: Group, targets: Sequence[Target]) -> Apart:
    """Return which documents a query's rows bring into a batch, and which must not count against the query."""
    others = {one.document_id for one in targets if one.value == 0}
    spared = {*group.also_relevant, *(one.document_id for one in group.candidates)} - others
    return Apart(frozenset(one.document_id for one in targets), frozenset(spared))


def _filled(rows: Sequence[Row]) -> list[Row]:
    """Return rows with as many others as the longest one has: the library wants columns. Shorter ones repeat theirs."""
    most = max(sum(key.startswith(_OTHER) for key in row) for row in rows)
    filled = []
    for row in rows:
        others = [text for key, text in row.items() if key.startswith(_OTHER)]
        columns = {f"{_OTHER}{place}": others[place % len(others)] for place in range(most)}
        filled.append({"query": row["query"], "document": row["document"], **columns})
    return filled


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
