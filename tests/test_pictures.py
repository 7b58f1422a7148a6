"""The report's pictures: markup that fits into a page, shows what it was given, and takes its colours from the page."""

import re
from xml.etree import ElementTree

import pytest

from haystack_ce_ranker.pictures import (
    STYLE,
    Bar,
    Point,
    Series,
    agreement,
    bars,
    curves,
    gains,
    scatter,
    swatch,
)

pytest.importorskip("matplotlib", reason="needs the extra 'evaluate'")

NASTY = "<script>alert(1)</script> $\\frac{ & _x 模型"
SERIES = (
    Series("bm25", 0, (Point(0.0, 0.5),)),
    Series(NASTY, 1, (Point(80.0, 0.61, "10", 0.55, 0.66), Point(400.0, 0.67, NASTY, 0.6, 0.7, chosen=True))),
)
PICTURES = {
    "scatter": lambda identity: scatter(
        SERIES, title=NASTY, x_label="ms", y_label=NASTY, front=[(0.0, 0.5), (80.0, 0.61)], identity=identity
    ),
    "curves": lambda identity: curves(
        SERIES[1:], title=NASTY, x_label=NASTY, y_label="nDCG@10", level=0.5, identity=identity
    ),
    "bars": lambda identity: bars(
        [Bar(NASTY, (1.0, None, 2.5), "3.5 ms"), Bar("none", (None, None, None))],
        title=NASTY,
        x_label="ms",
        identity=identity,
    ),
    "agreement": lambda identity: agreement(
        SERIES[1].points, title=NASTY, x_label="predicted", y_label=NASTY, identity=identity
    ),
    "gains": lambda identity: gains(
        [0.2, -0.1, 0.0], title=NASTY, x_label="queries", y_label="gain", identity=identity
    ),
}


def parsed(markup):
    return ElementTree.fromstring(markup)


@pytest.mark.parametrize("kind", PICTURES)
def test_markup_is_one_element_without_size_style_or_outside_address(kind):
    root = parsed(PICTURES[kind]("a"))
    assert root.tag == "svg"
    assert {"width", "height"}.isdisjoint(root.attrib)
    assert root.attrib["aria-label"] == NASTY
    assert {"style", "metadata", "script"}.isdisjoint({element.tag for element in root.iter()})
    assert "http" not in ElementTree.tostring(root, encoding="unicode")
    width = float(root.attrib["viewBox"].split()[2])
    assert 300 <= width <= 400  # a telephone's, so that text of ten units stays readable there


@pytest.mark.parametrize("kind", PICTURES)
def test_colours_are_the_pages(kind):
    markup = PICTURES[kind]("a")
    assert re.findall(r"#[0-9a-fA-F]{6}\b", markup) == []
    variables = set(re.findall(r"var\((--\w+)\)", markup))
    assert variables <= {"--ink", "--muted", "--grid", "--surface", *(f"--s{n}" for n in range(1, 9))}
    assert "--ink" in variables
    texts = list(parsed(markup).iter("text"))
    assert texts
    assert all("fill: var(--" in element.attrib["style"] for element in texts)


def test_texts_are_shown_as_they_are_and_not_as_markup_or_formula():
    for kind in ("scatter", "curves", "bars"):
        texts = [element.text for element in parsed(PICTURES[kind]("a")).iter("text")]
        assert [text for text in texts if NASTY in text], kind


def test_ids_of_two_pictures_do_not_clash_and_every_reference_has_its_target():
    ids = []
    for kind, make in PICTURES.items():
        root = parsed(make(kind))
        own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = [value[1:] for element in root.iter() for name, value in element.items() if name == "href"]
        used += [found for value in re.findall(r"url\(#([^)]+)\)", make(kind)) for found in [value]]
        assert used
        assert set(used) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_the_same_figures_give_the_same_picture():
    assert [make("a") for make in PICTURES.values()] == [make("a") for make in PICTURES.values()]


def heights(markup):
    """Where filled shapes stand, by colour: their lowest and highest y."""
    found = {}
    for element in parsed(markup).iter("path"):
        colour = re.search(r"fill: var\((--s\d)\)", element.attrib.get("style", ""))
        if colour:
            ys = [float(y) for y in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", element.attrib["d"])]
            found[colour[1]] = (min(ys), max(ys))
    return found


def test_what_was_won_stands_above_what_was_lost():
    found = heights(gains([0.4, -0.2, 0.1], title="t", x_label="x", y_label="y", identity="a"))
    won, lost = found["--s3"], found["--s2"]
    assert won[1] == pytest.approx(lost[0])  # they meet at zero; y grows downward
    assert (won[1] - won[0]) == pytest.approx(2 * (lost[1] - lost[0]), rel=1e-3)


def test_bars_are_as_long_as_their_parts_and_unknown_parts_have_none():
    markup = bars([Bar("a", (1.0, 3.0)), Bar("b", (None, 2.0))], title="t", x_label="x", identity="a")
    spans = {}
    for element in parsed(markup).iter("path"):
        colour = re.search(r"fill: var\((--s\d)\)", element.attrib.get("style", ""))
        if colour:
            xs = [float(x) for x in re.findall(r"[ML] ([-\d.]+) [-\d.]+", element.attrib["d"])]
            spans.setdefault(colour[1], []).append(max(xs) - min(xs))
    assert len(spans["--s1"]) == 1
    assert spans["--s2"][0] == pytest.approx(3 * spans["--s1"][0], rel=1e-3)
    assert spans["--s2"][1] == pytest.approx(2 * spans["--s1"][0], rel=1e-3)


def test_a_long_name_loses_its_middle_and_stays_in_the_picture():
    name = f"{'a' * 60} {'m' * 60} {'z' * 60}"
    markup = bars([Bar(name, (1.0,), "12.5 ms")], title="t", x_label="x", identity="a")
    (shown,) = [element.text for element in parsed(markup).iter("text") if "12.5 ms" in element.text]
    assert re.fullmatch(r"a+…z+  12\.5 ms", shown)
    assert len(shown) < 60


def test_nothing_to_draw_still_gives_a_picture():
    for markup in (
        scatter([], title="t", x_label="x", y_label="y", identity="a"),
        scatter([Series("s", 0, (Point(0.0, 0.5),))], title="t", x_label="x", y_label="y", identity="a"),
        bars([], title="t", x_label="x", identity="a"),
        gains([], title="t", x_label="x", y_label="y", identity="a"),
        gains([0.0], title="t", x_label="x", y_label="y", identity="a"),
    ):
        assert parsed(markup).tag == "svg"


def test_what_holds_lies_on_the_line_of_agreement_and_its_bounds_are_drawn():
    points = (Point(0.2, 0.2, "9", 0.1, 0.3), Point(0.8, 0.5, "7", 0.4, 0.6))
    markup = agreement(points, title="t", x_label="x", y_label="y", identity="a")
    assert {"9", "7"} <= {element.text for element in parsed(markup).iter("text")}
    paths = [element.attrib for element in parsed(markup).iter("path")]
    bounds = [one["d"] for one in paths if "--s1" in one.get("style", "") and one["d"].count("L") == 1]
    ends = [re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", d) for d in bounds]
    upright = [abs(float(one[1]) - float(other[1])) for one, other in ends if one[0] == other[0]]
    assert len(upright) == 2
    assert upright[0] == pytest.approx(upright[1])
    assert upright[0] > 0
    assert agreement((), title="t", x_label="x", y_label="y", identity="a")


def test_swatches_look_like_their_series_and_say_nothing():
    seen = {swatch(style) for style in range(16)}
    assert len(seen) == 16
    assert parsed(swatch(0)).attrib["aria-hidden"] == "true"
    assert swatch(0, area=True) != swatch(0)


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_what_is_behind_them(scheme):
    """4.5 is the least contrast that WCAG allows for text, 3 for graphics."""
    colours = dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", STYLE.split("@media")[scheme]))
    assert {f"--s{n}" for n in range(1, 9)} < colours.keys()
    for name, colour in colours.items():
        least = 3.0 if name.startswith("--s") else 4.5
        for behind in () if name in ("--page", "--surface", "--grid") else ("--page", "--surface"):
            bright, dim = sorted((luminance(colour), luminance(colours[behind])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (name, behind)
