"""
The gate at the end of training: a model is kept if unseen queries say that it is better than what was there.

The first stage, the untouched base and the trained model rank the same candidates, and are compared query by query. A
rule decides: `Better` asks for a gain over another system, `ShareOf` for a share of a teacher's quality.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.checks import choice, number
from haystack_ce_ranker.evaluation.judging.comparison import LEVEL, Versus, compare
from haystack_ce_ranker.evaluation.judging.formats import p_value
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, mean, measures, per_query
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.significance import holm
from haystack_ce_ranker.training.held_out import LABELS, HeldOut, Run, rank

TestSet = HeldOut
"""The unseen queries that a model is judged on."""

FIRST_STAGE, BASE, TRAINED, TEACHER = "first stage", "untouched base", "trained", "teacher"
"""The systems that are compared, as results name them."""

SAVE = ("better", "always")
"""Whether a model is written only if the rule is met, or in any case."""

LEAST_GAIN = 0.005
SHOWN = (NDCG_AT_10, "MRR@10")
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Decision:
    """Whether a rule is met, and why, as a sentence."""

    met: bool
    reason: str


class Rule(Protocol):
    """Decides from the systems' mean nDCG@10, and from what the trained model is against each of the others."""

    def decide(self, quality: Mapping[str, float], versus: Mapping[str, Versus]) -> Decision:
        """Return the decision."""
        ...


@dataclass(frozen=True)
class Better:
    """
    Met if the trained model is not significantly worse than another system, and better by a least gain.

    :ivar than: The other system.
    :ivar gain: The least gain in nDCG@10.
    """

    than: str = BASE
    gain: float = LEAST_GAIN

    def __post_init__(self) -> None:
        """Check the gain."""
        object.__setattr__(self, "gain", number("gain", self.gain, least=0, most=1))

    def decide(self, quality: Mapping[str, float], versus: Mapping[str, Versus]) -> Decision:
        """Return the decision."""
        found = versus[self.than]
        figures = (
            f"nDCG@10 {quality[TRAINED]:.4f} against {quality[self.than]:.4f} of the {self.than} "
            f"({found.difference:+.4f}, corrected p {p_value(found.p_corrected)})"
        )
        if found.difference < 0 and found.p_corrected < LEVEL:
            return Decision(False, f"the trained model is significantly worse: {figures}")
        if found.difference < self.gain - _TOLERANCE:
            return Decision(False, f"the trained model is not better by at least {self.gain:g}: {figures}")
        return Decision(True, f"the trained model is better: {figures}")


@dataclass(frozen=True)
class ShareOf:
    """
    Met if the trained model has a share of another system's nDCG@10.

    :ivar of: The other system.
    :ivar share: The share, from 0 to 1.
    """

    of: str = TEACHER
    share: float = 0.95

    def __post_init__(self) -> None:
        """Check the share."""
        object.__setattr__(self, "share", number("share", self.share, least=0, most=1))

    def decide(self, quality: Mapping[str, float], versus: Mapping[str, Versus]) -> Decision:  # noqa: ARG002
        """Return the decision."""
        ours, theirs = quality[TRAINED], quality[self.of]
        if not theirs:
            return Decision(False, f"the test tells nothing: nDCG@10 of the {self.of} is {theirs:.4f}, too")
        met = ours >= self.share * theirs - _TOLERANCE
        figures = f"nDCG@10 {ours:.4f} is {ours / theirs:.1%} of the {self.of}'s {theirs:.4f}"
        return Decision(met, f"{figures}, and {'' if met else 'at least '}{self.share:.1%} is asked for")


@dataclass(frozen=True)
class GateResult:
    """
    What the unseen queries say.

    :ivar queries: How many there are.
    :ivar judged_by: Where their judgments come from.
    :ivar by_query: For each system and measure, values by query id.
    :ivar versus: For each other system, the trained model against it by nDCG@10; the p are corrected by Holm's method.
    :ivar runs: For each system, its ranking.
    """

    queries: int
    judged_by: str
    by_query: Mapping[str, Mapping[str, Mapping[str, float]]]
    versus: Mapping[str, Versus]
    decision: Decision
    runs: Mapping[str, Run] = field(repr=False, default_factory=dict)

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """For each system, the mean of each measure that is shown."""
        return {name: {label: mean(values[label]) for label in SHOWN} for name, values in self.by_query.items()}

    def saves(self, save: str) -> bool:
        """
        Tell whether a model is to be written.

        :param save: One of `SAVE`.
        """
        return choice("save", save, SAVE) == "always" or self.decision.met

    def plain(self) -> dict[str, Any]:
        """Return plain values, without rankings and values by query."""
        return {
            "queries": self.queries,
            "judged_by": self.judged_by,
            "systems": self.means,
            "versus": {name: asdict(one) for name, one in self.versus.items()},
            "decision": asdict(self.decision),
        }


def judge(
    base: ModelOptions | str | None,
    trained: ModelOptions | str,
    test: TestSet,
    *,
    rule: Rule | None = None,
    policy: ReadingPolicy | None = None,
    known: Mapping[str, Run] | None = None,
    relevance_level: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> GateResult:
    """
    Compare the trained model with the first stage and with the untouched base on unseen queries.

    Models run in float32, and read documents as the ranker does.

    :param base: The untouched model; None if it cannot rank, as an encoder without a head.
    :param rule: What must hold; None for `Better()`, over the first stage if there is no base.
    :param policy: What the models may read of a document; as the ranker's defaults if None.
    :param known: Rankings of the test's candidates that need not be made again, by system: of the base, or of further
        systems such as the teacher.
    :param relevance_level: The lowest grade that counts as relevant for MRR.
    :param progress: Called with a system's name, the number of documents scored so far, and of all.
    """
    known = {} if known is None else known
    runs: dict[str, Run] = {FIRST_STAGE: test.first_stage(), **known}
    for name, model in ((BASE, base), (TRAINED, trained)):
        if model is not None and name not in runs:
            runs[name] = rank_with(model, test, policy=policy, name=name, progress=progress)
    if rule is None:
        rule = Better(BASE if BASE in runs else FIRST_STAGE)
    wanted = [one for one in measures(relevance_level) if one.label in SHOWN]
    by_query = {name: per_query(run, test.grades, wanted) for name, run in runs.items()}
    ours = by_query[TRAINED][NDCG_AT_10]
    found = {name: compare(values[NDCG_AT_10], ours) for name, values in by_query.items() if name != TRAINED}
    corrected = holm({name: one.p for name, one in found.items()})
    versus = {name: Versus(**vars(one), p_corrected=corrected[name]) for name, one in found.items()}
    quality = {name: mean(values[NDCG_AT_10]) for name, values in by_query.items()}
    decision = rule.decide(quality, versus)
    if test.judged_by != LABELS:
        decision = Decision(decision.met, f"{decision.reason}; the test is {test.judged_by}")
    return GateResult(len(test.queries), test.judged_by, by_query, versus, decision, runs)


def rank_with(
    model: ModelOptions | str,
    held_out: HeldOut,
    *,
    policy: ReadingPolicy | None = None,
    name: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Run:
    """Rank held-out candidates by a model in float32, as the ranker would."""
    options = ModelOptions(model) if isinstance(model, str) else model
    scorer = CrossEncoderScorer(loading.load("torch", options), policy)
    return rank(scorer, held_out, progress=None if progress is None else lambda done, all_: progress(name, done, all_))
