"""`haystack-ce-ranker adapt`: fit a cross-encoder to a corpus that nobody has judged."""

from pathlib import Path
from typing import Annotated, Any

import typer

from haystack_ce_ranker.cli.errors import clear_errors, needs_torch
from haystack_ce_ranker.cli.options import (
    Batch,
    Device,
    Fresh,
    Interpolate,
    Log,
    MaxLength,
    Recipes,
    Save,
    Split,
    TestQueries,
    Threads,
    TrainingDtype,
)

Teachers = Annotated[
    list[str] | None,
    typer.Option("--teacher", help="A cross-encoder to learn from; may be repeated. Without it the base itself."),
]
BiEncoder = Annotated[str | None, typer.Option(help="A bi-encoder whose similarities move the teacher's logits.")]
IsBlended = Annotated[
    bool | None,
    typer.Option(
        "--blend/--no-blend",
        help="Move logits by BM25 and the bi-encoder where the teacher is unsure. On, but off with other teachers.",
    ),
]
Base = Annotated[str, typer.Option(help="The cross-encoder to adapt: a hub id or a folder.")]
Loss = Annotated[
    str,
    typer.Option(
        help="margin_mse, ranknet, lambda or bce: the teacher's order; contrastive: what each query was made of."
    ),
]

_STEPS = ("epochs", "learning_rate", "interpolate", "max_length", "seed", "dtype")
_AS_GIVEN = ("backend", "bi_encoder", "split", "test_queries", "save", "threads", "fresh")


@needs_torch
def adapt(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format; queries and qrels may be missing.")],
    output: Annotated[Path, typer.Argument(help="The folder to write, not there yet or empty.")],
    base: Base,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub base.")] = None,
    teacher: Teachers = None,
    backend: Annotated[str, typer.Option(help="What runs the teachers.")] = "torch",
    bi_encoder: BiEncoder = None,
    blend: IsBlended = None,
    recipe: Recipes = None,
    made: Annotated[int, typer.Option(help="The most queries to make of the documents.")] = 1000,
    queries: Log = None,
    depth: Annotated[int, typer.Option(help="How many documents BM25 finds for a query.")] = 30,
    candidates: Annotated[int, typer.Option(help="How many of them are learnt from.")] = 8,
    loss: Loss = "margin_mse",
    epochs: Annotated[int, typer.Option(help="The most passes over the queries.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="The highest rate; it falls to 0.")] = 2e-5,
    interpolate: Interpolate = 1.0,
    batch: Batch = None,
    max_length: MaxLength = None,
    split: Split = None,
    test_queries: TestQueries = None,
    save: Save = "better",
    threads: Threads = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(help="Draws queries and candidates, and orders what is learnt.")] = 0,
    dtype: TrainingDtype = None,
    fresh: Fresh = False,
) -> None:
    """
    Fit a cross-encoder to a corpus without labels: queries are made from the documents, and a teacher ranks those.

    Without a teacher the base learns from itself, BM25 and a bi-encoder together, which rank better than it alone. The
    result is written if it is better on the judged queries; without any, if it follows the teacher better, or with
    the loss contrastive finds the documents better that queries were made of.
    """
    given = dict(locals())
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.adapting import Adapting
    from haystack_ce_ranker.training.blending import Blend
    from haystack_ce_ranker.training.commands.adapt import AdaptRun, run_adapting
    from haystack_ce_ranker.training.fitting import Recipe
    from haystack_ce_ranker.training.losses import CONTRASTIVE, usual_batch
    from haystack_ce_ranker.training.made_queries import RECIPES

    with clear_errors():
        is_blended = blend if blend is not None else not teacher
        how: dict[str, Any] = {name: given[name] for name in _STEPS}
        how["batch"] = usual_batch(loss) if batch is None else batch
        learnt = Recipe(loss=loss, learns="labels" if loss == CONTRASTIVE else "teacher", **how)
        settings = Adapting(depth=depth, candidates=candidates, blend=Blend() if is_blended else None, seed=seed)
        begin = ModelOptions(base, revision=revision, device=device)
        teachers = tuple(ModelOptions(one, device=device) for one in teacher or ())
        asked: dict[str, Any] = {name: given[name] for name in _AS_GIVEN}
        asked |= {"mix": recipe or tuple(RECIPES), "queries": made, "log": queries, "teachers": teachers}
        found = run_adapting(AdaptRun(collection, output, begin, settings=settings, recipe=learnt, **asked), Console())
    if found is None or not found.saves(save):
        raise typer.Exit(130 if found is None else 1)
