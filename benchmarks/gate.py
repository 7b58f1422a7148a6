"""
What a gate in front of the ranker is worth: for each predictor, the share of queries that it spares on queries it was
not fitted on, and the nDCG@10 given up; and the same for choosing the predictor, too, on other queries.

    python benchmarks/gate.py --cache .cache/gate --output .cache/gate.json

Scores come from BM25Retriever and CrossEncoderRanker as in `fusion.py`, whose cache it shares.
`haystack_ce_ranker.gating.fitting` fits and measures. Needs the extras `evaluate` and `onnx`.
"""

import argparse
import json
import os
from pathlib import Path

from fusion import ALONE, BM25, CE, DEFAULT, TASKS, scores_of
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.evaluation.commands.fit_gate import as_json
from haystack_ce_ranker.fusion.judged import JudgedQuery, Setting, measure
from haystack_ce_ranker.gating.decision import PREDICTORS
from haystack_ce_ranker.gating.fitting import CAUTION, DRAWS, GateAdvice, GateQuery, fit_gate

RERANKED = {"the cross-encoder's order": ALONE[CE], "the 80/20 join": DEFAULT}
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


def markdown(found: dict[str, dict[str, GateAdvice]]) -> str:
    """A table of predictors by collections: share spared / nDCG@10 given up, on held-out queries."""
    chosen = {name: rows[CHOSEN] for name, rows in found.items()}
    lines = ["| | " + " | ".join(f"{name} ({advice.queries})" for name, advice in chosen.items()) + " |"]
    lines.append("|---|" + "---|" * len(chosen))
    lines.append("| gain of re-ranking all | " + " | ".join(f"{a.gain:+.4f}" for a in chosen.values()) + " |")
    for row in [*PREDICTORS, CHOSEN]:
        cells = []
        for name, rows in found.items():
            held = rows[row]
            mark = "**" if chosen[name].recommended and row == chosen[name].predictor else ""
            cells.append(f"{mark}{held.saved:.0%} / {held.lost:+.4f} ({held.lost_by_chance:+.4f}){mark}")
        lines.append(f"| {f'**{row}**' if row == CHOSEN else f'`{row}`'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--model", default=OFFLINE_MODEL)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--queries", type=int, default=None, help="at most so many queries a collection")
    parser.add_argument("--cache", type=Path, default=None, help="where to keep scores between runs")
    parser.add_argument("--collections", nargs="*", default=list(TASKS))
    parser.add_argument("--caution", type=float, default=CAUTION, help="standard errors; see find_threshold")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--output", type=Path, default=None, help="a JSON file for the figures")
    arguments = parser.parse_args()
    found: dict[str, dict[str, dict[str, GateAdvice]]] = {label: {} for label in RERANKED}
    for name in arguments.collections:
        folder = arguments.data / name
        if not folder.is_dir():
            print(f"{name} is left out: there is no {folder}")
            continue
        judged = scores_of(name, TASKS[name], folder, arguments)
        for label, setting in RERANKED.items():
            found[label][name] = fitted(queries_of(judged, setting), arguments)
    for label, by_collection in found.items():
        print(
            f"\nre-ranked: {label}. Held-out queries not re-ranked / nDCG@10 given up (by chance); bold: recommended\n"
        )
        print(markdown(by_collection))
        for name, rows in by_collection.items():
            print(f"\n{name}: {rows[CHOSEN].reason}")
    if arguments.output is not None:
        plain = {
            label: {name: {row: as_json(advice) for row, advice in rows.items()} for name, rows in of.items()}
            for label, of in found.items()
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
