"""`haystack-ce-ranker quantize`: write an int8 form of a model, if it ranks as the model does."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


def quantize(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")],
    output: Annotated[Path, typer.Argument(help="The folder to write, not there yet or empty.")],
    backend: Annotated[str, typer.Option(help="What is to run it: onnx or openvino.")] = "onnx",
    calibrate: Annotated[
        Path | None, typer.Option(help="A folder in BEIR format to verify on; a few built-in texts without it.")
    ] = None,
    queries: Annotated[int, typer.Option(help="At most so many of its queries, drawn at random.")] = 20,
    depth: Annotated[int, typer.Option(help="How many of BM25's documents for each.")] = 20,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    min_correlation: Annotated[float, typer.Option(help="The lowest rank correlation with float32.")] = 0.95,
    min_overlap: Annotated[float, typer.Option(help="The smallest share of the top 10 in common.")] = 0.9,
) -> None:
    """Write an int8 form of a model, if it ranks as the model does in float32."""
    from rich.console import Console
    from rich.progress import Progress

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.evaluation.data.candidates import bm25_requests
    from haystack_ce_ranker.evaluation.data.collections import load_collection
    from haystack_ce_ranker.evaluation.showing.tables import agreement_table
    from haystack_ce_ranker.quantizing import quantize as quantization
    from haystack_ce_ranker.quantizing.sample_texts import sample_requests

    console = Console()
    with clear_errors():
        requests = (
            sample_requests()
            if calibrate is None
            else bm25_requests(load_collection(calibrate).sample(queries), depth=depth)
        )
        with Progress(console=console, transient=True) as bars:
            bar = bars.add_task("verifying", total=None)
            found = quantization.quantize(
                ModelOptions(model, revision=revision),
                output,
                requests,
                backend=backend,
                min_correlation=min_correlation,
                min_overlap=min_overlap,
                report=lambda agreement: console.print(
                    agreement_table(agreement, title=f"{model}: int8 {backend} beside float32 torch")
                ),
                progress=lambda done, documents: bars.update(bar, completed=done, total=documents),
            )
        console.print(f"wrote {output} ({found.megabytes:.0f} MB)")
