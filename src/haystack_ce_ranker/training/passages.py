"""
Which text of a document the model reads: the windows of serving, so that a model learns on what it will read.

Windows are chosen by `reading`, and scored by a `CrossEncoderScorer` with the policy that will serve.
"""

from collections.abc import Sequence
from typing import NamedTuple

from haystack_ce_ranker.checks import text
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.plan import Planner
from haystack_ce_ranker.reading.queries import EncodedQuery
from haystack_ce_ranker.scoring.requests import Progress
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import DocumentScore

Request = tuple[str, Sequence[str]]
"""A query with documents."""


class Shown(NamedTuple):
    """
    What the model reads of a document for a query.

    :ivar text: The document, or one of its windows.
    :ivar logit: The model's raw output for query and text; None if it could not read them: one of them has no text.
    """

    text: str
    logit: float | None


class PassageReader:
    """
    Cuts documents to what a model reads of them. Safe from several threads.

    :param scorer: The model, with the policy of serving.
    """

    def __init__(self, scorer: CrossEncoderScorer) -> None:
        self.scorer = scorer
        tokenizer = scorer.backend.tokenizer
        self._planner = Planner(scorer.policy, scorer.max_length, tokenizer)
        self._documents = DocumentEncoder(tokenizer)

    def shown(self, query: str, documents: Sequence[str]) -> list[list[str]]:
        """
        Return the texts that the model reads of each document, best first by the lexical evidence in them.

        :returns: For a document that fits, the document alone; for one without text nothing, and for a query without
            text nothing of any.
        """
        tokenizer, prompt = self.scorer.backend.tokenizer, self.scorer.backend.query_prompt
        [tokens] = tokenizer.encode_queries([prompt + text("query", query)])
        asked = EncodedQuery.of(query, tokens, prompt=prompt)
        texts = [DocumentText(document) for document in documents]
        plans = [
            self._planner.plan(asked, one, document, place=place)
            for place, (one, document) in enumerate(zip(texts, self._documents.encode(texts), strict=True))
        ]
        return [[plan.texts(piece).document for piece in plan.pieces] for plan in plans]

    def best(self, query: str, documents: Sequence[str]) -> list[Shown]:
        """Return of each document the text that the model scores highest, with its logit."""
        [found] = self.best_of_many([(query, documents)])
        return found

    def best_of_many(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[list[Shown]]:
        """
        Do what `best` does for many queries, in batches that reach across queries.

        :param progress: Called after each batch with the number of documents done so far, and of all documents.
        """
        scores, _ = self.scorer.score_many(requests, progress=progress)
        return [
            [_best(document, score) for document, score in zip(documents, found.documents, strict=True)]
            for (_, documents), found in zip(requests, scores, strict=True)
        ]


def _best(content: str, score: DocumentScore) -> Shown:
    if not score.read:
        return Shown(content, None)
    # The spans of one pair, as head and tail, are shown together. Of several pairs the first has the highest logit.
    spans = score.read if score.pairs == 1 else score.read[:1]
    return Shown(" ".join(content[span.start : span.end] for span in spans), spans[0].logit)
