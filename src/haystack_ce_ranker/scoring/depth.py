"""
How deep to go into a query's candidates: which ones to score next, and when to stop.

`prospects` says what can be expected of the candidates without a score. Nothing here runs the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from haystack_ce_ranker import checks
from haystack_ce_ranker.reading.plan import ReadingPlan
from haystack_ce_ranker.scoring.prospects import Prospects, similarity
from haystack_ce_ranker.tokenizing.tokens import Ids

AUTO = "auto"
"""The depth that means a `DepthRule` with its defaults."""

LOOKED_AT = 1000
"""
Of how many of the first candidates prospects are told, unless a number above it is asked for.

Each is compared with each: ten thousand would take gigabytes.
"""

CPU_STEP, DEVICE_STEP = 3, 20
"""
Candidates between two decisions, on a CPU and on another device, which needs larger batches.

The fewer they are, the fewer are scored after the logits have said enough, and the more passes it takes.
"""


@dataclass(frozen=True, kw_only=True)
class DepthRule:
    """
    When to stop scoring a query's candidates.

    It stops once fewer than `risk` of the best `top` documents can be expected among those without a score.

    :ivar risk: Documents. The lower, the deeper; `depth_fitting` finds it for judged queries.
    :ivar top: How many of the best documents count.
    :ivar first: Candidates scored before the first decision; never fewer than `top`.
    :ivar step: Candidates scored between two decisions; None for 3 on a CPU and 20 on another device, which needs
        larger batches.
    :raises ValueError: If a value is out of range.
    """

    risk: float = 0.35
    top: int = 5
    first: int = 10
    step: int | None = None

    def __post_init__(self) -> None:
        """Check the values, and make them plain."""
        plain: dict[str, Any] = {"risk": checks.number("depth['risk']", self.risk, above=0)}
        for name in ("top", "first", "step"):
            plain[name] = checks.whole_number(f"depth[{name!r}]", getattr(self, name), optional=name == "step")
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "DepthRule":
        """Return the rule that a mapping of its values says; what it lacks has its default."""
        known = [one.name for one in fields(cls)]
        for name in given:
            checks.choice("a key of depth", name, known)
        return cls(**given)

    def plain(self) -> dict[str, Any]:
        """Return its values, by name."""
        return asdict(self)


@dataclass(frozen=True)
class Depth:
    """
    What a caller wants of the depth: a number of candidates or a rule, and in which order.

    :ivar most: The most candidates to score; None for no limit.
    :ivar rule: When to stop before that; None not to.
    :ivar screen: Whether the candidates to score are chosen by what can be expected of them.
    """

    most: int | None = None
    rule: DepthRule | None = None
    screen: bool = False

    @classmethod
    def of(cls, depth: "int | DepthRule | None", *, screen: bool = False) -> "Depth":
        """
        Return the depth that two parameters say.

        :raises ValueError: If `depth` is neither a rule nor a number from 1 on.
        """
        if isinstance(depth, DepthRule):
            return cls(rule=depth, screen=screen)
        return cls(most=checks.whole_number("depth", depth, optional=True), screen=screen)

    @property
    def first(self) -> int | None:
        """How many of the first candidates can be scored at all; None for all."""
        return max(LOOKED_AT, self.most or 0) if self.stepwise else self.most

    @property
    def stepwise(self) -> bool:
        """Whether the logits of some candidates decide on the next ones."""
        return self.rule is not None or (self.screen and self.most is not None)

    def search(self, plans: Sequence[ReadingPlan], query: Ids, *, on_cpu: bool) -> "DepthSearch":
        """Begin with a query's candidates. Those of which nothing is to be read are not named."""
        step = CPU_STEP if on_cpu else DEVICE_STEP
        if self.rule is not None and self.rule.step is not None:
            step = self.rule.step
        prospects = Prospects(len(plans), similarity([_shown(plan) for plan in plans], query))
        unread = [place for place, plan in enumerate(plans) if not plan.pieces]
        prospects.see(unread, [None] * len(unread))
        return DepthSearch(prospects, self, step=step)


class DepthSearch:
    """
    Names the candidates of one query to score, step by step, and takes their logits.

    :param prospects: What can be expected of the candidates.
    :param depth: When to stop, and in which order to go on.
    :param step: Candidates between two decisions.
    """

    def __init__(self, prospects: Prospects, depth: Depth, *, step: int) -> None:
        self._prospects = prospects
        self._rule, self._most, self._screen = depth.rule, depth.most, depth.screen
        self._step = step
        self._named = 0
        self._unseen: set[int] = set()

    def __iter__(self) -> "DepthSearch":
        """Return itself."""
        return self

    def __next__(self) -> list[int]:
        """
        Return the candidates to score next, in the order they came.

        :raises StopIteration: If no more are to be scored.
        """
        waiting = self._prospects.waiting
        size = min(self._step, len(waiting))
        if self._rule is not None and not self._named:
            size = min(max(self._rule.first, self._rule.top), len(waiting))
        elif self._rule is not None and self._prospects.missing(self._rule.top) < self._rule.risk:
            size = 0
        if self._most is not None:
            size = min(size, self._most - self._named)
        if size == 0:
            raise StopIteration
        self._named += size
        named: list[int] = sorted(self._prospects.best(size)) if self._screen else waiting[:size].tolist()
        self._unseen.update(named)
        return named

    @property
    def missing(self) -> float | None:
        """How many of the best documents can be expected among those that `see` was not given; None without a rule."""
        if self._rule is None:
            return None
        return min(self._prospects.missing(self._rule.top), float(self._rule.top))

    def to_come(self) -> tuple[int, list[int]]:
        """Return how many candidates will still be named, and which ones may be; none if the logits decide on that."""
        if self._most is None:
            return 0, []
        open_ones = [place for place in self._prospects.waiting.tolist() if place not in self._unseen]
        return min(self._most - self._named, len(open_ones)), open_ones

    def see(self, places: Sequence[int], logits: Sequence[float | None]) -> None:
        """Take the logits of candidates that were named; None for one that gets none."""
        self._unseen.difference_update(places)
        self._prospects.see(places, logits)

    def rest(self) -> list[int]:
        """Return which candidates would still be named if none of them, and of those named before, had a logit."""
        self.see(unseen := sorted(self._unseen), [None] * len(unseen))
        rest = []
        for places in self:
            self.see(places, [None] * len(places))
            rest += places
        return unseen + rest


def _shown(plan: ReadingPlan) -> Ids:
    """Return the tokens of a document that the model would read, each as often as it would."""
    body = plan.document.body.ids
    spans = [body[span.start : span.stop] for piece in plan.pieces for span in piece.spans]
    return np.concatenate([plan.document.header, *spans])
