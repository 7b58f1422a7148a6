"""The README is short, shows the example pipeline as it is, and its table of results is that of the kept results."""

import json

import pytest
import yaml
from haystack import Pipeline

from fakes import REPOSITORY
from haystack_ce_ranker.adopting.files import adopt_text
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from pages import blocks

README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "benchmarks" / "results"
MOST_LINES = 160
DEPTH = 20


def text():
    return README.read_text(encoding="utf-8")


def rows():
    """The rows of the only table, by the collection's name."""
    lines = [line for line in text().splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


def expected(name):
    """What the kept results of a collection say, as the README writes it."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))

    def system(kind, strategy="best_passages"):
        fitting = [
            one
            for one in found["systems"].values()
            if (one["kind"], one["strategy"], one["depth"]) == (kind, strategy, DEPTH)
            and (one["model"], one["backend"]) == (OFFLINE_MODEL, "onnx")
        ]
        return fitting[0] if fitting else None

    ours, head = system("cross-encoder"), system("cross-encoder", "head")
    p = ours["versus"]["p_corrected"]
    return [
        str(found["queries"]),
        str(DEPTH),
        f"{found['systems'][found['baseline']]['nDCG@10']:.3f}",
        "" if head is None else f"{head['nDCG@10']:.3f}",
        f"{ours['nDCG@10']:.3f}",
        f"{system('hybrid')['nDCG@10']:.3f}",
        "< 0.001" if p < 0.001 else f"{p:.3f}",
        f"{ours['tokens_per_query']:,.0f}",
        f"{ours['latency_ms']['p50']:,.0f}",
    ]


def test_it_is_short():
    assert len(text().splitlines()) <= MOST_LINES


def test_its_pipeline_is_the_one_in_examples():
    (example,) = blocks(README, "yaml")
    ours = Pipeline.loads(example.text).to_dict()
    theirs = Pipeline.loads((REPOSITORY / "examples" / "pipeline.yaml").read_text(encoding="utf-8")).to_dict()
    for described in (ours, theirs):
        store = described["components"]["bm25_retriever"]["init_parameters"]["document_store"]
        store["init_parameters"].pop("index", None)  # random, for each store another
    assert ours == theirs


def test_the_difference_that_it_shows_is_what_adopt_makes_of_the_stock_pipeline():
    (difference,) = blocks(README, "diff")
    stock = (REPOSITORY / "examples" / "stock_pipeline.yaml").read_text(encoding="utf-8")
    assert difference.text.strip().splitlines() == adopt_text(stock).difference()


def test_its_table_has_every_collection_behind_bm25():
    assert set(rows()) == {path.stem for path in RESULTS.glob("*.json") if "bi-encoder" not in path.stem}


@pytest.mark.parametrize("name", sorted(rows()))
def test_its_figures_are_those_of_the_kept_results(name):
    assert rows()[name] == expected(name)


def test_it_says_that_the_package_is_not_on_an_index():
    assert "not on a package index yet" in text()


def test_the_site_has_every_page_that_it_links_to():
    site = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = yaml.safe_load(site.partition("nav:")[2].partition("validation:")[0])
    pages = {page for section in navigation for page in _pages(section)}
    linked = {link.partition("#")[0] for link in _links() if link.startswith("docs/")}
    assert {link.removeprefix("docs/") for link in linked} == pages


def _pages(section):
    for value in section.values():
        if isinstance(value, str):
            yield value
        else:
            for inner in value:
                yield from _pages(inner)


def _links():
    return [part.partition(")")[0] for part in text().split("](")[1:]]
