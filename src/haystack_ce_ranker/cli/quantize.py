"""`haystack-ce-ranker quantize`: write an int8 form of a model, if it ranks as the model does."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Split


def quantize(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")],
    output: Annotated[Path, typer.Argument(help="The folder to write, not there yet or empty.")],
    backend: Annotated[str, typer.Option(help="What is to run it: onnx or openvino.")] = "onnx",
    verify_on: Annotated[
        Path | None, typer.Option(help="A folder in BEIR format to verify on; a few built-in texts if omitted.")
    ] = None,
    split: Split = None,
    queries: Annotated[int, typer.Option(help="The most queries of the folder, drawn at random.")] = 20,
    depth: Annotated[int, typer.Option(help="How many of BM25's documents for each query.")] = 20,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    min_correlation: Annotated[float, typer.Option(help="The lowest rank correlation with float32.")] = 0.95,
    min_overlap: Annotated[float, typer.Option(help="The smallest share of the top 10 in common.")] = 0.9,
) -> None:
    """Write an int8 form of a model, if it ranks as the model does in float32."""
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.cli.tables import agreement_table
    from haystack_ce_ranker.evaluation.commands.quantize import run_quantizing

    console = Console()
    title = f"{model}: int8 {backend} beside float32 torch"
    with clear_errors():
        run_quantizing(
            ModelOptions(model, revision=revision),
            output,
            console,
            backend=backend,
            collection=verify_on,
            split=split,
            queries=queries,
            depth=depth,
            min_correlation=min_correlation,
            min_overlap=min_overlap,
            report=lambda found: console.print(agreement_table(found, title=title)),
        )
