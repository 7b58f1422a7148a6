"""What the report's page is made of: pictures, tables, and the systems as both of them show them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from haystack_ce_ranker.evaluation.judging.formats import amount, number, short_name
from haystack_ce_ranker.evaluation.judging.measures import MEASURES, NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.systems import System


class Entry(NamedTuple):
    """A line of a legend."""

    swatch: Markup
    name: str


class Picture(NamedTuple):
    """A picture with what is written about it."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[Entry, ...] = ()


class Cell(NamedTuple):
    """A table's cell; `tone` is up, down or nothing, `small` stands below the text."""

    text: str
    tone: str = ""
    small: str = ""


class TableRow(NamedTuple):
    """A table's row."""

    cells: tuple[Cell, ...]
    chosen: bool = False


class Table(NamedTuple):
    """A table with what is written above it."""

    title: str
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


class Row(NamedTuple):
    """One system as the page shows it: a `family` has one colour, `chosen` ones are named in the verdict."""

    system: System
    family: str
    chosen: bool


class Compared(NamedTuple):
    """A system, and each query's quality under the baseline and under it."""

    name: str
    before: Mapping[str, float]
    after: Mapping[str, float]


def make_rows(found: Results) -> list[Row]:
    """Return all systems; a family is told apart by no more settings than it takes."""
    chosen = {answer.system for answer in found.verdict.answers}
    optional = ("dtype", "device", "strategy", "first_stage", "weights")
    told = [key for key in optional if len({getattr(one, key) for one in found.systems} - {None}) > 1]
    rows = []
    for one in found.systems:
        parts = [short_name(part) for key in ("kind", "model", "backend", *told) if (part := getattr(one, key))]
        rows.append(Row(one, one.name if one.depth is None else ", ".join(parts), one.name in chosen))
    return rows


def figures(systems: Sequence[System], *, terminal: bool) -> dict[str, list[str]]:
    """Return the columns of figures that the terminal and the page share, a cell a system, by their headers."""
    missing, mark = ("-", "\n") if terminal else ("–", ", ")
    columns: dict[str, tuple[str, list[float | None]]] = {
        measure.label: (".3f", [one.measures.get(measure.label) for one in systems])
        for measure in MEASURES
        if measure.label != NDCG_AT_10 and (measure.in_terminal if terminal else measure.on_page)
    }
    columns["p50 ms"] = ",.1f", [one.latency_ms.p50 for one in systems]
    columns["p95 ms"] = ",.1f", [one.latency_ms.p95 for one in systems]
    columns["tokens"] = ",.0f", [one.tokens_per_query for one in systems]
    if not terminal:
        columns["read"] = ".0%", [one.read_share for one in systems]
    for source in sorted({one.source for one in systems if one.source is not None}):
        known = [one.joules_per_query if one.source == source else None for one in systems]
        columns[f"joules{mark}{source}"] = ",.3g", known
    if not terminal:
        columns["peak MB"] = ",.0f", [one.peak_memory_mb for one in systems]
    return {name: [number(value, form, missing) for value in values] for name, (form, values) in columns.items()}


def units(systems: Sequence[System], *, terminal: bool) -> dict[str, list[str]]:
    """Return the columns of standard units, as `figures` does."""
    missing, mark = ("-", "\n") if terminal else ("–", ", ")
    rows = [one.units.labelled(reads=bool(one.pairs_per_query), source=one.source) for one in systems]
    told = [{key: "not known" if one is None else amount(one) for key, one in row.items()} for row in rows]
    labels = dict.fromkeys(label for row in sorted(rows, key=len, reverse=True) for label in row)
    return {label.replace(", ", mark): [row.get(label, missing) for row in told] for label in labels}


def make_styles(rows: Sequence[Row]) -> dict[str, int]:
    """Return a number for each family, the same in every picture."""
    return {family: style for style, family in enumerate(dict.fromkeys(row.family for row in rows))}


def compared(found: Results, rows: Sequence[Row]) -> Compared | None:
    """Return the verdict's subject, else a system that it names, else the best."""
    others = [row for row in rows if row.system.name != found.baseline and row.system.name in found.by_query]
    if found.baseline not in found.by_query or found.baseline is None or not others:
        return None
    subject = found.verdict.subject
    shown = max(others, key=lambda row: (row.system.name == subject, row.chosen, row.system.quality)).system.name
    return Compared(shown, found.by_query[found.baseline][NDCG_AT_10], found.by_query[shown][NDCG_AT_10])
