"""`haystack-ce-ranker adopt`: move a pipeline's file to the components of this package."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


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
) -> None:
    """Move a pipeline to the components of this package, line by line, and say what changes and what does not."""
    from haystack_ce_ranker.adopting.files import adopt_file, write

    with clear_errors():
        if output is None and not dry_run:
            raise ValueError("name the file to write with --output, or look at the changes with --dry-run")
        if output is not None and not dry_run and output.exists() and not force:
            raise ValueError(f"{output} is there already: name another --output, or write over it with --force")
        found = adopt_file(pipeline, model=model, backend=backend, insert=insert)
        for change in found.changes:
            typer.echo(f"- {change}")
        if found.before == found.after:
            typer.echo(f"Nothing to change in {pipeline}; nothing is written.")
            return
        for line in found.difference():
            typer.echo(line)
        if output is None or dry_run:
            typer.echo("It loads in a fresh process. Nothing is written.")
            return
        write(found, pipeline, output)
        typer.echo(f"{output} is written; it loads in a fresh process.")
