"""
Fewer joules for the same ranking: what a depth that each query chooses, with screening, saves and costs.

    python benchmarks/watts.py

One model, BM25's 100 candidates of each query. Pairs are scored once and kept in `--cache`. Tokens stand for joules: on
one machine, a model's energy is nearly in proportion to the tokens that it reads. Work adds padding and what each pass
costs beside its tokens. Needs the extras `evaluate` and `onnx`.
"""

import argparse

import numpy as np

import common
from common import Report
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.scoring.depth import DepthRule
from watts_blend import BLEND_PARTS
from watts_energy import energy
from watts_history import HISTORY_PARTS
from watts_probabilities import probabilities
from watts_screening import screening
from watts_tasks import DEPTH, LOSS, SHARE, Outcome, fixed_of_cost, outcome_of, queries_of, shown
from watts_window_models import MODEL_PARTS
from watts_windows import WINDOW_PARTS

RISKS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0)
MISSED = 0.2
QUICK = {"queries": 4}


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


PARTS = {"adaptive_depth": show_adaptive_depth, "energy": energy, "screening": screening, "risk": show_risk}
PARTS |= {"probabilities": probabilities} | BLEND_PARTS | HISTORY_PARTS | WINDOW_PARTS | MODEL_PARTS


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument(
        "--second", help="another cross-encoder, for second_model and window_models, or a student, for screening"
    )
    parser.add_argument("--second-backend", default="torch", help="what runs it")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
