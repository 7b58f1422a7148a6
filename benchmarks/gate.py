"""
What a gate in front of the ranker is worth: for each predictor, the share of queries that it spares on queries it was
not fitted on, and the nDCG@10 given up; and the same for choosing the predictor, too, on other queries.

    python benchmarks/gate.py

Scores come from BM25Retriever and CrossEncoderRanker as in `fusion.py`, with which it shares the kept ones.
`haystack_ce_ranker.gating.fitting` fits and measures. Needs the extras `evaluate` and `onnx`.
"""

import argparse
from collections.abc import Mapping
from functools import partial

import common
from common import Report
from fusion_scores import ALONE, BM25, CE, DEFAULT, QUICK, TASKS, scores
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.fusion.judged import JudgedQuery, Setting, measure
from haystack_ce_ranker.gating.decision import PREDICTORS
from haystack_ce_ranker.gating.fitting import CAUTION, DRAWS, GateAdvice, GateQuery, fit_gate

CHOSEN = "chosen on the other half"


def queries_of(judged: list[JudgedQuery], setting: Setting) -> list[GateQuery]:
    """What the gate is fitted on: BM25's scores, and nDCG@10 of BM25 and after re-ranking."""
    kept, reranked = measure(judged, ALONE[BM25]), measure(judged, setting)
    return [
        GateQuery(query.id, query.lists[BM25].scores, float(before), float(after))
        for query, before, after in zip(judged, kept, reranked, strict=True)
    ]


def fitted(queries: list[GateQuery], arguments: argparse.Namespace) -> dict[str, GateAdvice]:
    """What each predictor alone is worth, and what choosing among them is."""
    rows = {**{name: (name,) for name in PREDICTORS}, CHOSEN: tuple(PREDICTORS)}
    return {
        row: fit_gate(queries, predictors=names, caution=arguments.caution, draws=arguments.draws)
        for row, names in rows.items()
    }


def gate(label: str, setting: Setting, arguments: argparse.Namespace, report: Report) -> None:
    """Print a table of predictors by collections, and what is advised for each collection."""
    data = scores(TASKS, arguments, report)
    found = {name: fitted(queries_of(judged, setting), arguments) for name, judged in data.items()}
    chosen = {name: rows[CHOSEN] for name, rows in found.items()}
    report.say(f"\n## Re-ranked: {label}\n")
    report.say("Held-out queries not re-ranked / nDCG@10 given up (by chance); bold: recommended")
    report.table(None, "", *(f"{name} ({advice.queries})" for name, advice in chosen.items()))
    report.row("gain of re-ranking all", *(f"{advice.gain:+.4f}" for advice in chosen.values()))
    for row in [*PREDICTORS, CHOSEN]:
        report.row(f"**{row}**" if row == CHOSEN else f"`{row}`", *cells_of(row, found))
    for name, advice in chosen.items():
        report.say(f"\n{name}: {advice.reason}")


def cells_of(row: str, found: Mapping[str, Mapping[str, GateAdvice]]) -> list[str]:
    """Return for each collection the share spared / nDCG@10 given up, on held-out queries."""
    cells = []
    for rows in found.values():
        held, chosen = rows[row], rows[CHOSEN]
        mark = "**" if chosen.recommended and row == chosen.predictor else ""
        cells.append(f"{mark}{held.saved:.0%} / {held.lost:+.4f} ({held.lost_by_chance:+.4f}){mark}")
    return cells


PARTS = {
    "cross_encoder": partial(gate, "the cross-encoder's order", ALONE[CE]),
    "join": partial(gate, "the 80/20 join", DEFAULT),
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--caution", type=float, default=CAUTION, help="standard errors; see find_threshold")
    parser.add_argument("--draws", type=int, default=DRAWS, help="random halvings")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
