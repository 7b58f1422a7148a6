"""
Draws the pictures of the report as SVG that lives inside an HTML page: numbers and names in, markup out.

matplotlib draws. Its SVG is then cut down to what a page needs. It has no fixed size. Its colours are CSS variables, so
that dark mode can change them. Its ids do not clash with those of the next picture, and every text stays text. The
variables are `--ink`, `--muted`, `--grid`, `--surface` and `--s1` to `--s8`.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

COLOURS = 8
"""How many series have a colour of their own. After that the colours repeat, with another marker."""

MARKERS = "os^DvPX*"

STYLE = """\
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --surface: #ffffff; --ink: #1b1f24; --muted: #57606a; --grid: #dfe3e8; --accent: #0b5cad;
  --good: #14713a; --bad: #b42318;
  --s1: #0b5cad; --s2: #c2410c; --s3: #14803c; --s4: #7e3fb2; --s5: #0f766e; --s6: #9a6700; --s7: #be185d;
  --s8: #57606a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1216; --surface: #181c22; --ink: #e8ebef; --muted: #a3adb8; --grid: #323941; --accent: #7cb8ff;
    --good: #6fd08f; --bad: #ff9a8d;
    --s1: #6cb2ff; --s2: #ff9e64; --s3: #73d08d; --s4: #c9a6ff; --s5: #4fd1c5; --s6: #f0c04c; --s7: #ff8ab8;
    --s8: #b0b7c3;
  }
}
"""
"""The colours of light and dark pages, as CSS. Texts have a contrast of at least 4.5, series of at least 3."""

# matplotlib takes no variables, so a colour that nothing else has stands for each.
_INK, _MUTED, _GRID, _SURFACE = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _SURFACE: "--surface"}
_VARIABLES |= {f"#fe01{index:02x}": f"--s{index + 1}" for index in range(COLOURS)}
_WIDTH = 5.0  # inches of 72 units: about a telephone's width, so that text is never made smaller there
_SIZE = 10.0  # of the text, in the same units
_LONGEST = 54  # characters that surely fit into that width, a bar's note among them
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SETTINGS = {"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "report", "font.size": _SIZE}


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a picture. `label` is written beside it; `low` and `high` bound `y`."""

    x: float
    y: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; `style` picks colour and marker and is the same in every picture."""

    name: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A name and the lengths of its parts, in the order they are drawn; None where a part is not known."""

    name: str
    parts: tuple[float | None, ...]
    note: str = ""


def scatter(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    front: Sequence[tuple[float, float]] = (),
    identity: str,
    legend: bool = False,
) -> str:
    """
    Draw quality against a cost on a logarithmic axis. A dashed step joins the points that no other beats in both.

    Points without a cost stand at the left edge. With `legend` the picture names the series below it.
    """
    with _figure(3.7 + 0.2 * len(series) * legend) as (figure, axes):
        costs = [point.x for one in series for point in one.points if point.x > 0]
        least, most = (min(costs), max(costs)) if costs else (1.0, 1.0)
        axes.set_xscale("log")
        axes.set_xlim(least / 2.2, most * 2.2)
        if front:
            xs, ys = zip(*[(max(x, least / 2.2), y) for x, y in sorted(front)], strict=True)
            xs, ys = (*xs, most * 2.2), (*ys, ys[-1])
            axes.plot(xs, ys, drawstyle="steps-post", linestyle=(0, (4, 3)), linewidth=1, color=_MUTED, zorder=1)
        for one in series:
            _draw(axes, one, [max(point.x, least / 2.2) for point in one.points])
        if legend:
            figure.legend(loc="outside lower left", frameon=False, labelcolor=_INK, fontsize=_SIZE - 1)
        _ticks(axes, least / 2.2, most * 2.2)
        _labels(axes, x_label, y_label)
        return _markup(figure, title, identity)


def curves(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, level: float | None = None, identity: str
) -> str:
    """Draw each series as a line with its bounds as a band; `level` is a dashed line across."""
    with _figure(3.4) as (figure, axes):
        if level is not None:
            axes.axhline(level, linestyle=(0, (4, 3)), linewidth=1, color=_MUTED, zorder=1)
        for one in series:
            xs = [point.x for point in one.points]
            if all(point.low is not None and point.high is not None for point in one.points) and len(xs) > 1:
                lows, highs = [point.low for point in one.points], [point.high for point in one.points]
                axes.fill_between(xs, lows, highs, color=_colour(one.style), alpha=0.12, linewidth=0)
            _draw(axes, one, xs)
        places = sorted({point.x for one in series for point in one.points})
        axes.set_xticks(places, [f"{place:g}" for place in places])
        _labels(axes, x_label, y_label)
        return _markup(figure, title, identity)


def bars(rows: Sequence[Bar], *, title: str, x_label: str, whole: float | None = None, identity: str) -> str:
    """
    Draw one bar for each row: its parts one after the other, and its name above it.

    :param whole: The end of the axis, such as 1 for shares; by default the longest bar.
    """
    with _figure(0.55 + 0.42 * max(len(rows), 1)) as (figure, axes):
        for place, row in enumerate(rows):
            left = 0.0
            for index, part in enumerate(row.parts):
                if part:
                    axes.barh(place, part, left=left, height=0.42, color=_colour(index), linewidth=0)
                    left += part
            label = f"{_short(_shown(row.name), _LONGEST - len(row.note))}  {_shown(row.note)}"
            axes.text(0, place - 0.3, label.rstrip(), ha="left", va="bottom", color=_INK, fontsize=_SIZE - 1)
        axes.set_ylim(max(len(rows), 1) - 0.6, -0.95)
        axes.set_yticks([])
        longest = max((sum(part or 0.0 for part in row.parts) for row in rows), default=0.0)
        end = whole if whole is not None else longest
        axes.set_xlim(0, end if end > 0 else 1.0)
        if whole is not None:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / whole:.0%}")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        _labels(axes, x_label, "")
        return _markup(figure, title, identity)


def gains(values: Sequence[float], *, title: str, x_label: str, y_label: str, identity: str) -> str:
    """Draw differences, highest first: gains above the line, losses below it."""
    ordered = sorted(values, reverse=True)
    with _figure(2.8) as (figure, axes):
        edges = list(range(len(ordered) + 1))
        for style, side in ((2, [max(value, 0.0) for value in ordered]), (1, [min(value, 0.0) for value in ordered])):
            axes.stairs(side, edges, fill=True, color=_colour(style), linewidth=0)
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.set_xlim(0, max(len(ordered), 1))
        largest = max((abs(value) for value in ordered), default=0.0)
        axes.set_ylim(*((-largest * 1.08, largest * 1.08) if largest else (-1, 1)))
        _labels(axes, x_label, y_label)
        return _markup(figure, title, identity)


def agreement(points: Sequence[Point], *, title: str, x_label: str, y_label: str, identity: str) -> str:
    """Draw what was predicted against what came true, both between 0 and 1; on the dashed line they are the same."""
    with _figure(4.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), linewidth=1, color=_MUTED, zorder=1)
        for point in points:
            if point.low is not None and point.high is not None:
                axes.plot([point.x] * 2, [point.low, point.high], linewidth=1.2, color=_colour(0), zorder=2)
        _draw(axes, Series("", 0, tuple(points)), [point.x for point in points])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _labels(axes, x_label, y_label)
        return _markup(figure, title, identity)


def swatch(style: int, *, area: bool = False) -> str:
    """Draw a series' marker for a legend, or a filled square for the part of a bar."""
    with _figure(0.2, width=0.2) as (figure, axes):
        axes.set_axis_off()
        marker = "s" if area else _marker(style)
        axes.plot([0], [0], marker=marker, markersize=9 if area else 8, color=_colour(style), markeredgewidth=0)
        return _markup(figure, None, f"swatch-{style}-{int(area)}")


def standalone(markup: str) -> str:
    """Return a picture as a file of its own, with the page's colours and the page's surface behind it."""
    root = ElementTree.fromstring(markup)
    root.attrib["xmlns"] = "http://www.w3.org/2000/svg"
    root.attrib["font-family"] = "system-ui, sans-serif"
    style = ElementTree.Element("style")
    style.text = f"\n{STYLE}* {{ stroke-linejoin: round; stroke-linecap: butt; }}\n"
    behind = ElementTree.Element("rect", {"width": "100%", "height": "100%", "style": "fill: var(--surface)"})
    root[:0] = [style, behind]
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@contextmanager
def _figure(height: float, *, width: float = _WIDTH) -> Iterator[tuple[Any, Any]]:
    matplotlib, figure_type = _matplotlib()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has its own fonts
        figure = figure_type(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.grid(color=_GRID, linewidth=0.8)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_MUTED)
        axes.tick_params(colors=_MUTED, labelcolor=_INK, which="both")
        yield figure, axes


def _draw(axes: Any, one: Series, xs: Sequence[float]) -> None:
    ys = [point.y for point in one.points]
    style = {"color": _colour(one.style), "marker": _marker(one.style), "label": _shown(one.name), "clip_on": False}
    axes.plot(xs, ys, linewidth=1.4, markersize=6, markeredgecolor=_SURFACE, markeredgewidth=0.8, zorder=3, **style)
    for x, point in zip(xs, one.points, strict=True):
        if point.chosen:
            ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgecolor": _INK}
            axes.plot([x], [point.y], linestyle="none", zorder=4, **ring)
        if point.label:
            above = one.style % 2 == 0
            offset = {"xytext": (0, 8 if above else -15), "textcoords": "offset points", "ha": "center"}
            axes.annotate(_shown(point.label), (x, point.y), color=_INK, fontsize=_SIZE - 1.5, zorder=5, **offset)


def _ticks(axes: Any, low: float, high: float) -> None:
    """Mark 1, 2 and 5 of each power of ten as plain numbers, or only the powers if those would be too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    places = [step * 10.0**exponent for exponent in exponents for step in steps]
    places = [place for place in places if low <= place <= high]
    axes.set_xticks(places, [f"{place:,.10g}" for place in places])
    axes.set_xticks([], minor=True)


def _labels(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(_shown(x_label), color=_INK)
    axes.set_ylabel(_shown(y_label), color=_INK)


def _shown(text: str) -> str:
    """Return a text without the characters that no XML may hold, which a file's name or a document's id may."""
    return _NO_XML.sub("\ufffd", text)


def _short(name: str, longest: int) -> str:
    """Cut out a name's middle: models differ at the end, families at the beginning."""
    if len(name) <= longest:
        return name
    tail = longest // 2
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def _colour(style: int) -> str:
    return f"#fe01{style % COLOURS:02x}"


def _marker(style: int) -> str:
    return MARKERS[(style + style // COLOURS) % len(MARKERS)]


def _markup(figure: Any, title: str | None, identity: str) -> str:
    """Turn a figure into an `<svg>` element for a page; without a title it is only decoration."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", stream.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _renamed(_local(name), value, identity) for name, value in element.items()}
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    if title is None:
        root.attrib["aria-hidden"] = "true"
    else:
        root.attrib |= {"role": "img", "aria-label": _shown(title)}
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _renamed(name: str, value: str, identity: str) -> str:
    if name == "id":
        return f"{identity}-{value}"
    if name == "href":
        return value.replace("#", f"#{identity}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{identity}-")
    if name == "style":
        value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
        return re.sub(r"#fe0[0-9a-f]{3}", lambda found: f"var({_VARIABLES[found[0]]})", value)
    return value


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        message = 'the report needs matplotlib: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    return matplotlib, Figure
