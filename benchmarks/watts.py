"""
Fewer joules for the same ranking: what a depth that each query chooses, with screening, saves and costs.

    python benchmarks/watts.py

One model, BM25's 100 candidates of each query. Pairs are scored once and kept in `--cache`. Tokens stand for joules: on
one machine, a model's energy is nearly in proportion to the tokens that it reads. Work adds padding and what each pass
costs beside its tokens. Needs the extras `evaluate` and `onnx`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import common
from common import CannotRun, Report, collection_folder
from haystack_ce_ranker.backends.batching import CPU_PASS_TOKENS
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import QueryScores, ScoringCost
from haystack_ce_ranker.significance import Interval, bootstrap
from token_scoring import backend_of, candidates
from watts_blend import BLEND_PARTS
from watts_history import HISTORY_PARTS
from watts_probabilities import probabilities

DEPTH = 100
TASKS: Mapping[str, int | None] = {
    "dl19": None,
    "stackfaq": 120,
    "vaswani": None,
    "med": None,
    "cacm": None,
    "covidqa": 40,
    "dl19-long": 20,
}
"""How many queries of each collection; None: all."""
RISKS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0)
FIXED = (10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)
LOSS = 0.005
SHARE = 0.4
MISSED = 0.2
QUICK = {"queries": 4}


@dataclass
class Outcome:
    """For each query of a collection nDCG@10, the share of the tokens that was read, and the best documents missed."""

    quality: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean(self.quality))

    @property
    def cost(self) -> float:
        return float(np.mean(self.tokens))

    def over(self, other: "Outcome") -> Interval:
        return bootstrap(np.asarray(self.quality) - np.asarray(other.quality))


class Query:
    """A query with its candidates, scored whole once."""

    def __init__(
        self, scorer: CrossEncoderScorer, text: str, ids: Sequence[str], texts: list[DocumentText], judged: Mapping
    ) -> None:
        self.scorer, self.text, self.ids, self.texts, self.judged = scorer, text, ids, texts, judged

    @cached_property
    def _scored_whole(self) -> tuple[QueryScores, ScoringCost]:
        return self.scorer.score(self.text, self.texts)

    @property
    def whole(self) -> QueryScores:
        return self._scored_whole[0]

    @cached_property
    def _logits(self) -> NDArray[np.float64]:
        return np.asarray([-np.inf if one.logit is None else one.logit for one in self.whole.documents])

    @cached_property
    def _tokens(self) -> NDArray[np.float64]:
        return np.asarray([one.pair_tokens for one in self.whole.documents], dtype=np.float64)

    def add_chosen(self, rule: DepthRule, outcome: Outcome, *, screen: bool) -> None:
        """Add what a rule chooses."""
        found, cost = self.scorer.score(self.text, self.texts, depth=rule, screen=screen)
        self.add(np.asarray([one.logit is not None for one in found.documents]), outcome)
        outcome.work.append(_work(cost) / _work(self._scored_whole[1]))

    def add(self, scored: NDArray[np.bool_], outcome: Outcome) -> None:
        """Add what the ranking is worth if only these candidates are scored, and what it costs."""
        order = np.argsort(-np.where(scored, self._logits, -np.inf), kind="stable")
        run = {"query": ranked_scores([self.ids[place] for place in order])}
        outcome.quality.append(ndcg_at_10(run, {"query": dict(self.judged)})["query"])
        outcome.tokens.append(float(self._tokens[scored].sum() / max(self._tokens.sum(), 1.0)))
        outcome.missed.append(int((~scored[np.argsort(-self._logits, kind="stable")[: DepthRule().top]]).sum()))


def queries_of(arguments: argparse.Namespace, report: Report) -> dict[str, list[Query]]:
    """Return the queries of each collection that is there."""
    scorer = CrossEncoderScorer(backend_of(arguments))
    found = {}
    for name, limit in TASKS.items():
        with report.or_left_out(name):
            folder = collection_folder(arguments, name)
            collection = load_collection(folder).sample(limit if arguments.queries is None else arguments.queries)
            found[name] = [
                Query(
                    scorer,
                    collection.queries[query_id],
                    ids,
                    [DocumentText(collection.documents[one].content) for one in ids],
                    collection.judgments[query_id],
                )
                for query_id, ids in candidates(folder, collection, DEPTH).items()
                if ids
            ]
    if not found:
        raise CannotRun("none of the collections is there")
    return found


def outcome_of(queries: Sequence[Query], depth: int | DepthRule, *, screen: bool = False) -> Outcome:
    """Measure a depth: the first so many, or what a rule chooses."""
    outcome = Outcome()
    for query in queries:
        if isinstance(depth, DepthRule):
            query.add_chosen(depth, outcome, screen=screen)
        else:
            query.add(np.arange(len(query.ids)) < depth, outcome)
    return outcome


def _work(cost: ScoringCost) -> int:
    return max(cost.slots + CPU_PASS_TOKENS * cost.batches, 1)


def fixed_of_cost(queries: Sequence[Query], cost: float) -> tuple[int, Outcome]:
    """Return the smallest fixed depth that costs no less, and what it is worth."""
    for depth in FIXED:
        outcome = outcome_of(queries, depth)
        if outcome.cost >= cost:
            break
    return depth, outcome


def shown(gain: Interval) -> str:
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def show_adaptive_depth(arguments: argparse.Namespace, report: Report) -> None:
    """The default rule with screening against scoring all candidates, and against the fixed depth of the same cost."""
    rule = DepthRule()
    report.table(
        f"nDCG@10 with depth='auto' and screen=True (risk {rule.risk:g} of the best {rule.top}) against depth {DEPTH}",
        *("collection", "queries", "BM25", f"depth {DEPTH}", "auto, screened, less that [95 %]", "tokens", "work"),
        *("fixed depth of no lower cost", "auto, screened, less that [95 %]", "auto in BM25's order, less depth 100"),
    )
    shares, gains, over_fixed = [], [], []
    for name, queries in queries_of(arguments, report).items():
        first, whole = outcome_of(queries, 0), outcome_of(queries, DEPTH)
        chosen, ordered = outcome_of(queries, rule, screen=True), outcome_of(queries, rule)
        depth, fixed = fixed_of_cost(queries, chosen.cost)
        gain, over = chosen.over(whole), chosen.over(fixed)
        in_order = f"{ordered.over(whole).mean:+.4f} at {ordered.cost:.0%}"
        figures = (
            f"{first.mean:.4f}",
            f"{whole.mean:.4f}",
            shown(gain),
            f"{chosen.cost:.1%}",
            f"{np.mean(chosen.work):.1%}",
        )
        report.row(name, len(queries), *figures, f"{depth}: {fixed.mean:.4f}", shown(over), in_order)
        held = gain.high >= 0 and gain.mean >= -LOSS
        report.target(f"{name}: at most {LOSS} below depth {DEPTH}, and not significantly", held, shown(gain))
        report.target(f"{name}: not significantly below the fixed depth of its cost", over.high >= 0, shown(over))
        shares.append((chosen.cost, float(np.mean(chosen.work))))
        gains.append(gain.mean)
        over_fixed.append(over.mean)
    tokens, work = (float(share) for share in np.mean(shares, axis=0))
    costs = f"{np.mean(gains):+.4f}", f"{tokens:.1%}", f"{work:.1%}"
    report.row("mean", "", "", "", *costs, "", f"{np.mean(over_fixed):+.4f}", "")
    report.at_most(f"tokens on average, of those at depth {DEPTH}", tokens, SHARE, "{:.1%}")
    report.at_most(f"work on average, of that at depth {DEPTH}", work, SHARE, "{:.1%}")
    report.at_least("on average against the fixed depth of the same cost", float(np.mean(over_fixed)), 0.0, "{:+.4f}")


def show_risk(arguments: argparse.Namespace, report: Report) -> None:
    """What each risk costs, loses and truly misses; and the risk that the other collections would choose."""
    data = queries_of(arguments, report)
    whole = {name: outcome_of(queries, DEPTH) for name, queries in data.items()}
    report.table(
        "What a risk costs (share of the tokens), changes (nDCG@10 less depth 100), and misses of the best 5",
        *("risk", *data, "mean"),
    )
    by_risk: dict[float, dict[str, Outcome]] = {}
    for risk in RISKS:
        found = {name: outcome_of(queries, DepthRule(risk=risk), screen=True) for name, queries in data.items()}
        by_risk[risk] = found
        rows = [(one.cost, one.mean - whole[name].mean, float(np.mean(one.missed))) for name, one in found.items()]
        cells = [f"{cost:.0%} {change:+.4f} {missed:.2f}" for cost, change, missed in [*rows, np.mean(rows, axis=0)]]
        report.row(f"{risk:g}", *cells)
        if risk == DepthRule().risk:
            label = f"misses of the best {DepthRule().top} on average what the default risk says, or less"
            report.at_most(label, float(np.mean([missed for _, _, missed in rows])), risk)
    report.table(
        f"Chosen on the others: the largest risk that misses {MISSED:g} of the best 5 there, or less",
        *("left out", "risk", "nDCG@10 less depth 100 [95 %]", "tokens"),
    )
    for name in data:
        others = [other for other in data if other != name]
        kept = [risk for risk in RISKS if np.mean([np.mean(by_risk[risk][other].missed) for other in others]) <= MISSED]
        risk = max(kept, default=RISKS[0])
        outcome = by_risk[risk][name]
        gain = outcome.over(whole[name])
        report.row(name, f"{risk:g}", shown(gain), f"{outcome.cost:.1%}")
        label = f"{name}, risk chosen on the others: at most {LOSS} below, and not significantly"
        report.target(label, gain.high >= 0 and gain.mean >= -LOSS, shown(gain))


PARTS = {"adaptive_depth": show_adaptive_depth, "risk": show_risk, "probabilities": probabilities}
PARTS |= BLEND_PARTS | HISTORY_PARTS


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--second", help="another cross-encoder, for the part second_model")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
