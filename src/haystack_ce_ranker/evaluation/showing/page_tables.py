"""Which tables the report's page shows, and what stands in them."""

import math
from collections.abc import Sequence

from haystack_ce_ranker.evaluation.judging.comparison import MovedDocument, Passage, most_changed
from haystack_ce_ranker.evaluation.judging.formats import number, p_value, short_name
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.segments import Effect
from haystack_ce_ranker.evaluation.judging.systems import System
from haystack_ce_ranker.evaluation.showing.page import Cell, Row, Table, TableRow, compared, figures, make_rows, units
from haystack_ce_ranker.machine.units import explained

MOST_QUERIES = 5  # that were helped most, and as many that were hurt most
MOST_DOCUMENTS = 3  # of each of those queries: the first, and those whose move mattered most
MOST_PASSAGES = 4  # of those that were read of a document: those with the highest logits

_TONES = {Effect.HELPS: "up", Effect.HARMS: "down"}


def make_tables(found: Results) -> tuple[Table, ...]:
    """Return the tables that the results have figures for."""
    rows = make_rows(found)
    costs, changed = (_units(found, rows), _worth(found, rows)), (_queries(found, rows), _documents(found))
    others = (*costs, _segments(found), *changed, _memory(found))
    return (_systems(rows), *(table for table in others if table is not None and table.rows))


def _systems(rows: Sequence[Row]) -> Table:
    """All figures of all systems; a column that nobody has a figure for is left out."""
    systems = [row.system for row in rows]
    cells = {
        "system": [Cell(one.name) for one in systems],
        NDCG_AT_10: list(map(_bounded, systems)),
        "against baseline": list(map(_difference, systems)),
        "won / same / lost": list(map(_won, systems)),
        **{name: list(map(Cell, column)) for name, column in figures(systems, terminal=False).items()},
    }
    kept = {name: column for name, column in cells.items() if any(cell.text != "–" for cell in column)}
    lines = ("Figures are per query. Small: 95 % intervals; p is corrected for the number of systems.",)
    made = (TableRow(tuple(column[place] for column in kept.values()), row.chosen) for place, row in enumerate(rows))
    return Table("Systems", lines, tuple(kept), tuple(made))


def _units(found: Results, rows: Sequence[Row]) -> Table:
    """The costs in standard units."""
    cells = {"system": [row.system.name for row in rows], **units([row.system for row in rows], terminal=False)}
    made = (_row(*some, chosen=row.chosen) for row, some in zip(rows, zip(*cells.values(), strict=True), strict=True))
    return Table("In standard units", (explained(found.grid),), tuple(cells), tuple(made) if len(cells) > 1 else ())


def _row(*cells: Cell | str, chosen: bool = False) -> TableRow:
    return TableRow(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), chosen)


def _bounded(one: System) -> Cell:
    bounds = one.interval.get(NDCG_AT_10)
    return Cell(f"{one.quality:.4f}", small="" if bounds is None else f"{bounds[0]:.3f} – {bounds[1]:.3f}")


def _difference(one: System) -> Cell:
    if one.versus is None:
        return Cell("–")
    tone = "up" if one.versus.low > 0 else "down" if one.versus.high < 0 else ""
    return Cell(f"{one.versus.difference:+.4f}", tone, f"p {p_value(one.versus.p_corrected)}")


def _won(one: System) -> Cell:
    versus = one.versus
    return Cell("–" if versus is None else f"{versus.wins} / {versus.ties} / {versus.losses}")


def _worth(found: Results, rows: Sequence[Row]) -> Table | None:
    """The systems that nothing beats in both quality and cost, and what they gain for it."""
    verdict = found.verdict
    if len(rows) < 2:
        return None
    energy = {f"joules, {source}": names for source, names in verdict.pareto.energy.items()}
    fronts = {"time": verdict.pareto.latency, **energy}
    made = []
    for row in rows:
        name = row.system.name
        if where := [label for label, names in fronts.items() if name in names]:
            quality, time = f"{row.system.quality:.4f}", number(row.system.latency_ms.p50, ",.1f")
            gains = [number(gain.get(name), "+.4f") for gain in (verdict.gain_per_100ms, verdict.gain_per_joule)]
            made.append(_row(name, quality, time, *gains, "; ".join(where), chosen=row.chosen))
    columns = ("system", NDCG_AT_10, "p50 ms", "gain for 100 ms", "gain for a joule", "unbeaten in")
    line = (
        f"Nothing is both better and cheaper than these. Gains in {NDCG_AT_10} are against {found.baseline}, for "
        "each 100 ms and each joule more."
    )
    return Table("Worth their cost", (line,), columns, tuple(made))


def _segments(found: Results) -> Table | None:
    """Where the verdict's subject helps and where it harms."""
    known = found.segments
    if known is None:
        return None
    made = []
    for row in known.segments:
        bounds = "" if row.interval is None else f"{row.interval[0]:+.3f} – {row.interval[1]:+.3f}"
        gain = Cell(number(row.gain, "+.3f"), _TONES.get(row.effect, ""), bounds)
        elsewhere, p = number(row.gain_elsewhere, "+.3f"), p_value(row.p_corrected)
        made.append(_row(Cell(row.name, small=row.bounds), f"{row.queries:,}", gain, elsewhere, p, row.effect))
    what = f"{known.measure} of {known.system} less that of {known.baseline}, by kind of query; kinds overlap."
    rule = (
        "An effect is named where the 95 % interval excludes 0 and p, corrected for all kinds, is below "
        f"{known.level:g}; fewer than {known.fewest} queries are not judged."
    )
    columns = ("queries that are alike", "queries", "gain", "gain elsewhere", "p", "effect")
    return Table("Where it helps and where it harms", (what, rule), columns, tuple(made))


def _queries(found: Results, rows: Sequence[Row]) -> Table | None:
    """The queries that the system shown under "Gain by query" helps most and hurts most."""
    pair = compared(found, rows)
    if pair is None:
        return None
    made = []
    for ids, tone in zip(most_changed(pair.before, pair.after, MOST_QUERIES), ("up", "down"), strict=True):
        for query_id in ids:
            before, after = pair.before[query_id], pair.after[query_id]
            made.append(_row(query_id, f"{before:.3f}", f"{after:.3f}", Cell(f"{after - before:+.3f}", tone)))
    lines = (f"{NDCG_AT_10} of {found.baseline} and of {pair.name}, by the query's id.",)
    return Table("Most helped and most hurt", lines, ("query", "before", "after", "gain"), tuple(made))


def _documents(found: Results) -> Table | None:
    """What the model read of the documents that made the difference."""
    known = found.helped_and_hurt
    if known is None:
        return None
    made = []
    for entry in [*known.helped[:MOST_QUERIES], *known.hurt[:MOST_QUERIES]]:
        for document in _telling(entry.documents):
            ranks = [number(rank, "d") for rank in (document.rank_before, document.rank_after)]
            seen = number(document.logit, ".2f"), number(document.coverage, ".0%"), _passages(document.read)
            gain = Cell(f"{entry.gain:+.3f}", "up" if entry.gain > 0 else "down")
            grade = number(document.grade, "d", "not judged")
            made.append(_row(Cell(document.document, small=f"query {entry.query}"), grade, *ranks, *seen, gain))
    line = (
        f"Of each query above the document that {known.system} puts first, and those relevant ones whose move "
        "mattered most. Passages: first and last character, and the model's logit."
    )
    columns = ("document", "grade", "rank before", "rank after", "logit", "read", "passages", "query's gain")
    return Table("What the model read of their documents", (line,), columns, tuple(made))


def _telling(documents: Sequence[MovedDocument]) -> list[MovedDocument]:
    """The first document, and the relevant ones that gained or lost most by their move, in the order of the ranking."""

    def discount(rank: int | None) -> float:
        return 0.0 if rank is None else 1.0 / math.log2(rank + 1)

    def moved(one: MovedDocument) -> float:
        return abs((one.grade or 0) * (discount(one.rank_after) - discount(one.rank_before)))

    first = [one for one in documents if one.rank_after == 1]
    others = sorted((one for one in documents if one not in first and moved(one) > 0), key=moved)
    kept = [*first, *reversed(others)][:MOST_DOCUMENTS]
    return [one for one in documents if one in kept]


def _passages(read: Sequence[Passage]) -> str:
    if not read:
        return "–"
    best = sorted(read, key=lambda one: math.inf if one.logit is None else -one.logit)[:MOST_PASSAGES]
    told = "; ".join(f"{one.start:,}–{one.end:,} ({number(one.logit, '.2f')})" for one in best)
    return told + (f"; {len(read) - MOST_PASSAGES} more" if len(read) > MOST_PASSAGES else "")


def _memory(found: Results) -> Table:
    """Peak memory by the size of a batch."""
    made = tuple(
        _row(short_name(row.model), row.backend, f"{row.batch_tokens:,}", f"{row.peak_memory_mb:,.0f}")
        for row in sorted(found.memory_by_batch, key=lambda row: (row.model, row.backend, row.batch_tokens))
    )
    lines = ("The most tokens of one forward pass, padding among them, and the most memory the process then took.",)
    return Table("Memory by batch size", lines, ("model", "backend", "tokens in a batch", "peak MB"), made)
