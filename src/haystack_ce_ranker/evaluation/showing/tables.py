"""Results as a table in the terminal, and the verdict as lines below it (rich)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.evaluation.judging.systems import System
from haystack_ce_ranker.quantizing.quantize import Agreement
from haystack_ce_ranker.scoring.speed_profile import SpeedProfile

_QUALITY = "nDCG@10"


def results_table(found: Mapping[str, Any]) -> Table:
    """
    Return the figures of results.json as a table, a system a row, for a terminal of 100 columns.

    Small under nDCG@10 its 95 % interval, under the difference from the baseline its p, corrected for the number of
    systems. Joules that were measured and those that were estimated have a column each; a column for which no system
    has a figure is left out.
    """
    systems = _together([System(name, figures) for name, figures in found["systems"].items()])
    chosen = (found.get("verdict") or {}).get("choice")
    columns: dict[str, list[str]] = {
        _QUALITY: [_bounded(one) for one in systems],
        "against\nbaseline": [_difference(one) for one in systems],
        "MRR@10": [_number(one.figures.get("MRR@10"), ".3f") for one in systems],
        "p50 ms": [_number(one.latency("p50"), ",.1f") for one in systems],
        "p95 ms": [_number(one.latency("p95"), ",.1f") for one in systems],
        "tokens": [_number(one.figures.get("tokens_per_query"), ",.0f") for one in systems],
    }
    for source in sorted({one.source for one in systems if one.source is not None}):
        columns[f"joules\n{source}"] = [
            _number(one.joules if one.source == source else None, ",.3g") for one in systems
        ]
    columns = {label: cells for label, cells in columns.items() if any(cell != "-" for cell in cells)}
    title = f"{escape(str(found['collection']))}: {found['documents']:,} documents, {found['queries']:,} queries"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, caption=_caption(found, chosen), caption_justify="left")
    table.add_column("system", overflow="fold")
    for label in columns:
        table.add_column(label, justify="right", no_wrap=True)
    for place, one in enumerate(systems):
        last = place + 1 == len(systems) or _group(one) != _group(systems[place + 1])
        name = f"[bold]{escape(one.name)} *[/bold]" if one.name == chosen else escape(one.name)
        table.add_row(name, *(cells[place] for cells in columns.values()), end_section=last)
    return table


def verdict_text(found: Mapping[str, Any]) -> list[str]:
    """
    Return the verdict as plain lines: a question with its answer, and below it, indented, why; then what may mislead.

    The lines are text, not markup: print them with `markup=False`.
    """
    verdict = found.get("verdict") or {}
    lines = []
    for answer in verdict.get("answers", ()):
        lines.append(f"{answer['question']} {answer['answer']}")
        if answer.get("reason"):
            lines.append(f"  {answer['reason']}")
    lines += [f"Mind: {line}" for line in verdict.get("cautions", ())]
    if verdict.get("not_compared"):
        lines.append(f"Not compared: {'; '.join(verdict['not_compared'])}.")
    return lines


def speed_table(found: SpeedProfile) -> Table:
    """Return the speeds of all settings, the number of threads a row, the chosen one marked."""
    budgets = sorted({one.batch_tokens for one in found.measured})
    speeds = {(one.threads, one.batch_tokens): one.pairs_per_second for one in found.measured}
    table = Table(title=f"{found.model}, {found.backend} {found.dtype} on {found.device}: pairs a second")
    table.add_column("threads", justify="right")
    for budget in budgets:
        table.add_column(f"{budget} tokens", justify="right")
    for threads in dict.fromkeys(one.threads for one in found.measured):
        cells = []
        for budget in budgets:
            speed = speeds.get((threads, budget))
            chosen = (threads, budget) == (found.threads, found.batch_tokens)
            cells.append("-" if speed is None else f"{speed:.1f}{' *' if chosen else ''}")
        table.add_row("own" if threads is None else str(threads), *cells)
    return table


def agreement_table(found: Agreement, *, title: str) -> Table:
    """Return how alike two models rank."""
    table = Table(title=title)
    table.add_column(f"{found.queries} queries, {found.pairs} pairs")
    table.add_column("value", justify="right")
    for label, value in (
        ("rank correlation, mean", found.correlation),
        ("rank correlation, lowest", found.lowest_correlation),
        ("top-10 overlap, mean", found.overlap),
        ("difference of logits, mean", found.mean_difference),
        ("difference of logits, largest", found.largest_difference),
    ):
        table.add_row(label, f"{value:.4f}")
    return table


def _caption(found: Mapping[str, Any], chosen: str | None) -> str | None:
    """Say what stands in the cells; None where there is nothing to explain."""
    systems = found["systems"].values()
    told = []
    if any((one.get("interval") or {}).get(_QUALITY) for one in systems):
        told.append(f"below {_QUALITY}: 95 % interval")
    if any(one.get("versus") for one in systems):
        told.append(f"baseline: {found.get('baseline')}; p is corrected for the number of systems")
    if chosen in found["systems"]:
        told.append("*: the choice")
    return escape("; ".join(told)) if told else None


def _group(one: System) -> Sequence[str | None]:
    return (one.kind, *(one.setting(key) for key in ("first_stage", "model", "backend", "strategy")))


def _together(systems: Sequence[System]) -> list[System]:
    """Put systems that differ in their depth only below one another."""
    groups: dict[Sequence[str | None], list[System]] = {}
    for one in systems:
        groups.setdefault(_group(one), []).append(one)
    return [one for group in groups.values() for one in group]


def _bounded(one: System) -> str:
    interval = (one.figures.get("interval") or {}).get(_QUALITY)
    return f"{one.quality:.4f}" + ("" if interval is None else f"\n[dim]{interval[0]:.3f}-{interval[1]:.3f}[/dim]")


def _difference(one: System) -> str:
    if one.versus is None:
        return "-"
    p = one.versus["p_corrected"]
    colour = {"better": "green", "worse": "red"}.get(one.significance or "")
    told = f"{one.versus['difference']:+.4f}"
    told = told if colour is None else f"[{colour}]{told}[/{colour}]"
    return f"{told}\n[dim]p {'<0.001' if p < 0.001 else f'{p:.3f}'}[/dim]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
