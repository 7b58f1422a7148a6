"""Results as a table in the terminal, and the verdict as lines below it (rich)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.evaluation.judging.formats import p_value
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.systems import Finding, System
from haystack_ce_ranker.evaluation.judging.verdict import Verdict
from haystack_ce_ranker.evaluation.showing.page import figures, units
from haystack_ce_ranker.machine.units import explained

_COLOURS = {Finding.BETTER: "green", Finding.WORSE: "red"}


def results_table(found: Results) -> Table:
    """
    Return the figures as a table, a system a row, for a terminal of 100 columns; columns without figures are omitted.

    Below nDCG@10 stands its 95 % interval, and below the difference from the baseline its p, corrected for the number
    of systems. Measured and estimated joules have a column each.
    """
    systems = _together(found.systems)
    cells = {
        NDCG_AT_10: [_bounded(one) for one in systems],
        "against\nbaseline": [_difference(one) for one in systems],
        **figures(systems, terminal=True),
    }
    cells = {label: column for label, column in cells.items() if any(cell != "-" for cell in column)}
    title = f"{escape(found.collection)}: {found.documents:,} documents, {found.queries:,} queries"
    return _drawn(found, systems, cells, title, _caption(found))


def units_table(found: Results) -> list[Table]:
    """Return the costs in standard units as a table below the other, or nothing if none is known."""
    systems = _together(found.systems)
    cells = units(systems, terminal=True)
    return [_drawn(found, systems, cells, "In standard units", escape(explained(found.grid)))] if cells else []


def _drawn(
    found: Results, systems: Sequence[System], cells: Mapping[str, Sequence[str]], title: str, caption: str | None
) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, caption=caption, caption_justify="left")
    table.add_column("system", overflow="fold")
    for label in cells:
        table.add_column(label, justify="right", no_wrap=True)
    for place, one in enumerate(systems):
        last = place + 1 == len(systems) or _group(one) != _group(systems[place + 1])
        name = f"[bold]{escape(one.name)} *[/bold]" if one.name == found.verdict.choice else escape(one.name)
        table.add_row(name, *(column[place] for column in cells.values()), end_section=last)
    return table


def left_out_text(found: Results) -> list[str]:
    """Return what was left out, and then the notes: plain lines to print above the verdict."""
    return [*lines(found.left_out, "verdict"), *(f"Note: {note}" for note in found.notes)]


def verdict_text(verdict: Verdict) -> list[str]:
    """Return a warning, questions with answers, reasons, then cautions: plain lines, to print with `markup=False`."""
    told = [] if verdict.do_not_rerank is None else [verdict.do_not_rerank]
    for one in verdict.answers:
        told += [f"{one.question} {one.answer}", f"  {one.reason}"]
    told += [f"Mind: {line}" for line in verdict.cautions]
    if verdict.not_compared:
        told.append(f"Not compared: {'; '.join(verdict.not_compared)}.")
    return told


def _caption(found: Results) -> str | None:
    """Say what stands in the cells; None where there is nothing to explain."""
    told = []
    if any(NDCG_AT_10 in one.interval for one in found.systems):
        told.append(f"below {NDCG_AT_10}: 95 % interval")
    if any(one.versus for one in found.systems):
        told.append(f"baseline: {found.baseline}; p is corrected for the number of systems")
    if any(one.name == found.verdict.choice for one in found.systems):
        told.append("*: the choice")
    return escape("; ".join(told)) if told else None


def _group(one: System) -> tuple[Any, ...]:
    return one.identity(but="depth")


def _together(systems: Sequence[System]) -> list[System]:
    """Put systems that differ in their depth only below one another."""
    order = list(dict.fromkeys(map(_group, systems)))
    return sorted(systems, key=lambda one: order.index(_group(one)))


def _bounded(one: System) -> str:
    bounds = one.interval.get(NDCG_AT_10)
    return f"{one.quality:.4f}" + ("" if bounds is None else f"\n[dim]{bounds[0]:.3f}-{bounds[1]:.3f}[/dim]")


def _difference(one: System) -> str:
    if one.versus is None or one.significance is None:
        return "-"
    told = f"{one.versus.difference:+.4f}"
    colour = _COLOURS.get(one.significance)
    told = told if colour is None else f"[{colour}]{told}[/{colour}]"
    return f"{told}\n[dim]p {p_value(one.versus.p_corrected)}[/dim]"
