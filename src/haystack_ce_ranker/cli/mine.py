"""`haystack-ce-ranker mine`: write what a cross-encoder can learn from a collection."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Split

Positives = Annotated[
    int | None, typer.Option(help="The most relevant documents for each query, the highest grades first; all without.")
]
FirstStage = Annotated[
    str | None, typer.Option(help="bm25, dense or both. Without it bm25, and both with a bi-encoder.")
]
FalseNegatives = Annotated[
    str, typer.Option(help="What to do with unjudged documents that the teacher scores highly: drop, relabel or keep.")
]
Margin = Annotated[
    float, typer.Option(help="Such a document has at least the logit of the reference, less this; may be negative.")
]
Reference = Annotated[
    str, typer.Option(help="The logit of the query's relevant documents to measure from: lowest, mean or highest.")
]


def mine(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format, with judgments.")],
    output: Annotated[Path, typer.Argument(help="The file to write: .jsonl or .parquet.")],
    teacher: Annotated[str | None, typer.Option(help="A cross-encoder whose logits stand beside each pair.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub teacher.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the teacher.")] = "torch",
    first_stage: FirstStage = None,
    bi_encoder: Annotated[str | None, typer.Option(help="A bi-encoder that finds candidates.")] = None,
    language: Annotated[str, typer.Option(help="Whose word stems BM25 goes by; none for no stems.")] = "english",
    negatives: Annotated[int, typer.Option(help="The most negatives for each query.")] = 8,
    positives: Positives = None,
    first_rank: Annotated[int, typer.Option(help="The first rank that negatives come from.")] = 1,
    last_rank: Annotated[int, typer.Option(help="The last rank that negatives come from.")] = 100,
    sampling: Annotated[str, typer.Option(help="Which of those ranks: random, or top for the first.")] = "random",
    false_negatives: FalseNegatives = "drop",
    margin: Margin = 0.0,
    reference: Reference = "mean",
    split: Split = None,
    queries: Annotated[int | None, typer.Option(min=1, help="At most this many queries, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Draws queries and negatives.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """
    Write what a cross-encoder can learn from a collection: relevant documents, hard negatives and a teacher's logits.

    A run that was stopped goes on where it was: the teacher is not asked twice for a pair.
    """
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.commands.mine import MiningRun, run_mining
    from haystack_ce_ranker.training.mining import Mining

    with clear_errors():
        settings = Mining(
            negatives=negatives,
            positives=positives,
            first_rank=first_rank,
            last_rank=last_rank,
            sampling=sampling,
            false_negatives=false_negatives,
            margin=margin,
            reference=reference,
            seed=seed,
        )
        run = MiningRun(
            collection,
            output,
            teacher=None if teacher is None else ModelOptions(teacher, revision=revision),
            backend=backend,
            kind=first_stage,
            bi_encoder=bi_encoder,
            language=None if language == "none" else language,
            settings=settings,
            split=split,
            queries=queries,
            overwrite=overwrite,
        )
        if run_mining(run, Console()) is None:
            raise typer.Exit(130)
