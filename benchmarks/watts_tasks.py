"""
Queries with candidates that are scored whole once, so that any choice among these costs nothing more to try.

    python benchmarks/watts.py adaptive_depth

What the parts of `watts.py` on depth share. They hold a choice against scoring all, and against the fixed depth of the
same cost.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common import CannotRun, Report, collection_folder
from haystack_ce_ranker.backends.batching import CPU_PASS_TOKENS
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import QueryScores, ScoringCost
from haystack_ce_ranker.significance import Interval, bootstrap
from token_scoring import backend_of, candidates

DEPTH = 100
LOSS = 0.005
SHARE = 0.4
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
FIXED = (10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)


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
    def tokens(self) -> NDArray[np.float64]:
        return np.asarray([one.pair_tokens for one in self.whole.documents], dtype=np.float64)

    def scored_by(self, rule: DepthRule, texts: Sequence[DocumentText]) -> NDArray[np.bool_]:
        """Return which texts a rule with screening scores, if they come in this order; shape (texts,)."""
        found, _ = self.scorer.score(self.text, texts, depth=rule, screen=True)
        return np.asarray([one.logit is not None for one in found.documents])

    def add_chosen(self, rule: DepthRule, outcome: Outcome, *, screen: bool) -> None:
        """Add what a rule chooses."""
        found, cost = self.scorer.score(self.text, self.texts, depth=rule, screen=screen)
        self.add(np.asarray([one.logit is not None for one in found.documents]), outcome)
        outcome.work.append(_work(cost) / _work(self._scored_whole[1]))

    def add(
        self, scored: NDArray[np.bool_], outcome: Outcome, *, then: Sequence[int] | None = None, own: float = 0.0
    ) -> None:
        """
        Add what the ranking is worth if only these candidates are scored, and what it costs.

        :param then: The rank of each candidate among those that are not scored; as they came if None.
        :param own: What the choice itself costs, as a share of the tokens of all candidates.
        """
        ranks = np.arange(len(self.ids)) if then is None else np.asarray(then)
        order = np.lexsort((ranks, -np.where(scored, self._logits, -np.inf)))
        run = {"query": ranked_scores([self.ids[place] for place in order])}
        outcome.quality.append(ndcg_at_10(run, {"query": dict(self.judged)})["query"])
        outcome.tokens.append(own + float(self.tokens[scored].sum() / max(self.tokens.sum(), 1.0)))
        outcome.missed.append(int((~scored[np.argsort(-self._logits, kind="stable")[: DepthRule().top]]).sum()))


def queries_of(
    arguments: argparse.Namespace, report: Report, tasks: Mapping[str, int | None] = TASKS
) -> dict[str, list[Query]]:
    """Return the queries of each collection that is there; `--queries` overrides how many."""
    scorer = CrossEncoderScorer(backend_of(arguments))
    found = {}
    for name, limit in tasks.items():
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
