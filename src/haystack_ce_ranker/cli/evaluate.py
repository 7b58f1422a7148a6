"""`haystack-ce-ranker evaluate`: say whether re-ranking is worth it on a collection."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


def evaluate(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format.")],
    pipeline: Annotated[list[Path] | None, typer.Option(help="A pipeline's YAML; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A cross-encoder; may be repeated.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="What runs the models; may be repeated. All installed ones without it.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="How long documents are read: best_passages, head, ...; may be repeated.")
    ] = None,
    bi_encoder: Annotated[str | None, typer.Option(help="A bi-encoder as a second first stage.")] = None,
    run: Annotated[Path | None, typer.Option(help="Fixed candidates (TSV) in place of the first stage.")] = None,
    depth: Annotated[str, typer.Option(help="How many candidates are re-ranked, parted by commas.")] = "10,20,50,100",
    queries: Annotated[int | None, typer.Option(min=1, help="At most so many queries, drawn at random.")] = None,
    relevance_level: Annotated[
        int, typer.Option(min=1, help="The lowest grade that MRR, Recall, AP and Success count.")
    ] = 1,
    baseline: Annotated[str | None, typer.Option(help="The system to compare with; the first without it.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.001, help="The most milliseconds a query may take (95 % of them).")
    ] = None,
    budget_joules: Annotated[
        float | None, typer.Option(min=0.000001, help="The most joules a query may take, on average.")
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory by batch size, each in a process of its own.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="Where to write results.json, report.html and the run files, and to go on from.")
    ] = None,
    fit_gate: Annotated[
        float | None, typer.Option(min=0, help="Fit a RerankGate that gives up at most so much nDCG@10, such as 0.005.")
    ] = None,
) -> None:
    """
    Say whether re-ranking is worth it on a collection: which model, depth and backend, for how much time and energy.

    Measures the pipelines given, or else BM25 with a cross-encoder behind it, alone and joined, at several depths.
    """
    from rich.console import Console
    from rich.progress import track

    from haystack_ce_ranker.evaluation.commands import fit_gate as gate
    from haystack_ce_ranker.evaluation.data import collections
    from haystack_ce_ranker.evaluation.running import experiments, groups, journal, sweep
    from haystack_ce_ranker.evaluation.showing import report, tables

    console = Console()
    with clear_errors():
        depths = sweep.parse_depths(depth)
        loaded = collections.load_collection(collection).sample(queries)
        path = None if run is None else run if run.exists() else collection / run
        given = (
            None
            if path is None
            else groups.GivenRun(path.stem, collections.load_run(path, collection=loaded, depth=max(depths)))
        )
        planned = sweep.plan(
            loaded,
            pipelines=pipeline or (),
            models=model or (),
            backends=backend or (),
            strategies=strategy or (),
            bi_encoder=bi_encoder,
            depths=depths,
            run=given,
        )
        experiments.check_baseline(baseline, planned.names)
        with journal.Journal(output) as kept:
            measured = experiments.measure(
                planned.groups,
                loaded,
                journal=kept,
                optional=planned.optional,
                track=lambda ids: track(ids, description="queries", console=console),
            )
            rows = []
            if memory and measured.complete and planned.variants:
                rows = experiments.memory_by_batch(
                    planned.variants, kept, track=lambda all_: track(all_, description="memory", console=console)
                )
        found = experiments.results(
            measured,
            baseline=baseline,
            relevance_level=relevance_level,
            memory=rows,
            notes=planned.notes,
            budget_ms=budget_ms,
            budget_joules=budget_joules,
        )
        console.print(tables.results_table(found))
        for line in tables.verdict_text(found):
            console.print(line, markup=False, highlight=False)
        if output is not None:
            for written in [*experiments.write(output, found, measured.systems), *report.write(output, found)]:
                console.print(f"wrote {written}")
        if fit_gate is not None:
            pairs = experiments.stages(measured, found["verdict"].get("choice"))
            for advice in gate.fit_gates(pairs, measured.collection, tolerance=fit_gate):
                gate.show(advice, console)
                for written in [] if output is None else gate.save(advice, output):
                    console.print(f"wrote {written}")
    if not measured.complete:
        raise typer.Exit(130)
