"""
Is re-ranking worth it on the test collections: `haystack-ce-ranker evaluate` on each, and a table of the verdicts.

    python benchmarks/results.py                # all collections and the table: an hour
    python benchmarks/results.py covidqa summary --write

With `--write`, each collection's results.json (ids, offsets and figures, no texts) goes to `benchmarks/results/`, with
the picture of one. What was measured before is kept in `--cache` as long as the code stays the same. The float32 model
and the bi-encoder are measured where `--models` has them. Needs the extras `evaluate` and `onnx`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import kept
from common import CannotRun, Report
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


def output_of(name: str, arguments: argparse.Namespace) -> Path:
    """Return where a collection's results are kept: another folder for other code, queries or depths."""
    made_by = f"{kept.source_hash()[:12]}-{arguments.queries or 'all'}-{arguments.depth or 'all'}"
    folder: Path = arguments.cache / "results" / made_by / name
    return folder


def evaluate(name: str, arguments: argparse.Namespace, report: Report) -> None:
    """Evaluate one collection."""
    command = command_of(name, TASKS[name], arguments)
    output = output_of(name, arguments)
    report.say(f"`haystack-ce-ranker {' '.join(common.without_folders(command))} --output {name}`")
    program = [sys.executable, "-m", "haystack_ce_ranker.cli", *command, "--output", str(output)]
    done = subprocess.run(program, check=False, stdout=sys.stderr)
    if done.returncode:
        raise RuntimeError(f"evaluating {name} ended with {done.returncode}")
    if arguments.write:
        text = (output / "results.json").read_text(encoding="utf-8")
        text = text.replace(f"{Path.cwd()}{os.sep}", "")  # stands in notes on models that a backend cannot load
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(kept.compact_json(json.loads(text)), encoding="utf-8")
        if name == PICTURE:
            shutil.copy(output / "latency.svg", FOLDER / f"{name}.svg")


def command_of(name: str, task: Task, arguments: argparse.Namespace) -> list[str]:
    """Return the command line of `haystack-ce-ranker` that evaluates a collection."""
    folder = common.collection_folder(arguments, name if task.folder is None else task.folder)
    depth = arguments.depth if arguments.depth is not None else task.depth
    command = ["evaluate", str(folder), "--depth", depth, "--relevance-level", str(task.relevance_level)]
    command += ["--model", common.located_model(arguments)]
    float32 = arguments.models / "ce-minilm-l12"
    if task.float32 and float32.is_dir() and not arguments.quick:
        command += ["--model", str(float32)]
    else:
        command += ["--backend", arguments.backend]
    if task.bi_encoder:
        command += ["--bi-encoder", str(common.weights_folder(arguments, "bi-minilm-l6"))]
    if task.run is not None:
        command += ["--run", task.run]
    limits = [limit for limit in (task.queries, arguments.queries) if limit is not None]
    if limits:
        command += ["--queries", str(min(limits))]
    if arguments.quick:
        command += ["--no-memory"]
    return command


def summary(arguments: argparse.Namespace, report: Report) -> None:
    """Print a table: a collection a row, with the verdict and what it rests on."""
    files = {name: output_of(name, arguments) / "results.json" for name in TASKS}
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    if not found:
        raise CannotRun("no collection has been evaluated with this code")
    headings = ("collection", "baseline", "best re-ranked", "p", "worth it?", "choice", "p50 ms", "joules")
    report.table("Is re-ranking worth it?", *headings)
    for name, one in found.items():
        report.row(*summary_row(name, one))


def summary_row(name: str, one: dict[str, Any]) -> list[str]:
    """Return what the summary says of a collection, from its results.json."""
    systems, verdict = one["systems"], one["verdict"]
    subject = systems.get(verdict["subject"]) if verdict["subject"] is not None else None
    choice = systems[verdict["choice"]]
    p = "-" if subject is None or subject["versus"] is None else p_value(subject["versus"]["p_corrected"])
    return [
        f"{name} ({one['queries']})",
        f"{systems[one['baseline']]['nDCG@10']:.3f}",
        "-" if subject is None else f"{subject['nDCG@10']:.3f} ({verdict['subject']})",
        p,
        verdict["worth_it"],
        verdict["choice"],
        f"{choice['latency_ms']['p50']:,.1f}",
        f"{choice['joules_per_query']:.2g}",
    ]


def p_value(value: float) -> str:
    """Return a p-value as it stands in the table."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


PARTS = {**{name: partial(evaluate, name) for name in TASKS}, "summary": summary}
QUICK = {"queries": 3, "depth": "5"}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)
    parser.add_argument("--depth", help="depths separated by commas, in place of the table")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options, page=FOLDER / "README.md")

if __name__ == "__main__":
    BENCHMARK.main()
