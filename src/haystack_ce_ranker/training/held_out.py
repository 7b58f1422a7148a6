"""
Judged queries that nothing is learnt from, each with the documents that a first stage found.

`rank` reads them as a ranker in a pipeline does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haystack_ce_ranker.evaluation.judging.measures import ranked_scores
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

LABELS = "labels"
"""What `HeldOut.judged_by` says where people or clicks judged."""

Run = Mapping[str, Mapping[str, float]]
"""For each query id, document ids with scores, best first."""


@dataclass(frozen=True)
class HeldOut:
    """
    Judged queries with candidates.

    :ivar queries: Texts by query id.
    :ivar documents: For each query id, the full texts of its candidates by document id, in the first stage's order.
    :ivar judgments: For each query id, grades by document id. Relevant documents that are no candidates are missed.
    :ivar judged_by: Where the judgments come from, in words; results say it.
    :raises ValueError: If there is no query, or one lacks its candidates or judgments.
    """

    queries: Mapping[str, str]
    documents: Mapping[str, Mapping[str, str]]
    judgments: Mapping[str, Mapping[str, int]]
    judged_by: str = LABELS

    def __post_init__(self) -> None:
        """Check that every query has what it needs."""
        if not self.queries:
            raise ValueError("queries must hold at least one held-out query, but got none.")
        for name, values in (("documents", self.documents), ("judgments", self.judgments)):
            lacking = [query_id for query_id in self.queries if query_id not in values]
            if lacking:
                raise ValueError(f"{name} must have an entry for every query, but {lacking[0]!r} has none.")

    @property
    def pairs(self) -> int:
        """How many pairs of a query and a document there are."""
        return sum(len(self.documents[query_id]) for query_id in self.queries)

    @property
    def grades(self) -> dict[str, Mapping[str, int]]:
        """The judgments of the queries alone."""
        return {query_id: self.judgments[query_id] for query_id in self.queries}

    def plain(self) -> list[Any]:
        """Return all of it as plain values."""
        texts = {query_id: dict(some) for query_id, some in self.documents.items()}
        return [dict(self.queries), texts, {query_id: dict(grades) for query_id, grades in self.grades.items()}]

    def first_stage(self) -> Run:
        """Return the candidates in the order that they came in."""
        return {query_id: ranked_scores(list(self.documents[query_id])) for query_id in self.queries}


def graded_by_order(run: Run, *, top: int = 10) -> dict[str, dict[str, int]]:
    """
    Return a ranking as judgments, for queries that nobody judged: the first document has the grade `top`, and so on.

    Such a test says how well a model follows that ranking, not how good either is.
    """
    return {
        query_id: {name: max(top - place, 0) for place, name in enumerate(ranked)} for query_id, ranked in run.items()
    }


def rank(scorer: CrossEncoderScorer, held_out: HeldOut, *, progress: Callable[[int, int], None] | None = None) -> Run:
    """
    Rank the candidates by a model: each document by the passages that the scorer's policy shows.

    Documents without a score stand below those with one. Among equal scores the first stage's order stays.

    :param progress: Called with the number of documents scored so far, and of all.
    """
    requests = [(text, list(held_out.documents[query_id].values())) for query_id, text in held_out.queries.items()]
    results, _ = scorer.score_many(requests, progress=progress)
    ranked: dict[str, dict[str, float]] = {}
    for query_id, result in zip(held_out.queries, results, strict=True):
        logits = [score.logit for score in result.documents]
        ranked[query_id] = _best_first(list(held_out.documents[query_id]), logits)
    return ranked


def _best_first(document_ids: Sequence[str], logits: Sequence[float | None]) -> dict[str, float]:
    scored = [(logit, name) for name, logit in zip(document_ids, logits, strict=True) if logit is not None]
    scored.sort(key=lambda one: -one[0])
    lowest = scored[-1][0] - 1.0 if scored else 0.0
    unscored = [name for name, logit in zip(document_ids, logits, strict=True) if logit is None]
    names = [name for _, name in scored] + unscored
    return ranked_scores(names, [logit for logit, _ in scored] + [lowest] * len(unscored))
