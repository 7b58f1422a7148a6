"""Tells what was found about a pipeline: plain sentences, and tables of the queries below them."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.data.sources import visible
from haystack_ce_ranker.inspecting.findings import AtRanker, Findings, Ranker
from haystack_ce_ranker.inspecting.mixing import MixedScores

_ROWS = 15  # queries in a table; the file has all


def sentences(found: Findings) -> list[str]:
    """Return what was found, a line each, with what to do about it at the end."""
    told = [line for name, ranker in found.rankers.items() for line in _of_ranker(name, ranker, found)]
    told += map(_of_mixed, found.mixed)
    if not found.rankers:
        told += _without_ranker(found)
    return [*told, *(f"Note: {note}" for note in found.notes)]


def _of_ranker(name: str, ranker: Ranker, found: Findings) -> Iterator[str]:
    total = ranker.total
    read = total.reading
    queries = sum(name in one.rankers for one in found.queries.values())
    if queries < len(found.queries):
        yield f"{name} runs for {queries} of {_count(len(found.queries), 'query', 'queries')}."
    if not queries:
        return
    if not read.candidates:
        yield f"{name} gets no candidates."
        return
    if not ranker.known:
        yield (
            f"What {name} reads of its {read.candidates:,} candidates is not known here: {ranker.kind} does not say "
            "it, and its model does not run here in a form that can be watched."
        )
    elif read.cut:
        yield (
            f"{name} cuts {read.cut:,} of {read.candidates:,} candidates and never reads {_percent(read.unread_share)} "
            f"of their text{_how(ranker)}."
        )
    else:
        some = f"all {read.candidates:,} candidates" if not read.unscored else "the candidates that it scores"
        yield f"{name} reads {some} whole."
    if read.unscored:
        yield f"{name} leaves {read.unscored:,} of {read.candidates:,} candidates without a score of its model."
    if read.query_cut:
        yield f"{name} ranks by a part of the query only for {read.query_cut:,} of {queries:,} queries."
    if read.without_text:
        yield f"{read.without_text:,} of the candidates of {name} have no text: their scores say nothing about them."
    for place, count in total.dropped_by.items():
        limit = f" (its top_k is {found.limits[place]})" if place in found.limits else ""
        yield f"{place} drops {count:,} candidates before {name} sees them{limit}."
    if read.padding_share is not None and read.pairs is not None and read.filled_tokens is not None:
        yield (
            f"{name} computes {read.computed_tokens:,} tokens for {read.filled_tokens:,} tokens of text: "
            f"{_percent(read.padding_share)} is padding. It scores {read.pairs / queries:,.1f} pairs a query."
        )
    whole = sum(one.milliseconds for one in found.queries.values() if name in one.rankers)
    yield (
        f"{name} takes {read.milliseconds / queries:,.0f} ms a query, "
        f"{_percent(read.milliseconds / whole if whole else 0.0)} of the retrieval's time."
    )


def _how(ranker: Ranker) -> str:
    if ranker.ours:
        return ": it reads the passages that fit the query best"
    return f": it reads the first {ranker.most:,} tokens of the query and the document together"


def _of_mixed(one: MixedScores) -> str:
    lists = []
    for sender, given in one.lists.items():
        told = f"{given.kind} of {sender}"
        if given.low is not None and given.high is not None:
            near = "" if given.near_one is None else f", {_percent(given.near_one)} of them above 0.99"
            told += f" ({given.low:.3g} to {given.high:.3g}{near})"
        lists.append(told)
    what = "adds up scores" if one.adds else "orders documents by the highest of scores"
    return f"{one.joiner} {what} that do not compare: {' and '.join(lists)}."


def _without_ranker(found: Findings) -> Iterator[str]:
    documents = sum(one.found for one in found.queries.values())
    yield (
        f"It has no ranker: the {documents:,} documents for {_count(len(found.queries), 'query', 'queries')} stay in "
        "the order in which they were found. `adopt --insert` adds one."
    )
    without = sum(one.without_text for one in found.queries.values())
    if without:
        yield f"{without:,} of these documents have no text."


def tables(found: Findings) -> list[Table]:
    """Return a table for each ranker: the queries of whose candidates most is unread, and all queries together."""
    return [_table(name, ranker, found) for name, ranker in found.rankers.items()]


def _table(name: str, ranker: Ranker, found: Findings) -> Table:
    rows = {query_id: one for query_id, one in found.queries.items() if name in one.rankers}
    worst = sorted(rows, key=lambda one: -(rows[one].rankers[name].reading.unread_share or 0.0))[:_ROWS]
    title = f"{name}: {_count(len(rows), 'query', 'queries')}"
    if len(worst) < len(rows):
        title += f"; the {len(worst)} of whose candidates most is unread"
    table = Table(title=escape(visible(title)), box=SIMPLE_HEAD, padding=0)
    table.add_column("query", overflow="fold")
    for label in ("candidates", "cut", "unread", "query\ncut", "dropped\nbefore", "without\ntext", "pairs", "padding"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for query_id in worst:
        table.add_row(escape(visible(query_id)), *_cells(rows[query_id].rankers[name]))
    table.add_section()
    table.add_row("all (ms: mean)", *_cells(ranker.total, queries=len(rows)))
    return table


def _cells(one: AtRanker, *, queries: int = 1) -> list[str]:
    read = one.reading
    counts = (read.candidates, read.cut, read.unread_share, read.query_cut, one.lost, read.without_text, read.pairs)
    told = ["-" if value is None else _cell(value) for value in counts]
    return [
        *told,
        "-" if read.padding_share is None else _percent(read.padding_share),
        f"{read.milliseconds / queries:,.0f}",
    ]


def _cell(value: float) -> str:
    return _percent(value) if isinstance(value, float) else f"{value:,}"


def _percent(share: float | None) -> str:
    """Return a share in percent: nothing and all are said only where they are true."""
    if share is None:
        return "-"
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 < share < 1 else f"{share:.0%}".replace("%", " %")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
