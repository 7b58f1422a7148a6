"""
The losses that a cross-encoder can learn by: their classes in sentence-transformers, and the rows that each takes.

A loss learns from labels, or from a teacher's logits. All of them see raw logits: no loss gets an activation function.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.training.groups import Group

LEARNS = ("labels", "teacher")
"""What the targets come from."""

LABEL_MARGIN = 5.0
"""How many logits the highest grade is to stand above grade 0, where `margin_mse` learns labels."""

Row = dict[str, Any]
"""A row of the data set: the query, its text or texts, and the label, in the order in which the loss takes them."""

Target = tuple[str, float]
"""A text with what the model is to learn of it."""


@dataclass(frozen=True)
class Loss:
    """
    A line of `LOSSES`.

    :ivar library_name: The class in `sentence_transformers.cross_encoder.losses`.
    :ivar rows: Makes the rows of one query.
    """

    library_name: str
    rows: Callable[[str, Sequence[Target]], Iterator[Row]]

    def make(self, cross_encoder: Any) -> Any:
        """Return the library's loss for a model."""
        from sentence_transformers.cross_encoder import losses

        return getattr(losses, self.library_name)(cross_encoder)


@dataclass(frozen=True)
class Rows:
    """
    What a loss learns from.

    :ivar rows: Of all queries, in their order.
    :ivar queries: How many queries have rows.
    :ivar pairs: How many pairs of a query and a text the rows hold, each time that one stands there.
    :ivar unused_queries: Queries without rows: they have no two documents with different targets.
    :ivar unused_documents: Documents without a target.
    """

    rows: tuple[Row, ...]
    queries: int
    pairs: int
    unused_queries: int
    unused_documents: int

    @property
    def pairs_per_row(self) -> float:
        """How many pairs a row holds on average."""
        return self.pairs / len(self.rows)


def _pairs(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    for text, target in targets:
        yield {"query": query, "document": text, "label": target}


def _triples(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    for (better, high), (worse, low) in product(targets, repeat=2):
        if high > low:
            yield {"query": query, "better": better, "worse": worse, "label": high - low}


def _lists(query: str, targets: Sequence[Target]) -> Iterator[Row]:
    yield {"query": query, "documents": [text for text, _ in targets], "labels": [target for _, target in targets]}


LOSSES = {
    "bce": Loss("BinaryCrossEntropyLoss", _pairs),
    "margin_mse": Loss("MarginMSELoss", _triples),
    "lambda": Loss("LambdaLoss", _lists),
    "ranknet": Loss("RankNetLoss", _lists),
}
"""The losses by the names that a recipe has."""


def rows_for(loss: str, groups: Sequence[Group], *, learns: str = "labels") -> Rows:
    """
    Make the rows that a loss learns from.

    The targets of `bce` are labels from 0 to 1, or the sigmoid of the teacher's logits. `margin_mse` learns by how many
    logits one document stands above another: for labels, the highest grade stands `LABEL_MARGIN` above grade 0.
    `lambda` and `ranknet` learn the order, with the label as gain, or the teacher's logit within the query's range of
    them. Documents without a target are left out, and so are queries whose documents all have the same target.

    :param loss: One of `LOSSES`.
    :raises ValueError: If there is no such loss, or nothing to learn from.
    """
    choice("loss", loss, LOSSES)
    choice("learns", learns, LEARNS)
    rows: list[Row] = []
    pairs = used = missing = 0
    for group in groups:
        targets = _targets(loss, group, learns)
        missing += len(group.candidates) - len(targets)
        if len({target for _, target in targets}) < 2:
            continue
        made = list(LOSSES[loss].rows(group.query, targets))
        rows += made
        used += 1
        pairs += sum(map(pairs_of, made))
    if not rows:
        raise ValueError(
            f"groups must hold queries to learn from, but none of the {len(groups)} has two documents with different "
            f"{'labels' if learns == 'labels' else 'logits of the teacher'}."
        )
    return Rows(tuple(rows), used, pairs, len(groups) - used, missing)


def pairs_of(row: Row) -> int:
    """Return how many pairs of a query and a text a row holds."""
    return len(row["documents"]) if "documents" in row else len(row) - 2


def characters_of(row: Row) -> int:
    """Return the length of the longest pair of a row: what its tokens are guessed by."""
    texts = row["documents"] if "documents" in row else [row[key] for key in row if key not in ("query", "label")]
    return len(row["query"]) + max(map(len, texts))


def _targets(loss: str, group: Group, learns: str) -> list[Target]:
    if learns == "labels":
        scale = LABEL_MARGIN if loss == "margin_mse" else 1.0
        return [(one.text, scale * one.label) for one in group.candidates if one.label is not None]
    logits = [(one.text, one.teacher) for one in group.candidates if one.teacher is not None]
    if loss == "bce":
        return [(text, _sigmoid(logit)) for text, logit in logits]
    if loss == "margin_mse" or not logits:
        return logits
    low, high = (extreme(logit for _, logit in logits) for extreme in (min, max))
    return [(text, (logit - low) / (high - low) if high > low else 0.0) for text, logit in logits]


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
