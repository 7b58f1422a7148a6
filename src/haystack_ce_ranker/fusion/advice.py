"""Compares the tuned setting with each input alone and with the default, and says in words which to use and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from haystack_ce_ranker.fusion.adaptive import Adaptation
from haystack_ce_ranker.fusion.calibration import Calibrated, calibrate
from haystack_ce_ranker.fusion.judged import Frame, JudgedQuery, Setting, fused, measure
from haystack_ce_ranker.fusion.normalizers import AUTO, FloatArray
from haystack_ce_ranker.fusion.tuning import Tuned, learning_curve, tune
from haystack_ce_ranker.significance import Interval, bootstrap, differences_of

_ALONE = " alone"  # ends the name of a system that is one input alone
_CURVE_SIZES = (5, 10, 20, 30, 50, 100, 200)
_FEW_QUERIES = 20  # with fewer, a bootstrap's intervals are too narrow


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


@dataclass(frozen=True)
class TuningResult:
    """
    What tuning a pipeline's joiner on a collection found.

    :param joiner: The component's name.
    :param systems: nDCG@10 by query: `<input> alone` for each input, `default`, `adaptive` if it adapts anything and
        is not the default, `tuned` (held out).
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
    def base(self) -> str:
        """The system that the others are compared with: the heaviest input alone."""
        return f"{self.heaviest}{_ALONE}"

    @property
    def recommended(self) -> Setting:
        """The setting that the advice names, with a weight for every input."""
        use = self.advice.use
        if use == "tuned":
            return self.tuned.setting
        if use in ("default", "adaptive"):
            return self.default if use == "default" else adaptive(self.default)
        return only(use.removesuffix(_ALONE), self.default)

    def intervals(self) -> dict[str, tuple[Interval, Interval]]:
        """Return, by system, nDCG@10 and its difference to `base`, with their intervals."""
        base = self.systems[self.base]
        return {
            key: (bootstrap(values), bootstrap(differences_of(values, base))) for key, values in self.systems.items()
        }


def adaptive(default: Setting) -> Setting:
    """Return a setting's inputs joined by weights that follow the query."""
    frame = Frame("adaptive", dict.fromkeys(default.weights, AUTO), default.frame.missing, adaptation=Adaptation())
    return Setting(frame, default.weights)


def only(name: str, setting: Setting) -> Setting:
    """Return the setting with all weight on one input."""
    return Setting(replace(setting.frame, adaptation=None), {other: float(other == name) for other in setting.weights})


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
        few = f"{len(queries)} labelled queries are few"
        notes.append(f"{few}: these intervals are too narrow to rely on; label some 30")
    tuned = tune(queries, default, folds=folds, seed=seed)
    heaviest = max(heard or default.weights, key=lambda name: (default.weights[name], name))
    alone = {f"{name}{_ALONE}": name for name in sorted(heard, key=lambda name: name == heaviest)}
    systems = {key: measure(queries, only(name, default)) for key, name in alone.items()}
    systems["default"] = measure(queries, default)
    if default.frame.adaptation is None and _adapts(queries, adaptive(default)):
        systems["adaptive"] = measure(queries, adaptive(default))
    systems["tuned"] = tuned.held_out
    return TuningResult(
        collection=collection,
        joiner=joiner,
        queries=tuple(queries),
        default=default,
        tuned=tuned,
        systems=systems,
        heaviest=heaviest,
        advice=advise(systems, alone, heaviest=f"{heaviest}{_ALONE}"),
        calibrated=calibrate(queries, default, folds=folds, seed=seed),
        labelled=learning_curve(queries, default, _CURVE_SIZES, seed=seed),
        notes=tuple(notes),
    )


def _adapts(queries: Sequence[JudgedQuery], setting: Setting) -> bool:
    decisions = (fused(query, setting).decision for query in queries)
    return any(one is not None and one.by is not None for one in decisions)


def advise(systems: Mapping[str, FloatArray], alone: Mapping[str, str], *, heaviest: str) -> Advice:
    """
    Say which system to use: the heaviest input alone, unless another is significantly better (paired bootstrap, 95 %).

    Of the better systems, the one with the highest mean is used, or a simpler one that is not significantly below it.
    One input alone is simpler than the default blend, this than the adaptive one, and that than a tuned one.

    :param systems: nDCG@10 by query, the simpler ones first; see `TuningResult`.
    :param alone: By the key of each system that is one input alone, the input's name.
    :param heaviest: The one of those keys whose input the default trusts most (the cross-encoder).
    """
    over = {
        key: bootstrap(differences_of(values, systems[heaviest])) for key, values in systems.items() if key != heaviest
    }
    better = [key for key, gain in over.items() if gain.low > 0.0]
    name = alone[heaviest]
    if not better:
        return Advice(heaviest, _nothing_better(over, alone, name), False)
    top = max(better, key=lambda key: float(systems[key].mean()))
    lost = {key: bootstrap(differences_of(systems[key], systems[top])) for key in better[: better.index(top)]}
    use = next((key for key, loss in lost.items() if loss.high >= 0.0), top)
    reason = f"use {_named(use, alone)}: significantly better than {name} alone ({_signed(over[use])})"
    for key in alone:  # the other inputs are worth their time only if no input would do alone
        if key not in (heaviest, use):
            reason += _beside(alone[key], bootstrap(differences_of(systems[use], systems[key])))
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
