"""`haystack-ce-ranker train`: fine-tune a cross-encoder on a collection, and keep it if it is better."""

from pathlib import Path
from typing import Annotated, Any

import typer

from haystack_ce_ranker.cli.errors import clear_errors, needs_torch
from haystack_ce_ranker.cli.options import (
    Batch,
    Device,
    Fresh,
    Interpolate,
    MaxLength,
    Save,
    Split,
    Threads,
    TrainingDtype,
)

Base = Annotated[str, typer.Option(help="What to begin from: a cross-encoder, or an encoder, which gets a new head.")]
Loss = Annotated[
    str | None,
    typer.Option(
        help="bce, margin_mse, lambda, ranknet or contrastive. Without it bce, but lambda where a trained base learns "
        "labels of fewer than 100 queries."
    ),
]
Groups = Annotated[Path | None, typer.Option(help="A file of `mine` to learn from; the queries are mined without it.")]
Teacher = Annotated[str | None, typer.Option(help="A cross-encoder whose logits stand beside each pair.")]
LearnFrom = Annotated[str, typer.Option(help="labels, or the teacher's logits: teacher.")]
DevShare = Annotated[float, typer.Option(help="The share of the queries that training stops by.")]
TestShare = Annotated[float, typer.Option(help="The share of the queries that decides whether the model is kept.")]

_STEPS = ("epochs", "learning_rate", "interpolate", "max_length", "seed", "dtype")
_AS_GIVEN = ("groups", "depth", "queries", "split", "dev_share", "test_share", "save", "threads", "fresh")


@needs_torch
def train(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format, with judgments.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    base: Base,
    loss: Loss = None,
    learn_from: LearnFrom = "labels",
    groups: Groups = None,
    teacher: Teacher = None,
    epochs: Annotated[int, typer.Option(help="The most passes over the data.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="The highest rate; it falls to 0.")] = 2e-5,
    interpolate: Interpolate = 1.0,
    batch: Batch = None,
    max_length: MaxLength = None,
    negatives: Annotated[int, typer.Option(help="The most negatives for each query.")] = 4,
    positives: Annotated[int, typer.Option(help="The most relevant documents for each query.")] = 2,
    split: Split = None,
    queries: Annotated[int | None, typer.Option(min=1, help="At most this many queries, drawn at random.")] = None,
    dev_share: DevShare = 0.1,
    test_share: TestShare = 0.2,
    depth: Annotated[int, typer.Option(help="How many of BM25's documents are ranked for each held-out query.")] = 20,
    save: Save = "better",
    seed: Annotated[int, typer.Option(help="Parts queries, draws negatives, and orders what is learnt.")] = 0,
    threads: Threads = None,
    device: Device = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub base.")] = None,
    dtype: TrainingDtype = None,
    fresh: Fresh = False,
) -> None:
    """
    Fine-tune a cross-encoder on a collection, and keep it if unseen queries say that it is better.

    A run that was stopped goes on when the same command is started again, and ends with the same weights.
    """
    given = dict(locals())
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.commands.train import TrainingRun, run_training
    from haystack_ce_ranker.training.fitting import Recipe
    from haystack_ce_ranker.training.losses import usual_batch
    from haystack_ce_ranker.training.mining import Mining

    steps: dict[str, Any] = {name: given[name] for name in _STEPS}
    with clear_errors():
        steps["loss"] = "bce" if loss is None else loss
        steps["batch"] = usual_batch(steps["loss"]) if batch is None else batch
        run = TrainingRun(
            collection,
            output,
            ModelOptions(base, revision=revision, device=device),
            recipe=Recipe(learns=learn_from, **steps),
            usual_loss=loss is None and learn_from == "labels",
            mining=Mining(negatives=negatives, positives=positives, last_rank=50),
            teacher=None if teacher is None else ModelOptions(teacher, device=device),
            **{name: given[name] for name in _AS_GIVEN},
        )
        written = run_training(run, Console())
    if written is not True:
        raise typer.Exit(130 if written is None else 1)
