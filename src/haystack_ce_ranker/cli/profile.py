"""`haystack-ce-ranker profile`: measure how this machine scores fastest."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


def profile(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")],
    backend: Annotated[str, typer.Option(help="What runs the model: torch, onnx, openvino or auto.")] = "torch",
    dtype: Annotated[str | None, typer.Option(help="What it computes in: float32, float16, bfloat16 or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it runs, such as cpu or cuda:0.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    output: Annotated[Path, typer.Option(help="Where to write the setting.")] = Path("speed_profile.json"),
) -> None:
    """Measure how this machine scores fastest; the ranker reads the file as speed_profile=PATH."""
    from rich.console import Console
    from rich.progress import track

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.cli.tables import speed_table
    from haystack_ce_ranker.scoring import speed_profile

    console = Console()
    with clear_errors():
        if output.is_dir():
            raise ValueError(f"output must be a file to write, but {str(output)!r} is a folder.")
        output.parent.mkdir(parents=True, exist_ok=True)
        found = speed_profile.measure_speed(
            backend,
            ModelOptions(model, dtype=dtype, device=device, revision=revision),
            track=lambda runs: track(runs, description="runs", console=console),
        )
        console.print(speed_table(found))
        found.save(output)
        console.print(f"wrote {output}: batch_tokens {found.batch_tokens}, threads {found.threads}", markup=False)
