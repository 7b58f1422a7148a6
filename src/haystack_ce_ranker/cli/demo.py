"""`haystack-ce-ranker demo`: run the example pipeline and show what was read."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


def demo(
    examples: Annotated[Path, typer.Option(help="The repository's examples folder.")] = Path("examples"),
) -> None:
    """Run BM25 -> cross-encoder -> hybrid on the example collection and show what was read."""
    from rich.console import Console

    from haystack_ce_ranker.evaluation.commands.demo import run_demo

    with clear_errors():
        run_demo(examples, Console())
