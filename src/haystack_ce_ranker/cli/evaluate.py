"""`haystack-ce-ranker evaluate`: say whether re-ranking is worth it on a collection."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Split

Models = Annotated[
    list[str] | None,
    typer.Option(help="A cross-encoder; may be repeated. Of two, the second also re-ranks the first one's top 20."),
]
Backends = Annotated[
    list[str] | None, typer.Option(help="What runs the models; may be repeated. All installed ones without it.")
]
Depths = Annotated[
    str | None, typer.Option(help="How many candidates are re-ranked, with commas; 10,20,50,100 without it.")
]
Strategies = Annotated[
    list[str] | None, typer.Option(help="How long documents are read: best_passages, head, ...; may be repeated.")
]
RelevanceLevel = Annotated[int, typer.Option(min=1, help="The lowest grade that MRR, Recall, AP and Success count.")]
BudgetMs = Annotated[
    float | None, typer.Option(min=0.001, help="The most milliseconds a query may take (95 % of them).")
]
BudgetJoules = Annotated[float | None, typer.Option(min=0.000001, help="The most joules a query may take, on average.")]
GridIntensity = Annotated[
    float | None, typer.Option(min=0, help="Grams of CO2 that a kWh emits; the world's average of 2024 without it.")
]
GateTolerance = Annotated[
    float | None,
    typer.Option(min=0, help="Fit a RerankGate that gives up this nDCG@10 at most, such as 0.005."),
]
Memory = Annotated[bool, typer.Option(help="Measure peak memory by batch size, each in a process of its own.")]
DepthTolerance = Annotated[
    float | None,
    typer.Option(min=0, help="Fit a depth for each query that gives up this nDCG@10 at most, such as 0.005."),
]


def evaluate(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format.")],
    pipeline: Annotated[list[Path] | None, typer.Option(help="A pipeline's YAML; may be repeated.")] = None,
    model: Models = None,
    backend: Backends = None,
    strategy: Strategies = None,
    bi_encoder: Annotated[str | None, typer.Option(help="A bi-encoder as a second first stage.")] = None,
    run: Annotated[Path | None, typer.Option(help="Fixed candidates (TSV) in place of the first stage.")] = None,
    depth: Depths = None,
    split: Split = None,
    queries: Annotated[int | None, typer.Option(min=1, help="At most this many queries, drawn at random.")] = None,
    relevance_level: RelevanceLevel = 1,
    baseline: Annotated[str | None, typer.Option(help="The system to compare with; the first without it.")] = None,
    budget_ms: BudgetMs = None,
    budget_joules: BudgetJoules = None,
    grid_intensity: GridIntensity = None,
    memory: Memory = True,
    output: Annotated[
        Path | None, typer.Option(help="Where to write results.json, report.html and the run files, and to go on from.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the output folder holds.")] = False,
    fit_gate: GateTolerance = None,
    fit_depth: DepthTolerance = None,
) -> None:
    """
    Say whether re-ranking is worth it on a collection: which model, depth and backend, for how much time and energy.

    Measures the pipelines given, or else BM25 with a cross-encoder behind it, alone and joined, at several depths.
    """
    from rich.console import Console

    from haystack_ce_ranker.evaluation.commands.evaluate import Evaluation, run_evaluation
    from haystack_ce_ranker.evaluation.judging.choosing import Limits
    from haystack_ce_ranker.evaluation.running.sweep import parse_depths
    from haystack_ce_ranker.machine.units import WORLD, Grid

    with clear_errors():
        settings = Evaluation(
            collection,
            pipelines=pipeline or (),
            models=model or (),
            backends=backend or (),
            strategies=strategy or (),
            bi_encoder=bi_encoder,
            run=run,
            depths=None if depth is None else parse_depths(depth),
            split=split,
            queries=queries,
            relevance_level=relevance_level,
            baseline=baseline,
            limits=Limits(ms=budget_ms, joules=budget_joules),
            memory=memory,
            grid=WORLD if grid_intensity is None else Grid(grid_intensity),
            output=output,
            fresh=fresh,
            gate_tolerance=fit_gate,
            depth_tolerance=fit_depth,
        )
        if not run_evaluation(settings, Console()):
            raise typer.Exit(130)
