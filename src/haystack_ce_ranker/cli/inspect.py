"""`haystack-ce-ranker inspect`: say what a pipeline does without telling."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors

Queries = Annotated[
    Path | None, typer.Option(help="JSON lines with _id and text, or a text with a query a line; the collection's own.")
]
Documents = Annotated[
    Path | None, typer.Option(help="Fill the stores with this folder in BEIR format; without it, what they hold.")
]
Sample = Annotated[int | None, typer.Option(min=1, help="At most this many queries, drawn at random.")]
Json = Annotated[Path | None, typer.Option("--json", help="Where to write all figures.", metavar="FILE")]


def inspect(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline's YAML.", metavar="PIPELINE.yaml")],
    queries: Queries = None,
    collection: Documents = None,
    sample: Sample = None,
    output: Json = None,
) -> None:
    """
    Say what a pipeline does without telling: what its ranker never reads, and what is lost before it.

    Only the retrieval part is run: no generator is called, and no key is needed.
    """
    from rich.console import Console

    from haystack_ce_ranker.inspecting.inspection import Inspection, run_inspection

    with clear_errors():
        run_inspection(Inspection(pipeline, queries, collection, sample, output), Console(emoji=False))
