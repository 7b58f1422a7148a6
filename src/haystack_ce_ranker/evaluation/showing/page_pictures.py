"""Which pictures the report's page shows, and what is written about them; `pictures.py` draws them."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from haystack_ce_ranker import pictures
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.systems import Stage, pareto_front
from haystack_ce_ranker.evaluation.showing.page import Entry, Picture, Row, compared, make_rows, make_styles
from haystack_ce_ranker.pictures import Bar, Point, Series

MOST_BARS = 16  # with more systems, a picture of bars shows each family's deepest, and what the verdict names

_TITLE_LATENCY = f"{NDCG_AT_10} against latency"
_LABEL_LATENCY = "milliseconds a query, median"

_Costs = Sequence[tuple[Row, float | None]]


def make_pictures(found: Results) -> list[Picture]:
    """Return the pictures that the results have figures for."""
    rows = make_rows(found)
    styles = make_styles(rows)
    return [*_costs(rows, styles), *_depths(found, rows, styles), *_stages(rows), *_reading(rows), *_gains(found, rows)]


def latency_picture(found: Results) -> str:
    """Return quality against latency as a picture of its own, with its legend."""
    rows = make_rows(found)
    known = [(row, row.system.latency_ms.p50) for row in rows]
    svg = _cost_svg(known, make_styles(rows), _TITLE_LATENCY, _LABEL_LATENCY, "latency", legend=True)
    return pictures.standalone(svg)


def _costs(rows: Sequence[Row], styles: Mapping[str, int]) -> list[Picture]:
    """Quality against latency, and against energy; what was measured and what was estimated never in one picture."""
    time = f"{NDCG_AT_10} of each system against the time that half of the queries take at most."
    costs: _Costs = [(row, row.system.latency_ms.p50) for row in rows]
    drawn = [_cost(costs, styles, _TITLE_LATENCY, _LABEL_LATENCY, time, "latency")]
    for source in sorted({source for row in rows if (source := row.system.source)}):
        title, label = f"{NDCG_AT_10} against energy, {source}", f"joules a query, {source}"
        text = f"{NDCG_AT_10} of each system against the energy that a query takes; all of these figures are {source}."
        costs = [(row, row.system.joules_per_query) for row in rows if row.system.source == source]
        drawn.append(_cost(costs, styles, title, label, text, f"energy-{source}"))
    return [picture for picture in drawn if picture is not None]


def _cost(
    costs: _Costs, styles: Mapping[str, int], title: str, label: str, caption: str, identity: str
) -> Picture | None:
    known = [row for row, cost in costs if cost is not None]
    if not known:
        return None
    signs = ["Dashed: nothing is both cheaper and better."]
    if any(row.system.depth is not None for row in known):
        signs.append("The number at a point is the depth.")
    if any(row.chosen for row in known):
        signs.append("Ringed: named in the verdict.")
    if any(cost == 0 for _, cost in costs):
        signs.append("At the left edge: no cost of its own.")
    svg = _cost_svg(costs, styles, title, label, identity)
    legend = _legend({row.family: styles[row.family] for row in known})
    return Picture(title, " ".join([caption, *signs]), Markup(svg), legend)


def _cost_svg(
    costs: _Costs, styles: Mapping[str, int], title: str, label: str, identity: str, *, legend: bool = False
) -> str:
    points = [(row, _point(row, cost)) for row, cost in costs if cost is not None]
    return pictures.scatter(
        _series(points, styles),
        title=title,
        x_label=label,
        y_label=NDCG_AT_10,
        front=pareto_front([(point.x, point.y) for _, point in points]),
        identity=identity,
        legend=legend,
    )


def _point(row: Row, cost: float) -> Point:
    depth = row.system.depth
    return Point(cost, row.system.quality, "" if depth is None else str(depth), chosen=row.chosen)


def _depths(found: Results, rows: Sequence[Row], styles: Mapping[str, int]) -> list[Picture]:
    points = []
    for row in rows:
        if row.system.depth is not None:
            low, high = row.system.interval.get(NDCG_AT_10, (None, None))
            points.append((row, Point(row.system.depth, row.system.quality, low=low, high=high, chosen=row.chosen)))
    series = [one for one in _series(points, styles) if len(one.points) > 1]
    if not series:
        return []
    level = next((row.system.quality for row in rows if row.system.name == found.baseline), None)
    title, caption = f"{NDCG_AT_10} by depth", "How many candidates are re-ranked."
    if level is not None:
        caption += f" Dashed: {found.baseline}."
    if any(point.low is not None for one in series for point in one.points):
        caption += " Bands: 95 % bootstrap intervals over the queries."
    svg = pictures.curves(
        series, title=title, x_label="candidates re-ranked", y_label=NDCG_AT_10, level=level, identity="depth"
    )
    return [Picture(title, caption, Markup(svg), _legend({one.name: one.style for one in series}))]


def _stages(rows: Sequence[Row]) -> list[Picture]:
    bars = [
        Bar(row.system.name, tuple(map(stages.get, Stage)), f"{sum(stages.values()):,.1f} ms")
        for row in _few(rows)
        if (stages := row.system.stages_ms)
    ]
    if not bars:
        return []
    title = "Latency by stage"
    svg = pictures.bars(bars, title=title, x_label="milliseconds a query, mean", identity="stages")
    styles = {stage.value: style for style, stage in enumerate(Stage) if any(bar.parts[style] for bar in bars)}
    return [Picture(title, "Where the time of a query goes.", Markup(svg), _legend(styles, area=True))]


def _reading(rows: Sequence[Row]) -> list[Picture]:
    shares = {row.system.name: row.system.read_share for row in _few(rows)}
    bars = [Bar(name, (share,), f"{share:.0%}") for name, share in shares.items() if share is not None]
    if not bars:
        return []
    title = "Share of the candidates' tokens that was read"
    caption = "What is missing to 100 % was left out because a pair of query and document has a limit."
    svg = pictures.bars(bars, title=title, x_label="share of tokens", whole=1.0, identity="reading")
    return [Picture(title, caption, Markup(svg))]


def _gains(found: Results, rows: Sequence[Row]) -> list[Picture]:
    pair = compared(found, rows)
    if pair is None:
        return []
    differences = [pair.after[query_id] - pair.before[query_id] for query_id in pair.after]
    won, lost = (sum(sign * value > 0 for value in differences) for sign in (1, -1))
    title = "Gain by query"
    caption = (
        f"{NDCG_AT_10} of {pair.name} less that of {found.baseline}, a bar a query: {won} won, {lost} lost, "
        f"{len(differences) - won - lost} the same."
    )
    svg = pictures.gains(
        differences, title=title, x_label="queries, the most helped first", y_label="difference", identity="gains"
    )
    return [Picture(title, caption, Markup(svg))]


def _series(points: Sequence[tuple[Row, Point]], styles: Mapping[str, int]) -> list[Series]:
    families: dict[str, list[Point]] = {}
    for row, point in points:
        families.setdefault(row.family, []).append(point)
    return [
        Series(family, styles[family], tuple(sorted(some, key=lambda point: point.x)))
        for family, some in families.items()
    ]


def _few(rows: Sequence[Row]) -> Sequence[Row]:
    if len(rows) <= MOST_BARS:
        return rows
    deepest: dict[str, int] = {}
    for row in rows:
        deepest[row.family] = max(deepest.get(row.family, 0), row.system.depth or 0)
    return [row for row in rows if row.chosen or (row.system.depth or 0) == deepest[row.family]]


def _legend(styles: Mapping[str, int], *, area: bool = False) -> tuple[Entry, ...]:
    return tuple(Entry(Markup(pictures.swatch(style, area=area)), name) for name, style in styles.items())
