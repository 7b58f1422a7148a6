"""The table of equivalences as the manual shows it: one table for each component, between two marks of the page."""

import re
from pathlib import Path

from haystack_ce_ranker.adopting.equivalences import DOCUMENT_JOINER, TABLE
from haystack_ce_ranker.adopting.parameters import Equivalence, Parameter, Required

_MARKED = re.compile(r"(<!-- equivalences: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table_of(entry: Equivalence) -> str:
    """Return the table of one component, in Markdown."""
    paths = "; ".join(f"`{path}`" for path in entry.types)
    rows = [_row(one) for one in entry.parameters]
    added = [f"| | `{name}: {_plain(value)}` | written out |" for name, value in entry.added.items()]
    head = ["| there | here | what becomes of it |", "|---|---|---|"]
    return "\n".join([f"Paths: {paths}", "", entry.changes, "", *head, *rows, *added]) + "\n"


def filled(page: str) -> str:
    """Return a page with the table of each component that it has marks for."""
    entries = {entry.name: entry for entry in (*TABLE, DOCUMENT_JOINER)}
    return _MARKED.sub(lambda found: f"{found[1]}\n{table_of(entries[found[2]])}\n{found[3]}", page)


def rewrite(path: Path) -> None:
    """Write the tables into a page, where its marks stand."""
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def _row(one: Parameter) -> str:
    default = "" if isinstance(one.default, Required | dict) else f" ({_plain(one.default)})"
    here = "none" if one.to is None else f"`{one.to}`" if one.to != one.name else "the same"
    told = one.note or "moved as it is"
    return f"| `{one.name}`{default} | {here} | {told} |"


def _plain(value: object) -> str:
    named = {None: "null", True: "true", False: "false", "": '""', "\n": '"\\n"'}
    return named.get(value, str(value)) if isinstance(value, str | bool | None) else str(value)
