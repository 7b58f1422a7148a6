"""The report: what the page says of results.json, and how it looks in a browser."""

import re

import pytest

from browser import Browser, find_browser
from haystack_ce_ranker.evaluation.report import make_page, pareto_front, render, write

pytest.importorskip("matplotlib", reason="needs the extra 'evaluate'")


NASTY = "<img src=x onerror=alert(1)> & 'quoted' \"name\" of-a-model-with-a-very-long-name-and-no-blank-anywhere"


def figures(quality, milliseconds, *, depth=None, kind="first stage", model=None, joules=None, source="estimated"):
    """A system's entry in results.json."""
    deep = 0 if depth is None else depth
    against = {"difference": quality - 0.5, "low": quality - 0.54, "high": quality - 0.46, "p": 0.001}
    return {
        **dict.fromkeys(("MRR@10", "Recall@10", "Recall@100", "AP", "Success@1", "unjudged@10"), 0.5),
        "nDCG@10": quality,
        "interval": {"nDCG@10": [quality - 0.04, quality + 0.04]},
        "kind": kind,
        "model": model,
        "backend": None if model is None else "onnx",
        "depth": depth,
        "latency_ms": {"p50": milliseconds, "p95": milliseconds * 2, "p99": milliseconds * 3},
        "stages_ms": {"retrieve": 1.0, "tokenise": 0.02 * deep, "score": milliseconds - 1.0, "join": None},
        "tokens_per_query": deep * 90.0,
        "joules_per_query": joules,
        "energy_source": None if joules is None else source,
        "peak_memory_mb": 512.0,
        "read_share": None if depth is None else 0.875,
        "versus": None if depth is None else {**against, "p_corrected": 0.004, "wins": 5, "ties": 1, "losses": 2},
    }


def results(*, models=("small",), depths=(10, 50), chosen="cross-encoder small@50", queries=8, **changes):
    """What results.json holds of a sweep; `changes` replace keys at the top."""
    systems = {"bm25": figures(0.5, 1.0, joules=0.02)}
    for number, model in enumerate(models, start=1):
        for kind in ("cross-encoder", "hybrid"):
            for depth in depths:
                entry = {"depth": depth, "kind": kind, "model": model, "joules": depth * number * 0.1}
                systems[f"{kind} {model}@{depth}"] = figures(0.5 + depth / 500, 8.0 * depth * number, **entry)
    by_query = {
        name: {"nDCG@10": {f"q{n}": 0.3 if place else (n % 8) / 10 for n in range(queries)}}
        for place, name in enumerate(systems)
    }
    answer = {"question": "Is it worth it?", "answer": "Yes", "reason": "It gains +0.1000.", "system": chosen}
    return {
        "version": 2,
        "collection": "shop",
        "documents": 12345,
        "queries": queries,
        "baseline": "bm25",
        "notes": ["2 queries without judgments are left out"],
        "machine": {"processor": "a CPU", "python": "3.11"},
        "systems": systems,
        "by_query": by_query,
        "verdict": {"answers": [answer]},
        **changes,
    }


def nasty():
    """Every text that others chose is markup, and long."""
    found = results(models=(NASTY, "other"), chosen=f"hybrid {NASTY}@50")
    found |= {"collection": NASTY, "notes": [NASTY], "machine": {"processor": NASTY}}
    found["verdict"]["answers"][0] |= {"question": NASTY, "answer": NASTY, "reason": NASTY}
    found["systems"][f"hybrid {NASTY}@50"]["energy_source"] = "measured"
    return found


def bare():
    """The least that results.json may hold: one pipeline, nothing chosen, no energy, no queries."""
    system = figures(0.5, 1.0)
    for key in ("kind", "depth", "read_share", "versus", "stages_ms", "interval", "peak_memory_mb"):
        system[key] = None
    return results(systems={"mine/ranker": system}, by_query={}, verdict={"answers": []}, baseline=None, notes=[])


def many():
    """A sweep of more systems than a picture of bars has room for, on many queries."""
    return results(models=("small", "big", "bigger"), depths=(10, 20, 50, 100), queries=300)


PAGES = {"plain": results, "nasty": nasty, "bare": bare, "many": many}


def picture(page, start):
    return next(picture for picture in page.pictures if picture.title.startswith(start))


def test_the_verdict_and_all_systems_are_on_the_page():
    text = render(results())
    for wanted in ("Is re-ranking worth it on shop?", "Is it worth it?", "It gains +0.1000.", "12,345 documents"):
        assert wanted in text
    for name in results()["systems"]:
        assert f'class="name">{name}<' in text
    assert text.index("The verdict") < text.index("<figure")


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


def test_measured_and_estimated_energy_are_in_no_picture_and_no_column_together():
    page = make_page(nasty())
    titles = [picture.title for picture in page.pictures]
    assert "nDCG@10 against energy, estimated" in titles
    assert "nDCG@10 against energy, measured" in titles
    table = page.tables[0]
    columns = [table.columns.index(f"joules, {source}") for source in ("estimated", "measured")]
    pairs = [(row.cells[columns[0]].text, row.cells[columns[1]].text) for row in table.rows]
    assert all((estimated == "–") != (measured == "–") for estimated, measured in pairs)


def test_what_is_not_known_is_left_out():
    for optional in ("verdict", "by_query", "baseline"):
        without = results()
        del without[optional]
        assert make_page(without).tables[0].rows
    page = make_page(bare())
    assert [picture.title for picture in page.pictures] == ["nDCG@10 against latency"]
    measures = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")
    assert page.tables[0].columns == ("system", *measures, "p50 ms", "p95 ms", "tokens")
    assert "The verdict" not in render(bare())


def test_gains_and_the_queries_are_those_of_the_system_the_verdict_names():
    page = make_page(results(chosen="hybrid small@10"))
    caption = picture(page, "Gain by query").caption
    assert "hybrid small@10 less that of bm25" in caption
    assert "3 won, 4 lost, 1 the same" in caption
    rows = page.tables[1].rows
    assert [row.cells[0].text for row in rows] == ["q0", "q1", "q2", "q7", "q6", "q5", "q4"]
    assert [cell.text for cell in rows[0].cells] == ["q0", "0.000", "0.300", "+0.300"]
    assert [row.cells[3].tone for row in rows] == ["up"] * 3 + ["down"] * 4
    best = make_page(results(verdict={"answers": []}))
    assert "cross-encoder small@50 less" in picture(best, "Gain by query").caption


def test_a_long_list_of_systems_is_cut_in_bars_but_not_in_the_table():
    page = make_page(many())
    assert len(page.tables[0].rows) == 25
    drawn = picture(page, "Latency by stage").svg
    assert "cross-encoder big@100" in drawn
    assert "cross-encoder big@20 " not in drawn
    assert "cross-encoder small@50" in drawn  # the verdict names it
    assert [entry.name for entry in picture(page, "Latency by stage").legend] == ["retrieve", "tokenise", "score"]


def test_the_front_is_what_nothing_beats_in_both():
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (3.0, 0.6), (9.0, 0.7), (10.0, 0.71)]
    assert pareto_front(points) == [(1.0, 0.5), (3.0, 0.7), (10.0, 0.71)]
    assert pareto_front(points[::-1]) == [(1.0, 0.5), (3.0, 0.7), (10.0, 0.71)]


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
