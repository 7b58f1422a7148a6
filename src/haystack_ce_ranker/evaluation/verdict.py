"""
The verdict: from the figures in results.json to what should be done, in words and as data.

Takes what results.json holds and gives plain values; measures nothing. The rules, which the texts repeat where they
decide something:

- A system is *better* than the baseline where the randomisation test's p, corrected for the number of systems, is below
  0.05; it is *worth* something where it is also better by 0.01 nDCG@10 at least.
- A system is *as good as* the best where it is at most 0.01 below it and the test, query by query, does not find it
  worse (p below 0.05, not corrected: in doubt the dearer one is kept).
- The choice is the cheapest system, by the median latency, that is as good as the best one within the budgets and
  itself worth something; latencies within 10 % are the same, and the better system is taken. Where nothing is worth
  something, the choice is the baseline.
- A budget of milliseconds is held by the 95th percentile, so that 19 of 20 queries are answered in time; one of joules
  by the mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from haystack_ce_ranker.evaluation.comparison import MEASURE, Comparison, compare

LEVEL = 0.05
"""The p below which a difference is no chance."""

WORTH = 0.01
"""nDCG@10 below which a difference is too small to pay for."""

_ROUNDING = 1e-9

SAME_COST = 1.1
"""Latencies whose ratio is below this are the same."""

FEW_QUERIES = 30
"""With fewer, only large differences can be seen."""

UNJUDGED = 0.1
"""Share of unjudged documents in the first ten, beyond the baseline's, above which nDCG is too low to be fair."""

YES, HYBRID_ONLY, TOO_SMALL, UNCERTAIN, NO, NOTHING = (
    "yes",
    "hybrid only",
    "too small",
    "no significant difference",
    "no",
    "nothing to compare",
)
WORTH_IT: Mapping[str, str] = {
    YES: "Yes",
    HYBRID_ONLY: "Only joined with the first stage",
    TOO_SMALL: "Hardly: the gain is real but small",
    UNCERTAIN: "Not shown: no significant difference",
    NO: "No",
    NOTHING: "Nothing to compare",
}
"""
Every value of `worth_it`, and how it is said. `yes`: the cross-encoder alone is worth it (or, where no cross-encoder
was measured alone, the hybrid or pipeline is). `hybrid only`: not alone, but joined with the first stage. `too small`:
better, but by less than 0.01. `no significant difference`: better on average, but it may be chance. `no`: not better,
or surely by less than 0.01, or another first stage is as good.
"""

ALONE, HYBRID, FIRST_STAGE = "cross-encoder", "hybrid", "first stage"


@dataclass(frozen=True)
class System:
    """One system of results.json, with what the verdict asks of it; None where that is not known."""

    name: str
    figures: Mapping[str, Any]

    @property
    def kind(self) -> str | None:
        """First stage, cross-encoder, hybrid or pipeline."""
        return self._text("kind")

    @property
    def depth(self) -> int | None:
        """How many candidates are re-ranked."""
        depth = self.figures.get("depth")
        return None if depth is None else int(depth)

    @property
    def quality(self) -> float:
        """nDCG@10."""
        return float(self.figures[MEASURE])

    @property
    def median(self) -> float | None:
        """Milliseconds that half of the queries take at most."""
        return self.latency("p50")

    @property
    def joules(self) -> float | None:
        """Per query."""
        joules = self.figures.get("joules_per_query")
        return None if joules is None else float(joules)

    @property
    def source(self) -> str | None:
        """Whether joules were measured or estimated; results.json may go on to say how."""
        source = self._text("energy_source")
        return None if source is None else source.partition(":")[0]

    @property
    def versus(self) -> Mapping[str, Any] | None:
        """The comparison with the baseline."""
        versus: Mapping[str, Any] | None = self.figures.get("versus")
        return versus

    def latency(self, percentile: str) -> float | None:
        """Return milliseconds: p50, p95 or p99."""
        value = (self.figures.get("latency_ms") or {}).get(percentile)
        return None if value is None else float(value)

    def setting(self, key: str) -> str | None:
        """Return what a question is about: `model`, `strategy`, or `backend`, which its precision belongs to."""
        if key != "backend":
            return self._text(key)
        parts = [part for part in (self._text("backend"), self._text("dtype")) if part is not None]
        return " ".join(parts) if parts else None

    def _text(self, key: str) -> str | None:
        value = self.figures.get(key)
        return None if value is None else str(value)

    @property
    def significance(self) -> str | None:
        """Against the baseline."""
        if self.versus is None:
            return None
        if self.versus["p_corrected"] >= LEVEL or self.versus["difference"] == 0:
            return UNCERTAIN
        return "better" if self.versus["difference"] > 0 else "worse"

    @property
    def is_worth_it(self) -> bool:
        """Better than the baseline, and by enough."""
        return (
            self.versus is not None and self.significance == "better" and self.versus["difference"] >= WORTH - _ROUNDING
        )


@dataclass(frozen=True)
class _Judge:
    """What all questions need: the systems, the baseline, and how two systems compare."""

    found: Mapping[str, Any]

    @cached_property
    def systems(self) -> tuple[System, ...]:
        return tuple(System(name, figures) for name, figures in self.found["systems"].items())

    @cached_property
    def baseline(self) -> System | None:
        return next((one for one in self.systems if one.name == self.found.get("baseline")), None)

    @cached_property
    def rerankers(self) -> tuple[System, ...]:
        """What the question is about: cross-encoders and hybrids; where there are none, whatever else there is."""
        known = tuple(one for one in self.others if one.kind in (ALONE, HYBRID))
        return known if known else tuple(one for one in self.others if one.kind != FIRST_STAGE)

    @cached_property
    def others(self) -> tuple[System, ...]:
        return tuple(one for one in self.systems if one is not self.baseline)

    @cached_property
    def choice(self) -> System | None:
        """The choice without a budget."""
        return self.choose(self.systems)

    @cached_property
    def best(self) -> System | None:
        """The best of all."""
        return self.top(self.systems)

    @cached_property
    def subject(self) -> System | None:
        """The re-ranking system worth a closer look: the choice, else the best."""
        if self.choice is not None and self.choice in self.rerankers:
            return self.choice
        return _best(self.rerankers)

    def direct(self, one: System, other: System) -> Comparison | None:
        """Compare `other` with `one` query by query; None where values by query are missing."""
        key = (one.name, other.name)
        if key not in self._compared:
            self._compared[key] = self._compare(one, other)
        return self._compared[key]

    @cached_property
    def _compared(self) -> dict[tuple[str, str], Comparison | None]:
        return {}

    def _compare(self, one: System, other: System) -> Comparison | None:
        by_query = self.found.get("by_query") or {}
        if one.name not in by_query or other.name not in by_query:
            return None
        old, new = by_query[one.name][MEASURE], by_query[other.name][MEASURE]
        return compare(old, new) if old and old.keys() == new.keys() else None

    def as_good(self, one: System, best: System) -> bool:
        if one.quality >= best.quality:
            return True
        if best.quality - one.quality > WORTH + _ROUNDING:
            return False
        found = self.direct(best, one)
        return found is None or found.p >= LEVEL

    def top(self, pool: Sequence[System]) -> System | None:
        """The best of those that are worth something, else the baseline, else (the baseline is not there) the best."""
        worth = [one for one in pool if one.is_worth_it]
        if worth:
            return _best(worth)
        return self.baseline if self.baseline in pool else _best(pool)

    def choose(self, pool: Sequence[System]) -> System | None:
        """The cheapest that is as good as the best of the pool."""
        best = self.top(pool)
        if best is None or best is self.baseline:
            return best
        candidates = [one for one in pool if self.as_good(one, best) and (one.is_worth_it or not best.is_worth_it)]
        return _cheapest(candidates)


def subject(
    found: Mapping[str, Any], *, budget_ms: float | None = None, budget_joules: float | None = None
) -> str | None:
    """
    Return the system whose segments and queries are worth showing: the choice if it re-ranks, else the best re-ranker.

    Where the choice within the budget does not re-rank, it is the one without a budget, if that does.

    For whoever fills results.json: this and `verdict` need `systems` (with `versus`) and `by_query`; `segments` and
    `helped_and_hurt` are then made for this system, and the verdict comes last.

    :returns: None where nothing re-ranks.
    """
    judge = _Judge(found)
    return _subject(judge, judge.choose(_Budget.of(judge, budget_ms, budget_joules).pool))


def _subject(judge: _Judge, choice: System | None) -> str | None:
    one = choice if choice in judge.rerankers else judge.subject
    return None if one is None else one.name


def verdict(
    found: Mapping[str, Any], *, budget_ms: float | None = None, budget_joules: float | None = None
) -> dict[str, Any]:
    """
    Say what to do.

    :param found: What results.json holds, without the verdict.
    :param budget_ms: Milliseconds that a query may take, by the 95th percentile.
    :param budget_joules: Joules that a query may take, on average.
    :returns: Plain values: `worth_it` (a key of `WORTH_IT`), `choice` (a system or None), `settings` of the choice,
        `answers` in words, and the data behind them; results.schema.json describes each.
    :raises ValueError: If a budget is not positive.
    """
    for name, value in (("budget_ms", budget_ms), ("budget_joules", budget_joules)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be > 0, but got {value}")
    judge = _Judge(found)
    worth_it = _worth_it(judge)
    allowed = _Budget.of(judge, budget_ms, budget_joules)
    choice = judge.choose(allowed.pool)
    depth = _depth(judge, worth_it)
    answers = [
        _answer_worth_it(judge, worth_it),
        _answer_choice(judge, allowed),
        *(_answer_choice(judge, part, part.limits[0].key) for part in allowed.parts()),
        _answer_hybrid(judge),
        _answer_depth(depth, worth_it),
        *(_answer_setting(judge, key) for key in _SETTINGS),
        _answer_memory(found),
        _answer_segments(found),
    ]
    helps, harms = (_segments(found, effect) for effect in ("helps", "harms"))
    return {
        "worth_it": worth_it,
        "choice": None if choice is None else choice.name,
        "subject": _subject(judge, choice),
        "settings": None if choice is None else _settings(choice),
        "answers": [answer for answer in answers if answer is not None],
        "cautions": _cautions(judge),
        "not_compared": [line for key in ("depth", *_SETTINGS) if (line := _not_compared(judge, key)) is not None],
        "budget": {"ms": budget_ms, "percentile": _PERCENTILE, "joules": budget_joules},
        "depth": None if depth is None else depth.as_data(),
        "pareto": _pareto(judge.systems),
        "gain_per_100ms": {one.name: _per_100_ms(judge, one) for one in judge.others},
        "gain_per_joule": {one.name: _per_joule(judge, one) for one in judge.others},
        "significance": {
            "level": LEVEL,
            "smallest": WORTH,
            "test": f"paired randomisation of {MEASURE}, two-sided",
            "correction": f"Holm over {len(judge.others)} systems",
            "systems": {one.name: one.significance for one in judge.others},
        },
        "helps_where": helps,
        "harms_where": harms,
    }


def short_name(name: str | None) -> str:
    """Return how a setting is shown: a model's folder, or one in a package, by its end, anything else as it is."""
    if name is None:
        return "-"
    return PurePath(name).name if name.startswith(("/", ".", "~", "package:")) else name


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other one beats in both, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


# --- is it worth it -------------------------------------------------------------------------------------------------


def _worth_it(judge: _Judge) -> str:
    compared = [one for one in judge.rerankers if one.versus is not None]
    if judge.baseline is None or not compared:
        return NOTHING
    if judge.choice is not None and judge.choice is not judge.baseline and judge.choice.kind == FIRST_STAGE:
        return NO
    alone = [one for one in compared if one.kind == ALONE]
    if any(one.is_worth_it for one in alone):
        return YES
    if any(one.is_worth_it for one in compared):
        return HYBRID_ONLY if alone else YES
    if any(one.significance == "better" for one in compared):
        return TOO_SMALL
    against = [one.versus for one in compared if one.versus is not None]
    hopeless = all(versus["difference"] <= 0 or versus["high"] < WORTH for versus in against)
    return NO if hopeless else UNCERTAIN


def _answer_worth_it(judge: _Judge, worth_it: str) -> dict[str, Any]:
    question = "Is re-ranking worth it here?"
    if worth_it == NOTHING:
        if len(judge.systems) < 2:
            reason = "Only one system was measured, so there is nothing to compare it with."
        elif judge.baseline is None:
            reason = "No baseline is named, so no system is compared with another."
        else:
            reason = "No system that re-ranks was compared with the baseline."
        return _answer("worth_it", question, WORTH_IT[worth_it], reason)
    lines = []
    if judge.choice is not None and judge.choice.kind == FIRST_STAGE and judge.choice is not judge.baseline:
        lines.append(f"{judge.choice.name} is as good without: {MEASURE} {judge.choice.quality:.3f}.")
    labels = {ALONE: "The best cross-encoder alone", HYBRID: "The best hybrid"}
    shown = [one for kind in labels if (one := _foremost(judge.rerankers, kind)) is not None]
    for one in shown if shown else [judge.subject]:
        if one is not None:
            lines.append(f"{labels.get(one.kind or '', 'The best other')}, {one.name}, {_against(one, judge)}")
    if worth_it == UNCERTAIN:
        lines.append("What is better on average may be chance; more judged queries would tell.")
    if worth_it == TOO_SMALL:
        lines.append(f"Less than {WORTH} is too little to pay for.")
    return _answer("worth_it", question, WORTH_IT[worth_it], " ".join(lines), judge.subject)


def _against(one: System, judge: _Judge) -> str:
    baseline = judge.baseline
    if one.versus is None or baseline is None:
        return f"has {MEASURE} {one.quality:.3f}."
    versus = one.versus
    found = {"better": "better", "worse": "worse"}.get(one.significance or "", "not significant")
    return (
        f"has {MEASURE} {one.quality:.3f} against {baseline.quality:.3f} of {baseline.name}: "
        f"{_signed(versus['difference'])} (95 % interval {_signed(versus['low'])} to {_signed(versus['high'])}; "
        f"{_p(versus['p_corrected'])} after correction; {versus['wins']} won, {versus['losses']} lost): {found}."
    )


def _answer_choice(judge: _Judge, allowed: "_Budget", key: str = "choice") -> dict[str, Any] | None:
    if len(judge.systems) < 2:
        return None
    question = f"Which system, within {allowed.text} a query?" if allowed.limits else "Which system, then?"
    choice, free = judge.choose(allowed.pool), judge.choice
    unbound = []
    if key == "choice" and free is not None and free not in allowed.pool:
        unbound.append(f"Without a budget the choice is {free.name}: {free.quality:.3f}, {_costs(free)}.")
    if choice is None:
        reason = " ".join(["No system stays within that.", *allowed.lines(None), *unbound])
        return _answer(key, question, "Nothing that was measured", reason)
    best = judge.top(allowed.pool)
    lines = [f"It has {MEASURE} {choice.quality:.3f} and takes {_costs(choice)}."]
    gains = []
    if (gain := _per_100_ms(judge, choice)) is not None:
        gains.append(f"{_signed(gain)} for each 100 ms more")
    if (gain := _per_joule(judge, choice)) is not None:
        gains.append(f"{_signed(gain)} for each joule more ({choice.source})")
    if gains and judge.baseline is not None:
        lines.append(f"Against {judge.baseline.name} that is {' and '.join(gains)}.")
    if best is not None and best is not choice:
        rule = f"It is the cheapest that is within {WORTH} of the best and not significantly worse"
        lines.append(f"{rule}; the best, {best.name}, has {best.quality:.3f} and takes {_costs(best)}.")
    elif choice is judge.baseline:
        where = " within that" if allowed.limits else ""
        lines.append(f"Nothing{where} is both significantly better and better by {WORTH} at least.")
    return _answer(key, question, choice.name, " ".join([*lines, *allowed.lines(choice), *unbound]), choice)


def _answer_hybrid(judge: _Judge) -> dict[str, Any] | None:
    alone, joined = (_best([one for one in judge.rerankers if one.kind == kind]) for kind in (ALONE, HYBRID))
    if alone is None or joined is None:
        return None
    found = judge.direct(alone, joined)
    difference = joined.quality - alone.quality
    figures = (
        f"The best hybrid, {joined.name}, has {joined.quality:.3f}; the best alone, {alone.name}, {alone.quality:.3f}"
    )
    if found is None:
        tested = "not tested, because values by query are missing"
    else:
        tested = f"95 % interval {_signed(found.low)} to {_signed(found.high)}, {_p(found.p)}"
    reason = f"{figures}: {_signed(difference)} ({tested})."
    clear = abs(difference) >= WORTH and found is not None and found.p < LEVEL
    if not clear:
        return _answer("hybrid", _HYBRID_QUESTION, "Either: no significant difference", reason)
    answer = "Joined with the first stage" if difference > 0 else "The cross-encoder alone"
    return _answer("hybrid", _HYBRID_QUESTION, answer, reason)


_HYBRID_QUESTION = "The cross-encoder alone, or joined with the first stage?"


# --- depth ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Depth:
    """
    A curve, its top, and the place chosen on it.

    :ivar best: What the place chosen is as good as: the curve's top, or a better system that is not on it.
    :ivar falls: Whether the deepest is not as good as the top.
    :ivar fall: By how much, in words.
    """

    curve: tuple[System, ...]
    top: System
    chosen: System
    best: System
    falls: bool
    fall: str

    def as_data(self) -> dict[str, Any]:
        curve = [{"depth": one.depth, MEASURE: one.quality, "system": one.name} for one in self.curve]
        return {"chosen": self.chosen.depth, "best": self.top.depth, "falls": self.falls, "curve": curve}


def _depth(judge: _Judge, worth_it: str) -> _Depth | None:
    """The curve of the subject: the smallest depth that is as good as the best."""
    looked_at = judge.subject
    if looked_at is None or looked_at.depth is None:
        return None
    curve = sorted((one for one in judge.rerankers if _alike(one, looked_at, "depth")), key=lambda one: one.depth or 0)
    if len(curve) < 2:
        return None
    top = max(curve, key=lambda one: (one.quality, -(one.depth or 0)))
    best = judge.best if worth_it in (YES, HYBRID_ONLY) and judge.best in judge.rerankers else None
    best = top if best is None else best
    chosen = next((one for one in curve if judge.as_good(one, best)), top)
    deepest = curve[-1]
    falls = not judge.as_good(deepest, top)
    tested = judge.direct(top, deepest)
    fall = f"{_signed(deepest.quality - top.quality)} from {top.depth} to {deepest.depth}"
    fall += "" if tested is None else f" ({_p(tested.p)})"
    return _Depth(tuple(curve), top, chosen, best, falls, fall)


def _answer_depth(found: _Depth | None, worth_it: str) -> dict[str, Any] | None:
    if found is None:
        return None
    curve = ", ".join(f"{one.depth}: {one.quality:.3f}" for one in found.curve)
    lines = [f"{MEASURE} by depth ({_family(found.chosen)}): {curve}."]
    if found.chosen is found.best:
        lines.append(f"{found.chosen.depth} is the best; no smaller one is as good to within {WORTH}.")
    else:
        best = f"{found.best.depth}" if found.best in found.curve else found.best.name
        lines.append(
            f"{found.chosen.depth} is the smallest that is within {WORTH} of the best ({best}, "
            f"{found.best.quality:.3f}) and not significantly worse."
        )
    if found.chosen is found.curve[-1]:
        lines.append("It is the deepest that was measured; deeper may be better still.")
    if found.falls:
        lines.append(f"Quality falls with depth: {found.fall}.")
    answer = f"{found.chosen.depth}" if worth_it in (YES, HYBRID_ONLY) else f"If at all, {found.chosen.depth}"
    return _answer("depth", "How many candidates?", answer, " ".join(lines), None)


# --- strategy, backend, model ---------------------------------------------------------------------------------------

_SETTINGS: Mapping[str, str] = {
    "strategy": "Which strategy for long documents?",
    "backend": "Which backend?",
    "model": "Which model?",
}

_IDENTITY = ("kind", "first_stage", "model", "backend", "depth", "strategy")


def _alike(one: System, other: System, but: str) -> bool:
    """Whether two systems differ in nothing but one setting."""
    return all(_part(one, key) == _part(other, key) for key in _IDENTITY if key != but)


def _part(one: System, key: str) -> Any:
    return one.kind if key == "kind" else one.depth if key == "depth" else one.setting(key)


def _variants(judge: _Judge, key: str) -> list[System]:
    """Systems that differ in one setting only: with the subject, else the best such group there is."""
    ordered = sorted(judge.rerankers, key=lambda one: (one is not judge.subject, -one.quality))
    for first in ordered:
        group = [one for one in judge.rerankers if _alike(one, first, key) and one.setting(key) is not None]
        if len({one.setting(key) for one in group}) > 1:
            return sorted(group, key=lambda one: -one.quality)
    return []


def _answer_setting(judge: _Judge, key: str) -> dict[str, Any] | None:
    group = _variants(judge, key)
    if not group:
        return None
    best = group[0]
    chosen = judge.choice if judge.choice in group else _cheapest([one for one in group if judge.as_good(one, best)])
    if chosen is None:
        return None
    lines = [
        f"{short_name(one.setting(key))}: {MEASURE} {one.quality:.3f}, {_costs(one, tokens=False)}." for one in group
    ]
    if chosen is not best:
        found = judge.direct(best, chosen)
        tested = "" if found is None else f" ({_signed(found.difference)}, {_p(found.p)})"
        lines.append(
            f"{short_name(chosen.setting(key))} is as good as {short_name(best.setting(key))}{tested} and cheaper."
        )
    else:
        lines.append(f"Nothing cheaper is within {WORTH} of {short_name(best.setting(key))} and as good.")
    same = [text for other in _IDENTITY if other not in (key, "kind") and (text := _said(best, other)) is not None]
    lines.append(f"Compared as {', '.join([best.kind or 'pipeline', *same])}.")
    return _answer(key, _SETTINGS[key], short_name(chosen.setting(key)), " ".join(lines))


def _said(one: System, key: str) -> str | None:
    value = _part(one, key)
    if value is None:
        return None
    if key == "first_stage":
        return f"over {value}"
    return f"depth {value}" if key == "depth" else short_name(value)


def _not_compared(judge: _Judge, key: str) -> str | None:
    """Say which question nobody can answer, because everything had the same setting."""
    values = {_part(one, key) for one in judge.rerankers} - {None}
    return f"{key}: only {short_name(str(values.pop()))} was measured" if len(values) == 1 else None


# --- budgets --------------------------------------------------------------------------------------------------------

_PERCENTILE = "p95"


@dataclass(frozen=True)
class _Limit:
    """
    The most that a query may cost of one thing.

    :ivar how: How it is held.
    :ivar known: What a system must have that is held against it.
    """

    key: str
    most: float
    unit: str
    how: str
    known: str
    cost: Callable[[System], float | None]

    def fits(self, one: System) -> bool:
        cost = self.cost(one)
        return cost is not None and cost <= self.most

    def least(self, systems: Sequence[System]) -> str:
        costs = [cost for one in systems if (cost := self.cost(one)) is not None]
        return f"The least is {_amount(min(costs), self.unit)} ({self.how})." if costs else f"None has {self.known}."

    def left_out(self, systems: Sequence[System]) -> str | None:
        unknown = sum(self.cost(one) is None for one in systems)
        return (
            f"Left out: {unknown} {'system' if unknown == 1 else 'systems'} without {self.known}." if unknown else None
        )


@dataclass(frozen=True)
class _Budget:
    """Which systems stay within what a query may cost."""

    judge: _Judge
    limits: tuple[_Limit, ...]

    @classmethod
    def of(cls, judge: _Judge, milliseconds: float | None, joules: float | None) -> "_Budget":
        """Joules are held by what was measured, where anything was; by estimates else."""
        limits = []
        if milliseconds is not None:
            held = ("ms", _PERCENTILE, "a latency")
            limits.append(_Limit("budget_ms", milliseconds, *held, lambda one: one.latency(_PERCENTILE)))
        if joules is not None:
            sources = {one.source for one in judge.systems if one.joules is not None} - {None}
            source = "measured" if "measured" in sources else "estimated"
            held = ("J", f"{source}, mean", f"{source} joules")
            limits.append(
                _Limit("budget_joules", joules, *held, lambda one: one.joules if one.source == source else None)
            )
        return cls(judge, tuple(limits))

    @cached_property
    def pool(self) -> tuple[System, ...]:
        return tuple(one for one in self.judge.systems if all(limit.fits(one) for limit in self.limits))

    @property
    def text(self) -> str:
        return " and ".join(f"{limit.most:g} {limit.unit} ({limit.how})" for limit in self.limits)

    def lines(self, chosen: System | None) -> list[str]:
        """What there is to say of a choice within the budget."""
        lines = [] if chosen is not None else [limit.least(self.judge.systems) for limit in self.limits]
        return lines + [line for limit in self.limits if (line := limit.left_out(self.judge.systems)) is not None]

    def parts(self) -> list["_Budget"]:
        """Each limit by itself, where there are two."""
        return [_Budget(self.judge, (limit,)) for limit in self.limits] if len(self.limits) > 1 else []


# --- memory, segments, cautions -------------------------------------------------------------------------------------


def _answer_memory(found: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = found.get("memory_by_batch") or []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row["model"]), str(row["backend"])), []).append(row)
    groups = {key: sorted(group, key=lambda row: int(row["batch_tokens"])) for key, group in groups.items()}
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    if not groups:
        return None
    lines = []
    for (model, backend), group in groups.items():
        points = ", ".join(f"{row['batch_tokens']:,}: {row['peak_memory_mb']:,.0f} MB" for row in group)
        lines.append(f"{short_name(model)}, {backend}, peak by tokens in a batch: {points}.")
    peaks = [float(row["peak_memory_mb"]) for group in groups.values() for row in group]
    answer = f"{min(peaks):,.0f} to {max(peaks):,.0f} MB, by batch size"
    return _answer("memory", "How much memory?", answer, " ".join(lines))


def _segments(found: Mapping[str, Any], effect: str) -> list[dict[str, Any]]:
    """The segments with an effect, the largest first."""
    rows = (found.get("segments") or {}).get("segments", ())
    keys = ("name", "bounds", "queries", "gain", "interval", "p_corrected")
    kept = [{key: row[key] for key in keys} for row in rows if row["effect"] == effect]
    return sorted(kept, key=lambda row: -abs(row["gain"]))


def _answer_segments(found: Mapping[str, Any]) -> dict[str, Any] | None:
    known = found.get("segments") or {}
    rows = [row for row in known.get("segments", ()) if row["effect"] != "too few"]
    if not rows:
        return None
    helps, harms = (_segments(found, effect) for effect in ("helps", "harms"))
    question = f"Where does {known['system']} help, and where does it harm?"
    if not helps and not harms:
        answer = "No kind of query stands out"
    elif len(helps) == len(rows):
        answer = f"It helps everywhere, most: {helps[0]['name']}"
    else:
        parts = [f"it {verb} most: {few[0]['name']}" for verb, few in (("helps", helps), ("harms", harms)) if few]
        answer = "; ".join(parts)
        answer = answer[0].upper() + answer[1:]
    lines = [_segment_line(row) for row in [*helps[:2], *harms[:2]]]
    lines.append(
        f"{len(helps)} of {len(rows)} segments gain and {len(harms)} lose, corrected for their number; "
        f"those of fewer than {known['fewest']} queries are not judged."
    )
    return _answer("segments", question, answer, " ".join(lines))


def _segment_line(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    name = row["name"][0].upper() + row["name"][1:]
    return (
        f"{name} ({row['bounds']}; {row['queries']} queries): {_signed(row['gain'])} "
        f"(95 % interval {_signed(low)} to {_signed(high)})."
    )


def _cautions(judge: _Judge) -> list[str]:
    """What may mislead."""
    lines = []
    if judge.found.get("complete") is False:
        lines.append("The measurement was interrupted: these are the figures of the queries until then.")
    queries = int(judge.found["queries"])
    if queries < FEW_QUERIES and len(judge.systems) > 1:
        lines.append(f"Only {queries} queries with judgments: only large differences can be told from chance.")
    looked_at, baseline = judge.subject, judge.baseline
    if looked_at is None:
        return lines
    unjudged = looked_at.figures.get("unjudged@10")
    known = None if baseline is None else baseline.figures.get("unjudged@10")
    if unjudged is not None and unjudged - (known or 0.0) > UNJUDGED:
        compared = "" if known is None or baseline is None else f" ({known:.0%} for {baseline.name})"
        lines.append(
            f"{unjudged:.0%} of the first ten documents of {looked_at.name} were never judged{compared} and count as "
            f"not relevant: its {MEASURE} may be too low."
        )
    read = looked_at.figures.get("read_share")
    if read is not None and read < 0.5:
        lines.append(f"{looked_at.name} read only {read:.0%} of its candidates' tokens.")
    return lines


# --- costs ----------------------------------------------------------------------------------------------------------


def _pareto(systems: Sequence[System]) -> dict[str, Any]:
    """Names on the front of quality against latency, and against energy for each kind of source by itself."""
    sources = sorted({one.source for one in systems if one.source is not None and one.joules is not None})
    energy = {source: [(one, one.joules) for one in systems if one.source == source] for source in sources}
    return {
        "latency": _front([(one, one.median) for one in systems]),
        "energy": {source: _front(costs) for source, costs in energy.items()},
    }


def _front(costs: Sequence[tuple[System, float | None]]) -> list[str]:
    known = [(cost, one.quality, one.name) for one, cost in costs if cost is not None]
    front = set(pareto_front((cost, quality) for cost, quality, _ in known))
    return [name for cost, quality, name in sorted(known) if (cost, quality) in front]


def _per_100_ms(judge: _Judge, one: System) -> float | None:
    base = judge.baseline
    if base is None or one is base or one.median is None or base.median is None:
        return None
    more = one.median - base.median
    return 100.0 * (one.quality - base.quality) / more if more > 0 else None


def _per_joule(judge: _Judge, one: System) -> float | None:
    base = judge.baseline
    if base is None or one is base or one.joules is None or base.joules is None or one.source != base.source:
        return None
    more = one.joules - base.joules
    return (one.quality - base.quality) / more if more > 0 else None


def _best(pool: Iterable[System]) -> System | None:
    """The highest nDCG; among equals the cheapest, then the first."""
    return max(pool, key=lambda one: (one.quality, -_cost(one)), default=None)


def _foremost(pool: Iterable[System], kind: str | None) -> System | None:
    """The best of a kind that is worth something, else the best of the kind; None for any kind."""
    some = [one for one in pool if kind is None or one.kind == kind]
    worth = _best(one for one in some if one.is_worth_it)
    return _best(some) if worth is None else worth


def _cheapest(pool: Sequence[System]) -> System | None:
    """The best of those whose median latency is within 10 % of the lowest."""
    if not pool:
        return None
    least = min(_cost(one) for one in pool)
    return _best(one for one in pool if _cost(one) <= least * SAME_COST)


def _cost(one: System) -> float:
    return float("inf") if one.median is None else one.median


def _costs(one: System, *, tokens: bool = True) -> str:
    parts = []
    if one.median is not None:
        late = one.latency("p95")
        parts.append(_amount(one.median, "ms") + ("" if late is None else f" (p95 {_amount(late, 'ms')})"))
    read = one.figures.get("tokens_per_query")
    if tokens and read is not None:
        parts.append(f"{read:,.0f} tokens")
    if one.joules is not None:
        parts.append(f"{_amount(one.joules, 'J')} ({one.source})")
    return f"{', '.join(parts)} a query" if parts else "nobody knows how long"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return f"unknown {unit}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _settings(one: System) -> dict[str, Any]:
    keys = ("kind", "model", "backend", "dtype", "depth", "strategy")
    return {**{key: one.figures.get(key) for key in keys}, "hybrid": one.kind == HYBRID}


def _family(one: System) -> str:
    parts = [one.kind, *(one.setting(key) for key in ("model", "backend", "strategy"))]
    return ", ".join(short_name(part) for part in parts if part is not None)


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # -0.0 + 0.0 is 0.0


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _answer(key: str, question: str, answer: str, reason: str, system: System | None = None) -> dict[str, Any]:
    return {
        "key": key,
        "question": question,
        "answer": answer,
        "reason": reason,
        "system": None if system is None else system.name,
    }
