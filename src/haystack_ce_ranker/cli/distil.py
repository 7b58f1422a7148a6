"""`haystack-ce-ranker distil`: teach a smaller model what a cross-encoder scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_ce_ranker.cli.errors import clear_errors, needs_torch
from haystack_ce_ranker.cli.options import (
    Fresh,
    Log,
    MaxLength,
    Recipes,
    Save,
    Split,
    TestQueries,
    Threads,
    TrainingDtype,
)

if TYPE_CHECKING:
    from haystack_ce_ranker.training.commands.distil import DistilRun

Layers = Annotated[int | None, typer.Option(help="Cut a student with so many of the teacher's own layers.")]
Keep = Annotated[str, typer.Option(help="Which of them: even, first, last, or numbers from 0 with commas.")]
Student = Annotated[str | None, typer.Option(help="Teach this model instead: a hub id or a folder.")]
Into = Annotated[str, typer.Option(help="What the student is: cross-encoder or bi-encoder.")]
Share = Annotated[
    float | None,
    typer.Option(help="The share of the teacher's nDCG@10 to reach; 0.95, and 0.9 for a bi-encoder, if omitted."),
]
States = Annotated[float, typer.Option(help="How much the teacher's hidden states count beside the loss.")]
Loss = Annotated[str, typer.Option(help="Of a cross-encoder: margin_mse, ranknet, lambda, bce or contrastive.")]
IsBlended = Annotated[
    bool | None,
    typer.Option(
        "--blend/--no-blend",
        help="Into a bi-encoder: move logits by BM25 and the bi-encoder where the teacher is unsure; on if omitted.",
    ),
]
Interpolate = Annotated[
    float | None,
    typer.Option(
        help="How far the weights go from the student's to the taught ones: 1 all the way; less forgets less. "
        "Into a bi-encoder 0.5 if omitted, else 1."
    ),
]
Contrast = Annotated[str, typer.Option(help="Of a bi-encoder's contrastive loss: teacher or in_batch.")]


@needs_torch
def distil(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format; queries and qrels may be missing.")],
    output: Annotated[Path, typer.Argument(help="The folder to write, not there yet or empty.")],
    teacher: Annotated[str, typer.Option(help="The cross-encoder to learn from: a hub id or a folder.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub teacher.")] = None,
    layers: Layers = None,
    keep: Keep = "even",
    student: Student = None,
    into: Into = "cross-encoder",
    share: Share = None,
    own: Annotated[float, typer.Option(help="The share of the judged queries to learn from, without labels.")] = 0.5,
    queries: Log = None,
    recipe: Recipes = None,
    made: Annotated[int, typer.Option(help="The most queries to make of the documents.")] = 1000,
    depth: Annotated[int, typer.Option(help="How many documents are found for a query.")] = 30,
    candidates: Annotated[int, typer.Option(help="How many of them are learnt from.")] = 8,
    loss: Loss = "margin_mse",
    states: States = 0.0,
    contrast: Contrast = "teacher",
    blend: IsBlended = None,
    epochs: Annotated[int, typer.Option(help="The most passes over the queries.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="The highest rate.")] = 5e-5,
    interpolate: Interpolate = None,
    max_length: MaxLength = None,
    split: Split = None,
    test_queries: TestQueries = None,
    save: Save = "better",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Draws everything.")] = 0,
    dtype: TrainingDtype = None,
    fresh: Fresh = False,
) -> None:
    """
    Teach a smaller model what a cross-encoder scores, on the documents that it is to serve.

    The student is cut from the teacher's own layers, or is another cross-encoder or bi-encoder. It is written if it
    has a stated share of the teacher's quality on queries that it has not seen: judged ones, or without judgments the
    teacher's own order.
    """
    given = dict(locals())
    from rich.console import Console

    from haystack_ce_ranker.training.commands.distil import run_distilling

    with clear_errors():
        found = run_distilling(_run_of(given), Console())
    if found is None or not found.saves(save):
        raise typer.Exit(130 if found is None else 1)


def _run_of(given: dict[str, Any]) -> "DistilRun":
    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.adapting import Adapting
    from haystack_ce_ranker.training.bi_encoders import BiEncoderRecipe
    from haystack_ce_ranker.training.blending import Blend
    from haystack_ce_ranker.training.commands.adapt import AdaptRun
    from haystack_ce_ranker.training.commands.distil import BI_ENCODER, DistilRun
    from haystack_ce_ranker.training.fitting import Recipe
    from haystack_ce_ranker.training.losses import usual_batch
    from haystack_ce_ranker.training.made_queries import RECIPES

    steps = {name: given[name] for name in ("epochs", "learning_rate", "seed", "dtype")}
    if given["interpolate"] is not None:
        steps["interpolate"] = given["interpolate"]
    learnt = {"loss": given["loss"], "batch": usual_batch(given["loss"]), "max_length": given["max_length"]}
    teacher = ModelOptions(given["teacher"], revision=given["revision"])
    searched = {name: given[name] for name in ("depth", "candidates", "seed")}
    is_blended = given["into"] == BI_ENCODER if given["blend"] is None else given["blend"]
    lessons = AdaptRun(
        given["collection"],
        given["output"],
        teacher,
        teachers=(teacher,),
        mix=given["recipe"] or tuple(RECIPES),
        queries=given["made"],
        log=given["queries"],
        settings=Adapting(blend=Blend() if is_blended else None, **searched),
        recipe=Recipe(learns="teacher", **learnt, **steps),
        **{name: given[name] for name in ("split", "test_queries", "save", "threads", "fresh")},
    )
    return DistilRun(
        lessons,
        student=None if given["student"] is None else ModelOptions(given["student"]),
        similar=BiEncoderRecipe(contrast=given["contrast"], **steps),
        **{name: given[name] for name in ("into", "layers", "keep", "own", "share", "states")},
    )
