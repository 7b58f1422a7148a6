"""
Tunes the joiner of a pipeline on a collection: runs each query once, hands the joiner's inputs to `tuning`, reports.

The rules by which a pipeline and a collection meet are those of `pipelines`. What is chosen, and how sure that is, is
decided in `tuning`; here stand the way in (a pipeline file), the way out (a YAML fragment, pictures, JSON) and nothing
else.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from haystack import Pipeline
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from haystack_ce_ranker.evaluation.data.collections import Collection, Run
from haystack_ce_ranker.evaluation.running.pipelines import (
    Answer,
    MeasuredPipeline,
    PipelineError,
    candidates_of,
    load_pipeline,
)
from haystack_ce_ranker.fusion.fuse import FloatArray
from haystack_ce_ranker.fusion.tuning import (
    Advice,
    Calibrated,
    Frame,
    JudgedQuery,
    Setting,
    Tuned,
    advise,
    calibrate,
    learning_curve,
    measure,
    reliability,
    score_thresholds,
    tune,
    weight_curve,
)
from haystack_ce_ranker.significance import Interval, bootstrap
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner

FORMAT = 1
_CURVE_SIZES = (5, 10, 20, 30, 50, 100, 200)
_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_PROBABILITIES = (0.1, 0.25, 0.5)
_FEW_QUERIES = 20  # a bootstrap of fewer has intervals that are too narrow


@dataclass(frozen=True)
class TuningResult:
    """
    What tuning a pipeline's joiner on a collection found.

    :param joiner: The component's name.
    :param systems: nDCG@10 by query: `<input> alone` for each input, `default`, `tuned` (held out).
    :param heaviest: The input that the default trusts most.
    :param labelled: By number of labelled queries, the nDCG@10 lost against tuning on all.
    """

    collection: str
    joiner: str
    queries: tuple[JudgedQuery, ...]
    default: Setting
    tuned: Tuned
    systems: Mapping[str, FloatArray]
    heaviest: str
    advice: Advice
    calibrated: Calibrated
    labelled: Mapping[int, float]
    notes: tuple[str, ...] = ()

    @property
    def recommended(self) -> Setting:
        """The setting that the advice names, with a weight for every input."""
        use = self.advice.use
        if use == "tuned":
            return self.tuned.setting
        if use == "default":
            return self.default
        alone = use.removesuffix(" alone")
        return Setting(self.default.frame, {name: float(name == alone) for name in self.default.weights})


def run_tuning(
    collection: Collection,
    path: Path,
    console: Console,
    *,
    candidates: Run | None = None,
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
    measured = load_pipeline(path, candidates=candidates is not None)
    name, part = find_joiner(measured.pipeline, joiner)
    notes = [*collection.notes, *measured.notes, *measured.fill(collection)]
    measured.warm_up()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("queries", total=len(collection.queries))
        judged = collect(
            measured, collection, name, candidates=candidates, progress=lambda: progress.update(task, advance=1)
        )
    result = tune_on(judged, name, setting_of(part), collection=collection.name, notes=notes)
    setting = result.calibrated.setting if probabilities else result.recommended
    _print(result, setting, console, probabilities=probabilities)
    for written in save(result, output):
        console.print(f"wrote {written}")
    if write:
        write_into(path, name, setting)
        console.print(f"wrote the setting into {path}")
    return result


def find_joiner(pipeline: Pipeline, name: str | None = None) -> tuple[str, HybridScoreJoiner]:
    """
    Return the pipeline's HybridScoreJoiner and its name.

    :param name: Needed where there are several.
    :raises PipelineError: If there is none of that name, none at all, or several and no name.
    """
    found = {given: part for given, part in pipeline.walk() if isinstance(part, HybridScoreJoiner)}
    if name is not None:
        if name not in found:
            raise PipelineError(f"there is no HybridScoreJoiner named {name!r} (found: {', '.join(found) or 'none'})")
        return name, found[name]
    if not found:
        raise PipelineError(
            "the pipeline has no HybridScoreJoiner to tune: add one, and connect what it shall join to its inputs"
        )
    if len(found) > 1:
        raise PipelineError(f"the pipeline has several joiners ({', '.join(found)}): name one with --joiner")
    return next(iter(found.items()))


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
    :raises PipelineError: If nothing is connected to the joiner.
    """
    pipeline = measured.pipeline
    if joiner not in pipeline.graph.nodes:
        raise PipelineError(
            f"the joiner {joiner!r} does not feed the pipeline's result, so tuning it would change nothing"
        )
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
    judged = []
    for query_id, text in collection.queries.items():
        first = None
        if candidates is not None:
            first = candidates_of(collection, candidates.get(query_id, {}), title=title)
        answer = measured.run(text, first)
        lists: dict[str, Any] = {socket: _output(answer, *source) for socket, source in feeds.items()}
        lists |= dict.fromkeys(given, first)
        lists = {name: value for name, value in lists.items() if _is_input(name, part)}
        ids = [d.id for name, value in lists.items() if name in part.weights and value for d in value]
        scored = part.scored_lists(**lists)
        judged.append(JudgedQuery(query_id, scored, collection.judgments[query_id], list(dict.fromkeys(ids))))
        if progress is not None:
            progress()
    return judged


def setting_of(joiner: HybridScoreJoiner) -> Setting:
    """Return how a joiner fuses."""
    label = joiner.normalize if isinstance(joiner.normalize, str) else "the pipeline's own"
    if joiner.normalize is None:
        label = "default"
    if joiner.method == "reciprocal_rank":
        label = joiner.method
    frame = Frame(label, joiner.normalizations, joiner.missing, joiner.method, joiner.rank_constant)
    return Setting(frame, dict(joiner.weights))


def tune_on(
    queries: Sequence[JudgedQuery],
    joiner: str,
    default: Setting,
    *,
    collection: str,
    folds: int = 5,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> TuningResult:
    """
    Tune on what was collected.

    :param queries: At least two.
    :param joiner: The component's name.
    :param default: What the pipeline does now; see `setting_of`.
    """
    heard = [name for name in default.weights if any(name in query.lists for query in queries)]
    notes = list(notes)
    if silent := sorted(set(default.weights) - set(heard)):
        notes.append(f"nothing ever arrived at {', '.join(silent)}")
    if len(queries) < _FEW_QUERIES:
        notes.append(
            f"{len(queries)} labelled queries are few: these intervals are too narrow to rely on; label some 30"
        )
    tuned = tune(queries, default, folds=folds, seed=seed)
    heaviest = max(heard or default.weights, key=lambda name: (default.weights[name], name))
    systems = {
        f"{name} alone": measure(
            queries, Setting(default.frame, {other: float(other == name) for other in default.weights})
        )
        for name in sorted(heard, key=lambda name: name == heaviest)
    }
    systems |= {"default": measure(queries, default), "tuned": tuned.held_out}
    advice = advise(
        systems,
        {key: key.removesuffix(" alone") for key in systems if key.endswith(" alone")},
        heaviest=f"{heaviest} alone",
    )
    return TuningResult(
        collection=collection,
        joiner=joiner,
        queries=tuple(queries),
        default=default,
        tuned=tuned,
        systems=systems,
        heaviest=heaviest,
        advice=advice,
        calibrated=calibrate(queries, default, folds=folds, seed=seed),
        labelled=learning_curve(queries, default, _CURVE_SIZES, seed=seed),
        notes=tuple(notes),
    )


def parameters_of(setting: Setting) -> dict[str, Any]:
    """Return a setting as the joiner's init parameters: plain values, and all that a file may have had otherwise."""
    specs = {
        name: setting.frame.normalizations[name].spec()
        for name in setting.weights
        if name in setting.frame.normalizations
    }
    plain = {spec for spec in specs.values() if isinstance(spec, str)}
    normalize: Any = specs
    if len(plain) == 1 and all(isinstance(spec, str) for spec in specs.values()) and len(specs) == len(setting.weights):
        normalize = plain.pop()
    elif not specs:
        normalize = "none"
    parameters: dict[str, Any] = {
        "weights": {name: round(weight, 6) for name, weight in setting.weights.items()},
        "method": setting.frame.method,
        "normalize": _rounded(normalize),
        "missing": setting.frame.missing,
    }
    if setting.frame.method == "reciprocal_rank":
        parameters |= {"normalize": "none", "rank_constant": setting.frame.rank_constant}
    return parameters


def fragment(joiner: str, setting: Setting) -> str:
    """Return the YAML that belongs into the pipeline file."""
    described = {"components": {joiner: {"init_parameters": parameters_of(setting)}}}
    return yaml.safe_dump(described, sort_keys=False)


def write_into(path: Path, joiner: str, setting: Setting) -> None:
    """
    Put a setting into a pipeline file; every other line stays as it is, comments too.

    The file is replaced at once, so that a crash leaves the old one.

    :raises PipelineError: If the file has no such component in YAML's block form.
    """
    text = path.read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    changes = parameters_of(setting)
    node = _child(_child(_child(yaml.compose(text, Loader=yaml.SafeLoader), "components"), joiner), "init_parameters")
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise PipelineError(f"{path}: components.{joiner}.init_parameters is not there in block form; write it by hand")
    indent = " " * node.start_mark.column
    after = text
    # From the last to the first, so that the places of the earlier ones stay right.
    for key, value in reversed([(key, value) for key, value in node.value if key.value in changes]):
        after = _replaced(after, key, value, f"{indent}{_line(key.value, changes[key.value], indent)}")
    present = {key.value for key, _ in node.value}
    new = "".join(f"{_line(key, value, indent)}\n{indent}" for key, value in changes.items() if key not in present)
    after = after[: node.start_mark.index] + new + after[node.start_mark.index :]
    expected = before
    expected["components"][joiner]["init_parameters"] = {**before["components"][joiner]["init_parameters"], **changes}
    try:
        same = yaml.safe_load(after) == expected
    except yaml.YAMLError:
        same = False
    if not same:
        raise PipelineError(f"{path}: the file's form is unusual; write this by hand:\n{fragment(joiner, setting)}")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(after)
        Path(temporary).chmod(path.stat().st_mode)
        Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def as_json(result: TuningResult) -> dict[str, Any]:
    """Return figures, ids and settings as plain values; no text of the collection."""
    bins, error = reliability(result.calibrated.probabilities, result.calibrated.labels)
    heaviest = result.systems[f"{result.heaviest} alone"]
    return {
        "format": FORMAT,
        "collection": result.collection,
        "queries": len(result.queries),
        "joiner": result.joiner,
        "systems": {
            key: {
                "nDCG@10": bootstrap(values)._asdict(),
                f"over {result.heaviest} alone": bootstrap(values - heaviest)._asdict(),
            }
            for key, values in result.systems.items()
        },
        "advice": {"use": result.advice.use, "reason": result.advice.reason, "significant": result.advice.significant},
        "recommended": parameters_of(result.recommended),
        "recommended_score_thresholds": {
            str(wanted): score
            for wanted, score in score_thresholds(result.queries, result.recommended, _PROBABILITIES).items()
        },
        "tuned": parameters_of(result.tuned.setting),
        "tuned_by_fold": [parameters_of(setting) for setting in result.tuned.chosen],
        "labelled_queries": {str(size): loss for size, loss in result.labelled.items()},
        "probabilities": {
            "parameters": parameters_of(result.calibrated.setting),
            "nDCG@10": bootstrap(result.calibrated.held_out)._asdict(),
            "calibration_error": error,
            "reliability": [vars(entry) for entry in bins],
            "thresholds": thresholds(result.calibrated),
        },
        "nDCG@10_by_query": {
            key: dict(zip((query.id for query in result.queries), values.tolist(), strict=True))
            for key, values in result.systems.items()
        },
        "notes": list(result.notes),
    }


def thresholds(calibrated: Calibrated) -> list[dict[str, float]]:
    """
    Return what a `score_threshold` on the joined probability keeps of all queries' candidates, held out.

    :returns: `threshold`, `kept` (share of the candidates), `precision`, and `recall` of the relevant candidates. A
        threshold that keeps nothing or everything is left out.
    """
    relevant = max(float(calibrated.labels.sum()), 1.0)
    rows = []
    for threshold in _THRESHOLDS:
        kept = calibrated.probabilities >= threshold
        if not kept.any() or kept.all():
            continue
        hits = float(calibrated.labels[kept].sum())
        rows.append(
            {
                "threshold": threshold,
                "kept": float(kept.mean()),
                "precision": hits / int(kept.sum()),
                "recall": hits / relevant,
            }
        )
    return rows


def save(result: TuningResult, folder: Path) -> list[Path]:
    """
    Write `tune.json` and, where matplotlib is installed, `weights.png` and `reliability.png`; returns what was written.

    :raises ImportError: If matplotlib is missing, after the JSON is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "tune.json"]
    written[0].write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf-8")
    pyplot = _pyplot()
    for name, draw in (("weights.png", _draw_weights), ("reliability.png", _draw_reliability)):
        figure = pyplot.figure(figsize=(7, 4.6), dpi=120, layout="constrained")
        draw(figure, result)
        figure.savefig(folder / name)
        pyplot.close(figure)
        written.append(folder / name)
    return written


def _draw_weights(figure: Any, result: TuningResult) -> None:
    axes = figure.subplots()
    names, heaviest = sorted(result.default.weights), result.heaviest
    others = [name for name in names if name != heaviest]
    frames = {frame.label: frame for frame in (result.default.frame, result.tuned.setting.frame)}
    above: list[tuple[float, float]] = []
    below: list[tuple[float, float]] = []
    for label, frame in frames.items():
        curve = weight_curve(result.queries, frame, names, heaviest)
        x = [point.weight for point in curve]
        (line,) = axes.plot(x, [point.value.mean for point in curve], marker=".", label=f"normalize: {label}")
        bounds = [point.value.low for point in curve], [point.value.high for point in curve]
        axes.fill_between(x, *bounds, alpha=0.12, color=line.get_color(), linewidth=0)
        above += [(point.weight, point.value.mean) for point in curve if point.gain.low > 0.0]
        below += [(point.weight, point.value.mean) for point in curve if point.gain.high < 0.0]
    for points, marker, color, word in ((above, "^", "tab:green", "above"), (below, "v", "tab:red", "below")):
        if points:
            label = f"significantly {word} {heaviest} alone"
            axes.plot(*zip(*points, strict=True), marker, color=color, zorder=3, label=label)
    lines: dict[float, list[str]] = {}
    for key, setting in (("the file's", result.default), ("tuned", result.tuned.setting)):
        lines.setdefault(round(_share(setting, heaviest), 6), []).append(key)
    recommended = round(_share(result.recommended, heaviest), 6)
    lines.setdefault(recommended, []).append("recommended")
    for weight, words in lines.items():
        style = "--" if weight == recommended else ":"
        axes.axvline(
            weight, linestyle=style, color="black", linewidth=1, label=f"weight {weight:g}: {', '.join(words)}"
        )
    rest = f"{others[0]} alone" if len(others) == 1 else "the best mix of the others"
    axes.set_xlabel(f"weight of {heaviest} (0: {rest}; 1: {heaviest} alone)")
    axes.set_ylabel("nDCG@10, mean with its 95 % interval")
    axes.set_title(f"{result.collection}, {len(result.queries)} queries")
    axes.legend(fontsize="small")


def _draw_reliability(figure: Any, result: TuningResult) -> None:
    bins, error = reliability(result.calibrated.probabilities, result.calibrated.labels)
    axes, counts = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    x, y = [entry.predicted for entry in bins], [entry.observed for entry in bins]
    bars = [entry.observed - entry.low for entry in bins], [entry.high - entry.observed for entry in bins]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.errorbar(x, y, bars, fmt="o", capsize=3, label="held out, with 95 % intervals")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share that is relevant")
    axes.set_title(f"{result.collection}: joined probabilities (normalize: logistic), calibration error {error:.3f}")
    axes.legend(fontsize="small", loc="upper left")
    counts.bar(x, [entry.count for entry in bins], width=0.04)
    for entry in bins:
        counts.annotate(
            f"{entry.count:,}",
            (entry.predicted, entry.count),
            fontsize="x-small",
            ha="center",
            xytext=(0, 2),
            textcoords="offset points",
        )
    counts.set_yscale("log")
    counts.set_ylim(0.5, 10 * max((entry.count for entry in bins), default=1))
    counts.set_ylabel("documents")
    counts.set_xlabel("predicted probability of relevance")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        message = 'the pictures need matplotlib: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def intervals(result: TuningResult) -> list[tuple[str, Interval, Interval | None]]:
    """Return, by system, nDCG@10 and its difference to the heaviest input alone (None for that input itself)."""
    base = f"{result.heaviest} alone"
    return [
        (key, bootstrap(values), None if key == base else bootstrap(values - result.systems[base]))
        for key, values in result.systems.items()
    ]


def _print(result: TuningResult, setting: Setting, console: Console, *, probabilities: bool) -> None:
    base = f"{result.heaviest} alone"
    table = Table(title=f"{result.collection}: {len(result.queries)} queries, nDCG@10 with 95 % bootstrap intervals")
    for header in ("system", "nDCG@10", f"over {base}"):
        table.add_column(header, justify="left" if header == "system" else "right")
    labels = {"default": "default blend (the file's)", "tuned": "tuned blend, on queries it was not tuned on"}
    for key, value, difference in intervals(result):
        shown = "" if difference is None else f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
        cells = (labels.get(key, key), f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]", shown)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    console.print(f"advice: {result.advice.reason}", markup=False)
    if result.labelled:
        lost = ", ".join(f"{loss:.4f} with {size}" for size, loss in result.labelled.items())
        console.print(f"nDCG@10 lost by tuning on fewer labelled queries (mean of 20 draws): {lost}", markup=False)
    calibrated = result.calibrated
    error = reliability(calibrated.probabilities, calibrated.labels)[1]
    how = "--probabilities chooses" if not probabilities else "chosen by --probabilities"
    console.print(
        f"scores as probabilities of relevance (normalize: logistic; {how} it): nDCG@10 "
        f"{float(calibrated.held_out.mean()):.4f}, calibration error {error:.3f}, held out. One `score_threshold` then "
        "means the same on every query; of the candidates of all queries it keeps",
        markup=False,
    )
    table = Table()
    for header in ("score_threshold", "kept per query", "of them relevant", "of the relevant kept"):
        table.add_column(header, justify="right")
    candidates = calibrated.labels.size / len(result.queries)
    for row in thresholds(calibrated):
        kept = f"{row['kept'] * candidates:.2f} of {candidates:.1f}"
        table.add_row(f"{row['threshold']:.2f}", kept, f"{row['precision']:.1%}", f"{row['recall']:.1%}")
    console.print(table)
    if scores := score_thresholds(result.queries, result.recommended, _PROBABILITIES):
        found = ", ".join(f"{score:.2f} for a probability of {wanted:g}" for wanted, score in scores.items())
        console.print(
            f"the recommended setting's own scores mean the same on every query too; `score_threshold`: {found}",
            markup=False,
        )
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    if unused := sorted(name for name, weight in setting.weights.items() if weight == 0.0):
        console.print(
            f"note: at weight 0 {', '.join(unused)} no longer counts, but what feeds it still runs: to save its time, "
            "take it out of the pipeline where nothing else needs it",
            markup=False,
        )
    what = "the setting whose scores are probabilities" if probabilities else "the recommended setting"
    console.print(f"{what}, for the pipeline file (--write puts it there):", markup=False)
    console.print(fragment(result.joiner, setting), markup=False, highlight=False)


def _share(setting: Setting, name: str) -> float:
    return setting.weights[name] / sum(setting.weights.values())


def _output(answer: Answer, sender: str, socket: str) -> Any:
    return answer.outputs.get(sender, {}).get(socket)


def _is_input(name: str, joiner: HybridScoreJoiner) -> bool:
    return name in joiner.weights or name.removesuffix("_report") in joiner.weights


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return (
        float(np.format_float_positional(value, precision=6, fractional=False)) if isinstance(value, float) else value
    )


def _child(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value
    return None


def _line(key: str, value: Any, indent: str) -> str:
    """One parameter as block YAML whose first line has no indentation of its own."""
    dumped: str = yaml.safe_dump({key: value}, sort_keys=False).rstrip("\n")
    return dumped.replace("\n", f"\n{indent}")


def _end(node: Any) -> int:
    """Where a node's last character stands; PyYAML has a block end where the next token begins, past any comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    index: int = node.end_mark.index
    return index


def _replaced(text: str, key: Any, value: Any, line: str) -> str:
    """Replace one `key: value` of a block mapping; what follows the value on its line (a comment) goes with it."""
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    if text[start : key.start_mark.index].strip():  # the first key of a list item, such as "- key: value"
        raise PipelineError("the parameters do not stand each on a line of its own; write them by hand")
    end = _end(value)
    stop = text.find("\n", end)
    return text[:start] + line + (text[stop:] if stop >= 0 else "\n")
