"""`haystack-ce-ranker tune`: find a joiner's weights from judged queries."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Split


def tune(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format, with judgments.")],
    pipeline: Annotated[Path, typer.Option(help="A pipeline's YAML with a HybridScoreJoiner.")],
    split: Split = None,
    queries: Annotated[int | None, typer.Option(help="At most this many queries, drawn at random.")] = None,
    run: Annotated[Path | None, typer.Option(help="Fixed candidates (TSV) in place of the first stage.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="How many of the fixed candidates are used; 50 without it.")
    ] = None,
    joiner: Annotated[str | None, typer.Option(help="The joiner's name, if there are several.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the recommended setting into the pipeline file.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Recommend the setting whose scores are probabilities.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where to write tune.json and the pictures.")] = Path("tuned"),
) -> None:
    """Find a joiner's weights, normalizer and missing rule from judged queries, and say whether to use them."""
    from rich.console import Console

    from haystack_ce_ranker.checks import require_queries
    from haystack_ce_ranker.data import collections
    from haystack_ce_ranker.evaluation.commands.tune_joiner import run_tuning
    from haystack_ce_ranker.fusion.tuning import FEWEST

    with clear_errors():
        if depth is not None and run is None:
            raise ValueError(f"depth {depth} is of the fixed candidates: name them with --run, or omit it.")
        if output.exists() and not output.is_dir():
            raise ValueError(f"output must be a folder, but {str(output)!r} is a file")
        loaded = collections.load_collection(collection, split=split).sample(queries)
        require_queries("tuning", len(loaded.queries), FEWEST)
        path = None if run is None else run if run.exists() else collection / run
        most = 50 if depth is None else depth
        candidates = None if path is None else collections.read_run(path, collection=loaded, depth=most)
        run_tuning(
            loaded,
            pipeline,
            Console(),
            candidates=candidates,
            joiner=joiner,
            output=output,
            write=write,
            probabilities=probabilities,
        )
