"""
The verdict: what to do, in words and as data.

Measures nothing and decides nothing: `choosing.py` decides, and states the rules. Here it is said, with the figures
that the decisions rest on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.judging.choosing import (
    DepthCurve,
    Judge,
    Limit,
    Limits,
    WorthIt,
    find_depth,
    gain_per_100_ms,
    gain_per_joule,
    variants,
)
from haystack_ce_ranker.evaluation.judging.comparison import LEVEL, Bounds
from haystack_ce_ranker.evaluation.judging.formats import amount, p_phrase, short_name, signed
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, UNJUDGED
from haystack_ce_ranker.evaluation.judging.segments import Effect, Segments
from haystack_ce_ranker.evaluation.judging.systems import (
    IDENTITY,
    WORTH,
    Finding,
    Fronts,
    Kind,
    System,
    Weights,
    best_of,
    cheapest_of,
    foremost_of,
    fronts,
)
from haystack_ce_ranker.machine.memory import MemoryRow

FEW_QUERIES = 30  # with fewer, only large differences can be seen
MOST_UNJUDGED = 0.1  # of the first ten documents, beyond the baseline's share; above it, nDCG is too low to be fair

_WORTH_IT: Mapping[WorthIt, str] = {
    WorthIt.YES: "Yes",
    WorthIt.HYBRID_ONLY: "Only joined with the first stage",
    WorthIt.TOO_SMALL: "Hardly: the gain is real but small",
    WorthIt.UNCERTAIN: "Not shown: no significant difference",
    WorthIt.NO: "No",
    WorthIt.NOTHING: "Nothing to compare",
}

SettingKey = Literal["strategy", "backend", "model", "weights"]

_SETTINGS: Mapping[SettingKey, str] = {
    "strategy": "Which strategy for long documents?",
    "backend": "Which backend?",
    "model": "Which model?",
    "weights": "Joined by which weights?",
}

ChoiceKey = Literal["choice", "budget_ms", "budget_joules"]


@dataclass(frozen=True)
class Answer:
    """The answer to one question, and the system that it is about; null where it is about several."""

    key: ChoiceKey | SettingKey | Literal["basis", "worth_it", "hybrid", "depth", "memory", "segments"]
    question: str
    answer: str
    reason: str
    system: str | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of the choice."""

    kind: Kind
    model: str | None
    backend: str | None
    dtype: str | None
    depth: int | None
    strategy: str | None
    hybrid: bool
    adapt_weights: bool = False

    @classmethod
    def of(cls, one: System) -> "Settings":
        """Return a system's settings."""
        told = {key: getattr(one, key) for key in ("kind", "model", "backend", "dtype", "depth", "strategy")}
        return cls(**told, hybrid=one.kind == Kind.HYBRID, adapt_weights=one.weights == Weights.ADAPTIVE)


@dataclass(frozen=True)
class Testing:
    """How systems were tested against the baseline: `level` bounds the corrected p, `smallest` is worth having."""

    level: float
    smallest: float
    test: str
    correction: str
    systems: dict[str, Finding | None]


@dataclass(frozen=True)
class Standout:
    """A segment with an effect."""

    name: str
    bounds: str
    queries: int
    gain: float
    interval: Bounds
    p_corrected: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    What to do.

    :ivar do_not_rerank: A sentence, "Do not re-rank here: ...", where re-ranking is worse than a first stage alone, or
        better by too little to pay for; null elsewhere.
    :ivar choice: The cheapest system that is as good as the best within the budget; null where none keeps it.
    :ivar subject: The re-ranking system that `segments` and `helped_and_hurt` are about: the choice if it re-ranks,
        else the choice without a budget, else the best.
    :ivar answers: The verdict in words.
    :ivar cautions: What may mislead.
    :ivar not_compared: Questions without an answer because everything measured had the same setting.
    :ivar budget: What a query may cost.
    :ivar gain_per_100ms: nDCG@10 gained against the baseline for each 100 ms of median latency more; null where it
        takes no longer or is not known.
    :ivar gain_per_joule: nDCG@10 gained against the baseline for each joule more; null where it takes no more, is not
        known, or one is measured and the other estimated.
    :ivar helps_where: Segments with a gain, the largest first.
    :ivar harms_where: Segments with a loss, the largest first.
    """

    do_not_rerank: str | None = None
    worth_it: WorthIt
    choice: str | None
    subject: str | None
    settings: Settings | None
    answers: Annotated[tuple[Answer, ...], Field(min_length=1)]
    cautions: tuple[str, ...]
    not_compared: tuple[str, ...]
    budget: Limits
    depth: DepthCurve | None
    pareto: Fronts
    gain_per_100ms: dict[str, float | None]
    gain_per_joule: dict[str, float | None]
    significance: Testing
    helps_where: tuple[Standout, ...]
    harms_where: tuple[Standout, ...]


def verdict(
    judge: Judge,
    *,
    queries: int,
    complete: bool = True,
    memory: Sequence[MemoryRow] = (),
    segments: Segments | None = None,
    left_out: Sequence[LeftOut] = (),
) -> Verdict:
    """
    Say what to do.

    :param judge: The systems, and what a query may cost.
    :param queries: How many queries were measured.
    :param complete: False if the measurement was interrupted.
    :param memory: Peak memory by batch size.
    :param segments: Where `judge.subject` helps and harms.
    :param left_out: What could not be measured; where that is most of the judgments, the first answer says so.
    """
    singly = judge.limits if len(judge.limits) > 1 else ()
    depth = find_depth(judge)
    answers = (
        _answer_basis(left_out),
        _answer_worth_it(judge),
        _answer_choice(judge, judge.limits, "choice"),
        *(_answer_choice(judge, (limit,), limit.key) for limit in singly),
        _answer_hybrid(judge),
        _answer_depth(judge),
        *(_answer_setting(judge, key) for key in _SETTINGS),
        _answer_memory(memory),
        _answer_segments(segments),
    )
    return Verdict(
        do_not_rerank=_do_not_rerank(judge),
        worth_it=judge.worth_it,
        choice=None if judge.choice is None else judge.choice.name,
        subject=None if judge.subject is None else judge.subject.name,
        settings=None if judge.choice is None else Settings.of(judge.choice),
        answers=tuple(answer for answer in answers if answer is not None),
        cautions=tuple(_cautions(judge, queries, complete)),
        not_compared=tuple(line for key in ("depth", *_SETTINGS) if (line := _not_compared(judge, key)) is not None),
        budget=judge.allowed,
        depth=None if depth is None else depth.as_data(),
        pareto=fronts(judge.systems),
        gain_per_100ms={one.name: gain_per_100_ms(judge, one) for one in judge.others},
        gain_per_joule={one.name: gain_per_joule(judge, one) for one in judge.others},
        significance=Testing(
            LEVEL,
            WORTH,
            f"paired randomisation of {NDCG_AT_10}, two-sided",
            f"Holm over {len(judge.others)} systems",
            {one.name: one.significance for one in judge.others},
        ),
        helps_where=_standouts(segments, Effect.HELPS),
        harms_where=_standouts(segments, Effect.HARMS),
    )


def _do_not_rerank(judge: Judge) -> str | None:
    if judge.better_alone is None:
        return None
    alone, best = judge.better_alone
    found, tested = judge.direct(alone, best), "not tested"
    if found is not None:
        tested = f"{p_phrase(found.p)}, {'' if found.p < LEVEL else 'not '}significant"
    small = f" Less than {WORTH} is too little to pay for." if best.quality > alone.quality else ""
    return (
        f"Do not re-rank here: {alone.name} alone has {NDCG_AT_10} {alone.quality:.3f}, and the best with re-ranking, "
        f"{best.name}, {best.quality:.3f}: {signed(best.quality - alone.quality)} ({tested}).{small}"
    )


def _answer_basis(left_out: Sequence[LeftOut]) -> Answer | None:
    most = [one.text for one in left_out if one.is_most]
    if not most:
        return None
    reason = f"{'; '.join(most)}. What follows holds for the rest alone."
    return Answer("basis", "What does this verdict rest on?", "Less than half of the judgments", reason)


def _answer_worth_it(judge: Judge) -> Answer:
    question, answer = "Is re-ranking worth it here?", _WORTH_IT[judge.worth_it]
    if judge.worth_it == WorthIt.NOTHING:
        reason = "No system that re-ranks was compared with the baseline."
        if judge.baseline is None:
            reason = "No baseline is named, so no system is compared with another."
        if len(judge.systems) < 2:
            reason = "Only one system was measured, so there is nothing to compare it with."
        return Answer("worth_it", question, answer, reason)
    lines = []
    chosen = judge.free_choice
    if chosen is not None and chosen.kind == Kind.FIRST_STAGE and chosen is not judge.baseline:
        lines.append(f"{chosen.name} is as good without: {NDCG_AT_10} {chosen.quality:.3f}.")
    labels = {Kind.CROSS_ENCODER: "The best cross-encoder alone", Kind.HYBRID: "The best hybrid"}
    shown = [foremost_of(judge.rerankers, kind) for kind in labels]
    for one in shown if any(shown) else [judge.foremost]:
        if one is not None:
            rest = _rest(one, [other for other in judge.rerankers if other.kind == one.kind])
            lines.append(f"{labels.get(one.kind, 'The best other')}{rest}, {one.name}, {_against(one, judge)}")
    if judge.worth_it == WorthIt.UNCERTAIN:
        lines.append("What is better on average may be chance; more judged queries would tell.")
    if judge.worth_it == WorthIt.TOO_SMALL:
        lines.append(f"Less than {WORTH} is too little to pay for.")
    about = None if judge.foremost is None else judge.foremost.name
    return Answer("worth_it", question, answer, " ".join(lines), about)


def _rest(best: System, pool: Sequence[System]) -> str:
    """Return what "the best" goes on with where another has more on average, which may be chance."""
    return " that is significantly better" if any(one.quality > best.quality for one in pool) else ""


def _against(one: System, judge: Judge) -> str:
    baseline, versus = judge.baseline, one.versus
    if versus is None or baseline is None:
        return f"has {NDCG_AT_10} {one.quality:.3f}."
    found = "not significant" if one.significance == Finding.UNCERTAIN else one.significance
    return (
        f"has {NDCG_AT_10} {one.quality:.3f} against {baseline.quality:.3f} of {baseline.name}: "
        f"{signed(versus.difference)} ({_interval(versus.low, versus.high)}; "
        f"{p_phrase(versus.p_corrected)} after correction; {versus.wins} won, {versus.losses} lost): {found}."
    )


def _answer_choice(judge: Judge, limits: Sequence[Limit], key: ChoiceKey) -> Answer | None:
    if len(judge.systems) < 2:
        return None
    within = " and ".join(f"{limit.most:g} {limit.unit} ({limit.how})" for limit in limits)
    question = f"Which system, within {within} a query?" if limits else "Which system, then?"
    pool = judge.within(limits)
    choice, free = judge.choose(pool), judge.free_choice
    about = [line for limit in limits for line in _unknown(limit, judge.systems)]
    if key == "choice" and free is not None and free not in pool:
        about.append(f"Without a budget the choice is {free.name}: {free.quality:.3f}, {_costs(free)}.")
    if choice is None:
        least = [_least(limit, judge.systems) for limit in limits]
        reason = " ".join(["No system stays within that.", *least, *about])
        return Answer(key, question, "Nothing that was measured", reason)
    best = judge.top(pool)
    lines = [f"It has {NDCG_AT_10} {choice.quality:.3f} and takes {_costs(choice)}."]
    more = {
        "100 ms more": gain_per_100_ms(judge, choice),
        f"joule more ({choice.source})": gain_per_joule(judge, choice),
    }
    gains = [f"{signed(gain)} for each {what}" for what, gain in more.items() if gain is not None]
    if gains and judge.baseline is not None:
        lines.append(f"Against {judge.baseline.name} that is {' and '.join(gains)}.")
    if best is not None and best is not choice:
        rule = f"within {WORTH} of the best and not significantly worse; the best{_rest(best, pool)}"
        lines.append(f"It is the cheapest {rule}, {best.name}, has {best.quality:.3f} and takes {_costs(best)}.")
    elif choice is judge.baseline:
        where = " within that" if limits else ""
        lines.append(f"Nothing{where} is both significantly better and better by {WORTH} at least.")
    return Answer(key, question, choice.name, " ".join([*lines, *about]), choice.name)


def _interval(low: float, high: float) -> str:
    return f"95 % interval {signed(low)} to {signed(high)}"


def _unknown(limit: Limit, systems: Sequence[System]) -> list[str]:
    unknown = sum(limit.cost(one) is None for one in systems)
    return [f"Left out: {unknown} {'system' if unknown == 1 else 'systems'} without {limit.known}."] if unknown else []


def _least(limit: Limit, systems: Sequence[System]) -> str:
    costs = [cost for one in systems if (cost := limit.cost(one)) is not None]
    return f"The least is {amount(min(costs), limit.unit)} ({limit.how})." if costs else f"None has {limit.known}."


def _answer_hybrid(judge: Judge) -> Answer | None:
    kinds = (Kind.CROSS_ENCODER, Kind.HYBRID)
    alone, joined = (best_of(one for one in judge.rerankers if one.kind == kind) for kind in kinds)
    if alone is None or joined is None:
        return None
    found, difference = judge.direct(alone, joined), joined.quality - alone.quality
    tested = "not tested, because values by query are missing"
    if found is not None:
        tested = f"{_interval(found.low, found.high)}, {p_phrase(found.p)}"
    reason = (
        f"The best hybrid, {joined.name}, has {joined.quality:.3f}; the best alone, {alone.name}, {alone.quality:.3f}: "
        f"{signed(difference)} ({tested})."
    )
    if found is None or found.p >= LEVEL:
        answer = "Either: no significant difference"
    elif abs(difference) < WORTH:
        answer = f"Either: less than {WORTH} apart"
    else:
        answer = "Joined with the first stage" if difference > 0 else "The cross-encoder alone"
    return Answer("hybrid", "The cross-encoder alone, or joined with the first stage?", answer, reason)


def _answer_depth(judge: Judge) -> Answer | None:
    found = find_depth(judge)
    if found is None:
        return None
    chosen, best, top, deepest = found.chosen, found.best, found.top, found.curve[-1]
    curve = ", ".join(f"{one.depth}: {one.quality:.3f}" for one in found.curve)
    told = ("kind", "model", "backend", "strategy", "weights")
    family = ", ".join(_said(chosen, key) for key in told if chosen.setting(key) is not None)
    lines = [f"{NDCG_AT_10} by depth ({family}): {curve}."]
    best_there = f"the best{_rest(best, found.curve)}"
    if chosen is best:
        lines.append(f"{chosen.depth} is {best_there}; no smaller one is as good to within {WORTH}.")
    else:
        named = f"{best.depth}" if best in found.curve else best.name
        rule = f"within {WORTH} of {best_there} ({named}, {best.quality:.3f}) and not significantly worse"
        lines.append(f"{chosen.depth} is the smallest that is {rule}.")
    if chosen is deepest:
        lines.append("It is the deepest that was measured; deeper may be better still.")
    if found.falls:
        tested = "" if found.fall is None else f" ({p_phrase(found.fall.p)})"
        fall = f"{signed(deepest.quality - top.quality)} from {top.depth} to {deepest.depth}{tested}"
        lines.append(f"Quality falls with depth: {fall}.")
    answer = f"{chosen.depth}" if judge.recommends else f"If at all, {chosen.depth}"
    return Answer("depth", "How many candidates?", answer, " ".join(lines))


def _answer_setting(judge: Judge, key: SettingKey) -> Answer | None:
    group = variants(judge, key)
    if not group:
        return None
    best, chosen = group[0], judge.free_choice
    if chosen is None or chosen not in group:
        chosen = cheapest_of([one for one in group if judge.as_good(one, best)])
    if chosen is None:
        return None
    named = {one.name: short_name(one.setting(key)) for one in group}
    lines = [f"{named[one.name]}: {NDCG_AT_10} {one.quality:.3f}, {_costs(one, tokens=False)}." for one in group]
    if chosen is not best:
        found = judge.direct(best, chosen)
        tested = "" if found is None else f" ({signed(found.difference)}, {p_phrase(found.p)})"
        how = "is as good as" if judge.as_good(chosen, best) else "is the choice, though it has less than"
        cheaper = " and cheaper" if judge.as_good(chosen, best) and cheapest_of([chosen, best]) is chosen else ""
        lines.append(f"{named[chosen.name]} {how} {named[best.name]}{tested}{cheaper}.")
    else:
        lines.append(f"Nothing cheaper is within {WORTH} of {named[best.name]} and as good.")
    same = [_said(best, other) for other in IDENTITY if other != key and best.setting(other) is not None]
    lines.append(f"Compared as {', '.join(same)}.")
    return Answer(key, _SETTINGS[key], named[chosen.name], " ".join(lines))


def _said(one: System, key: str) -> str:
    value = str(one.setting(key))
    forms = {"first_stage": f"over {value}", "depth": f"depth {value}", "weights": f"{value} weights"}
    return forms.get(key, short_name(value))


def _not_compared(judge: Judge, key: str) -> str | None:
    """Say which question nobody can answer, because everything had the same setting."""
    values = {one.setting(key) for one in judge.rerankers} - {None}
    return f"{key}: only {short_name(str(values.pop()))} was measured" if len(values) == 1 else None


def _answer_memory(rows: Sequence[MemoryRow]) -> Answer | None:
    groups: dict[tuple[str, str], list[MemoryRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.backend), []).append(row)
    kept = [sorted(group, key=lambda row: row.batch_tokens) for group in groups.values() if len(group) > 1]
    if not kept:
        return None
    lines = []
    for group in kept:
        points = ", ".join(f"{row.batch_tokens:,}: {row.peak_memory_mb:,.0f} MB" for row in group)
        lines.append(f"{short_name(group[0].model)}, {group[0].backend}, peak by tokens in a batch: {points}.")
    peaks = [row.peak_memory_mb for group in kept for row in group]
    answer = f"{min(peaks):,.0f} to {max(peaks):,.0f} MB, by batch size"
    return Answer("memory", "How much memory?", answer, " ".join(lines))


def _standouts(segments: Segments | None, effect: Effect) -> tuple[Standout, ...]:
    """The segments with an effect, the largest first."""
    found = []
    for row in () if segments is None else segments.segments:
        if row.effect == effect and row.gain is not None and row.interval is not None and row.p_corrected is not None:
            found.append(Standout(row.name, row.bounds, row.queries, row.gain, row.interval, row.p_corrected))
    return tuple(sorted(found, key=lambda one: -abs(one.gain)))


def _answer_segments(known: Segments | None) -> Answer | None:
    judged = 0 if known is None else sum(row.effect != Effect.TOO_FEW for row in known.segments)
    if known is None or not judged:
        return None
    helps, harms = (_standouts(known, effect) for effect in (Effect.HELPS, Effect.HARMS))
    if not helps and not harms:
        answer = "No kind of query stands out"
    elif len(helps) == judged:
        answer = f"It helps everywhere, most: {helps[0].name}"
    else:
        told = "; ".join(f"it {verb} most: {few[0].name}" for verb, few in (("helps", helps), ("harms", harms)) if few)
        answer = told[0].upper() + told[1:]
    lines = [
        f"{one.name[0].upper()}{one.name[1:]} ({one.bounds}; {one.queries} queries): {signed(one.gain)} "
        f"({_interval(*one.interval)})."
        for one in [*helps[:2], *harms[:2]]
    ]
    lines.append(
        f"{len(helps)} of {judged} segments gain and {len(harms)} lose, corrected for their number; "
        f"those of fewer than {known.fewest} queries are not judged."
    )
    question = f"Where does {known.system} help, and where does it harm?"
    return Answer("segments", question, answer, " ".join(lines))


def _cautions(judge: Judge, queries: int, complete: bool) -> list[str]:
    """What may mislead."""
    lines = []
    if not complete:
        lines.append("The measurement was interrupted: these are the figures of the queries until then.")
    if queries < FEW_QUERIES and len(judge.systems) > 1:
        lines.append(f"Only {queries} queries with judgments: only large differences can be told from chance.")
    foremost, baseline = judge.foremost, judge.baseline
    if foremost is None:
        return lines
    unjudged = foremost.measures[UNJUDGED]
    known = 0.0 if baseline is None else baseline.measures[UNJUDGED]
    if unjudged - known > MOST_UNJUDGED:
        compared = "" if baseline is None else f" ({known:.0%} for {baseline.name})"
        lines.append(
            f"{unjudged:.0%} of the first ten documents of {foremost.name} were never judged{compared} and count as "
            f"not relevant: its {NDCG_AT_10} may be too low."
        )
    if foremost.read_share is not None and foremost.read_share < 0.5:
        lines.append(f"{foremost.name} read only {foremost.read_share:.0%} of its candidates' tokens.")
    return lines


def _costs(one: System, *, tokens: bool = True) -> str:
    parts = []
    if one.latency_ms.p50 is not None:
        late = "" if one.latency_ms.p95 is None else f" (p95 {amount(one.latency_ms.p95, 'ms')})"
        parts.append(f"{amount(one.latency_ms.p50, 'ms')}{late}")
    if tokens:
        parts.append(f"{one.tokens_per_query:,.0f} tokens")
    if one.joules_per_query is not None:
        parts.append(f"{amount(one.joules_per_query, 'J')} ({one.source})")
    return f"{', '.join(parts)} a query" if parts else "nobody knows how long"
