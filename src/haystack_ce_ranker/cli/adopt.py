"""`haystack-ce-ranker adopt`: move a pipeline's file to the components of this package."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Split


def adopt(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline's YAML.", metavar="PIPELINE.yaml")],
    output: Annotated[Path | None, typer.Option(help="The file to write.", metavar="NEW.yaml")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model of the rankers that are moved; without it their own.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnx, openvino or auto, for these; without it their own.")
    ] = None,
    insert: Annotated[bool, typer.Option("--insert", help="Add a ranker if there is none.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes, and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an output that exists.")] = False,
    collection: Annotated[
        Path | None, typer.Option(help="A folder in BEIR format: measure the pipeline on it, before and after.")
    ] = None,
    split: Split = None,
    queries: Annotated[int | None, typer.Option(min=1, help="At most this many queries, drawn at random.")] = None,
    save: Annotated[
        str | None,
        typer.Option(help="better: write only what is not significantly worse, as with a collection; or always."),
    ] = None,
) -> None:
    """
    Move a pipeline to the components of this package, line by line, and say what changes and what does not.

    With a collection, the pipeline is measured before and after.
    """
    from rich.console import Console

    from haystack_ce_ranker.proving.adoption import Adoption, run_adoption

    with clear_errors():
        settings = Adoption(pipeline, output, model, backend, insert, dry_run, force, collection, split, queries, save)
        if not run_adoption(settings, Console(emoji=False)):
            raise typer.Exit(1)
