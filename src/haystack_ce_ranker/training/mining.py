"""
Hard negatives: documents that a first stage finds for a query and that are not relevant, beside those that are.

A first stage also finds relevant documents that nobody judged. A teacher tells them: what it scores nearly as high as a
judged one is dropped, or relabelled. This file decides who learns from what. It loads no model: `candidates.py` brings
the first stage's lists, `teachers.py` the logits.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.training.candidates import Found
from haystack_ce_ranker.training.groups import JUDGED, Candidate, Group
from haystack_ce_ranker.training.passages import Shown
from haystack_ce_ranker.training.splits import near_groups
from haystack_ce_ranker.training.teachers import Judge

RANDOM, TOP = "random", "top"
DROP, RELABEL, KEEP = "drop", "relabel", "keep"
SAMPLINGS = (RANDOM, TOP)
FALSE_NEGATIVES = (DROP, RELABEL, KEEP)

REFERENCES: dict[str, Callable[[Sequence[float]], float]] = {"lowest": min, "mean": fmean, "highest": max}
"""
What the margin is measured from: a function of the logits of a query's relevant documents, by name.

If a teacher is weak on a collection, most candidates lie above the lowest logit. Few ever lie above the highest one.
benchmarks/mining.py has the figures.
"""

NO_POSITIVE = "queries without a relevant document that can be read"
NO_CONTRAST = "queries whose documents all have one label"
MISSING = "relevant documents that are not in the corpus"
BLANK = "relevant documents without text"
SAME_POSITIVE = "relevant documents with the text of another one"
TOO_MANY = "relevant documents beyond the most for a query"
UNREAD = "documents that the teacher cannot read"
SAME_AS_POSITIVE = "candidates with the text of a relevant document"
OF_NEAR_QUERY = "candidates that are relevant for a near-equal query"
SAME_CANDIDATE = "candidates with the text of another one"
BLANK_CANDIDATE = "candidates without text"
_FALSE_NEGATIVES = "false negatives"


@dataclass(frozen=True)
class Mining:
    """
    How negatives are chosen.

    :ivar negatives: The most negatives for each query.
    :ivar positives: The most relevant documents for each query, the highest grades first and drawn among equal ones;
        None for all.
    :ivar first_rank: Negatives come from the first stage's ranks from here on, 1 for the first.
    :ivar last_rank: The last rank that they come from.
    :ivar sampling: `RANDOM`: drawn from those ranks; `TOP`: the first of them.
    :ivar false_negatives: What becomes of an unjudged document that the teacher scores at least as high as the
        reference less the margin: `DROP` it and take another one, `RELABEL` it as relevant, or `KEEP` it as a negative.
    :ivar margin: In logits of the teacher; negative to drop only what lies above the reference by as much.
    :ivar reference: A name in `REFERENCES`.
    :ivar seed: Draws negatives. A query's draw does not depend on other queries.
    :raises ValueError: If a value is not what its field takes.
    """

    negatives: int = 8
    positives: int | None = None
    first_rank: int = 1
    last_rank: int = 100
    sampling: str = RANDOM
    false_negatives: str = DROP
    margin: float = 0.0
    reference: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        whole_number("negatives", self.negatives)
        whole_number("positives", self.positives, optional=True)
        whole_number("first_rank", self.first_rank)
        whole_number("last_rank", self.last_rank)
        if self.last_rank < self.first_rank:
            raise ValueError(f"last_rank must be at least first_rank ({self.first_rank}), but got {self.last_rank}.")
        choice("sampling", self.sampling, SAMPLINGS)
        choice("false_negatives", self.false_negatives, FALSE_NEGATIVES)
        number("margin", self.margin)
        choice("reference", self.reference, REFERENCES)
        whole_number("seed", self.seed, least=0)


@dataclass(frozen=True)
class Mined:
    """
    What mining found.

    :ivar groups: A group for each query with something to learn from, in the collection's order.
    :ivar left_out: How many of what were left out, in words.
    :ivar false_negatives: How many unjudged documents were dropped or relabelled as such.
    :ivar above: Of each unjudged document drawn at first, how far its logit lies above the reference. It says what
        other margins would do. Empty without a teacher.
    """

    groups: list[Group]
    left_out: Mapping[str, int]
    false_negatives: int
    above: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A document that may join a group; `label` is None if it is not judged."""

    document_id: str
    text: str
    source: str
    rank: int
    label: float | None = None

    def candidate(self, shown: Shown, label: float) -> Candidate:
        return Candidate(self.document_id, shown.text, label, shown.logit, self.source)


@dataclass
class _Query:
    """
    A query on its way to a group.

    :ivar positives: Relevant documents that are still to be judged by the teacher.
    :ivar waiting: Documents that may become negatives, in the order in which they are taken.
    :ivar relevant: The ids of all documents that are relevant for it or for a near-equal query, and of those that the
        teacher takes for relevant.
    :ivar taken: Those of them that are to be judged next.
    :ivar found: The relevant documents that can be read.
    :ivar negatives: With their ranks.
    :ivar reference: The logit that margins are measured from; None until `positives` are judged, or without a teacher.
    """

    query_id: str
    query: str
    positives: list[_Drawn]
    waiting: list[_Drawn]
    relevant: set[str]
    taken: list[_Drawn] = field(default_factory=list)
    found: list[Candidate] = field(default_factory=list)
    relabelled: list[Candidate] = field(default_factory=list)
    negatives: list[tuple[int, Candidate]] = field(default_factory=list)
    reference: float | None = None

    def take(self, most: int) -> tuple[str, list[str]]:
        """Take as many waiting documents as negatives are lacking, and return what the teacher is to judge."""
        lacking = most - len(self.negatives)
        self.taken, self.waiting = self.waiting[:lacking], self.waiting[lacking:]
        return self.query, [one.text for one in (*self.positives, *self.taken)]

    def lacks(self, negatives: int) -> bool:
        """Tell whether another round could bring negatives that are lacking."""
        return bool(self.found) and bool(self.waiting) and len(self.negatives) < negatives

    def label_near(self, logit: float) -> float:
        """Return the label of the relevant document whose logit is nearest; of two as near, the lower one."""
        near = min(
            (abs(one.teacher - logit), one.label)
            for one in self.found
            if one.teacher is not None and one.label is not None
        )
        return near[1]

    def group(self, copies: Mapping[str, Sequence[str]]) -> Group:
        """
        Return what was found: the relevant documents, the relabelled ones, and the negatives by rank.

        :param copies: The ids of all documents with the text of one, by its id; documents without a copy may lack.
        """
        negatives = (one for _, one in sorted(self.negatives, key=lambda ranked: ranked[0]))
        candidates = (*self.found, *self.relabelled, *negatives)
        same = (other for one in self.relevant for other in copies.get(one, ()))
        others = self.relevant.union(same).difference(one.document_id for one in candidates)
        return Group(self.query_id, self.query, candidates, tuple(sorted(others)))


def mine(
    collection: Collection,
    candidates: Mapping[str, Sequence[Found]],
    settings: Mining,
    judge: Judge | None = None,
    *,
    analysis: Analysis | None = None,
    rounds: Callable[[int, int], object] | None = None,
) -> Mined:
    """
    Return for each query its relevant documents and negatives, with the teacher's logits.

    The teacher judges the relevant documents and as many candidates as negatives are wanted. What is dropped is
    replaced by further candidates, in another round, until none is lacking or none is left.

    :param candidates: The first stage's list for each query of the collection, best first.
    :param judge: The teacher. Without one, documents stand whole, logits are None, and no false negative is found.
    :param analysis: What makes the word stems by which queries are near-equal; English if None.
    :param rounds: Called before each round with its number, from 1 on, and the documents to judge.
    """
    counts: Counter[str] = Counter()
    pools = _pools(collection, candidates, settings, counts, analysis)
    above: list[float] = []
    number_of_round = 0
    todo = pools
    while todo:
        number_of_round += 1
        asked = [one.take(settings.negatives) for one in todo]
        if rounds is not None:
            rounds(number_of_round, sum(len(texts) for _, texts in asked))
        shown = [[Shown(text, None) for text in texts] for _, texts in asked] if judge is None else judge(asked)
        for one, of_query in zip(todo, shown, strict=True):
            readable = _Reading(of_query, counts, has_teacher=judge is not None)
            _settle_positives(one, readable, settings)
            margins = _settle_taken(one, readable, settings, counts)
            above += margins if number_of_round == 1 else ()
        todo = [one for one in todo if one.lacks(settings.negatives)]
    groups = list(_finished(pools, _copies(collection, candidates), counts))
    false_negatives = counts.pop(_FALSE_NEGATIVES, 0)
    return Mined(groups, dict(counts), false_negatives, above)


def _pools(
    collection: Collection,
    candidates: Mapping[str, Sequence[Found]],
    settings: Mining,
    counts: Counter[str],
    analysis: Analysis | None,
) -> list[_Query]:
    """Return the queries that have a relevant document to learn from, with what may become their negatives."""
    highest = max((grade for grades in collection.judgments.values() for grade in grades.values()), default=0)
    relevant = {
        query_id: {one for one, grade in grades.items() if grade > 0}
        for query_id, grades in collection.judgments.items()
    }
    near = {
        query_id: set().union(*(relevant[other] for other in group))
        for group in near_groups(collection.queries, analysis=analysis)
        for query_id in group
    }
    pools = []
    for query_id, query in collection.queries.items():
        draw = random.Random(f"{settings.seed} {query_id}")
        grades = collection.judgments[query_id]
        positives = _positives(collection, grades, highest, settings.positives, draw, counts)
        if not positives:
            counts[NO_POSITIVE] += 1
            continue
        found = candidates.get(query_id, ())[settings.first_rank - 1 : settings.last_rank]
        texts = {_plain(collection.documents[one].content) for one in relevant[query_id] & collection.documents.keys()}
        others = near[query_id] - relevant[query_id]
        waiting = _negatives(collection, found, grades, texts, others, counts)
        if settings.sampling == RANDOM:
            draw.shuffle(waiting)
        pools.append(_Query(query_id, query, positives, waiting, relevant[query_id] | near[query_id]))
    return pools


def _positives(
    collection: Collection,
    grades: Mapping[str, int],
    highest: int,
    most: int | None,
    draw: random.Random,
    counts: Counter[str],
) -> list[_Drawn]:
    """Return a query's relevant documents, the highest grades first, in the order of the judgments."""
    ranked = sorted(((one, grade) for one, grade in grades.items() if grade > 0), key=lambda item: -item[1])
    kept: dict[str, _Drawn] = {}
    for document_id, grade in ranked:
        document = collection.documents.get(document_id)
        if document is None:
            counts[MISSING] += 1
        elif is_blank(document.content):
            counts[BLANK] += 1
        elif (plain := _plain(document.content)) in kept:
            counts[SAME_POSITIVE] += 1
        else:
            kept[plain] = _Drawn(document_id, document.content, JUDGED, 0, grade / highest)
    found = list(kept.values())
    if most is None or len(found) <= most:
        return found
    counts[TOO_MANY] += len(found) - most
    drawn = sorted(found, key=lambda one: (-(one.label or 0.0), draw.random()))[:most]
    return [one for one in found if one in drawn]


def _negatives(
    collection: Collection,
    found: Sequence[Found],
    grades: Mapping[str, int],
    positive_texts: set[str],
    relevant_elsewhere: set[str],
    counts: Counter[str],
) -> list[_Drawn]:
    """Return what may become a negative, by rank: what is judged not relevant, and what is not judged."""
    met: set[str] = set()
    negatives = []
    for rank, one in enumerate(found, start=1):
        if grades.get(one.document_id, 0) > 0:
            continue
        text = collection.documents[one.document_id].content
        plain = _plain(text)
        is_judged = one.document_id in grades
        if is_blank(text):
            counts[BLANK_CANDIDATE] += 1
        elif plain in positive_texts:
            counts[SAME_AS_POSITIVE] += 1
        elif not is_judged and one.document_id in relevant_elsewhere:
            counts[OF_NEAR_QUERY] += 1
        elif plain in met:
            counts[SAME_CANDIDATE] += 1
        else:
            met.add(plain)
            source, label = (JUDGED, 0.0) if is_judged else (one.source, None)
            negatives.append(_Drawn(one.document_id, text, source, rank, label))
    return negatives


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the teacher, if there is one, made of a query's documents in one round; what it cannot read is counted."""

    shown: Sequence[Shown]
    counts: Counter[str]
    has_teacher: bool

    def of(self, documents: Sequence[_Drawn], start: int = 0) -> Iterator[tuple[_Drawn, Shown]]:
        """Yield those of some documents that can be read; the first of them is the one at `start`."""
        for drawn, shown in zip(documents, self.shown[start:], strict=False):
            if self.has_teacher and shown.logit is None:
                self.counts[UNREAD] += 1
            else:
                yield drawn, shown


def _settle_positives(one: _Query, reading: _Reading, settings: Mining) -> None:
    """Let a query's relevant documents become positives, and find the logit that margins are measured from."""
    one.found += [drawn.candidate(shown, drawn.label or 0.0) for drawn, shown in reading.of(one.positives)]
    logits = [found.teacher for found in one.found if found.teacher is not None]
    if logits:
        one.reference = REFERENCES[settings.reference](logits)


def _settle_taken(one: _Query, reading: _Reading, settings: Mining, counts: Counter[str]) -> list[float]:
    """
    Let the documents that were taken become negatives, or positives, or nothing.

    :returns: How far each unjudged one lies above the reference.
    """
    above: list[float] = []
    for drawn, shown in reading.of(one.taken, len(one.positives)):
        if drawn.label is None and shown.logit is not None and one.reference is not None:
            above.append(shown.logit - one.reference)
            if settings.false_negatives != KEEP and above[-1] >= -settings.margin:
                counts[_FALSE_NEGATIVES] += 1
                one.relevant.add(drawn.document_id)
                if settings.false_negatives == RELABEL:
                    one.relabelled.append(drawn.candidate(shown, one.label_near(shown.logit)))
                continue
        one.negatives.append((drawn.rank, drawn.candidate(shown, 0.0)))
    one.positives = []
    return above


def _copies(collection: Collection, candidates: Mapping[str, Sequence[Found]]) -> dict[str, list[str]]:
    """Return of each document that another query may bring, and that has copies, the ids of those."""
    named = {one.document_id for found in candidates.values() for one in found}
    named |= {document_id for grades in collection.judgments.values() for document_id in grades}
    same: dict[str, list[str]] = {}
    for document_id in sorted(named & collection.documents.keys()):
        same.setdefault(_plain(collection.documents[document_id].content), []).append(document_id)
    return {one: ids for ids in same.values() if len(ids) > 1 for one in ids}


def _finished(pools: Sequence[_Query], copies: Mapping[str, Sequence[str]], counts: Counter[str]) -> Iterator[Group]:
    for one in pools:
        if not one.found:
            counts[NO_POSITIVE] += 1
            continue
        group = one.group(copies)
        if len({candidate.label for candidate in group.candidates}) > 1:
            yield group
        else:
            counts[NO_CONTRAST] += 1


def _plain(text: str) -> str:
    """Return a text without the differences in case and white space that no reader would call another text."""
    return " ".join(text.casefold().split())
