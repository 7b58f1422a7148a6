"""
Would a small student choose better what the model reads than the words of the candidates do?

    python benchmarks/watts.py screening --second FOLDER

A part of `watts.py`, which prints and keeps it. Today `screen=True` chooses by the logits so far and by how similar the
candidates' tokens are, which costs next to nothing. A student reads the candidates first, and that is paid for: each of
its tokens counts as the share that its layers are of the model's. All ways may spend what depth='auto' with screen=True
spends. What comes below the candidates that the model scores stands in the order of who chose them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from common import CannotRun, Report
from haystack_ce_ranker.backends.protocol import Backend, Counted
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from token_scoring import Remembering, backend_of, loaded
from watts_tasks import DEPTH, TASKS, Outcome, Query, fixed_of_cost, outcome_of, queries_of, shown

COLLECTIONS = ("dl19", "stackfaq", "vaswani", "med", "cacm")
READ = (100, 50)
"""How many of the first candidates the student reads."""

RISKS = (0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Of the rule behind the student: what the student costs has to be saved there."""

SLACK = 0.02
"""By how much a way may cost more than today's: a depth is a whole number of candidates."""


@dataclass
class Student:
    """
    A small model that reads candidates before the large one.

    :ivar share: What one of its tokens costs, as a share of one of the large model's.
    """

    scorer: CrossEncoderScorer
    share: float
    _logits: dict[tuple[str, ...], NDArray[np.float64]] = field(default_factory=dict)

    def logits(self, query: Query) -> NDArray[np.float64]:
        """Return its logit of each candidate, -inf where it has none; shape (candidates,)."""
        key = (query.text, *query.ids)
        if key not in self._logits:
            found, _ = self.scorer.score(query.text, query.texts)
            logits = [-np.inf if one.logit is None else one.logit for one in found.documents]
            self._logits[key] = np.asarray(logits)
        return self._logits[key]

    def order(self, query: Query, read: int) -> NDArray[np.intp]:
        """Return the candidates, the first `read` of them in the student's order and the others behind as they came."""
        first = np.argsort(-self.logits(query)[:read], kind="stable")
        return np.concatenate([first, np.arange(len(first), len(query.ids))])

    def cost(self, query: Query, read: int) -> float:
        """Return what reading the first candidates costs, as a share of the large model's tokens at full depth."""
        return self.share * float(query.tokens[:read].sum() / max(query.tokens.sum(), 1.0))


@dataclass(frozen=True)
class Found:
    """What a way to choose reached, and the setting that spends what it may."""

    setting: str
    outcome: Outcome


@dataclass(frozen=True)
class Compared:
    """The ways to choose, on one collection at one cost."""

    whole: Outcome
    today: Outcome
    fixed: Found
    students: Mapping[str, Found]
    free: Found

    @cached_property
    def best(self) -> tuple[str, Found] | None:
        """The student that reaches most of those that cost what today's choice does; None if all cost more."""
        paid = [one for one in self.students.items() if one[1].outcome.cost <= self.today.cost + SLACK]
        return max(paid, key=lambda item: item[1].outcome.mean, default=None)


def screening(arguments: argparse.Namespace, report: Report) -> None:
    """A student's order as the choice of what is read, against today's and the fixed depth, at one cost."""
    if arguments.second is None:
        raise CannotRun("name a student with --second: the folder of a cross-encoder with fewer layers")
    model = backend_of(arguments)
    backend = loaded(arguments.second_backend, arguments.second, arguments.threads, arguments.cache)
    student = Student(CrossEncoderScorer(backend), share_of(backend, model))
    data = queries_of(arguments, report, {name: TASKS[name] for name in COLLECTIONS})
    report.say(f"\nA token of the student costs {student.share:.2f} of one of the model's.")
    report.table(
        "nDCG@10 at the cost of depth='auto' with screen=True, the student's own cost counted",
        *("collection", "queries", f"depth {DEPTH}", "auto, screened", "fixed depth of no lower cost"),
        *(f"student on {read}, then the model" for read in READ),
        *("student on 100, then auto", "student on 100, if it cost nothing"),
    )
    compared = {}
    for name, queries in data.items():
        found = compared[name] = compare(queries, student)
        ways = [cell(found.fixed), *map(cell, found.students.values()), cell(found.free)]
        today = f"{found.today.mean:.4f} at {found.today.cost:.0%}"
        report.row(name, len(queries), f"{found.whole.mean:.4f}", today, *ways)
    report.say()
    for name, found in compared.items():
        report.say(f"- {name}: {verdict(found)}")


def compare(queries: Sequence[Query], student: Student) -> Compared:
    """Measure all ways to choose at the cost of today's."""
    today = outcome_of(queries, DepthRule(), screen=True)
    depth, fixed = fixed_of_cost(queries, today.cost)
    students = {f"on {read}": cheapest(queries, student, read, today.cost) for read in READ}
    students["with auto behind it"] = ruled(queries, student, today.cost)
    unpaid = Student(student.scorer, 0.0)
    return Compared(
        outcome_of(queries, DEPTH),
        today,
        Found(f"{depth}", fixed),
        students,
        cheapest(queries, unpaid, DEPTH, today.cost),
    )


def cheapest(queries: Sequence[Query], student: Student, read: int, cost: float) -> Found:
    """Let the model score so many of the student's best that it costs no less; the fewest that do."""
    reach = partial(_behind, queries, student, read)
    low, high = 0, max(len(query.ids) for query in queries)
    while low < high:  # the cost rises with the depth
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle).cost >= cost else (middle + 1, high)
    return Found(f"{low}", reach(low))


def _behind(queries: Sequence[Query], student: Student, read: int, depth: int) -> Outcome:
    outcome = Outcome()
    for query in queries:
        order = student.order(query, read)
        ranks = np.argsort(order)
        query.add(ranks < depth, outcome, then=ranks, own=student.cost(query, read))
    return outcome


def ruled(queries: Sequence[Query], student: Student, cost: float) -> Found:
    """Give the student's order to depth='auto' with screen=True, at the lowest risk that costs no more, or the last."""
    found = Found("", Outcome())
    for risk in RISKS:
        outcome = Outcome()
        for query in queries:
            order = student.order(query, DEPTH)
            scored = np.zeros(len(order), dtype=np.bool_)
            scored[order] = query.scored_by(DepthRule(risk=risk), [query.texts[place] for place in order])
            query.add(scored, outcome, then=np.argsort(order), own=student.cost(query, DEPTH))
        found = Found(f"risk {risk:g}", outcome)
        if outcome.cost <= cost:
            break
    return found


def cell(found: Found) -> str:
    """Return a way's setting, what it reaches, and what it costs."""
    return f"{found.setting}: {found.outcome.mean:.4f} at {found.outcome.cost:.0%}"


def verdict(found: Compared) -> str:
    """Say whether the best student chooses better than today's way, in one sentence."""
    free = found.free.outcome.over(found.today)
    if found.best is None:
        return f"no student can be paid; if one cost nothing, it less today's {shown(free)}"
    name, best = found.best
    gain = best.outcome.over(found.today)
    if gain.low > 0:
        who = f"the student ({name}) wins"
    elif gain.high < 0:
        who = f"today's choice wins, over the best student ({name}), too"
    else:
        who = f"no difference that counts between today's choice and the best student ({name})"
    return f"{who}: student less today's {shown(gain)}; if the student cost nothing {shown(free)}"


def share_of(student: Backend | Remembering, model: Backend | Remembering) -> float:
    """Return what a token of the student costs as a share of the model's, by the closed forms of their FLOPs."""
    flops = [one.flops if isinstance(one, Counted) else None for one in (student, model)]
    small, large = flops
    if small is None or large is None:
        raise CannotRun("the FLOPs of a token are not known for the student or the model")
    return float(small.by_token / large.by_token)
