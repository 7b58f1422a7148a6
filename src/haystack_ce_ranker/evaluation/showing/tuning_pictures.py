"""The pictures of tuning a joiner: nDCG@10 over a weight, and how far joined probabilities hold."""

from pathlib import Path
from typing import Any

from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.fusion.advice import TuningResult
from haystack_ce_ranker.fusion.calibration import reliability
from haystack_ce_ranker.fusion.judged import Setting
from haystack_ce_ranker.fusion.tuning import weight_curve


def draw(result: TuningResult, folder: Path) -> list[Path]:
    """
    Write `weights.png` and `reliability.png`; returns what was written.

    :raises ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = 'the pictures need matplotlib: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    paints = {folder / "weights.png": _draw_weights, folder / "reliability.png": _draw_reliability}
    for path, paint in paints.items():
        figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
        paint(figure, result)
        figure.savefig(path)
    return list(paints)


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
    axes.set_ylabel(f"{NDCG_AT_10}, mean with its 95 % interval")
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
    beside = {"fontsize": "x-small", "ha": "center", "xytext": (0, 2), "textcoords": "offset points"}
    for entry in bins:
        counts.annotate(f"{entry.count:,}", (entry.predicted, entry.count), **beside)
    counts.set_yscale("log")
    counts.set_ylim(0.5, 10 * max((entry.count for entry in bins), default=1))
    counts.set_ylabel("documents")
    counts.set_xlabel("predicted probability of relevance")


def _share(setting: Setting, name: str) -> float:
    return setting.weights[name] / sum(setting.weights.values())
