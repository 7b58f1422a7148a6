"""
The report: results.json as one HTML page that needs no network and no script, the verdict on top.

What is worth showing is chosen here; drawing is left to `pictures.py`, and the page's form to `report.html.jinja`,
which escapes every text. The page holds what results.json holds: ids and figures, no text of a collection.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from haystack_ce_ranker.evaluation.judging.systems import System, pareto_front, short_name
from haystack_ce_ranker.evaluation.showing import pictures
from haystack_ce_ranker.evaluation.showing.pictures import Bar, Point, Series

NAME = "report.html"

PICTURE = "latency.svg"
"""Quality against latency as a file of its own, for a README or slides."""

MOST_BARS = 16
"""With more systems than that, a picture of bars shows each family's deepest, and what the verdict names."""

MOST_QUERIES = 5
"""So many queries are named that were helped most, and as many that were hurt most."""

MOST_DOCUMENTS = 3
"""So many documents are shown of each of those queries: the first, and those whose move mattered most."""

MOST_PASSAGES = 4
"""So many of the passages that were read of a document are named, those with the highest logits."""

_STAGES = ("retrieve", "tokenise", "score", "join")
_QUALITY = "nDCG@10"
_TITLE_LATENCY = f"{_QUALITY} against latency"
_LABEL_LATENCY = "milliseconds a query, median"


@dataclass(frozen=True)
class Row(System):
    """One system as the page shows it: `family` has one colour, `chosen` is named in the verdict."""

    family: str
    chosen: bool


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


class Answer(NamedTuple):
    """One question of the verdict."""

    question: str
    choice: str
    lines: tuple[str, ...]


class Page(NamedTuple):
    """All that the template shows."""

    title: str
    style: Markup
    facts: tuple[str, ...]
    answers: tuple[Answer, ...]
    cautions: tuple[str, ...]
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def write(folder: str | Path, found: Mapping[str, Any]) -> list[Path]:
    """
    Write `report.html` beside results.json, and its first picture, `latency.svg`, as a file of its own.

    :param found: What results.json holds.
    :raises ImportError: If matplotlib is missing.
    """
    page, picture = Path(folder) / NAME, Path(folder) / PICTURE
    page.write_text(render(found), encoding="utf-8")
    rows = _rows(found)
    known = [(row, row.median) for row in rows]
    svg = _cost_svg(known, _styles(rows), _TITLE_LATENCY, _LABEL_LATENCY, "latency", legend=True)
    picture.write_text(pictures.standalone(svg), encoding="utf-8")
    return [page, picture]


def render(found: Mapping[str, Any]) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("haystack_ce_ranker.evaluation.showing", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=make_page(found))


def make_page(found: Mapping[str, Any]) -> Page:
    """Choose what the page shows of results.json."""
    rows = _rows(found)
    styles = _styles(rows)
    drawn = [
        *_costs(rows, styles),
        *_depths(found, rows, styles),
        *_stages(rows),
        *_reading(rows),
        *_gains(found, rows),
    ]
    return Page(
        title=f"Is re-ranking worth it on {found['collection']}?",
        style=Markup(pictures.STYLE),
        facts=_facts(found),
        answers=_answers(found),
        cautions=_cautions(found),
        pictures=tuple(drawn),
        tables=(
            _systems(rows),
            *_worth(found, rows),
            *_segments(found),
            *_queries(found, rows),
            *_documents(found),
            *_memory(found),
        ),
        notes=tuple(found["notes"]),
    )


def _rows(found: Mapping[str, Any]) -> list[Row]:
    chosen = set(_named(found))
    systems = found["systems"]
    told = ["kind", "model", "backend"]
    told += [
        key
        for key in ("dtype", "device", "strategy", "first_stage")
        if len({one.get(key) for one in systems.values()} - {None}) > 1
    ]
    rows = []
    for name, figures in systems.items():
        parts = [short_name(str(part)) for key in told if (part := figures.get(key))]
        family = ", ".join(parts) if parts and figures.get("depth") is not None else name
        rows.append(Row(name, figures, family, name in chosen))
    return rows


def _styles(rows: Sequence[Row]) -> dict[str, int]:
    return {family: style for style, family in enumerate(dict.fromkeys(row.family for row in rows))}


def _named(found: Mapping[str, Any]) -> list[str]:
    answers = found.get("verdict", {}).get("answers", ())
    return [name for answer in answers if (name := answer.get("system")) in found["systems"]]


def _facts(found: Mapping[str, Any]) -> tuple[str, ...]:
    counts = f"{found['documents']:,} documents, {found['queries']:,} queries with judgments"
    baseline = found.get("baseline")
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value is not None)
    return (counts + (f"; compared with {baseline}" if baseline else ""), f"measured on: {machine}")


def _answers(found: Mapping[str, Any]) -> tuple[Answer, ...]:
    return tuple(
        Answer(answer["question"], str(answer["answer"]), tuple([answer["reason"]] if answer.get("reason") else []))
        for answer in found.get("verdict", {}).get("answers", ())
    )


def _cautions(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What may mislead, and which questions could not be asked."""
    verdict = found.get("verdict") or {}
    limits = "; ".join(verdict.get("not_compared", ()))
    return (*verdict.get("cautions", ()), *([f"Not compared: {limits}."] if limits else []))


def _costs(rows: Sequence[Row], styles: Mapping[str, int]) -> list[Picture]:
    """Quality against latency, and against energy; what was measured and what was estimated never in one picture."""
    time = f"{_QUALITY} of each system against the time that half of the queries take at most."
    costs = [(row, row.median) for row in rows]
    drawn = [_cost(costs, styles, _TITLE_LATENCY, _LABEL_LATENCY, time, "latency")]
    for source in sorted({source for row in rows if (source := row.source)}):
        title, label = f"{_QUALITY} against energy, {source}", f"joules a query, {source}"
        energy = f"{_QUALITY} of each system against the energy that a query takes; all of these figures are {source}."
        costs = [(row, row.figures["joules_per_query"]) for row in rows if row.source == source]
        drawn.append(_cost(costs, styles, title, label, energy, f"energy-{source}"))
    return [picture for picture in drawn if picture is not None]


_Costs = Sequence[tuple[Row, float | None]]


def _cost(
    costs: _Costs, styles: Mapping[str, int], title: str, label: str, caption: str, identity: str
) -> Picture | None:
    known = [row for row, cost in costs if cost is not None]
    if not known:
        return None
    signs = ["Dashed: nothing is both cheaper and better."]
    if any(row.depth is not None for row in known):
        signs.append("The number at a point is the depth.")
    if any(row.chosen for row in known):
        signs.append("Ringed: named in the verdict.")
    if any(cost == 0 for _, cost in costs):
        signs.append("At the left edge: no cost of its own.")
    svg = _cost_svg(costs, styles, title, label, identity)
    legend = tuple(
        Entry(Markup(pictures.swatch(styles[family])), family) for family in dict.fromkeys(row.family for row in known)
    )
    return Picture(title, " ".join([caption, *signs]), Markup(svg), legend)


def _cost_svg(
    costs: _Costs, styles: Mapping[str, int], title: str, label: str, identity: str, *, legend: bool = False
) -> str:
    known = [(row, float(cost)) for row, cost in costs if cost is not None]
    points = [
        (row, Point(cost, row.quality, "" if row.depth is None else str(row.depth), chosen=row.chosen))
        for row, cost in known
    ]
    return pictures.scatter(
        _series(points, styles),
        title=title,
        x_label=label,
        y_label=_QUALITY,
        front=pareto_front([(cost, row.quality) for row, cost in known]),
        identity=identity,
        legend=legend,
    )


def _depths(found: Mapping[str, Any], rows: Sequence[Row], styles: Mapping[str, int]) -> list[Picture]:
    points = []
    for row in rows:
        if row.depth is not None:
            low, high = _interval(row.figures)
            points.append((row, Point(row.depth, row.quality, low=low, high=high, chosen=row.chosen)))
    series = [one for one in _series(points, styles) if len(one.points) > 1]
    if not series:
        return []
    baseline = found["systems"].get(found.get("baseline"))
    level = None if baseline is None else float(baseline[_QUALITY])
    title = f"{_QUALITY} by depth"
    caption = "How many candidates are re-ranked."
    if level is not None:
        caption += f" Dashed: {found['baseline']}."
    if any(point.low is not None for one in series for point in one.points):
        caption += " Bands: 95 % bootstrap intervals over the queries."
    svg = pictures.curves(
        series, title=title, x_label="candidates re-ranked", y_label=_QUALITY, level=level, identity="depth"
    )
    return [Picture(title, caption, Markup(svg), _legend(series))]


def _stages(rows: Sequence[Row]) -> list[Picture]:
    bars = [
        Bar(row.name, tuple(stages.get(stage) for stage in _STAGES), f"{sum(v or 0 for v in stages.values()):,.1f} ms")
        for row in _few(rows)
        if (stages := row.figures.get("stages_ms"))
    ]
    if not bars:
        return []
    title = "Latency by stage"
    svg = pictures.bars(bars, title=title, x_label="milliseconds a query, mean", identity="stages")
    legend = tuple(
        Entry(Markup(pictures.swatch(style, area=True)), stage)
        for style, stage in enumerate(_STAGES)
        if any(bar.parts[style] for bar in bars)
    )
    return [Picture(title, "Where the time of a query goes.", Markup(svg), legend)]


def _reading(rows: Sequence[Row]) -> list[Picture]:
    bars = [
        Bar(row.name, (float(share),), f"{share:.0%}")
        for row in _few(rows)
        if (share := row.figures.get("read_share")) is not None
    ]
    if not bars:
        return []
    title = "Share of the candidates' tokens that was read"
    caption = "What is missing to 100 % was left out because a pair of query and document has a limit."
    svg = pictures.bars(bars, title=title, x_label="share of tokens", whole=1.0, identity="reading")
    return [Picture(title, caption, Markup(svg))]


def _gains(found: Mapping[str, Any], rows: Sequence[Row]) -> list[Picture]:
    compared = _compared(found, rows)
    if compared is None:
        return []
    shown, before, after = compared
    differences = [after[query_id] - before[query_id] for query_id in after]
    won, lost = (sum(sign * value > 0 for value in differences) for sign in (1, -1))
    title = "Gain by query"
    caption = (
        f"{_QUALITY} of {shown} less that of {found['baseline']}, a bar a query: {won} won, {lost} lost, "
        f"{len(differences) - won - lost} the same."
    )
    svg = pictures.gains(
        differences, title=title, x_label="queries, the most helped first", y_label="difference", identity="gains"
    )
    return [Picture(title, caption, Markup(svg))]


class _Compared(NamedTuple):
    """A system, and each query's quality under the baseline and under it."""

    name: str
    before: Mapping[str, float]
    after: Mapping[str, float]


def _compared(found: Mapping[str, Any], rows: Sequence[Row]) -> _Compared | None:
    """Return the verdict's subject, else a system that it names, else the best."""
    by_query = found.get("by_query") or {}
    baseline = found.get("baseline")
    others = [row for row in rows if row.name != baseline and row.name in by_query]
    if baseline not in by_query or not others:
        return None
    subject = (found.get("verdict") or {}).get("subject")
    shown = max(others, key=lambda row: (row.name == subject, row.chosen, row.quality))
    return _Compared(shown.name, by_query[baseline][_QUALITY], by_query[shown.name][_QUALITY])


def _series(points: Sequence[tuple[Row, Point]], styles: Mapping[str, int]) -> list[Series]:
    families = dict.fromkeys(row.family for row, _ in points)
    return [
        Series(
            family, styles[family], tuple(sorted((p for row, p in points if row.family == family), key=lambda p: p.x))
        )
        for family in families
    ]


def _few(rows: Sequence[Row]) -> Sequence[Row]:
    if len(rows) <= MOST_BARS:
        return rows
    deepest = {row.family: max(r.depth or 0 for r in rows if r.family == row.family) for row in rows}
    return [row for row in rows if row.chosen or (row.depth or 0) == deepest[row.family]]


def _legend(series: Sequence[Series]) -> tuple[Entry, ...]:
    return tuple(Entry(Markup(pictures.swatch(one.style)), one.name) for one in series)


def _interval(figures: Mapping[str, Any]) -> tuple[float | None, float | None]:
    interval = (figures.get("interval") or {}).get(_QUALITY)
    return (None, None) if interval is None else (float(interval[0]), float(interval[1]))


def _systems(rows: Sequence[Row]) -> Table:
    """All figures of all systems; a column that nobody has a figure for is left out."""
    sources = sorted({source for row in rows if (source := row.source)})
    columns: dict[str, list[Cell]] = {"system": [Cell(row.name) for row in rows]}
    columns[_QUALITY] = [_bounded(row.figures) for row in rows]
    columns["against baseline"] = [_difference(row.figures) for row in rows]
    columns["won / same / lost"] = [Cell(_won(row.figures)) for row in rows]
    for label in ("MRR@10", "Recall@10", "Recall@100"):
        columns[label] = [Cell(_number(row.figures.get(label), ".3f")) for row in rows]
    for key in ("p50", "p95"):
        columns[f"{key} ms"] = [Cell(_number(row.figures["latency_ms"].get(key), ",.1f")) for row in rows]
    columns["tokens"] = [Cell(_number(row.figures["tokens_per_query"], ",.0f")) for row in rows]
    columns["read"] = [Cell(_number(row.figures.get("read_share"), ".0%")) for row in rows]
    for source in sources:
        columns[f"joules, {source}"] = [
            Cell(_number(row.figures["joules_per_query"], ",.3g") if row.source == source else "–") for row in rows
        ]
    columns["peak MB"] = [Cell(_number(row.figures.get("peak_memory_mb"), ",.0f")) for row in rows]
    kept = {name: cells for name, cells in columns.items() if any(cell.text != "–" for cell in cells)}
    lines = ("Figures are per query. Small: 95 % intervals; p is corrected for the number of systems.",)
    made = [
        TableRow(tuple(cells), row.chosen) for row, cells in zip(rows, zip(*kept.values(), strict=True), strict=True)
    ]
    return Table("Systems", lines, tuple(kept), tuple(made))


def _queries(found: Mapping[str, Any], rows: Sequence[Row]) -> list[Table]:
    """The queries that the system shown under "Gain by query" helps most and hurts most."""
    compared = _compared(found, rows)
    if compared is None:
        return []
    shown, before, after = compared
    gains = {query_id: after[query_id] - before[query_id] for query_id in after}
    best_first = sorted(gains, key=lambda query_id: -gains[query_id])
    helped = [query_id for query_id in best_first if gains[query_id] > 0][:MOST_QUERIES]
    hurt = [query_id for query_id in reversed(best_first) if gains[query_id] < 0][:MOST_QUERIES]
    made = []
    for query_id in [*helped, *hurt]:
        gain = Cell(f"{gains[query_id]:+.3f}", "up" if gains[query_id] > 0 else "down")
        made.append(TableRow((Cell(query_id), Cell(f"{before[query_id]:.3f}"), Cell(f"{after[query_id]:.3f}"), gain)))
    if not made:
        return []
    lines = (f"{_QUALITY} of {found['baseline']} and of {shown}, by the query's id.",)
    return [Table("Most helped and most hurt", lines, ("query", "before", "after", "gain"), tuple(made))]


def _worth(found: Mapping[str, Any], rows: Sequence[Row]) -> list[Table]:
    """The systems that nothing beats in both quality and cost, and what they gain for it."""
    verdict = found.get("verdict") or {}
    pareto = verdict.get("pareto")
    if pareto is None or len(rows) < 2:
        return []
    fronts = {"time": pareto["latency"], **{f"joules, {source}": names for source, names in pareto["energy"].items()}}
    made = []
    for row in rows:
        where = [label for label, names in fronts.items() if row.name in names]
        if where:
            gains = [Cell(_number(verdict[key].get(row.name), "+.4f")) for key in ("gain_per_100ms", "gain_per_joule")]
            cells = (Cell(row.name), Cell(f"{row.quality:.4f}"), Cell(_number(row.median, ",.1f")), *gains)
            made.append(TableRow((*cells, Cell("; ".join(where))), row.chosen))
    columns = ("system", _QUALITY, "p50 ms", "gain for 100 ms", "gain for a joule", "unbeaten in")
    line = (
        f"Nothing is both better and cheaper than these. Gains in {_QUALITY} are against {found.get('baseline')}, for "
        "each 100 ms and each joule more."
    )
    return [Table("Worth their cost", (line,), columns, tuple(made))]


_TONES = {"helps": "up", "harms": "down"}


def _segments(found: Mapping[str, Any]) -> list[Table]:
    """Where the verdict's subject helps and where it harms."""
    known = found.get("segments")
    if not known or not known["segments"]:
        return []
    made = []
    for row in known["segments"]:
        bounds = row["interval"]
        gain = Cell(
            _number(row["gain"], "+.3f"),
            _TONES.get(row["effect"], ""),
            "" if bounds is None else f"{bounds[0]:+.3f} – {bounds[1]:+.3f}",
        )
        cells = (
            Cell(row["name"], small=row["bounds"]),
            Cell(f"{row['queries']:,}"),
            gain,
            Cell(_number(row["gain_elsewhere"], "+.3f")),
            Cell(_p(row["p_corrected"])),
            Cell(row["effect"]),
        )
        made.append(TableRow(cells))
    what = f"{known['measure']} of {known['system']} less that of {known['baseline']}, by kind of query; kinds overlap."
    rule = (
        "An effect is named where the 95 % interval excludes 0 and p, corrected for all kinds, is below "
        f"{known['level']:g}; fewer than {known['fewest']} queries are not judged."
    )
    columns = ("queries that are alike", "queries", "gain", "gain elsewhere", "p", "effect")
    return [Table("Where it helps and where it harms", (what, rule), columns, tuple(made))]


def _documents(found: Mapping[str, Any]) -> list[Table]:
    """What the model read of the documents that made the difference."""
    known = found.get("helped_and_hurt")
    if not known:
        return []
    made = []
    for entry in [*known["helped"][:MOST_QUERIES], *known["hurt"][:MOST_QUERIES]]:
        tone = "up" if entry["gain"] > 0 else "down"
        for document in _telling(entry["documents"]):
            cells = (
                Cell(document["document"], small=f"query {entry['query']}"),
                Cell("not judged" if document["grade"] is None else f"{document['grade']}"),
                Cell(_number(document["rank_before"], "d")),
                Cell(_number(document["rank_after"], "d")),
                Cell(_number(document["logit"], ".2f")),
                Cell(_number(document["coverage"], ".0%")),
                Cell(_passages(document["read"])),
                Cell(f"{entry['gain']:+.3f}", tone),
            )
            made.append(TableRow(cells))
    if not made:
        return []
    line = (
        f"Of each query above the document that {known['system']} puts first, and those relevant ones whose move "
        "mattered most. Passages: first and last character, and the model's logit."
    )
    columns = ("document", "grade", "rank before", "rank after", "logit", "read", "passages", "query's gain")
    return [Table("What the model read of their documents", (line,), columns, tuple(made))]


def _telling(documents: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first document, and the relevant ones that gained or lost most by their move, in the order of the ranking."""

    def discount(rank: int | None) -> float:
        return 0.0 if rank is None else 1.0 / math.log2(rank + 1)

    def moved(document: Mapping[str, Any]) -> float:
        grade = 0.0 if document["grade"] is None else float(document["grade"])
        return abs(grade * (discount(document["rank_after"]) - discount(document["rank_before"])))

    first = [document for document in documents if document["rank_after"] == 1]
    others = sorted((document for document in documents if document not in first and moved(document) > 0), key=moved)
    kept = [*first, *reversed(others)][:MOST_DOCUMENTS]
    return [document for document in documents if document in kept]


def _passages(read: Sequence[Sequence[Any]]) -> str:
    if not read:
        return "–"
    best = sorted(read, key=lambda passage: -math.inf if passage[2] is None else -passage[2])[:MOST_PASSAGES]
    told = [f"{start:,}–{end:,} ({_number(logit, '.2f')})" for start, end, logit in best]
    return "; ".join(told) + (f"; {len(read) - MOST_PASSAGES} more" if len(read) > MOST_PASSAGES else "")


def _memory(found: Mapping[str, Any]) -> list[Table]:
    """Peak memory by the size of a batch."""
    rows = sorted(
        found.get("memory_by_batch") or (), key=lambda row: (row["model"], row["backend"], row["batch_tokens"])
    )
    if not rows:
        return []
    made = tuple(
        TableRow(
            (
                Cell(short_name(row["model"])),
                Cell(row["backend"]),
                Cell(f"{row['batch_tokens']:,}"),
                Cell(f"{row['peak_memory_mb']:,.0f}"),
            )
        )
        for row in rows
    )
    lines = ("The most tokens of one forward pass, padding among them, and the most memory the process then took.",)
    return [Table("Memory by batch size", lines, ("model", "backend", "tokens in a batch", "peak MB"), made)]


def _bounded(figures: Mapping[str, Any]) -> Cell:
    low, high = _interval(figures)
    return Cell(f"{figures[_QUALITY]:.4f}", small="" if low is None else f"{low:.3f} – {high:.3f}")


def _difference(figures: Mapping[str, Any]) -> Cell:
    versus = figures.get("versus")
    if not versus:
        return Cell("–")
    tone = "up" if versus["low"] > 0 else "down" if versus["high"] < 0 else ""
    return Cell(f"{versus['difference']:+.4f}", tone, f"p {_p(versus['p_corrected'])}")


def _won(figures: Mapping[str, Any]) -> str:
    versus = figures.get("versus")
    return f"{versus['wins']} / {versus['ties']} / {versus['losses']}" if versus else "–"


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else _number(value, ".3f")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
