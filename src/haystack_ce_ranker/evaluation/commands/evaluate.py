"""The workflow of `haystack-ce-ranker evaluate`: plan, measure, judge, show, write, and fit what it is asked to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import track

from haystack_ce_ranker import checks
from haystack_ce_ranker.data.collections import Collection, load_collection, read_run
from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.commands import choice_yaml, fit_gate
from haystack_ce_ranker.evaluation.judging.choosing import NO_LIMITS, Limits
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.running import sweep
from haystack_ce_ranker.evaluation.running.experiments import Measurements, measure, memory_by_batch, results, stages
from haystack_ce_ranker.evaluation.running.groups import GivenRun
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.evaluation.showing import files, report, tables
from haystack_ce_ranker.machine.memory import MemoryRow
from haystack_ce_ranker.machine.units import WORLD, Grid
from haystack_ce_ranker.scoring.depth_fitting import depth_queries, fit_depth


@dataclass(frozen=True)
class Evaluation:
    """
    What is to be evaluated, and how.

    :ivar collection: A folder in BEIR format.
    :ivar pipelines: YAML files; with some, the sweep needs a model, a backend or a bi-encoder to be named.
    :ivar models: Cross-encoders; for none of these, `backends` and `strategies` see `sweep.variants`.
    :ivar run: A file with fixed candidates in place of the first stage; also looked for in the collection's folder.
    :ivar depths: How many candidates are re-ranked; None for `sweep.DEPTHS`.
    :ivar split: The judgments to use, as in `load_collection`.
    :ivar queries: At most this many, drawn at random.
    :ivar output: Where files are written, and where an interrupted run goes on from.
    :ivar fresh: Whether to measure again what the output holds.
    :ivar grid: What a kilowatt-hour emits.
    :ivar gate_tolerance: nDCG@10 that a gate may give up; None: no gate is fitted. So for `depth_tolerance`.
    """

    collection: Path
    pipelines: Sequence[Path] = ()
    models: Sequence[str] = ()
    backends: Sequence[str] = ()
    strategies: Sequence[str] = ()
    bi_encoder: str | None = None
    run: Path | None = None
    depths: Sequence[int] | None = None
    split: str | None = None
    queries: int | None = None
    relevance_level: int = 1
    baseline: str | None = None
    limits: Limits = NO_LIMITS
    memory: bool = True
    output: Path | None = None
    fresh: bool = False
    gate_tolerance: float | None = None
    depth_tolerance: float | None = None
    grid: Grid = WORLD


def run_evaluation(settings: Evaluation, console: Console) -> bool:
    """
    Measure, print the table and the verdict, and write what was asked for.

    :returns: Whether every query was measured; false after an interruption.
    :raises ValueError: If a setting does not fit the others or the collection.
    """
    collection = load_collection(settings.collection, split=settings.split).sample(settings.queries)
    for what, tolerance in (("a gate", settings.gate_tolerance), ("a depth", settings.depth_tolerance)):
        if tolerance is not None:
            checks.require_queries(what, len(collection.queries))
    measured, found = _measured(settings, collection, console)
    if found.verdict.do_not_rerank is not None:
        console.print(found.verdict.do_not_rerank, style="bold red", markup=False, highlight=False)
    console.print(tables.results_table(found), *tables.units_table(found))
    for line in (*tables.left_out_text(found), *tables.verdict_text(found.verdict)):
        console.print(line, markup=False, highlight=False)
    if (choice := choice_yaml.fragment(found)) is not None:
        console.print(f"The choice, for a pipeline's file:\n{choice}", markup=False, highlight=False, soft_wrap=True)
    if settings.output is not None:
        written = files.write(settings.output, found, measured.systems)
        written += [*choice_yaml.save(found, settings.output), *report.write(settings.output, found)]
        for path in written:
            console.print(f"wrote {path}", markup=False)
    if settings.gate_tolerance is not None:
        pairs = stages(measured, found.verdict.choice)
        for advice in fit_gate.fit_gates(pairs, measured.collection, tolerance=settings.gate_tolerance):
            fit_gate.show(advice, console)
            for path in () if settings.output is None else fit_gate.save(advice, settings.output):
                console.print(f"wrote {path}", markup=False)
    if settings.depth_tolerance is not None:
        _show_depths(measured, found.verdict.choice, settings.depth_tolerance, console)
    return measured.complete


def _show_depths(measured: Measurements, choice: str | None, tolerance: float, console: Console) -> None:
    """Fit a rule for the depth of each ranker, and print it as the ranker's parameters."""
    collection = measured.collection
    texts = {one.id: one.content for one in collection.documents.values()}
    for name, (first, last) in stages(measured, choice).items():
        judged = depth_queries(collection.queries, texts, collection.judgments, first=first, reranked=last)
        advice = fit_depth(judged, tolerance=tolerance)
        console.print(f"The depth of {name}. {advice.reason}", markup=False)
        if advice.parameters:
            console.print(
                yaml.safe_dump(advice.parameters, sort_keys=False), markup=False, highlight=False, soft_wrap=True
            )


def _measured(settings: Evaluation, collection: Collection, console: Console) -> tuple[Measurements, Results]:
    planned = sweep.plan(
        collection,
        pipelines=settings.pipelines,
        models=settings.models,
        backends=settings.backends,
        strategies=settings.strategies,
        bi_encoder=settings.bi_encoder,
        depths=settings.depths,
        run=_given_run(settings, collection),
    )
    checks.choice("baseline", settings.baseline, planned.names, optional=True)
    with Journal(settings.output, fresh=settings.fresh) as journal:
        queries = partial(track, description="queries", console=console)
        measured = measure(
            planned.groups,
            collection,
            journal=journal,
            optional=planned.optional,
            needed=planned.needed,
            track=queries,
        )
        memory: list[MemoryRow] = []
        failed: list[LeftOut] = []
        if settings.memory and measured.complete and planned.variants:
            sizes = partial(track, description="memory", console=console)
            loaded = {(one.description.model, one.description.backend) for one in measured.systems}
            variants = [one for one in planned.variants if (one.model, one.backend) in loaded]
            memory, failed = memory_by_batch(variants, journal, track=sizes)
    found = results(
        measured,
        baseline=settings.baseline,
        relevance_level=settings.relevance_level,
        memory=memory,
        notes=(*journal.taken_over(), *planned.notes),
        left_out=failed,
        limits=settings.limits,
        grid=settings.grid,
    )
    return measured, found


def _given_run(settings: Evaluation, collection: Collection) -> GivenRun | None:
    if settings.run is None:
        return None
    path = settings.run if settings.run.exists() else settings.collection / settings.run
    depths = sweep.DEPTHS if settings.depths is None else settings.depths
    return GivenRun(*read_run(path, collection=collection, depth=max(depths)))
