"""The pictures of tuning a joiner: nDCG@10 over a weight, and how far joined probabilities hold."""

import io
from pathlib import Path
from typing import Any

from haystack_ce_ranker.data_files import write_bytes, write_text
from haystack_ce_ranker.fusion.advice import TuningResult
from haystack_ce_ranker.fusion.calibration_picture import reliability_plot
from haystack_ce_ranker.fusion.judged import MEASURE, Setting
from haystack_ce_ranker.fusion.tuning import weight_curve


def draw(result: TuningResult, folder: Path) -> list[Path]:
    """
    Write `weights.png` and `reliability.svg`; returns what was written.

    :raises ImportError: If matplotlib is missing.
    """
    weights, probabilities = folder / "weights.png", folder / "reliability.svg"
    title = f"{result.collection}: joined probabilities"
    write_text(probabilities, reliability_plot(title, result.calibrated.by_query))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
    _draw_weights(figure, result)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_bytes(weights, drawn.getvalue())
    return [weights, probabilities]


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
    settings = {"the file's": result.default, "tuned": result.tuned.setting, "recommended": result.recommended}
    for key, setting in settings.items():
        lines.setdefault(round(_share(setting, heaviest), 6), []).append(key)
    for weight, words in lines.items():
        style = "--" if "recommended" in words else ":"
        label = f"weight {weight:g}: {', '.join(words)}"
        axes.axvline(weight, linestyle=style, color="black", linewidth=1, label=label)
    rest = f"{others[0]} alone" if len(others) == 1 else "the best mix of the others"
    axes.set_xlabel(f"weight of {heaviest} (0: {rest}; 1: {heaviest} alone)")
    axes.set_ylabel(f"{MEASURE}, mean with its 95 % interval")
    axes.set_title(f"{result.collection}, {len(result.queries)} queries")
    axes.legend(fontsize="small")


def _share(setting: Setting, name: str) -> float:
    return setting.weights[name] / sum(setting.weights.values())
