"""
The report: results.json as one HTML page that needs no network and no script, the verdict on top.

`page_pictures.py` and `page_tables.py` choose what is worth showing; the page's form is that of `report.html.jinja`,
which escapes every text. The page holds what results.json holds: ids and figures, no text of a collection.
"""

from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from haystack_ce_ranker import pictures
from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.verdict import Answer
from haystack_ce_ranker.evaluation.showing.page import Picture, Table
from haystack_ce_ranker.evaluation.showing.page_pictures import latency_picture, make_pictures
from haystack_ce_ranker.evaluation.showing.page_tables import make_tables

NAME = "report.html"
PICTURE = "latency.svg"  # quality against latency as a file of its own, for a README or slides


class Page(NamedTuple):
    """All that the template shows."""

    title: str
    style: Markup
    facts: tuple[str, ...]
    do_not_rerank: str | None
    left_out: tuple[str, ...]
    answers: tuple[Answer, ...]
    cautions: tuple[str, ...]
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def write(folder: str | Path, found: Results) -> list[Path]:
    """
    Write `report.html` beside results.json, and its first picture, `latency.svg`, as a file of its own.

    :raises ImportError: If matplotlib is missing.
    """
    page, picture = Path(folder) / NAME, Path(folder) / PICTURE
    write_text(page, render(found))
    write_text(picture, latency_picture(found))
    return [page, picture]


def render(found: Results) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("haystack_ce_ranker.evaluation.showing", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=make_page(found))


def make_page(found: Results) -> Page:
    """Choose what the page shows of the results."""
    verdict = found.verdict
    counts = f"{found.documents:,} documents, {found.queries:,} queries with judgments"
    compared = "" if found.baseline is None else f"; compared with {found.baseline}"
    machine = ", ".join(f"{key} {value}" for key, value in found.machine.items() if value is not None)
    not_compared = f"Not compared: {'; '.join(verdict.not_compared)}."
    return Page(
        title=f"Is re-ranking worth it on {found.collection}?",
        style=Markup(pictures.STYLE),
        facts=(counts + compared, f"measured on: {machine}"),
        do_not_rerank=verdict.do_not_rerank,
        left_out=tuple(one.text for one in found.left_out),
        answers=verdict.answers,
        cautions=(*verdict.cautions, *([not_compared] if verdict.not_compared else [])),
        pictures=tuple(make_pictures(found)),
        tables=make_tables(found),
        notes=found.notes,
    )
