"""
What a model is to learn of a corpus without labels: queries, the documents that BM25 finds for them, and their targets.

A target is a teacher's logit, moved by the evidence of `blending` where the teacher is unsure.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.data.collections import Text
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.training.blending import BM25, DENSE, Blend, FloatArray
from haystack_ce_ranker.training.candidates import BOTH, BiEncoder, Progress, taking_turns
from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.held_out import HeldOut, Run, graded_by_order
from haystack_ce_ranker.training.made_queries import MadeQuery
from haystack_ce_ranker.training.passages import PassageReader
from haystack_ce_ranker.training.splits import near_to
from haystack_ce_ranker.training.teachers import Judge

GIVEN = "given"
"""The recipe of a query that was not made: one from a log."""

TEACHERS_ORDER = "the order of the teacher whom it learnt from, as there are no judgments"
"""What a test without judgments is, in words."""

GRADES = 3
"""The highest grade of such a test: that of the teacher's best document."""


@dataclass(frozen=True)
class Adapting:
    """
    How lessons are made.

    :ivar depth: How many documents are found for a query.
    :ivar candidates: How many of them are learnt from: the first half from the top, the others drawn from the rest.
    :ivar blend: What the evidence adds to a logit; None for nothing.
    :ivar seed: Draws the candidates.
    """

    depth: int = 30
    candidates: int = 8
    blend: Blend | None = field(default_factory=Blend)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        object.__setattr__(self, "depth", whole_number("depth", self.depth, least=2))
        object.__setattr__(self, "candidates", whole_number("candidates", self.candidates, least=2))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, least=0))


@dataclass(frozen=True)
class Asked:
    """
    A query with what the first stage found for it.

    :ivar document_ids: In its order.
    :ivar texts: The documents' texts as they are shown: without what the query copies.
    :ivar evidence: For each first stage, by name, a score of each text; empty where no blend asks for it.
    :ivar found_by: The first stage: `BM25`, or `BOTH` for BM25 and a bi-encoder in turns.
    """

    query: MadeQuery
    document_ids: tuple[str, ...]
    texts: tuple[str, ...]
    evidence: Mapping[str, FloatArray]
    found_by: str = BM25


def given_queries(queries: Mapping[str, str]) -> list[MadeQuery]:
    """Return queries of a log as queries to learn from."""
    return [MadeQuery(f"{GIVEN}-{query_id}", text, GIVEN, "") for query_id, text in queries.items()]


def unlike(queries: Sequence[MadeQuery], others: Mapping[str, str]) -> list[MadeQuery]:
    """Return the queries that are neither equal nor near-equal to one of `others`, so that these can be a test."""
    named = {f"q{number}": query.text for number, query in enumerate(queries)}
    near = near_to(named, others.values())
    return [query for name, query in zip(named, queries, strict=True) if name not in near]


def find_documents(
    queries: Sequence[MadeQuery],
    documents: Mapping[str, Text],
    index: BM25Index,
    settings: Adapting,
    bi_encoder: BiEncoder | None = None,
    *,
    searches: bool = False,
    origins: bool = False,
    progress: Progress | None = None,
) -> list[Asked]:
    """
    Find documents for each query, and what each first stage says of them.

    Queries are left out that find fewer than two documents that hold more than what the query copies.

    :param index: Of the documents' contents, in their order.
    :param bi_encoder: Gives the evidence `DENSE`, if there is one.
    :param searches: Whether the bi-encoder finds documents, too: it and BM25 take turns.
    :param origins: Whether the document that a query was made of joins in where it is not found, as the last.
    :param progress: Called with the number of texts that the bi-encoder embedded so far, and of all.
    :raises ValueError: If a bi-encoder is to search, and there is none.
    """
    if searches and bi_encoder is None:
        raise ValueError("searches needs a bi-encoder, but bi_encoder is None: name one, or leave searches out.")
    ids = list(documents)
    place_of = {document_id: place for place, document_id in enumerate(ids)} if origins else {}
    texts = [document.content for document in documents.values()]
    found = []
    searching = bi_encoder if searches else None
    for query, places in zip(
        queries, _searched(queries, texts, index, settings.depth, searching, progress), strict=True
    ):
        origin = place_of.get(query.document_id)
        if origin is not None and origin not in places:
            places.append(origin)
        shown = {ids[place]: query.shown(texts[place]) for place in places}
        kept = {document_id: text for document_id, text in shown.items() if not is_blank(text)}
        if len(kept) >= 2:
            found.append((query, kept))
    asked = with_evidence(found, documents, index, settings, bi_encoder, progress=progress)
    return [replace(one, found_by=BOTH) for one in asked] if searches else asked


def with_evidence(
    found: Sequence[tuple[MadeQuery, Mapping[str, str]]],
    documents: Mapping[str, Text],
    index: BM25Index,
    settings: Adapting,
    bi_encoder: BiEncoder | None = None,
    *,
    progress: Progress | None = None,
) -> list[Asked]:
    """
    Say what each first stage says of the documents of each query; nothing where no blend asks for it.

    :param found: Queries with the texts of their documents as they are shown, by id.
    :param documents: All of them; `index` is of their contents, in their order.
    :param bi_encoder: Gives the evidence `DENSE`, if there is one.
    :param progress: Called with the number of texts that the bi-encoder embedded so far, and of all.
    """
    evidence = {}
    if settings.blend is not None:
        requests = [(query.text, list(shown.values())) for query, shown in found]
        places = {document_id: place for place, document_id in enumerate(documents)}
        contents = [document.content for document in documents.values()]
        evidence[BM25] = _bm25(index, requests, [[places[name] for name in shown] for _, shown in found], contents)
        if bi_encoder is not None:
            similar = bi_encoder.similarities(requests, progress=progress)
            evidence[DENSE] = [np.array(of_query, np.float64) for of_query in similar]
    return [
        Asked(query, tuple(shown), tuple(shown.values()), {name: some[number] for name, some in evidence.items()})
        for number, (query, shown) in enumerate(found)
    ]


def _searched(
    queries: Sequence[MadeQuery],
    texts: Sequence[str],
    index: BM25Index,
    depth: int,
    bi_encoder: BiEncoder | None,
    progress: Progress | None,
) -> list[list[int]]:
    """Return the places of the texts that BM25, or BM25 and a bi-encoder in turns, find for each query, best first."""
    hits = [index.search(query.text, depth) for query in queries]
    if bi_encoder is None:
        return [one.positions.tolist() for one in hits]
    lists = [list(zip(one.positions.tolist(), one.scores.tolist(), strict=True)) for one in hits]
    similar = bi_encoder.search([query.text for query in queries], texts, depth, progress=progress)
    merged = [taking_turns({BM25: one, DENSE: other}) for one, other in zip(lists, similar, strict=True)]
    return [[place for place, _, _ in one][:depth] for one in merged]


class _Piece(NamedTuple):
    """A text to be judged: a document, or one of its windows, by the document's place."""

    place: int
    document_id: str
    text: str


def lessons(
    asked: Sequence[Asked],
    judge: Judge,
    settings: Adapting,
    *,
    origins: bool = False,
    reader: PassageReader | None = None,
) -> list[Group]:
    """
    Return for each query its candidates, each with its target as `teacher`, in the first stage's order.

    Texts that the teacher cannot read are left out, and queries of which fewer than two are left.

    :param judge: The teacher.
    :param origins: Whether the document that a query was made of is among its candidates in any case.
    :param reader: Cuts documents to the windows that are read in serving, each of which is then a candidate of its own.
        None takes of each document the window that the teacher scores highest. A ranker scores all of them: who has
        learnt the best ones alone does not know that the others are worse.
    """
    pieces = [_pieces(one, _chosen(one, settings, origins=origins), reader) for one in asked]
    requests = [(one.query.text, [piece.text for piece in some]) for one, some in zip(asked, pieces, strict=True)]
    groups = []
    for one, some, shown in zip(asked, pieces, judge(requests), strict=True):
        read = [(piece, text, logit) for piece, (text, logit) in zip(some, shown, strict=True) if logit is not None]
        if len(read) < 2:
            continue
        targets = np.array([logit for _, _, logit in read], np.float64)
        if settings.blend is not None:
            targets = settings.blend(targets, one.evidence, [piece.place for piece, _, _ in read])
        candidates = tuple(
            Candidate(piece.document_id, text, teacher=float(target), source=one.found_by)
            for (piece, text, _), target in zip(read, targets, strict=True)
        )
        groups.append(Group(one.query.id, one.query.text, candidates))
    return groups


def _pieces(asked: Asked, places: Sequence[int], reader: PassageReader | None) -> list[_Piece]:
    """Return the documents of some places, or with a reader the windows of those that do not fit."""
    texts = [asked.texts[place] for place in places]
    if reader is None:
        return [_Piece(place, asked.document_ids[place], text) for place, text in zip(places, texts, strict=True)]
    taken = set(asked.document_ids)
    pieces = []
    for place, text, cut in zip(places, texts, reader.shown(asked.query.text, texts), strict=True):
        name, several = asked.document_ids[place], len(cut) > 1
        while several and any(f"{name}#{number}" in taken for number in range(len(cut))):
            name += "#"  # the id of a window is no other document's
        named = [(f"{name}#{number}", one) for number, one in enumerate(cut)] if several else [(name, text)]
        taken |= {one for one, _ in named}
        pieces += [_Piece(place, *one) for one in named]
    return pieces


def learnt_documents(asked: Asked, settings: Adapting) -> dict[str, str]:
    """Return the whole texts of the documents that `lessons` takes for a query, by id, in their order."""
    return {asked.document_ids[place]: asked.texts[place] for place in _chosen(asked, settings, origins=False)}


def taught_order(groups: Sequence[Group]) -> HeldOut:
    """
    Return queries to test on where nothing is judged: their documents, judged by the order of their targets.

    The best three have the grades 3, 2 and 1. With a grade for each document of so few, every order has an nDCG near 1.
    """
    run = {
        group.query_id: {
            one.document_id: float(one.teacher or 0.0)
            for one in sorted(group.candidates, key=lambda one: -(one.teacher or 0.0))
        }
        for group in groups
    }
    return HeldOut(
        queries={group.query_id: group.query for group in groups},
        documents={group.query_id: {one.document_id: one.text for one in group.candidates} for group in groups},
        judgments=graded_by_order(run, top=GRADES),
        judged_by=TEACHERS_ORDER,
    )


def moved(ranked: Run, asked: Sequence[Asked], blend: Blend) -> Run:
    """
    Return a teacher's ranking of some queries' documents, moved by the evidence as its logits are in lessons.

    :param ranked: Scores of all documents of these queries.
    """
    found = {}
    for one in asked:
        logits = np.array([ranked[one.query.id][name] for name in one.document_ids], np.float64)
        scores = blend(logits, one.evidence).tolist()
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        found[one.query.id] = {one.document_ids[place]: scores[place] for place in order}
    return found


def _chosen(asked: Asked, settings: Adapting, *, origins: bool) -> list[int]:
    """Draw the places of the documents to learn from, in their order."""
    count = min(settings.candidates, len(asked.texts))
    top = count - count // 2
    draw = random.Random(f"{settings.seed} {asked.query.id}")
    chosen = [*range(top), *sorted(draw.sample(range(top, len(asked.texts)), count - top))]
    if origins and asked.query.document_id in asked.document_ids:
        origin = asked.document_ids.index(asked.query.document_id)
        if origin not in chosen:
            return sorted([*chosen[:-1], origin])
    return chosen


def _bm25(
    index: BM25Index,
    requests: Sequence[tuple[str, Sequence[str]]],
    places: Sequence[Sequence[int]],
    contents: Sequence[str],
) -> list[FloatArray]:
    """
    Score the shown texts of each query by BM25.

    A document without what the query copies is another text: it is added to the index as one more document.
    """
    shorter = dict.fromkeys(
        text
        for (_, texts), own in zip(requests, places, strict=True)
        for place, text in zip(own, texts, strict=True)
        if text != contents[place]
    )
    added = {text: len(contents) + number for number, text in enumerate(shorter)}
    whole = index.update([*range(len(contents)), *[-1] * len(added)], added) if added else index
    scores = []
    for (query, texts), own in zip(requests, places, strict=True):
        slots = [place if text == contents[place] else added[text] for place, text in zip(own, texts, strict=True)]
        mask = np.zeros(len(whole), np.bool_)
        mask[slots] = True
        hits = whole.search(query, len(slots), allowed=whole.allow(mask))
        by_slot = dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True))
        scores.append(np.array([by_slot.get(slot, 0.0) for slot in slots], np.float64))
    return scores
