"""The report of a run of the ranker, and the warning or error if a text is not read whole."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from haystack import Document, logging

from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import QueryText
from haystack_ce_ranker.reading.readability import UNREADABLE_SHARE
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import (
    BEYOND_DEPTH,
    OUT_OF_TIME,
    OVER_BUDGET,
    OVERLOAD,
    SCREENED,
    QueryScores,
    ScoringCost,
)
from haystack_ce_ranker.scoring.visits import OverloadError, Visit

logger = logging.getLogger(__name__)


def what_ran(
    name: str, model: str, backend: str, scorer: CrossEncoderScorer | None, policy: ReadingPolicy
) -> dict[str, Any]:
    """
    Return the part of a report that describes the ranker.

    :param backend: As it was asked for; what runs the model may be another one.
    :param scorer: None if the model was not loaded in time. What only it knows is None then, too.
    """
    loaded = None if scorer is None else scorer.backend
    return {
        "name": name,
        "model": model,
        "backend": backend if loaded is None else loaded.name,
        "dtype": None if loaded is None else loaded.dtype,
        "device": None if loaded is None else loaded.device,
        "prompt": None if loaded is None else loaded.prompt,
        "max_length": None if scorer is None else scorer.max_length,
        "model_max_length": None if scorer is None else scorer.model_limit,
        "strategy": policy.long_documents,
        "passage_matches": None if scorer is None else scorer.passage_matches,
    }


def how_it_went(visit: Visit, waited: float, cost: ScoringCost) -> dict[str, Any]:
    """
    Return the part of a report that says how the run got along with others.

    :param waited: Seconds until the scoring began.
    """
    return {
        "refused": visit.refused,
        "waited_ms": 1000.0 * (waited + cost.waited),
        "shared_batches": cost.shared,
    }


def what_was_done(
    candidates: Sequence[Document], scores: QueryScores, cost: ScoringCost, depth: int | DepthRule | None
) -> dict[str, Any]:
    """
    Return the part of a report that describes the run.

    :param candidates: The documents in the order of `scores`.
    :param depth: What the run was to decide its depth by.
    """
    found = list(zip(candidates, scores.documents, strict=True))
    cut = [(document.id, score) for document, score in found if score.tokens_read < score.tokens]
    partly = [*cut, *((document.id, score) for document, score in found if score.readability.unknown > 0)]
    return {
        "documents": len(candidates),
        "pairs": scores.pairs,
        "tokens": scores.tokens,
        "content_tokens": sum(score.tokens for score in scores.documents),
        "documents_cut": len(cut),
        "tokens_unread": sum(score.tokens - score.tokens_read for _, score in cut),
        "coverage": {document_id: score.coverage for document_id, score in partly},
        "unreadable": _unreadable(scores),
        "query_tokens": scores.query_tokens,
        "query_tokens_cut": scores.query_tokens - scores.query_tokens_read,
        "cached": scores.cached,
        "batches": cost.batches,
        "padding_share": cost.padding_share,
        "flops": None if math.isnan(cost.flops) else cost.flops,
        "padding_flops": None if math.isnan(cost.flops) else cost.padding_flops,
        "scored": {document.id: score.logit for document, score in found if score.logit is not None},
        "unscored": [document.id for document, score in found if score.logit is None],
        "why_unscored": dict(Counter(score.why_unscored for _, score in found if score.why_unscored is not None)),
        "deadline_reached": scores.out_of_time,
        **_depth(scores, depth),
        "seconds": {"tokenise": cost.tokenise, "select": cost.select, "score": cost.score},
    }


TAGS = (
    *("name", "backend", "dtype", "device", "documents", "pairs", "tokens", "documents_cut", "tokens_unread"),
    *("query_tokens_cut", "cached", "batches", "padding_share", "depth_used", "depth_stopped", "deadline_reached"),
    *("refused", "waited_ms", "shared_batches"),
)
"""What a span tells of a run, by its key in the report. Nothing that names or holds a document is among it."""


def tags_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a span tells of a run."""
    steps = {f"seconds_{step}": seconds for step, seconds in report["seconds"].items()}
    return {"ranker" if key == "name" else key: report[key] for key in TAGS} | {
        "unscored": len(report["unscored"]),
        **steps,
    }


def _depth(scores: QueryScores, depth: int | DepthRule | None) -> dict[str, Any]:
    """Return how deep the run went, and why it stopped there."""
    why = Counter(score.why_unscored for score in scores.documents)
    left = why[BEYOND_DEPTH] + why[SCREENED]
    rule, missing = None, scores.missing
    if isinstance(depth, DepthRule):
        rule = depth.plain()
        if missing is None:  # the run was over before a candidate was looked at
            missing = float(min(depth.top, len(scores.documents)))
    stopped = "budget" if why[OVER_BUDGET] else "all" if not left else "depth" if rule is None else "risk"
    return {
        "beyond_depth": why[BEYOND_DEPTH],
        "screened": why[SCREENED],
        "depth_used": len(scores.documents) - left - why[OUT_OF_TIME] - why[OVER_BUDGET] - why[OVERLOAD],
        "depth_stopped": "deadline" if scores.out_of_time else "overload" if why[OVERLOAD] else stopped,
        "depth_rule": rule,
        "depth_missing": missing,
    }


def _unreadable(scores: QueryScores) -> dict[str, Any]:
    """Return how many scored documents the model's vocabulary does not know, and the mean share of their pieces."""
    shares = [score.readability.unreadable for score in scores.documents if score.logit is not None]
    strange = [share for share in shares if share >= UNREADABLE_SHARE]
    return {"documents": len(strange), "share": fmean(strange) if strange else 0.0}


def warn_of_many(name: str, candidates: int) -> None:
    """Say in the log that there are more candidates than are worth scoring, though no `depth` asks for them."""
    logger.warning(
        "{ranker}: all {candidates} candidates are scored, which takes long and rarely changes the top: set depth (for "
        "example 100), or a lower top_k of the retriever. A depth of {candidates} says that it is meant.",
        ranker=name,
        candidates=candidates,
    )


def warn_of_refusals(report: dict[str, Any], max_waiting: int | None) -> None:
    """Say in the log that requests are refused."""
    logger.warning(
        "{ranker}: a request was refused, and its {documents} documents keep their order without a score, because "
        "{waiting} requests already waited for {model} (max_waiting). The report of each run says whether it was "
        "refused. Raise max_waiting, send fewer requests at once, or start more workers.",
        ranker=report["name"],
        documents=report["documents"],
        waiting=max_waiting,
        model=report["model"],
    )


def require_time(visit: Visit, scores: QueryScores, given: Mapping[str, Any]) -> None:
    """
    Check that a request was not refused, and that its deadline left time to score something.

    :param given: The ranker's parameters.
    :raises OverloadError: If not. The error says what to do.
    """
    model = "the server" if given["backend"] == "remote" else given["model"]
    if visit.refused:
        raise OverloadError(
            f"max_waiting={given['max_waiting']}: that many requests already wait for {model}. Ask again later, raise "
            "max_waiting, or start more workers."
        )
    if scores.out_of_time and all(score.logit is None for score in scores.documents):
        raise OverloadError(
            f"deadline_ms={given['deadline_ms']:g} passed before {model} had scored any of {len(scores.documents)} "
            "documents. Ask again later, raise deadline_ms, or start more workers."
        )


def warn_of_unreadable(report: dict[str, Any]) -> None:
    """Say in the log that the model cannot read some texts."""
    logger.warning(
        "{ranker}: {model} does not know the language of {strange} of {documents} documents: {share} of their pieces "
        "are unknown or single letters to its vocabulary, so that their scores say nothing. Use a model for that "
        "language, or no re-ranking.",
        ranker=report["name"],
        model=report["model"],
        strange=report["unreadable"]["documents"],
        documents=report["documents"],
        share=f"{report['unreadable']['share']:.0%}",
    )


def refuse_truncation(
    scorer: CrossEncoderScorer, query: QueryText, documents: Sequence[Document], texts: Sequence[DocumentText]
) -> None:
    """
    Raise before any scoring if a text would not be read whole.

    :raises ValueError: If a document does not fit, of which the error names the first five, or if all of them together
        do not fit into the query's budget.
    """
    limit = scorer.pair_limit(query)
    lengths = scorer.document_lengths(texts)
    too_long = {doc.id: length for doc, length in zip(documents, lengths, strict=True) if length > limit}
    if too_long:
        shown = ", ".join(f"{doc_id} ({length} tokens)" for doc_id, length in list(too_long.items())[:5])
        raise ValueError(
            f"on_truncation='error': {len(too_long)} of {len(documents)} documents do not fit into the {limit} tokens "
            f"that a pair of max_length {scorer.max_length} leaves beside the query: {shown}. "
            "Split them, or set on_truncation='report'."
        )
    budget, beside = scorer.policy.max_tokens_per_query, scorer.max_length - limit
    whole = sum(length + beside for length in lengths if length)
    if budget is not None and whole > budget:
        raise ValueError(
            f"on_truncation='error': the pairs of {len(documents)} documents have {whole} tokens, more than "
            f"max_tokens_per_query={budget}. Raise that, set a depth, or set on_truncation='report'."
        )


def warn_of_truncation(report: dict[str, Any]) -> None:
    """Say in the log, once a run, what was not read."""
    if report["documents_cut"] or report["query_tokens_cut"]:
        logger.warning(
            "{ranker}: {cut} of {documents} documents were not read whole, {unscored} of them not at all "
            "({tokens} tokens unread); {query_cut} of {query_tokens} query tokens were cut.",
            ranker=report["name"],
            cut=report["documents_cut"],
            documents=report["documents"],
            unscored=len(set(report["unscored"]) & set(report["coverage"])),
            tokens=report["tokens_unread"],
            query_cut=report["query_tokens_cut"],
            query_tokens=report["query_tokens"],
        )
