"""
Is re-ranking worth it on the test collections: `haystack-ce-ranker evaluate` on each, and a table of the verdicts.

    python benchmarks/results.py --float32 .models/ce-minilm-l12 --bi-encoder .models/bi-minilm-l6

Keeps each collection's results.json in `benchmarks/results/` (ids, offsets and figures, no texts), with the picture of
one, and prints the summary for the README. What was measured before is kept in `--cache` and not measured again: remove
it to measure anew. Collections that are missing are skipped with a word. Needs the extras `evaluate` and `onnx`;
without the two options, which name folders of weights, it measures the int8 model behind BM25 alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL

FOLDER = Path(__file__).parent / "results"
PICTURE = "covidqa"
"""The collection whose picture of quality against latency is kept."""


@dataclass(frozen=True)
class Task:
    """
    How a collection is evaluated.

    :param folder: The collection's, where the task has another name.
    :param relevance_level: The lowest grade that counts in binary measures.
    :param float32: Whether the same model in float32 is measured beside the int8 one, on every backend.
    :param bi_encoder: Whether a bi-encoder is measured as a second first stage.
    """

    depth: str
    queries: int | None = None
    run: str | None = None
    folder: str | None = None
    relevance_level: int = 1
    float32: bool = False
    bi_encoder: bool = False


TASKS = {
    "dl19": Task("10,20,50,100", run="run.bm25.tsv", relevance_level=2, float32=True),
    "dl19-long": Task("10,20", run="run.bm25.tsv", relevance_level=2),
    "covidqa": Task("5,10,20", queries=100),
    "stackfaq": Task("5,10,20", queries=100),
    "stackfaq-bi-encoder": Task("5,10,20", queries=100, folder="stackfaq", bi_encoder=True),
    "cacm": Task("10,20,50"),
    "med": Task("10,20,50"),
    "vaswani": Task("10,20,50"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="*", default=list(TASKS), help="which of them; all by default")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--model", default=OFFLINE_MODEL, help="the cross-encoder, int8 ONNX by default")
    parser.add_argument("--float32", help="the same model's float32 folder")
    parser.add_argument("--bi-encoder", help="a bi-encoder's folder")
    parser.add_argument("--queries", type=int, help="at most so many of each collection")
    parser.add_argument("--cache", type=Path, default=Path(".cache/results"))
    arguments = parser.parse_args()
    for name in arguments.collections:
        task = TASKS[name]
        folder = arguments.data / (name if task.folder is None else task.folder)
        if not folder.is_dir():
            print(f"{name}: {folder} is not there, skipped")
        elif task.bi_encoder and arguments.bi_encoder is None:
            print(f"{name}: no --bi-encoder is named, skipped")
        else:
            _evaluate(name, folder, task, arguments)
    print()
    print(
        "\n".join(summary({path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}))
    )


def _evaluate(name: str, folder: Path, task: Task, arguments: argparse.Namespace) -> None:
    output = arguments.cache / name
    command = [sys.executable, "-m", "haystack_ce_ranker.cli", "evaluate", str(folder)]
    command += ["--depth", task.depth, "--relevance-level", str(task.relevance_level), "--output", str(output)]
    command += ["--model", arguments.model]
    if task.float32 and arguments.float32 is not None:
        command += ["--model", arguments.float32]
    else:
        command += ["--backend", "onnx"]
    if task.bi_encoder:
        command += ["--bi-encoder", arguments.bi_encoder]
    if task.run is not None:
        command += ["--run", task.run]
    limits = [limit for limit in (task.queries, arguments.queries) if limit is not None]
    if limits:
        command += ["--queries", str(min(limits))]
    print("$", " ".join(["haystack-ce-ranker", *command[3:]]), flush=True)
    subprocess.run(command, check=True)
    FOLDER.mkdir(exist_ok=True)
    text = (output / "results.json").read_text(encoding="utf-8")
    here = f"{Path.cwd()}{os.sep}"  # stands in notes on models that a backend cannot load
    (FOLDER / f"{name}.json").write_text(text.replace(here, ""), encoding="utf-8")
    if name == PICTURE:
        shutil.copy(output / "latency.svg", FOLDER / f"{name}.svg")


def summary(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a Markdown table: a collection a row, with the verdict and what it rests on."""
    rows = ["| collection | baseline | best re-ranked | p | worth it? | choice | p50 ms | joules |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        systems, verdict = one["systems"], one["verdict"]
        subject = systems.get(verdict["subject"]) if verdict["subject"] is not None else None
        choice = systems[verdict["choice"]]
        against = "-" if subject is None else f"{subject['nDCG@10']:.3f} ({verdict['subject']})"
        p = "-" if subject is None or subject["versus"] is None else _p(subject["versus"]["p_corrected"])
        cells = [
            f"{name} ({one['queries']})",
            f"{systems[one['baseline']]['nDCG@10']:.3f}",
            against,
            p,
            verdict["worth_it"],
            verdict["choice"],
            f"{choice['latency_ms']['p50']:,.1f}",
            f"{choice['joules_per_query']:.2g}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


if __name__ == "__main__":
    main()
