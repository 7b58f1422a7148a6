"""
The verdict: what to do, in words and as data.

Takes what results.json holds and gives plain values; measures nothing. What is decided, and by which rules, is in
`choosing.py`; here it is said, with the figures that it rests on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from haystack_ce_ranker.evaluation.judging.choosing import (
    HYBRID_ONLY,
    NO,
    NOTHING,
    PERCENTILE,
    TOO_SMALL,
    YES,
    Budget,
    Depth,
    Judge,
    Limit,
    decide_worth,
    find_depth,
    gain_per_100_ms,
    gain_per_joule,
    variants,
)
from haystack_ce_ranker.evaluation.judging.comparison import MEASURE
from haystack_ce_ranker.evaluation.judging.systems import (
    ALONE,
    BETTER,
    FIRST_STAGE,
    HYBRID,
    IDENTITY,
    LEVEL,
    UNCERTAIN,
    WORSE,
    WORTH,
    System,
    best_of,
    cheapest_of,
    foremost_of,
    fronts,
    part,
    short_name,
)

FEW_QUERIES = 30
"""With fewer, only large differences can be seen."""

UNJUDGED = 0.1
"""Share of unjudged documents in the first ten, beyond the baseline's, above which nDCG is too low to be fair."""

_WORTH_IT: Mapping[str, str] = {
    YES: "Yes",
    HYBRID_ONLY: "Only joined with the first stage",
    TOO_SMALL: "Hardly: the gain is real but small",
    UNCERTAIN: "Not shown: no significant difference",
    NO: "No",
    NOTHING: "Nothing to compare",
}

_SETTINGS: Mapping[str, str] = {
    "strategy": "Which strategy for long documents?",
    "backend": "Which backend?",
    "model": "Which model?",
}


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
    judge = Judge(found)
    return _subject(judge, judge.choose(Budget.of(judge, budget_ms, budget_joules).pool))


def _subject(judge: Judge, choice: System | None) -> str | None:
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
    :returns: Plain values: `worth_it` (of `choosing.WORTH_IT`), `choice` (a system or None), `settings` of the choice,
        `answers` in words, and the data behind them; results.schema.json describes each.
    :raises ValueError: If a budget is not positive.
    """
    for name, value in (("budget_ms", budget_ms), ("budget_joules", budget_joules)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be > 0, but got {value}")
    judge = Judge(found)
    worth_it = decide_worth(judge)
    allowed = Budget.of(judge, budget_ms, budget_joules)
    choice = judge.choose(allowed.pool)
    depth = find_depth(judge, worth_it)
    answers = [
        _answer_worth_it(judge, worth_it),
        _answer_choice(judge, allowed),
        *(_answer_choice(judge, single, single.limits[0].key) for single in allowed.parts()),
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
        "budget": {"ms": budget_ms, "percentile": PERCENTILE, "joules": budget_joules},
        "depth": None if depth is None else depth.as_data(),
        "pareto": fronts(judge.systems),
        "gain_per_100ms": {one.name: gain_per_100_ms(judge, one) for one in judge.others},
        "gain_per_joule": {one.name: gain_per_joule(judge, one) for one in judge.others},
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


def _answer_worth_it(judge: Judge, worth_it: str) -> dict[str, Any]:
    question = "Is re-ranking worth it here?"
    if worth_it == NOTHING:
        if len(judge.systems) < 2:
            reason = "Only one system was measured, so there is nothing to compare it with."
        elif judge.baseline is None:
            reason = "No baseline is named, so no system is compared with another."
        else:
            reason = "No system that re-ranks was compared with the baseline."
        return _answer("worth_it", question, _WORTH_IT[worth_it], reason)
    lines = []
    if judge.choice is not None and judge.choice.kind == FIRST_STAGE and judge.choice is not judge.baseline:
        lines.append(f"{judge.choice.name} is as good without: {MEASURE} {judge.choice.quality:.3f}.")
    labels = {ALONE: "The best cross-encoder alone", HYBRID: "The best hybrid"}
    shown = [one for kind in labels if (one := foremost_of(judge.rerankers, kind)) is not None]
    for one in shown if shown else [judge.subject]:
        if one is not None:
            lines.append(f"{labels.get(one.kind or '', 'The best other')}, {one.name}, {_against(one, judge)}")
    if worth_it == UNCERTAIN:
        lines.append("What is better on average may be chance; more judged queries would tell.")
    if worth_it == TOO_SMALL:
        lines.append(f"Less than {WORTH} is too little to pay for.")
    return _answer("worth_it", question, _WORTH_IT[worth_it], " ".join(lines), judge.subject)


def _against(one: System, judge: Judge) -> str:
    baseline = judge.baseline
    if one.versus is None or baseline is None:
        return f"has {MEASURE} {one.quality:.3f}."
    versus = one.versus
    found = one.significance if one.significance in (BETTER, WORSE) else "not significant"
    return (
        f"has {MEASURE} {one.quality:.3f} against {baseline.quality:.3f} of {baseline.name}: "
        f"{_signed(versus['difference'])} (95 % interval {_signed(versus['low'])} to {_signed(versus['high'])}; "
        f"{_p(versus['p_corrected'])} after correction; {versus['wins']} won, {versus['losses']} lost): {found}."
    )


def _answer_choice(judge: Judge, allowed: Budget, key: str = "choice") -> dict[str, Any] | None:
    if len(judge.systems) < 2:
        return None
    question = f"Which system, within {_within(allowed)} a query?" if allowed.limits else "Which system, then?"
    choice, free = judge.choose(allowed.pool), judge.choice
    unbound = []
    if key == "choice" and free is not None and free not in allowed.pool:
        unbound.append(f"Without a budget the choice is {free.name}: {free.quality:.3f}, {_costs(free)}.")
    if choice is None:
        reason = " ".join(["No system stays within that.", *_about(allowed, None), *unbound])
        return _answer(key, question, "Nothing that was measured", reason)
    best = judge.top(allowed.pool)
    lines = [f"It has {MEASURE} {choice.quality:.3f} and takes {_costs(choice)}."]
    gains = []
    if (gain := gain_per_100_ms(judge, choice)) is not None:
        gains.append(f"{_signed(gain)} for each 100 ms more")
    if (gain := gain_per_joule(judge, choice)) is not None:
        gains.append(f"{_signed(gain)} for each joule more ({choice.source})")
    if gains and judge.baseline is not None:
        lines.append(f"Against {judge.baseline.name} that is {' and '.join(gains)}.")
    if best is not None and best is not choice:
        rule = f"It is the cheapest that is within {WORTH} of the best and not significantly worse"
        lines.append(f"{rule}; the best, {best.name}, has {best.quality:.3f} and takes {_costs(best)}.")
    elif choice is judge.baseline:
        where = " within that" if allowed.limits else ""
        lines.append(f"Nothing{where} is both significantly better and better by {WORTH} at least.")
    return _answer(key, question, choice.name, " ".join([*lines, *_about(allowed, choice), *unbound]), choice)


def _within(allowed: Budget) -> str:
    return " and ".join(f"{limit.most:g} {limit.unit} ({limit.how})" for limit in allowed.limits)


def _about(allowed: Budget, choice: System | None) -> list[str]:
    """What there is to say of a choice within a budget."""
    systems = allowed.judge.systems
    lines = [] if choice is not None else [_least(limit, systems) for limit in allowed.limits]
    for limit in allowed.limits:
        if unknown := sum(limit.cost(one) is None for one in systems):
            lines.append(f"Left out: {unknown} {'system' if unknown == 1 else 'systems'} without {limit.known}.")
    return lines


def _least(limit: Limit, systems: Sequence[System]) -> str:
    costs = [cost for one in systems if (cost := limit.cost(one)) is not None]
    return f"The least is {_amount(min(costs), limit.unit)} ({limit.how})." if costs else f"None has {limit.known}."


def _answer_hybrid(judge: Judge) -> dict[str, Any] | None:
    alone, joined = (best_of([one for one in judge.rerankers if one.kind == kind]) for kind in (ALONE, HYBRID))
    if alone is None or joined is None:
        return None
    question = "The cross-encoder alone, or joined with the first stage?"
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
        small = found is not None and found.p < LEVEL
        answer = f"Either: less than {WORTH} apart" if small else "Either: no significant difference"
        return _answer("hybrid", question, answer, reason)
    answer = "Joined with the first stage" if difference > 0 else "The cross-encoder alone"
    return _answer("hybrid", question, answer, reason)


def _answer_depth(found: Depth | None, worth_it: str) -> dict[str, Any] | None:
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
        top, deepest = found.top, found.curve[-1]
        tested = "" if found.fall is None else f" ({_p(found.fall.p)})"
        fall = f"{_signed(deepest.quality - top.quality)} from {top.depth} to {deepest.depth}{tested}"
        lines.append(f"Quality falls with depth: {fall}.")
    answer = f"{found.chosen.depth}" if worth_it in (YES, HYBRID_ONLY) else f"If at all, {found.chosen.depth}"
    return _answer("depth", "How many candidates?", answer, " ".join(lines), None)


def _answer_setting(judge: Judge, key: str) -> dict[str, Any] | None:
    group = variants(judge, key)
    if not group:
        return None
    best = group[0]
    chosen = judge.choice if judge.choice in group else cheapest_of([one for one in group if judge.as_good(one, best)])
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
    same = [text for other in IDENTITY if other not in (key, "kind") and (text := _said(best, other)) is not None]
    lines.append(f"Compared as {', '.join([best.kind or 'pipeline', *same])}.")
    return _answer(key, _SETTINGS[key], short_name(chosen.setting(key)), " ".join(lines))


def _said(one: System, key: str) -> str | None:
    value = part(one, key)
    if value is None:
        return None
    if key == "first_stage":
        return f"over {value}"
    return f"depth {value}" if key == "depth" else short_name(value)


def _not_compared(judge: Judge, key: str) -> str | None:
    """Say which question nobody can answer, because everything had the same setting."""
    values = {part(one, key) for one in judge.rerankers} - {None}
    return f"{key}: only {short_name(str(values.pop()))} was measured" if len(values) == 1 else None


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


def _cautions(judge: Judge) -> list[str]:
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
