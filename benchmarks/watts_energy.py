"""
What a depth that each query chooses truly spends: joules where the machine has a meter of them, else CPU seconds.

    python benchmarks/watts.py energy --threads 1 --queries 31    # the first of each collection only warms up

A part of `watts.py`, which prints and keeps it. Nothing is taken from kept scores: a scorer with its defaults ranks
each query, with all that belongs to it, from the texts to the scores. Each way has a scorer of its own, so that none
finds documents that another one tokenised. They take turns, query by query, and another one begins each time.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common import CannotRun, Report
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.machine.energy import EnergyMeter, meter_for
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.significance import Interval, bootstrap
from token_scoring import backend_of
from watts_tasks import DEPTH, SHARE, Query, queries_of

WHOLE, CHOSEN = f"depth {DEPTH}", "auto, screened"
OTHERS = {f"{CHOSEN}, steps of {step}": DepthRule(step=step) for step in (5,)}
"""What else is measured beside the default rule, whose steps are `depth.CPU_STEP`."""

WAYS: Mapping[str, Mapping[str, Any]] = {
    WHOLE: {"depth": DEPTH},
    CHOSEN: {"depth": DepthRule(), "screen": True},
    **{name: {"depth": rule, "screen": True} for name, rule in OTHERS.items()},
}


class Spent(NamedTuple):
    """
    What a ranking took.

    :ivar energy: Joules, or CPU seconds.
    """

    energy: float
    cost: ScoringCost


class Share(NamedTuple):
    """
    What a way spends of what scoring all does, as means over the queries.

    :ivar energy: With its interval.
    :ivar tokens: The same of the tokens alone.
    :ivar above: For each query, by how much the share of the energy is above that of the tokens.
    """

    energy: Interval
    tokens: float
    above: Sequence[float]

    @classmethod
    def of(cls, few: Sequence[Spent], whole: Sequence[Spent]) -> "Share":
        """Return the shares of rankings of the same queries."""
        pairs = list(zip(few, whole, strict=True))
        energy = np.asarray([one.energy / all_.energy for one, all_ in pairs])
        tokens = np.asarray([one.cost.tokens / all_.cost.tokens for one, all_ in pairs])
        return cls(bootstrap(energy), float(tokens.mean()), (energy - tokens).tolist())


def energy(arguments: argparse.Namespace, report: Report) -> None:
    """What depth='auto' with screen=True spends of what depth 100 does, measured in turns."""
    meter = meter_for()
    backend = backend_of(arguments).forgetful
    data = queries_of(arguments, report)
    report.say(f"\nThreads: {arguments.threads}. Energy is {told(meter)}.")
    unit = unit_of(meter)
    report.table(
        f"What depth='auto' with screen=True spends of what depth {DEPTH} does",
        *("collection", "queries", f"{WHOLE}: {unit} a query, median", f"{CHOSEN}, median", "share [95 %]"),
        *("share of the tokens", "time without the model, of auto's", *(f"{name}, share (tokens)" for name in OTHERS)),
    )
    shares: dict[str, list[Share]] = {name: [] for name in (CHOSEN, *OTHERS)}
    for name, queries in data.items():
        if len(queries) < 2:
            report.leave_out(name, "it needs two queries, one of which warms up")
            continue
        found = in_turns(backend, queries, meter)
        for way, some in shares.items():
            some.append(Share.of(found[way], found[WHOLE]))
        medians = [f"{np.median([one.energy for one in found[way]]):.3f}" for way in (WHOLE, CHOSEN)]
        share, tokens, _ = shares[CHOSEN][-1]
        figures = (
            f"{share.mean:.1%} [{share.low:.1%}, {share.high:.1%}]",
            f"{tokens:.1%}",
            f"{beside(found[CHOSEN]):.1%}",
        )
        report.row(name, len(found[WHOLE]), *medians, *figures, *(shown([shares[other][-1]]) for other in OTHERS))
    if not shares[CHOSEN]:
        raise CannotRun("no collection has two queries with candidates")
    mean, of_tokens = means(shares[CHOSEN])
    report.row("mean", "", "", "", f"{mean:.1%}", f"{of_tokens:.1%}", "", *(shown(shares[other]) for other in OTHERS))
    above = bootstrap(np.asarray([one for share in shares[CHOSEN] for one in share.above]))
    report.say(
        f"\nPer query the share of the {unit} is {above.mean:+.1%} [{above.low:+.1%}, {above.high:+.1%}] from that of "
        "the tokens."
    )
    report.at_most(f"{unit} on average, of those at depth {DEPTH}", mean, SHARE, "{:.1%}")


def in_turns(backend: Backend, queries: Sequence[Query], meter: EnergyMeter) -> dict[str, list[Spent]]:
    """Rank queries in all ways; the first of them only warms up."""
    scorers = {way: CrossEncoderScorer(backend) for way in WAYS}
    found: dict[str, list[Spent]] = {way: [] for way in WAYS}
    ways = deque(WAYS)
    for number, query in enumerate(queries):
        for way in ways:
            rank = partial(scorers[way].score, query.text, query.texts, **WAYS[way])
            spent = measured(meter, rank)
            if number:
                found[way].append(spent)
        ways.rotate(1)
    return found


def beside(spent: Sequence[Spent]) -> float:
    """Return the median share of a ranking's time in which no model runs: tokenising and choosing."""
    costs = [one.cost for one in spent]
    return float(np.median([1.0 - one.score / (one.tokenise + one.select + one.score) for one in costs]))


def means(shares: Sequence[Share]) -> tuple[float, float]:
    """Return the mean share of the energy over collections, and that of the tokens."""
    return float(np.mean([one.energy.mean for one in shares])), float(np.mean([one.tokens for one in shares]))


def shown(shares: Sequence[Share]) -> str:
    """Return the mean shares over collections as a cell."""
    spent, tokens = means(shares)
    return f"{spent:.1%} ({tokens:.1%})"


def measured(meter: EnergyMeter, rank: Callable[[], tuple[object, ScoringCost]]) -> Spent:
    """Return what a ranking takes, by the meter or, if it can only estimate, by the CPU time of this process."""
    busy = time.process_time()
    with meter.measure() as spent:
        _, cost = rank()
    return Spent(spent.joules if _is_measured(meter) else time.process_time() - busy, cost)


def unit_of(meter: EnergyMeter) -> str:
    """Return what energy is told in."""
    return "joules" if _is_measured(meter) else "CPU seconds"


def told(meter: EnergyMeter) -> str:
    """Say where the figures come from."""
    if _is_measured(meter):
        return meter.source
    return (
        "the CPU time of the process, because no meter can be read on this machine. The package's estimate of joules "
        f"is the same seconds by {meter.watts:.1f} W"
    )


def _is_measured(meter: EnergyMeter) -> bool:
    return meter.source.startswith("measured")
