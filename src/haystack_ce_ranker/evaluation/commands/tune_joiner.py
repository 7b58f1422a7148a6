"""Tunes the joiner of a pipeline on a collection: runs each query once, has the joiner's inputs judged, reports."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from haystack import Pipeline
from rich.console import Console
from rich.progress import Progress

from haystack_ce_ranker.data.collections import Collection, ReadRun, Run
from haystack_ce_ranker.data.left_out import LeftOut, lines, part, sorted_by_weight
from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.commands.joiner_yaml import fragment, round_trip, write_into
from haystack_ce_ranker.evaluation.running.experiments import check_found
from haystack_ce_ranker.evaluation.running.filling import candidates_of
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.evaluation.running.pipelines import MeasuredPipeline, load_pipeline
from haystack_ce_ranker.evaluation.showing.tuning_table import show
from haystack_ce_ranker.fusion.adaptive import parse_adaptation
from haystack_ce_ranker.fusion.advice import TuningResult, tune_on
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting
from haystack_ce_ranker.fusion.plain import as_plain
from haystack_ce_ranker.fusion.tuning_pictures import draw
from haystack_ce_ranker.provenance import stage_of
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner


def run_tuning(
    collection: Collection,
    path: Path,
    console: Console,
    *,
    candidates: ReadRun | None = None,
    joiner: str | None = None,
    output: Path,
    write: bool = False,
    probabilities: bool = False,
) -> TuningResult:
    """
    Tune the joiner of a pipeline file on a collection, print what was found, and write it down.

    :param candidates: A fixed run in place of the first stage.
    :param joiner: Which one, where the pipeline has several.
    :param output: A folder for `tune.json` and the pictures.
    :param write: Put the recommended setting into the pipeline file.
    :param probabilities: Recommend the setting whose joined scores are probabilities, whatever ranks best.
    :raises PipelineError: If the pipeline cannot be run on the collection, or has no joiner to tune.
    """
    if write:
        round_trip()  # a missing library is known before the queries run
    measured = load_pipeline(path, candidates=candidates is not None)
    name, found = find_joiner(measured.pipeline, joiner)
    notes = [*collection.notes, *measured.notes, *measured.prepare(collection)]
    scores = None if candidates is None else candidates.scores
    lacking = 0 if scores is None else sum(not scores.get(query_id) for query_id in collection.queries)
    notes += () if candidates is None else candidates.notes
    missing = part(lacking, len(collection.queries), "judged queries are not in the run (they count as 0)")
    missing = sorted_by_weight((*collection.all_left_out, *missing))
    for line in lines(missing, "advice"):
        console.print(line, markup=False, highlight=False)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("queries", total=len(collection.queries))
        advance = partial(progress.update, task, advance=1)
        judged = collect(measured, collection, name, candidates=scores, progress=advance)
    result = tune_on(judged, name, setting_of(found), collection=collection.name, notes=notes)
    setting = result.calibrated.setting if probabilities else result.recommended
    show(result, setting, fragment(name, setting), console, probabilities=probabilities)
    for written in save(result, output, missing):
        console.print(f"wrote {written}", markup=False)
    if write:
        write_into(path, name, setting)
        console.print(f"wrote the setting into {path}", markup=False)
    return result


def find_joiner(pipeline: Pipeline, name: str | None = None) -> tuple[str, HybridScoreJoiner]:
    """
    Return the pipeline's HybridScoreJoiner and its name.

    :param name: Needed where there are several.
    :raises PipelineError: If there is none of that name, none at all, or several and no name.
    """
    found = {given: part for given, part in pipeline.walk() if isinstance(part, HybridScoreJoiner)}
    names = ", ".join(found)
    if name is not None and name not in found:
        raise PipelineError(f"there is no HybridScoreJoiner named {name!r} (found: {names or 'none'})")
    if not found:
        raise PipelineError("the pipeline has no HybridScoreJoiner to tune: add one, and connect lists to its inputs")
    if name is None and len(found) > 1:
        raise PipelineError(f"the pipeline has several joiners ({names}): name one with --joiner")
    return next((given, part) for given, part in found.items() if name in (None, given))


def collect(
    measured: MeasuredPipeline,
    collection: Collection,
    joiner: str,
    *,
    candidates: Run | None = None,
    title: str = "content",
    progress: Callable[[], None] | None = None,
) -> list[JudgedQuery]:
    """
    Run every query once and return what arrived at the joiner, with the query's judgments.

    :param measured: A pipeline whose stores are filled; see `MeasuredPipeline.fill`.
    :param joiner: The component's name.
    :param candidates: A fixed run in place of the first stage.
    :param progress: Called after each query.
    :raises PipelineError: If nothing is connected to the joiner, or nothing arrives there.
    """
    pipeline = measured.pipeline
    if joiner not in pipeline.graph.nodes:
        why = "does not feed the pipeline's result, so tuning it would change nothing"
        raise PipelineError(f"the joiner {joiner!r} {why}")
    part = pipeline.get_component(joiner)
    if not isinstance(part, HybridScoreJoiner):
        raise PipelineError(f"{joiner!r} is not a HybridScoreJoiner")
    feeds = {
        edge["to_socket"].name: (sender, edge["from_socket"].name)
        for sender, _, edge in pipeline.graph.in_edges(joiner, data=True)
    }
    given = {socket for name, socket in measured.candidate_sockets if name == joiner}
    if not feeds and not given:
        raise PipelineError(f"nothing is connected to the joiner {joiner!r}")
    judged: list[JudgedQuery] = []
    found: set[str] = set()
    stage = stage_of(candidates or {})
    for query_id, text in collection.queries.items():
        scores = None if candidates is None else candidates.get(query_id, {})
        first = None if scores is None else candidates_of(collection, scores, title=title, stage=stage)
        outputs = measured.run(text, first).outputs
        arrived = {socket: outputs.get(sender, {}).get(output) for socket, (sender, output) in feeds.items()}
        arrived |= dict.fromkeys(given, first)
        own = collection.own(query_id)  # that a query finds itself is no answer
        lists = {
            name: [one for one in value if one.id != own] if isinstance(value, list) else value
            for name, value in arrived.items()
            if name.removesuffix("_report") in part.weights
        }
        ids = [d.id for name, value in lists.items() if name in part.weights and value for d in value]
        scored = part.scored_lists(**lists)
        judged.append(JudgedQuery(query_id, scored, collection.judgments[query_id], list(dict.fromkeys(ids))))
        found.update(ids)
        if progress is not None:
            progress()
    check_found(f"the joiner {joiner!r}", len(judged), found, collection.documents)
    return judged


def setting_of(joiner: HybridScoreJoiner) -> Setting:
    """Return how a joiner fuses."""
    own = "default" if joiner.normalize is None else joiner.normalize
    label = own if isinstance(own, str) else "the pipeline's own"
    label = joiner.method if joiner.method == "reciprocal_rank" else label
    adaptation = parse_adaptation(joiner.adapt_weights, list(joiner.weights))
    frame = Frame(label, joiner.normalizations, joiner.missing, joiner.method, joiner.rank_constant, adaptation)
    return Setting(frame, dict(joiner.weights))


def save(result: TuningResult, folder: Path, left_out: Sequence[LeftOut] = ()) -> list[Path]:
    """
    Write `tune.json` and, where matplotlib is installed, `weights.png` and `reliability.svg`; returns what was written.

    :raises ImportError: If matplotlib is missing, after the JSON is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "tune.json"
    write_text(found, json.dumps({**as_plain(result), "left_out": [asdict(one) for one in left_out]}, indent=1) + "\n")
    return [found, *draw(result, folder)]
