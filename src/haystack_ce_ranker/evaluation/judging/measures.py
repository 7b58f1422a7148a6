"""
What a ranking is worth: measures by ir_measures, per query and on average, and the share of documents nobody judged.

Takes runs and judgments as mappings; knows nothing of Haystack, of files or of costs. To add a measure, add a line to
`MEASURES`: it then stands in results.json, in its schema and in the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from haystack_ce_ranker import checks

NDCG_AT_10 = "nDCG@10"
"""What systems are compared by."""

UNJUDGED = "unjudged@10"
"""Share of a query's first ten documents (or of all, where there are fewer) that have no judgment."""


@dataclass(frozen=True, slots=True)
class Measure:
    """
    A measure as it is shown and as ir_measures writes it.

    :ivar label: Its name in results.json and in tables.
    :ivar definition: For ir_measures; `{level}` stands for the lowest grade that counts as relevant.
    :ivar meaning: What its mean over the queries says.
    :ivar in_terminal: Whether the terminal's table has a column for it.
    :ivar on_page: Whether the report's table has one.
    :ivar required: Whether every results.json has it; false for a measure that older files lack.
    """

    label: str
    definition: str
    meaning: str = ""
    in_terminal: bool = False
    on_page: bool = True
    required: bool = True


MEASURES = (
    Measure(NDCG_AT_10, NDCG_AT_10, "Mean nDCG@10; the gain is the grade itself, as in trec_eval.", in_terminal=True),
    Measure("MRR@10", "RR{level}@10", "Mean of 1 / rank of the first relevant document among ten.", in_terminal=True),
    Measure("Recall@10", "R{level}@10", "Mean share of the relevant documents that are among the first 10."),
    Measure("Recall@100", "R{level}@100", "Mean share of the relevant documents that are among the first 100."),
    Measure("AP", "AP{level}", "Mean average precision.", on_page=False),
    Measure("Success@1", "Success{level}@1", "Share of the queries whose first document is relevant.", on_page=False),
)
"""All measures, in the order in which they are shown."""


def measures(relevance_level: int = 1) -> tuple[Measure, ...]:
    """Return all measures, ready for ir_measures; binary ones count grades from `relevance_level` on as relevant."""
    level = f"(rel={checks.whole_number('relevance_level', relevance_level)})"
    return tuple(replace(one, definition=one.definition.format(level=level)) for one in MEASURES)


def ranked_scores(document_ids: Sequence[str], scores: Sequence[float | None] | None = None) -> dict[str, float]:
    """
    Scores under which trec_eval and ir_measures see exactly the order given.

    They order by score in single precision and break ties by document id, so a pipeline's order among equal scores
    would be lost. Scores that do not fall strictly are lowered by the smallest step that single precision knows. Where
    a score is missing, the order itself becomes the score.

    :param document_ids: Best first; a repeated id counts once, at its best place.
    :param scores: One a document; None where the ranking gives no scores.
    """
    usable = scores is not None and all(score is not None and np.isfinite(score) for score in scores)
    ranked: dict[str, float] = {}
    previous = np.float32(np.inf)
    for position, document_id in enumerate(document_ids):
        if document_id in ranked:
            continue
        wanted = np.float32(scores[position] if usable and scores is not None else len(document_ids) - position)
        previous = min(wanted, np.nextafter(previous, np.float32(-np.inf)))
        ranked[document_id] = float(previous)
    return ranked


def per_query(
    run: Mapping[str, Mapping[str, float]],
    judgments: Mapping[str, Mapping[str, int]],
    wanted: Sequence[Measure] | None = None,
) -> dict[str, dict[str, float]]:
    """
    Measure every judged query; one without a ranking counts as 0, as in trec_eval with `-c`.

    :param run: For each query id, document ids with scores; see `ranked_scores`.
    :returns: For each measure's label, query ids with values, in the order of `judgments`; and `UNJUDGED`.
    :raises ImportError: If ir_measures is missing.
    """
    ir_measures = _ir_measures()
    parsed = {_parse(one.definition): one.label for one in (measures() if wanted is None else wanted)}
    values: dict[str, dict[str, float]] = {
        label: dict.fromkeys(judgments, 0.0) for label in (*parsed.values(), UNJUDGED)
    }
    given = {query_id: dict(scores) for query_id, scores in run.items() if query_id in judgments and scores}
    grades = {query_id: dict(pairs) for query_id, pairs in judgments.items()}
    if given:
        for metric in ir_measures.iter_calc(list(parsed), grades, given):
            values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    for query_id, scores in given.items():
        top = sorted(scores, key=lambda document_id: -scores[document_id])[:10]
        values[UNJUDGED][query_id] = sum(document_id not in grades[query_id] for document_id in top) / len(top)
    return values


def mean(values: Mapping[str, float]) -> float:
    """Return the mean over queries; NaN where there are none."""
    return float(np.mean(list(values.values()))) if values else float("nan")


def averages(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each measure's mean over queries."""
    return {label: mean(by_query) for label, by_query in values.items()}


def ndcg_at_10(run: Mapping[str, Mapping[str, float]], judgments: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return nDCG@10 for each judged query."""
    return per_query(run, judgments, (Measure(NDCG_AT_10, NDCG_AT_10),))[NDCG_AT_10]


@cache
def _parse(definition: str) -> Any:
    return _ir_measures().parse_measure(definition)


@cache
def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        message = 'evaluating needs ir_measures: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    return ir_measures
