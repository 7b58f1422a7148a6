"""
Finds how to weigh the inputs of a fusion from judged queries, and says how sure that is.

Pure: lists, judgments and numbers in, numbers out; where the lists come from is `evaluation.tune`'s business. Every
query's scores are computed once by whoever calls; here they are only normalised, weighed and measured, for all weights
at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from haystack_ce_ranker.fusion.fuse import (
    NONE,
    RANK_CONSTANT,
    FloatArray,
    IntArray,
    Normalization,
    ScoredList,
    align,
    best_ranks,
    fuse,
    normalise,
    parse_normalization,
    sigmoid,
)
from haystack_ce_ranker.significance import Interval, bootstrap

CUTOFF = 10
_FRAME_MARGIN = 1.64  # standard errors by which another frame must be better; see `tune`
_BLEND_MARGIN = 1.0


@dataclass(frozen=True)
class JudgedQuery:
    """
    What one query gave: the lists that would be joined, and which documents are relevant.

    :param lists: By input name; an input may be absent or empty.
    :param judgments: Grades by document id; what is not listed counts as not relevant.
    :param candidates: The documents to rank; None: all that any list holds.
    """

    id: str
    lists: Mapping[str, ScoredList]
    judgments: Mapping[str, int]
    candidates: Sequence[str] | None = None

    @cached_property
    def ideal(self) -> float:
        """The DCG of a perfect first page."""
        best = sorted((grade for grade in self.judgments.values() if grade > 0), reverse=True)[:CUTOFF]
        return math.fsum(grade / math.log2(place + 2) for place, grade in enumerate(best))


@dataclass(frozen=True)
class Frame:
    """How lists are made comparable: everything about a fusion but the weights."""

    label: str
    normalizations: Mapping[str, Normalization]
    missing: str = "min"
    method: str = "weighted_sum"
    rank_constant: float = RANK_CONSTANT


class Setting(NamedTuple):
    """One way to fuse: a frame and the weights by input."""

    frame: Frame
    weights: Mapping[str, float]


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


def simplex(inputs: int, steps: int) -> FloatArray:
    """
    Return all weights that add up to 1 in multiples of 1 / steps.

    :returns: Shape `[C(steps + inputs - 1, inputs - 1), inputs]`; the corners (one input alone) are among them.
    """
    if inputs < 1 or steps < 1:
        raise ValueError(f"inputs and steps must be > 0, but got {inputs} and {steps}")
    rows = []
    for bars in combinations(range(steps + inputs - 1), inputs - 1):
        edges = (-1, *bars, steps + inputs - 1)
        rows.append([edges[i + 1] - edges[i] - 1 for i in range(inputs)])
    return np.array(rows, dtype=np.float64) / steps


def default_steps(inputs: int) -> int:
    """Return steps that keep the grid at a few hundred points: 20 for two inputs, 10 for three or four, 5 for more."""
    return 20 if inputs <= 2 else 10 if inputs <= 4 else 5


def ndcg(queries: Sequence[JudgedQuery], names: Sequence[str], frame: Frame, weights: FloatArray) -> FloatArray:
    """
    Measure a frame under many weights at once, as `fusion.fuse` would rank (equal scores by best rank, then id).

    The gain is the grade, the ideal is taken over all judgments: trec_eval's nDCG@10. A query without a relevant
    document, or for which no input returned anything, counts as 0.

    :param names: The inputs, in the order of the columns of `weights`.
    :param weights: Shape `[weights, inputs]`, none of a row negative, not all 0.
    :returns: Shape `[weights, queries]`.
    """
    values = np.zeros((len(weights), len(queries)))
    discounts = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    supports = _rows_by_support(weights)
    for column, query in enumerate(queries):
        if query.ideal == 0.0:
            continue
        speaking = [i for i, name in enumerate(names) if _speaks(query.lists.get(name), frame)]
        speaking = speaking or [i for i, name in enumerate(names) if name in query.lists and len(query.lists[name].ids)]
        if not speaking:
            continue
        prepared: dict[tuple[int, ...], _Prepared] = {}
        for support, rows in supports.items():
            used = tuple(i for i in support if i in speaking)
            share = weights[rows][:, list(used)] if used else np.ones((len(rows), len(speaking)))
            key = used or tuple(speaking)
            if key not in prepared:
                prepared[key] = _prepare(query, [names[i] for i in key], frame)
            values[rows, column] = prepared[key].dcg(share, discounts) / query.ideal
    return values


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
    the best of a hundred settings is partly the luckiest, so the choice is conservative (measured in
    `benchmarks/fusion.py`): the best weights in the default's frame; those in another frame only if they are better by
    1.64 standard errors of the paired difference; and any blend only if it is better by one standard error than the
    default's heaviest input alone.

    :param frames: Besides the default's own; None: see `standard_frames`. A `logistic` frame is fitted anew on the
        training queries of each fold.
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

    Each of `draws` random subsets is tuned on and its choice measured on all queries; the loss is averaged. A size that
    is not below the number of queries is left out.
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


@dataclass(frozen=True)
class Calibrated:
    """
    Joined scores as probabilities of relevance.

    :param setting: Fitted on all queries.
    :param held_out: nDCG@10 by query, fitted and weighed without the query's fold.
    :param probabilities: Held out, for every ranked document of every query.
    :param labels: 1 relevant, 0 not (or unjudged), for each of them.
    """

    setting: Setting
    held_out: FloatArray
    probabilities: FloatArray
    labels: FloatArray


def calibrate(
    queries: Sequence[JudgedQuery], default: Setting, *, steps: int | None = None, folds: int = 5, seed: int = 0
) -> Calibrated:
    """
    Fit every input's `logistic` and the weights in that frame, and predict each query by a fit that has not seen it.

    :param default: Its weights win where several are equally good; its frame plays no part.
    """
    everything = np.arange(len(queries))
    held_out = np.zeros(len(queries))
    found = []
    for fold in split(len(queries), folds, seed):
        setting = _logistic_setting([queries[i] for i in np.setdiff1d(everything, fold)], default, steps)
        unseen = [queries[i] for i in fold]
        held_out[fold] = measure(unseen, setting)
        found.append(joined_scores(unseen, setting))
    setting = _logistic_setting(queries, default, steps)
    probabilities, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Calibrated(setting, held_out, probabilities, labels)


def joined_scores(queries: Sequence[JudgedQuery], setting: Setting) -> tuple[FloatArray, FloatArray]:
    """Return the joined scores of all documents of all queries, and 1 or 0 for relevant or not (unjudged: not)."""
    scores: list[float] = []
    labels: list[float] = []
    for query in queries:
        fused = fuse(
            query.lists,
            setting.weights,
            method=setting.frame.method,
            normalizations=setting.frame.normalizations,
            missing=setting.frame.missing,
            rank_constant=setting.frame.rank_constant,
            candidates=query.candidates,
        )
        scores += fused.scores
        labels += [float(query.judgments.get(identifier, 0) > 0) for identifier in fused.ids]
    return np.array(scores), np.array(labels)


def score_thresholds(
    queries: Sequence[JudgedQuery], setting: Setting, probabilities: Iterable[float]
) -> dict[float, float]:
    """
    Return which joined score stands for each probability of relevance, by a logistic fit to these queries.

    :param probabilities: Between 0 and 1, both excluded.
    :returns: Empty where a score does not mean the same on every query (a normaliser looks at the query's own list, or
        ranks are joined), or the scores say nothing about relevance.
    """
    if not _means_the_same_everywhere(setting):
        return {}
    slope, intercept = fit_logistic(*joined_scores(queries, setting))
    if slope == 0.0:
        return {}
    return {wanted: (math.log(wanted / (1.0 - wanted)) - intercept) / slope for wanted in probabilities}


def _means_the_same_everywhere(setting: Setting) -> bool:
    used = [setting.frame.normalizations.get(name, NONE) for name, weight in setting.weights.items() if weight > 0]
    return setting.frame.method == "weighted_sum" and all(
        known.name in ("none", "log", "logit", "logistic") or (known.name == "theoretical" and "high" in known.params)
        for known in used
    )


class CurvePoint(NamedTuple):
    """nDCG@10 at one weight of an input, and what it gains over that input alone (paired)."""

    weight: float
    value: Interval
    gain: Interval


def weight_curve(
    queries: Sequence[JudgedQuery], frame: Frame, names: Sequence[str], name: str, *, steps: int | None = None
) -> list[CurvePoint]:
    """
    Return nDCG@10 over the weight of one input; with more than two inputs the best mix of the others at each weight.

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
        curve.append(CurvePoint(weight, bootstrap(values[best]), bootstrap(values[best] - alone)))
    return curve


def measure(queries: Sequence[JudgedQuery], setting: Setting) -> FloatArray:
    """Return nDCG@10 by query."""
    names = sorted(setting.weights)
    row = np.array([[setting.weights[name] for name in names]])
    return np.asarray(ndcg(queries, names, setting.frame, row)[0], dtype=np.float64)


def split(count: int, folds: int, seed: int = 0) -> list[IntArray]:
    """Return the members of each fold: `count` numbers, shuffled, dealt to at most `count` folds."""
    if folds < 2:
        raise ValueError(f"folds must be at least 2, but got {folds}")
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[i :: min(folds, count)]) for i in range(min(folds, count))]


def standard_frames(queries: Sequence[JudgedQuery], names: Sequence[str]) -> list[Frame]:
    """
    Return the frames that tuning tries: each normaliser, the missing rules where something is missing, and ranks.

    `theoretical` gets bounds that do not move with the query: 0 where no score of an input is negative, else the lowest
    and highest score that all queries saw. `log` is for inputs without negative scores; the others keep theirs.
    `logistic` is fitted to these queries' judgments, `tune` fits it again.
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


def logistic_frame(queries: Sequence[JudgedQuery], names: Sequence[str]) -> Frame:
    """
    Return the frame in which every score is its probability of relevance, fitted per input on these queries.

    Joined scores are then probabilities as well (a weighted mean), so one `score_threshold` means the same on every
    query.
    """
    normalizations = {}
    for name in names:
        slope, intercept = fit_logistic(*labelled_scores(queries, name))
        normalizations[name] = Normalization("logistic", {"slope": slope, "intercept": intercept})
    return Frame("logistic", normalizations)


def labelled_scores(queries: Sequence[JudgedQuery], name: str) -> tuple[FloatArray, FloatArray]:
    """Return one input's finite scores over all queries, and 1 or 0 for relevant or not (unjudged: not)."""
    scores: list[float] = []
    labels: list[float] = []
    for query in queries:
        listed = query.lists.get(name)
        if listed is None:
            continue
        for identifier, score in zip(listed.ids, listed.scores, strict=True):
            if score is not None and math.isfinite(score):
                scores.append(float(score))
                labels.append(1.0 if query.judgments.get(identifier, 0) > 0 else 0.0)
    return np.array(scores), np.array(labels)


def fit_logistic(scores: FloatArray, labels: FloatArray) -> tuple[float, float]:
    """
    Fit P(relevant) = 1 / (1 + exp(-(slope score + intercept))) by maximum likelihood.

    Platt's smoothed targets (Platt 1999, "Probabilistic outputs for support vector machines") keep the fit finite where
    the scores separate the labels; Newton's method with step halving as in Lin, Lin & Weng 2007.

    :param scores: Finite.
    :param labels: 1 relevant, 0 not; as many as `scores`.
    :returns: Slope and intercept, never a negative slope: where scores carry no information or mislead, the slope is 0
        and every score is as likely as the share of relevant ones.
    """
    if scores.size != labels.size:
        raise ValueError(f"scores and labels must be as many, but got {scores.size} and {labels.size}")
    positive = float(labels.sum())
    negative = labels.size - positive
    prior = (positive + 1.0) / (labels.size + 2.0)
    constant = (0.0, math.log(prior / (1.0 - prior)))
    center, scale = (float(scores.mean()), float(scores.std())) if scores.size else (0.0, 0.0)
    if scale == 0.0 or positive == 0.0 or negative == 0.0:
        return constant
    x = (scores - center) / scale
    target = np.where(labels > 0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    beta = np.array([0.0, constant[1]])

    def loss(candidate: FloatArray) -> float:
        z = candidate[0] * x + candidate[1]
        return float((np.logaddexp(0.0, z) - target * z).sum())

    current = loss(beta)
    for _ in range(100):
        p = sigmoid(beta[0] * x + beta[1])
        error, spread = p - target, p * (1.0 - p)
        gradient = np.array([(error * x).sum(), error.sum()])
        if float(np.abs(gradient).max()) < 1e-9 * labels.size:
            break
        hessian = np.array([[(spread * x * x).sum(), (spread * x).sum()], [(spread * x).sum(), spread.sum()]])
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while size > 1e-10 and loss(beta - size * step) > current:
            size /= 2.0
        if size <= 1e-10:
            break
        beta = beta - size * step
        current = loss(beta)
    slope = float(beta[0]) / scale
    return (slope, float(beta[1]) - slope * center) if slope > 0.0 else constant


@dataclass(frozen=True)
class Bin:
    """
    Predictions that lie close together: their mean, the share that came true, and how many they are.

    :param low: Lower bound of the 95 % interval of `observed` (Wilson), which takes the predictions as independent.
    :param high: Its upper bound.
    """

    predicted: float
    observed: float
    count: int
    low: float
    high: float


def reliability(probabilities: FloatArray, labels: FloatArray, bins: int = 10) -> tuple[list[Bin], float]:
    """
    Compare predicted probabilities with what came true, in bins of equal width; empty bins are left out.

    :returns: The bins, and the expected calibration error: the mean distance of predicted and observed, weighed by
        count.
    """
    places = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            observed, count = float(labels[inside].mean()), int(inside.sum())
            found.append(Bin(float(probabilities[inside].mean()), observed, count, *_wilson(observed, count)))
    total = max(labels.size, 1)
    return found, math.fsum(abs(entry.predicted - entry.observed) * entry.count for entry in found) / total


def _wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of Wilson's interval (1927) of a share among `count`."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Advice:
    """
    Which setting to use, and why, in words.

    :param use: A key of the systems given to `advise`.
    :param significant: Whether the advice rests on a significant difference.
    """

    use: str
    reason: str
    significant: bool


def advise(systems: Mapping[str, FloatArray], alone: Mapping[str, str], *, heaviest: str) -> Advice:
    """
    Say which system to use: the heaviest input alone, unless something is significantly better (paired bootstrap, 95
    %).

    Of those that are, the one with the highest mean; or a simpler one that is not significantly below it, where one
    input alone is simpler than the default blend and that is simpler than a tuned one.

    :param systems: nDCG@10 by query: every input alone, `default` and `tuned` (held out), the simpler ones first.
    :param alone: By the key of each system that is one input alone, the input's name.
    :param heaviest: Of those keys, the input that the default trusts most (the cross-encoder).
    """
    over = {key: bootstrap(values - systems[heaviest]) for key, values in systems.items() if key != heaviest}
    better = [key for key, gain in over.items() if gain.low > 0.0]
    name = alone[heaviest]
    if not better:
        return Advice(heaviest, _nothing_better(over, alone, name), False)
    top = max(better, key=lambda key: float(systems[key].mean()))
    lost = {key: bootstrap(systems[key] - systems[top]) for key in better[: better.index(top)]}
    use = next((key for key, loss in lost.items() if loss.high >= 0.0), top)
    reason = f"use {_named(use, alone)}: significantly better than {name} alone ({_signed(over[use])})"
    for key in alone:  # whether one input alone would do is what decides if the others are worth their time
        if key not in (heaviest, use):
            reason += _beside(alone[key], bootstrap(systems[use] - systems[key]))
    if use != top:
        reason += f", and {_named(top, alone)} is not significantly better still ({_signed(lost[use], turned=True)})"
    return Advice(use, reason, True)


def _nothing_better(over: Mapping[str, Interval], alone: Mapping[str, str], name: str) -> str:
    worse = {key: gain for key, gain in over.items() if gain.high < 0.0}
    tried = "; ".join(
        f"{_named(key, alone)}: {_signed(gain) if gain != (0.0, 0.0, 0.0) else 'the same'}"
        for key, gain in over.items()
        if key not in worse
    )
    lost = "; ".join(f"{_named(key, alone)}: {_signed(gain)}" for key, gain in worse.items())
    if not tried:
        return f"use {name} alone: everything else is significantly worse ({lost})"
    return f"no significant difference: use {name} alone ({tried}){f'. Significantly worse: {lost}' if lost else ''}"


def _beside(other: str, gain: Interval) -> str:
    worse_or_equal = "significantly worse than" if gain.high < 0.0 else "not significantly different from"
    return f", {'significantly better than' if gain.low > 0.0 else worse_or_equal} {other} alone ({_signed(gain)})"


def _named(key: str, alone: Mapping[str, str]) -> str:
    return f"{alone[key]} alone" if key in alone else f"the {key} blend"


def _signed(interval: Interval, *, turned: bool = False) -> str:
    mean, low, high = (-interval.mean, -interval.high, -interval.low) if turned else interval
    return f"{mean:+.4f} nDCG@10, 95 % interval {low:+.4f} to {high:+.4f}"


def _logistic_setting(queries: Sequence[JudgedQuery], default: Setting, steps: int | None) -> Setting:
    search = _Search.over(
        queries, Setting(logistic_frame(queries, sorted(default.weights)), default.weights), [], steps
    )
    row = search.best(search.measured[0])
    return Setting(search.frames[0], dict(zip(search.names, search.grid[row].tolist(), strict=True)))


@dataclass(frozen=True)
class _Search:
    """All frames measured under all weights on all queries, so that choosing on a part of them is only averaging."""

    queries: Sequence[JudgedQuery]
    names: list[str]
    grid: FloatArray
    frames: list[Frame]
    measured: list[FloatArray]
    fitted: bool
    heaviest: int
    near: FloatArray

    @classmethod
    def over(
        cls, queries: Sequence[JudgedQuery], default: Setting, frames: Sequence[Frame] | None, steps: int | None
    ) -> "_Search":
        if len(queries) < 2:
            raise ValueError(f"tuning needs at least 2 judged queries, but got {len(queries)}")
        names = sorted(default.weights)
        wanted = np.array([default.weights[name] for name in names])
        wanted = wanted / wanted.sum()
        grid = simplex(len(names), default_steps(len(names)) if steps is None else steps)
        if not (np.abs(grid - wanted).max(axis=1) < 1e-9).any():
            grid = np.vstack([grid, wanted])
        given = standard_frames(queries, names) if frames is None else list(frames)
        fixed = [default.frame, *(frame for frame in given if frame != default.frame and frame.label != "logistic")]
        fitted = any(frame.label == "logistic" for frame in given)
        measured = [ndcg(queries, names, frame, grid) for frame in fixed]
        heaviest = int(np.argmax((grid == np.eye(len(names))[int(np.argmax(wanted))]).all(axis=1)))
        return cls(queries, names, grid, fixed, measured, fitted, heaviest, np.abs(grid - wanted).sum(axis=1))

    def choose(self, training: IntArray) -> Setting:
        """Choose on these queries; see `tune`."""
        frames = list(self.frames)
        values = [measured[:, training] for measured in self.measured]
        if self.fitted:
            subset = [self.queries[i] for i in training]
            frames.append(logistic_frame(subset, self.names))
            values.append(ndcg(subset, self.names, frames[-1], self.grid))
        rows = [self.best(entry) for entry in values]
        own = values[0][rows[0]]
        frame = max(range(len(frames)), key=lambda i: (float(values[i][rows[i]].mean()), -i))
        if not _better(values[frame][rows[frame]], own, _FRAME_MARGIN):
            frame = 0
        row = rows[frame]
        if not _better(values[frame][row], values[0][self.heaviest], _BLEND_MARGIN):
            frame, row = 0, self.heaviest
        return Setting(frames[frame], dict(zip(self.names, self.grid[row].tolist(), strict=True)))

    def best(self, values: FloatArray) -> int:
        """The row of highest mean; of equals the one nearest to the default's weights."""
        means = values.mean(axis=1)
        equal = np.flatnonzero(means >= means.max() - 1e-12)
        return int(equal[np.argmin(self.near[equal])])


def _better(values: FloatArray, reference: FloatArray, margin: float) -> bool:
    """Whether the mean paired difference exceeds `margin` of its standard errors."""
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


@dataclass(frozen=True)
class _Prepared:
    """One query under one frame and one set of inputs: documents in the order that breaks ties."""

    values: FloatArray
    gains: FloatArray

    def dcg(self, weights: FloatArray, discounts: FloatArray) -> FloatArray:
        order = np.argsort(-(weights @ self.values), axis=1, kind="stable")[:, : discounts.size]
        return np.asarray(self.gains[order] @ discounts[: order.shape[1]], dtype=np.float64)


def _prepare(query: JudgedQuery, names: Sequence[str], frame: Frame) -> _Prepared:
    lists = {name: query.lists[name] for name in names}
    candidates = query.candidates
    if candidates is not None:
        inside = {identifier for listed in lists.values() for identifier in listed.ids}
        candidates = [identifier for identifier in candidates if identifier in inside]
    aligned = align(lists, candidates)
    if frame.method == "reciprocal_rank":
        values = np.where(aligned.ranks > 0, 1.0 / (frame.rank_constant + np.maximum(aligned.ranks, 1)), 0.0)
        keep = np.ones(len(aligned.ids), dtype=np.bool_)
    else:
        values, keep = normalise(aligned, frame.normalizations, frame.missing)
    best = best_ranks(aligned.ranks).tolist()
    order = sorted(np.flatnonzero(keep).tolist(), key=lambda i: (best[i], aligned.ids[i]))
    gains = np.array([max(query.judgments.get(aligned.ids[i], 0), 0) for i in order], dtype=np.float64)
    rows = [aligned.names.index(name) for name in names]  # `align` sorts by name
    return _Prepared(values[np.ix_(rows, order)], gains)


def _rows_by_support(weights: FloatArray) -> dict[tuple[int, ...], IntArray]:
    """Group the rows by which inputs they use: an input of weight 0 is left out of the fusion altogether."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, used in enumerate((weights > 0).tolist()):
        groups.setdefault(tuple(i for i, here in enumerate(used) if here), []).append(row)
    return {support: np.array(rows, dtype=np.int64) for support, rows in groups.items()}


def _speaks(listed: ScoredList | None, frame: Frame) -> bool:
    if listed is None or not len(listed.ids):
        return False
    return frame.method == "reciprocal_rank" or bool(np.isfinite(np.asarray(listed.scores, dtype=np.float64)).any())
