"""
How much better windows could rank at all: those of today's evidence beside the places that people marked as the answer.

    python benchmarks/token_balance.py places
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from common import Report
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from token_scoring import DEFAULT, Scores, backend_of, collections, logits, quality, score

SIZES = ((64, 4), (128, 2), (256, 1))
"""Tokens of a window, and windows of a document: about the same number of tokens each time."""

Spans = Mapping[tuple[str, str], list[tuple[int, int]]]


def places(arguments: argparse.Namespace, report: Report) -> None:
    """
    Transcripts whose answers are marked: what ranking comes of the windows that are chosen, and of the marked places.

    The last two columns favour relevant documents, since others have no place: no choice of windows can know them.
    """
    backend = backend_of(arguments)
    headings = ("by evidence", "the marked place", "whichever scores higher")
    report.table(None, "collection", "queries", "BM25", "windows", *headings)
    for name, collection, found in collections(arguments, report, "qmsum-dev", None):
        spans = _spans(arguments.data / name, collection)
        first_stage = {query_id: ranked_scores(ids) for query_id, ids in found.items()}
        bm25 = mean(ndcg_at_10(first_stage, collection.judgments))
        for tokens, most in SIZES:
            policy = replace(DEFAULT, passage_tokens=tokens, passage_stride=tokens // 2, passages_per_document=most)
            evidence = logits(found, score(backend, policy, collection, found)[0])
            marked = _marked(CrossEncoderScorer(backend, policy), collection, evidence, spans)
            higher = {
                query_id: {one: max(logit, marked[query_id][one]) for one, logit in scores.items()}
                for query_id, scores in evidence.items()
            }
            figures = [f"{quality(one, collection):.4f}" for one in (evidence, marked, higher)]
            report.row(name, len(found), f"{bm25:.4f}", f"{most} of {tokens}", *figures)


def _marked(scorer: CrossEncoderScorer, collection: Collection, evidence: Scores, spans: Spans) -> Scores:
    """Return the scores with those of marked documents replaced: of what is marked, its windows with most evidence."""
    marked = {query_id: dict(scores) for query_id, scores in evidence.items()}
    for (query_id, one), places in spans.items():
        if one in marked.get(query_id, ()):
            content = collection.documents[one].content
            texts = [content[start:stop] for start, stop in places]
            found, _ = scorer.score(collection.queries[query_id], texts)
            marked[query_id][one] = max(document.logit for document in found.documents if document.logit is not None)
    return marked


def _spans(folder: Path, collection: Collection) -> Spans:
    """Return where the answers of a query stand in a document, in characters."""
    header, *rows = (line.split("\t") for line in Source(folder / "spans.tsv", ("qid\tdocid",)).lines())
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for row in rows:
        named = dict(zip(header, row, strict=True))
        if named["docid"] in collection.documents:
            content = collection.documents[named["docid"]].content
            words = [word.span() for word in re.finditer(r"\S+", content)]
            (start, _), (_, stop) = words[int(named["start_word"])], words[int(named["end_word"]) - 1]
            spans.setdefault((named["qid"], named["docid"]), []).append((start, stop))
    return spans
