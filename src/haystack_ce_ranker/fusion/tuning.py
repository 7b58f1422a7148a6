"""
Finds how to weigh the inputs of a fusion from judged queries, and measures that choice on queries it has not seen.

Judged queries in, settings and figures out. `evaluation.commands.tune_joiner` runs the pipeline that gives them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.checks import require_queries
from haystack_ce_ranker.fusion.calibration import logistic_frame
from haystack_ce_ranker.fusion.fuse import IntArray, align
from haystack_ce_ranker.fusion.judged import (
    Frame,
    JudgedQuery,
    Setting,
    WeightGrid,
    default_steps,
    measure,
    ndcg,
    simplex,
    split,
)
from haystack_ce_ranker.fusion.normalizers import (
    AUTO,
    NONE,
    RANK_CONSTANT,
    FloatArray,
    Normalization,
    parse_normalization,
)
from haystack_ce_ranker.significance import Interval, bootstrap, differences_of

_FRAME_MARGIN = 1.64  # standard errors by which another frame must be better; see `tune`
_BLEND_MARGIN = 1.0
FEWEST = 2  # queries: one to choose by and one to try the choice on


@dataclass(frozen=True)
class Tuned:
    """
    What tuning found.

    :param setting: Chosen on all queries.
    :param held_out: By query, in their order: nDCG@10 of the setting chosen without the query's fold.
    :param chosen: The setting of each fold.
    """

    setting: Setting
    held_out: FloatArray
    chosen: tuple[Setting, ...]


def tune(
    queries: Sequence[JudgedQuery],
    default: Setting,
    *,
    frames: Sequence[Frame] | None = None,
    steps: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Tuned:
    """
    Choose frame and weights by nDCG@10, and measure that choice on queries it has not seen.

    The weights are a grid over the simplex of the default's inputs. A few queries cannot tell near settings apart, and
    the best of a hundred settings is partly the luckiest. So the choice is conservative (measured in
    `benchmarks/fusion.py`). It takes the best weights in the default's frame. It takes those in another frame only if
    they are better by 1.64 standard errors of the paired difference. It takes a blend only if that is better by one
    standard error than the default's heaviest input alone.

    :param frames: Frames beside the default's own; None: `auto` and `standard_frames`. A `logistic` frame is fitted
        anew on the training queries of each fold.
    :param steps: Of the grid; None: see `default_steps`.
    :param folds: At most as many as there are queries.
    """
    search = _Search.over(queries, default, frames, steps)
    everything = np.arange(len(queries))
    held_out = np.zeros(len(queries))
    chosen = []
    for fold in split(len(queries), folds, seed):
        setting = search.choose(np.setdiff1d(everything, fold))
        chosen.append(setting)
        held_out[fold] = measure([queries[i] for i in fold], setting)
    return Tuned(search.choose(everything), held_out, tuple(chosen))


def learning_curve(
    queries: Sequence[JudgedQuery],
    default: Setting,
    sizes: Iterable[int],
    *,
    frames: Sequence[Frame] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> dict[int, float]:
    """
    Return, by number of labelled queries, how much nDCG@10 is lost against tuning on all of them.

    Tuning runs on `draws` random subsets of each size. Each choice is measured on all queries, and the loss is
    averaged. A size that is not below the number of queries is omitted.
    """
    search = _Search.over(queries, default, frames, None)
    best = float(measure(queries, search.choose(np.arange(len(queries)))).mean())
    random = np.random.default_rng(seed)
    losses: dict[int, float] = {}
    for size in sizes:
        if 2 <= size < len(queries):
            drawn = [search.choose(np.sort(random.permutation(len(queries))[:size])) for _ in range(draws)]
            losses[size] = best - float(np.mean([measure(queries, setting).mean() for setting in drawn]))
    return losses


class CurvePoint(NamedTuple):
    """nDCG@10 at one weight of an input, and what it gains over that input alone (paired)."""

    weight: float
    value: Interval
    gain: Interval


def weight_curve(
    queries: Sequence[JudgedQuery], frame: Frame, names: Sequence[str], name: str, *, steps: int | None = None
) -> list[CurvePoint]:
    """
    Return nDCG@10 over the weight of one input. With more than two inputs, the others are mixed best at each weight.

    :param names: All inputs.
    """
    grid = simplex(len(names), default_steps(len(names)) if steps is None else steps)
    values = ndcg(queries, names, frame, grid)
    column = list(names).index(name)
    alone = values[int(np.argmax(grid[:, column]))]
    curve = []
    for weight in sorted(set(grid[:, column].tolist())):
        rows = np.flatnonzero(grid[:, column] == weight)
        best = rows[int(np.argmax(values[rows].mean(axis=1)))]
        curve.append(CurvePoint(weight, bootstrap(values[best]), bootstrap(differences_of(values[best], alone))))
    return curve


def standard_frames(queries: Sequence[JudgedQuery], names: Sequence[str]) -> list[Frame]:
    """
    Return the frames that tuning tries: each normalizer, the missing rules where something is missing, and ranks.

    `theoretical` gets bounds that do not move with the query: 0 if no score of an input is negative, else the lowest
    and highest score of all queries. `log` is for inputs without negative scores; the others keep their scores.
    `logistic` is fitted to these queries' judgments, and `tune` fits it again.
    """
    bounds, logs = {}, {}
    for name in names:
        seen = _finite_scores(queries, name)
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
        params = {"low": 0.0} if low >= 0.0 else {"low": low, "high": high if high > low else low + 1.0}
        bounds[name] = Normalization("theoretical", params)
        logs[name] = parse_normalization("log" if low >= 0.0 else "none")
    same = {name: dict.fromkeys(names, Normalization(name, {})) for name in ("none", "min_max", "z_score")}
    ranks = dict.fromkeys(names, Normalization("rank", {"k": RANK_CONSTANT}))
    rules = ("min", "impute", "zero", "drop") if _something_is_missing(queries, names) else ("min",)
    frames = [
        Frame(label, normalizations, rule)
        for rule in rules
        for label, normalizations in {**same, "log": logs, "theoretical": bounds, "rank": ranks}.items()
        if label != "log" or logs != same["none"]
    ]
    frames.append(logistic_frame(queries, names))
    frames.append(Frame("reciprocal_rank", dict.fromkeys(names, NONE), method="reciprocal_rank"))
    return frames


@dataclass(frozen=True)
class _Search:
    """
    All frames, measured under all weights on all queries. To choose on a part of the queries only takes averages.

    :param fitted: Whether a logistic frame is fitted to the queries that choose.
    :param heaviest: The row of the grid that uses the default's heaviest input alone.
    """

    queries: Sequence[JudgedQuery]
    grid: WeightGrid
    frames: list[Frame]
    measured: list[FloatArray]
    fitted: bool
    heaviest: int

    @classmethod
    def over(
        cls, queries: Sequence[JudgedQuery], default: Setting, frames: Sequence[Frame] | None, steps: int | None
    ) -> "_Search":
        require_queries("tuning", len(queries), FEWEST)
        grid = WeightGrid.around(default.weights, steps)
        untuned = Frame(AUTO.name, dict.fromkeys(grid.names, AUTO))
        given = [untuned, *standard_frames(queries, grid.names)] if frames is None else list(frames)
        own = replace(default.frame, adaptation=None)
        others = [frame for frame in given if frame.label != "logistic" and replace(frame, label=own.label) != own]
        fixed = [own, *others]
        fitted = any(frame.label == "logistic" for frame in given)
        measured = [ndcg(queries, grid.names, frame, grid.rows) for frame in fixed]
        heaviest = max(grid.names, key=lambda name: default.weights[name])
        alone = [float(name == heaviest) for name in grid.names]
        row = int(np.argmax((grid.rows == alone).all(axis=1)))
        return cls(queries, grid, fixed, measured, fitted, row)

    def choose(self, training: IntArray) -> Setting:
        """Choose on these queries; see `tune`."""
        frames = list(self.frames)
        values = [measured[:, training] for measured in self.measured]
        if self.fitted:
            subset = [self.queries[i] for i in training]
            frames.append(logistic_frame(subset, self.grid.names))
            values.append(ndcg(subset, self.grid.names, frames[-1], self.grid.rows))
        rows = [self.grid.best(entry) for entry in values]
        own = values[0][rows[0]]
        frame = max(range(len(frames)), key=lambda i: (float(values[i][rows[i]].mean()), -i))
        if not _better(values[frame][rows[frame]], own, _FRAME_MARGIN):
            frame = 0
        row = rows[frame]
        if not _better(values[frame][row], values[0][self.heaviest], _BLEND_MARGIN):
            frame, row = 0, self.heaviest
        return Setting(frames[frame], self.grid.weights(row))


def _better(values: FloatArray, reference: FloatArray, margin: float) -> bool:
    """Tell whether the mean paired difference exceeds `margin` of its standard errors."""
    difference = values - reference
    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    return float(difference.mean()) > margin * error + 1e-12


def _finite_scores(queries: Sequence[JudgedQuery], name: str) -> FloatArray:
    seen = [np.asarray(q.lists[name].scores, dtype=np.float64) for q in queries if name in q.lists]
    flat = np.concatenate(seen) if seen else np.zeros(0)
    return np.asarray(flat[np.isfinite(flat)], dtype=np.float64)


def _something_is_missing(queries: Sequence[JudgedQuery], names: Sequence[str]) -> bool:
    for query in queries:
        aligned = align({name: query.lists[name] for name in names if name in query.lists}, query.candidates)
        held = [row for row, known in enumerate(aligned.known) if known.size]
        if np.isnan(aligned.raw[held]).any():
            return True
    return False
