"""
What a bi-encoder learns from a cross-encoder's logits: rows of texts, and a loss of two of sentence-transformers'.

The logits stay raw. MarginMSE wants the student's similarities to differ by as much as the teacher's logits, and
similarities of unit vectors lie between -1 and 1. So the student's similarities are stretched, by how much more the
teacher's logits spread than the student's similarities did before it learnt anything.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from haystack_ce_ranker.training.groups import Group

CONTRASTS = ("teacher", "in_batch")
"""What a text is told apart from: the query's other texts, as the teacher spreads its scores over them, or the texts of
the other queries in the batch."""

Row = dict[str, Any]
"""A row of the data set: the query, its texts with the teacher's best one first, and their logits as the label."""

_PROBABILITIES = 8  # that many values between 0 and 1, and no other, are no logits


@dataclass(frozen=True)
class Taught:
    """
    What there is to learn.

    :ivar rows: Of all queries, in their order.
    :ivar queries: How many queries have rows.
    :ivar unused: Queries that have fewer documents with a logit than a row has texts.
    """

    rows: tuple[Row, ...]
    queries: int
    unused: int


def as_served(groups: Sequence[Group], texts: Mapping[str, Mapping[str, str]]) -> list[Group]:
    """
    Return groups with the texts that a bi-encoder reads in serving, in place of those that the teacher read.

    A bi-encoder embeds a whole document, and cuts it at its own limit. The teacher may have read a window of it.

    :param texts: For each query id, the texts by document id.
    """
    return [
        replace(
            group,
            candidates=tuple(replace(one, text=texts[group.query_id][one.document_id]) for one in group.candidates),
        )
        for group in groups
    ]


def taught_rows(groups: Sequence[Group], *, ways: int, seed: int) -> Taught:
    """
    Make rows of a query with some of its documents, the one that the teacher scores highest first.

    The others are put into rows at random, so that a query with many documents has several rows. A last row that would
    be too short takes some of the row before once more.

    :param groups: Their texts are what the bi-encoder reads in serving; see `as_served`.
    :param ways: Texts of a row.
    :raises ValueError: If nothing is left to learn from, or the teacher's values are no raw logits.
    """
    require_logits(groups)
    rows: list[Row] = []
    queries = 0
    for group in groups:
        made = list(_rows_of(group, ways, random.Random(f"{seed} {group.query_id}")))
        rows += made
        queries += bool(made)
    if not rows:
        raise ValueError(
            f"groups must hold queries with at least {ways} documents that the teacher scored, but none of the "
            f"{len(groups)} has so many."
        )
    return Taught(tuple(rows), queries, len(groups) - queries)


def require_logits(groups: Sequence[Group]) -> None:
    """
    Check that a teacher's values are raw logits, and not what a sigmoid made of them.

    Behind a sigmoid most of them are nearly 0 or nearly 1, and hardly tell documents apart any more.

    :raises ValueError: If all of them lie between 0 and 1.
    """
    values = [one.teacher for group in groups for one in group.candidates if one.teacher is not None]
    if len(values) >= _PROBABILITIES and all(0 <= value <= 1 for value in values):
        raise ValueError(
            f"the teacher's values must be raw logits, but all {len(values)} of them lie between 0 and 1, as behind a "
            "sigmoid. Score without an activation function: activation_fn=torch.nn.Identity()."
        )


def _rows_of(group: Group, ways: int, draw: random.Random) -> Iterator[Row]:
    scored = [(one.teacher, one.text) for one in group.candidates if one.teacher is not None]
    if len(scored) < ways:
        return
    best, *others = sorted(scored, key=lambda one: -one[0])
    draw.shuffle(others)
    for start in range(0, len(others), ways - 1):
        chosen = [best, *others[min(start, len(others) - ways + 1) :][: ways - 1]]
        texts = {f"text_{place}": text for place, (_, text) in enumerate(chosen)}
        yield {"query": group.query, **texts, "label": [logit for logit, _ in chosen]}


@dataclass(frozen=True)
class Scales:
    """
    How far scores of one query's texts spread, before the student has learnt anything.

    :ivar teacher: Standard deviation of the teacher's logits.
    :ivar student: Of the student's similarities.
    """

    teacher: float
    student: float

    @property
    def stretch(self) -> float:
        """What a similarity is multiplied by, so that it spreads as the teacher's logits do."""
        return self.teacher / self.student


def scales(model: Any, rows: Sequence[Row], *, most: int = 64, seed: int = 0) -> Scales:
    """
    Measure how far the scores of some rows spread.

    :param model: The student.
    :param most: Rows to measure on, drawn at random.
    :raises ValueError: If the teacher, or the student, scores all texts of each query alike.
    """
    drawn = random.Random(seed).sample(list(rows), min(most, len(rows)))
    spreads: dict[str, list[float]] = {"teacher": [], "student": []}
    for row in drawn:
        texts = [text for key, text in row.items() if key.startswith("text_")]
        with torch.inference_mode():
            vectors = model.encode([row["query"], *texts], convert_to_tensor=True, show_progress_bar=False)
            found = model.similarity(vectors[:1], vectors[1:])[0]
        spreads["teacher"].append(float(np.var(row["label"])))
        spreads["student"].append(float(found.float().var(correction=0)))
    teacher, student = (math.sqrt(np.mean(spreads[who])) for who in ("teacher", "student"))
    for who, spread in (("teacher", teacher), ("student", student)):
        if not spread > 1e-6:
            raise ValueError(f"the {who} must tell the texts of a query apart, but it scores all of them alike.")
    return Scales(teacher, student)


class TaughtLoss(torch.nn.Module):  # type: ignore[misc]
    """
    MarginMSE and a contrastive loss, both of sentence-transformers, over one embedding of each text.

    MarginMSE is divided by the variance of the teacher's logits, so that it is about 2 for a student that knows
    nothing, whatever the teacher's scale is.

    :param model: The student.
    :param found: Of `scales`.
    :param contrast: One of `CONTRASTS`. `teacher` is the divergence between the distributions that a softmax makes of
        the student's and the teacher's scores; `in_batch` takes the teacher's best text as the right one.
    :param weight: Of the contrastive loss beside MarginMSE.
    :param temperature: What scores are divided by before the softmax of `teacher`, in standard deviations of the
        teacher's logits.
    """

    def __init__(self, model: Any, found: Scales, *, contrast: str, weight: float, temperature: float) -> None:
        from sentence_transformers.sentence_transformer import losses

        super().__init__()
        stretched = _stretched(model.similarity_pairwise, found.stretch)
        self.model = model
        self.margins = losses.MarginMSELoss(model, similarity_fct=stretched)
        self.contrast: Any = (
            losses.DistillKLDivLoss(model, similarity_fct=stretched, temperature=temperature * found.teacher)
            if contrast == "teacher"
            else losses.MultipleNegativesRankingLoss(model, similarity_fct=model.similarity)
        )
        self._margin_weight = found.teacher**-2
        self._weight = weight if contrast == "in_batch" else weight * (temperature * found.teacher) ** -2

    def forward(self, features: Sequence[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """
        Return the loss of a batch.

        :param features: Tokens of the queries, and of each column of texts.
        :param labels: The teacher's logits, shape (rows, texts).
        """
        embeddings = [self.model(one)["sentence_embedding"] for one in features]
        loss: torch.Tensor = self._margin_weight * self.margins.compute_loss_from_embeddings(embeddings, labels)
        if self._weight:
            loss = loss + self._weight * self.contrast.compute_loss_from_embeddings(embeddings, labels)
        return loss


def _stretched(similarity: Callable[..., torch.Tensor], by: float) -> Callable[..., torch.Tensor]:
    def stretched(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return by * similarity(first, second)

    return stretched
