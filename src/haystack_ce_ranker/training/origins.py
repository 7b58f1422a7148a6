"""
Labels without judges: a made query's right document is the one that it was made of, and others are wrong.

That is the lesson of a contrastive loss. Some of the others answer the query as well. A teacher tells which: what it
scores no lower than the right document is neither right nor wrong, and is not learnt. Nor is a copy of the right one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.made_queries import MadeQuery

ORIGINS = (
    "the document that each query was made of, or the teacher's best one for a query of a log, as there are no "
    "judgments"
)
"""What a test without judgments is, in words."""


@dataclass(frozen=True)
class Labelled:
    """
    Groups with labels.

    :ivar groups: Of the queries that have a right document and a wrong one.
    :ivar unread: Queries whose right document is not among the candidates: it holds no more than the query copies, or
        the teacher cannot read it.
    :ivar alone: Queries of which no document is wrong.
    :ivar doubtful: Documents of the groups that are neither right nor wrong.
    """

    groups: tuple[Group, ...]
    unread: int
    alone: int
    doubtful: int


def by_origin(groups: Sequence[Group], queries: Sequence[MadeQuery], *, drops: bool) -> Labelled:
    """
    Label the document that each query was made of with 1, and those that the teacher scores lower with 0.

    A query of a log was made of no document. Its right one is the one that the teacher scores highest.

    :param groups: Lessons with targets as `teacher`; see `adapting.lessons`.
    :param queries: Among them those of the groups.
    :param drops: Whether documents without a lower target get no label. Otherwise they are wrong as well: a model
        cannot tell by its own logits what it does not know yet.
    """
    origins = {query.id: query.document_id for query in queries}
    made: list[Group] = []
    unread = alone = doubtful = 0
    for group in groups:
        right = _right(group, origins)
        if right is None:
            unread += 1
            continue
        labelled = [_labelled(one, right, drops=drops) for one in group.candidates]
        if not any(one.label == 0 for one in labelled):
            alone += 1
            continue
        doubtful += sum(one.label is None for one in labelled)
        made.append(replace(group, candidates=tuple(labelled)))
    return Labelled(tuple(made), unread, alone, doubtful)


def origins_sought(groups: Sequence[Group]) -> HeldOut:
    """Return queries to test on where nothing is judged: the right document of each among the wrong ones."""
    kept = {group.query_id: [one for one in group.candidates if one.label is not None] for group in groups}
    return HeldOut(
        queries={group.query_id: group.query for group in groups},
        documents={name: {one.document_id: one.text for one in some} for name, some in kept.items()},
        judgments={name: {one.document_id: int(one.label == 1) for one in some} for name, some in kept.items()},
        judged_by=ORIGINS,
    )


def _right(group: Group, origins: Mapping[str, str]) -> Candidate | None:
    origin = origins[group.query_id]
    if not origin:
        return max(group.candidates, key=_target)
    return next((one for one in group.candidates if one.document_id == origin), None)


def _labelled(one: Candidate, right: Candidate, *, drops: bool) -> Candidate:
    if one is right:
        return replace(one, label=1.0)
    may_be_right = one.text == right.text or (drops and _target(one) >= _target(right))
    return replace(one, label=None if may_be_right else 0.0)


def _target(one: Candidate) -> float:
    return float("-inf") if one.teacher is None else one.teacher
