"""`haystack-ce-ranker convert`: turn a collection of another form into a BEIR folder."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors

app = typer.Typer(no_args_is_help=True, help="Turn a collection of another form into a BEIR folder for `evaluate`.")


@app.command("csv")
def convert_csv(
    path: Annotated[Path, typer.Argument(help="A CSV with a header: query, document, label.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the collection.")],
    query: Annotated[str, typer.Option(help="The column with the query's text.")] = "query",
    document: Annotated[str, typer.Option(help="The column with the document's text.")] = "document",
    label: Annotated[str, typer.Option(help="The column with the grade: a whole number, 0 if not relevant.")] = "label",
) -> None:
    """Turn a CSV of query, document and label into a BEIR folder."""
    from haystack_ce_ranker.data import converters

    with clear_errors():
        typer.echo(converters.convert_csv(path, folder, columns=converters.CsvColumns(query, document, label)))


@app.command("trec")
def convert_trec(
    topics: Annotated[Path, typer.Option(help="TREC topics, or lines of id, tab, text.")],
    qrels: Annotated[Path, typer.Option(help="TREC judgments: query, iteration, document, grade.")],
    documents: Annotated[Path, typer.Option(help="The texts: JSON lines, or lines of id, tab, (title, tab,) text.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the collection.")],
    field: Annotated[str, typer.Option(help="The query is a topic's title, description or narrative.")] = "title",
) -> None:
    """Turn TREC topics and judgments, with a collection of texts, into a BEIR folder."""
    from haystack_ce_ranker.data import converters

    with clear_errors():
        typer.echo(converters.convert_trec(topics, qrels, documents, folder, field=field))
