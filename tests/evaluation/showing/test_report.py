"""The report: what the page says of results.json, and how it looks in a browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

import fake_results
from browser import Browser, find_browser
from fake_results import (
    BM25,
    NASTY,
    altered,
    answering,
    bare,
    by_name,
    completed,
    cross_encoders,
    many,
    nasty,
    results,
    sweep,
)
from haystack_ce_ranker.evaluation.judging.measures import MEASURES
from haystack_ce_ranker.evaluation.showing.page_pictures import latency_picture
from haystack_ce_ranker.evaluation.showing.report import make_page, render, write
from haystack_ce_ranker.machine.units import Grid, Units

pytest.importorskip("matplotlib", reason="needs the extra 'evaluate'")


def picture(page, start):
    return next(picture for picture in page.pictures if picture.title.startswith(start))


def test_the_verdict_and_all_systems_are_on_the_page():
    text = render(results())
    for wanted in ("Is re-ranking worth it on shop?", "Is it worth it?", "It gains +0.1000.", "12,345 documents"):
        assert wanted in text
    for name in by_name(results()):
        assert f'class="name">{name}<' in text
    assert text.index("The verdict") < text.index("<figure")


def test_a_page_opens_with_do_not_re_rank_where_that_only_costs():
    given = sweep(BM25 | cross_encoders({10: 0.4}))
    page = render(given)
    place = page.index("Do not re-rank here: bm25 alone has nDCG@10 0.500")
    assert page.index("<h1>") < place < page.index("documents, ")
    assert "Do not re-rank" not in render(sweep(BM25 | cross_encoders({10: 0.7})))


def test_the_page_has_no_script_and_no_address_and_forbids_both():
    text = render(many())
    assert "<script" not in text
    assert re.findall(r"(?:src|href)=\"(?!#)", text) == []
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'" in text


def test_texts_are_escaped_everywhere():
    text = render(nasty())
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 10


HOSTILE = (
    "\" onload=\"alert(1) ' onclick='x </svg></style><script>alert(1)</script> ]]> <!-- {{ 7 * 7 }}{% raw %} &lt;b&gt; "
    "$x^2_{ a\x01b\x1b[31m \ufffe\uffff \ud800 \u202eevil a\nb\u2028c javascript:alert(1)" + "a" * 3000
)


class Markup(HTMLParser):
    """Collects what a browser would take for markup, and the text beside it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


def test_no_text_adds_markup_and_no_text_ends_the_report(monkeypatch):
    plain = Markup(render(nasty()))
    monkeypatch.setattr(fake_results, "NASTY", HOSTILE)
    found = Markup(render(nasty()))
    assert found.tags <= plain.tags | {"tspan"}
    assert {one for one in found.attributes if one[0] not in ("path", "g", "use", "text")} <= plain.attributes
    assert not [name for _, name in found.attributes if name.startswith("on")]
    assert not {"script", "img", "iframe", "a", "link", "base", "form"} & found.tags
    assert HOSTILE in "".join(found.texts)
    ElementTree.fromstring(latency_picture(nasty()))


def test_measured_and_estimated_energy_are_in_no_picture_and_no_column_together():
    page = make_page(nasty())
    titles = [picture.title for picture in page.pictures]
    assert "nDCG@10 against energy, estimated" in titles
    assert "nDCG@10 against energy, measured" in titles
    table = page.tables[0]
    columns = [table.columns.index(f"joules, {source}") for source in ("estimated", "measured")]
    pairs = [(row.cells[columns[0]].text, row.cells[columns[1]].text) for row in table.rows]
    assert all((estimated == "–") != (measured == "–") for estimated, measured in pairs)


def test_standard_units_have_a_table_of_their_own():
    found = altered(
        results(), "hybrid small@50", units=Units(2.5e12, 5e11, 240.0, 400.0, 1.5, 0.5), pairs_per_query=50.0
    )
    shown = table(make_page(replace(found, grid=Grid(30.0))), "In standard units")
    energy = ("Wh/1,000, estimated", "g CO2/1,000, estimated")
    assert shown.columns == ("system", "GFLOPs, text", "GFLOPs, padding", "RPP", "QPP", *energy)
    rows = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in shown.rows}
    assert rows["hybrid small@50"] == ["2,500", "500", "240", "400", "1.5", "0.5"]
    assert rows["hybrid small@10"] == [*["not known"] * 4, "–", "–"]
    assert rows["bm25"] == ["–"] * 6
    assert "30 g/kWh (as given)" in shown.lines[0]
    assert table(make_page(bare()), "In standard units") is None


def test_what_is_not_known_is_left_out():
    found = results()
    for without in (answering(found), replace(found, by_query={}), replace(found, baseline=None)):
        assert make_page(without).tables[0].rows
    page = make_page(bare())
    assert [picture.title for picture in page.pictures] == ["nDCG@10 against latency"]
    measures = [measure.label for measure in MEASURES if measure.on_page and measure.required]
    assert measures[0] == "nDCG@10"
    assert page.tables[0].columns == ("system", *measures, "p50 ms", "p95 ms", "tokens")
    assert "The verdict" not in render(answering(bare()))


def test_gains_and_the_queries_are_those_of_the_system_the_verdict_names():
    page = make_page(results(chosen="hybrid small@10"))
    caption = picture(page, "Gain by query").caption
    assert "hybrid small@10 less that of bm25" in caption
    assert "3 won, 4 lost, 1 the same" in caption
    rows = table(page, "Most helped and most hurt").rows
    assert [row.cells[0].text for row in rows] == ["q0", "q1", "q2", "q7", "q6", "q5", "q4"]
    assert [cell.text for cell in rows[0].cells] == ["q0", "0.000", "0.300", "+0.300"]
    assert [row.cells[3].tone for row in rows] == ["up"] * 3 + ["down"] * 4
    best = make_page(answering(results()))
    assert "cross-encoder small@50 less" in picture(best, "Gain by query").caption


def test_a_long_list_of_systems_is_cut_in_bars_but_not_in_the_table():
    found = many()
    page = make_page(found)
    assert len(page.tables[0].rows) == 25
    drawn = picture(page, "Latency by stage").svg
    assert "cross-encoder big@100" in drawn
    assert "cross-encoder big@20 " not in drawn
    named = {answer.system for answer in found.verdict.answers} - {None}
    assert "cross-encoder small@10" in named
    assert all(name in drawn for name in named)
    assert [entry.name for entry in picture(page, "Latency by stage").legend] == ["retrieve", "tokenise", "score"]


def table(page, title):
    return next((table for table in page.tables if table.title == title), None)


def full():
    """A sweep that helps, with everything that `evaluate` writes."""
    systems = BM25 | cross_encoders({10: 0.6, 50: 0.7, 100: 0.702}) | cross_encoders({50: 0.69}, kind="hybrid")
    return completed(sweep(systems))


def test_what_may_mislead_and_what_was_not_compared_stands_below_the_verdict():
    found = full()
    found = answering(found, *found.verdict.answers, cautions=("Mind the gap.",))
    text = render(found)
    assert text.index("The verdict") < text.index("Mind the gap.") < text.index("<figure")
    assert "Not compared: strategy: only best_passages was measured; backend" in text
    for answer in found.verdict.answers:
        assert f">{answer.answer}</p>" in text


def test_the_fronts_are_shown_with_what_they_gain():
    found = full()
    shown = table(make_page(found), "Worth their cost")
    assert [row.cells[0].text for row in shown.rows] == ["bm25", *(f"cross-encoder small@{d}" for d in (10, 50, 100))]
    assert shown.rows[2].cells[3].text == f"{100 * 0.2 / 200:+.4f}"
    assert [row.cells[5].text for row in shown.rows] == ["time; joules, estimated"] * 4
    assert [row.cells[0].text for row in shown.rows if row.chosen] == [
        "cross-encoder small@10",
        "cross-encoder small@50",
    ]


def test_segments_are_shown_with_their_bounds_and_effects():
    found = full()
    rows = found.segments.segments
    shown = table(make_page(found), "Where it helps and where it harms")
    assert len(shown.rows) == len(rows) > 10
    for row, cells in zip(rows, (row.cells for row in shown.rows), strict=True):
        assert (cells[0].text, cells[0].small) == (row.name, row.bounds)
        assert cells[5].text == row.effect
        assert cells[2].tone == ("up" if row.effect == "helps" else "")
    assert "cross-encoder small@10 less that of bm25" in shown.lines[0]
    assert table(make_page(results()), "Where it helps and where it harms") is None


def test_what_was_read_of_the_documents_that_mattered_is_shown_by_ids_and_offsets():
    found = full()
    shown = table(make_page(found), "What the model read of their documents")
    entries = found.helped_and_hurt.helped + found.helped_and_hurt.hurt
    assert [row.cells[0].small for row in shown.rows[::2]] == [f"query {entry.query}" for entry in entries]
    first, second = shown.rows[0].cells, shown.rows[1].cells
    assert [cell.text for cell in first] == [
        "document-11",
        "2",
        "12",
        "1",
        "4.25",
        "40%",
        "0–620 (4.25); 12,400–13,050 (-1.50)",
        f"{entries[0].gain:+.3f}",
    ]
    assert (second[0].text, second[1].text, second[2].text, second[3].text) == ("document-0", "1", "1", "12")
    assert [cell.text for cell in second[4:7]] == ["–"] * 3


def test_memory_is_shown_by_the_size_of_a_batch():
    shown = table(make_page(full()), "Memory by batch size")
    assert [[cell.text for cell in row.cells] for row in shown.rows][1] == ["small", "onnx", "4,096", "420"]
    assert table(make_page(results()), "Memory by batch size") is None


def test_gains_are_those_of_the_verdicts_subject():
    found = full()
    found = answering(found, *found.verdict.answers, subject="hybrid small@50")
    assert "hybrid small@50 less that of bm25" in picture(make_page(found), "Gain by query").caption


def test_systems_of_another_strategy_are_another_line():
    systems = BM25 | cross_encoders({10: 0.6, 50: 0.7})
    systems |= {f"{n} head": e for n, e in cross_encoders({10: 0.55, 50: 0.6}, strategy="head").items()}
    names = [entry.name for entry in picture(make_page(completed(sweep(systems))), "nDCG@10 by depth").legend]
    assert names == ["cross-encoder, small, onnx, best_passages", "cross-encoder, small, onnx, head"]


PAGES = {"plain": results, "nasty": nasty, "bare": bare, "many": many, "full": full}

OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect(), own = getComputedStyle(e);
  const inSvg = e.ownerSVGElement !== null && e.ownerSVGElement !== undefined;
  if (own.clipPath !== 'none' || e.closest('thead') && getComputedStyle(e.closest('thead')).position === 'absolute')
    return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5 || (!inSvg && e.scrollWidth > e.clientWidth + 1
    && e.clientWidth > 0 && own.display !== 'inline');
}).map(e => e.tagName + ' ' + (e.textContent || '').slice(0, 40))
"""
"""Elements that stick out of the window, or whose content sticks out of them."""

UNREADABLE = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = rgb => { const [r, g, b] = rgb.slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126*r + 0.7152*g + 0.0722*b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim()) continue;
    const own = getComputedStyle(e), inSvg = e.namespaceURI.endsWith('svg');
    const a = light(parse(inSvg ? own.fill : own.color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(contrast.toFixed(2) + ' ' + walker.currentNode.data.trim().slice(0, 40));
  }
  return found;
})()
"""
"""Texts whose contrast with what is behind them is below 4.5, the least that WCAG allows."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = find_browser()
    if executable is None:
        pytest.skip("there is no Chromium to look at the page with")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", sorted(PAGES))
def test_it_fits_the_window_is_readable_and_asks_for_nothing(browser, tmp_path, kind, width, dark):
    path, _ = write(tmp_path, PAGES[kind]())
    browser.open(path, width=width, dark=dark)
    assert browser.ask("innerWidth") == width
    assert browser.ask("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert browser.complaints() == []
    assert browser.requests() == [path.resolve().as_uri()]
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.ask(OVERFLOWING) == []
    assert browser.ask(UNREADABLE) == []
    assert browser.ask("document.querySelectorAll('figure > svg').length") >= 1
    smallest = "Math.min(...[...document.querySelectorAll('figure > svg')].map(e => e.getBoundingClientRect().width))"
    assert browser.ask(smallest) > 250
    dim = browser.ask("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0]
    assert (int(dim) < 100) is dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_picture_is_a_file_of_its_own_that_a_browser_shows(browser, tmp_path, dark):
    _, path = write(tmp_path, nasty())
    browser.open(path, width=1280, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [path.resolve().as_uri()]
    assert browser.ask("document.documentElement.namespaceURI") == "http://www.w3.org/2000/svg"
    shown = browser.ask("[...document.querySelectorAll('text')].map(e => e.textContent)")
    assert any(NASTY in text for text in shown)
    ink = browser.ask("getComputedStyle(document.querySelector('text')).fill")
    assert (int(re.findall(r"\d+", ink)[0]) > 150) is dark


def test_the_browser_test_can_fail(browser, tmp_path):
    """What is looked for is found on a page that has all the faults."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<body style='background:#777;color:#888'><p style='width:2000px'>wide and pale</p><script>nothing()</script>"
        "<img src='missing.png'></body>"
    )
    browser.open(page, width=390)
    assert browser.complaints()
    assert len(browser.requests()) == 2
    assert any("wide and pale" in found for found in browser.ask(OVERFLOWING))
    assert any("wide and pale" in found for found in browser.ask(UNREADABLE))
    assert not browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
