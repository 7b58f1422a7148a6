"""
The output folder of a training workflow: its work folder while it runs, and at the end a model or a report.

A folder holds a model only if the gate let it through. Nothing is written outside it.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.machine.facts import machine
from haystack_ce_ranker.training.card import card

WORK, REPORT, SETTINGS, CARD = "work", "report.json", "training.json", "README.md"


def work_folder(output: Path, *, fresh: bool = False) -> Path:
    """
    Return the folder for checkpoints and the like, inside the output folder, and make it.

    :param output: A folder that is not there yet, or is empty, or holds a run that was interrupted or refused.
    :param fresh: Whether to throw away what an interrupted run left.
    :raises ValueError: If `output` holds something else.
    """
    held = {one.name for one in output.iterdir()} if output.is_dir() else {output.name} if output.exists() else set()
    if held and WORK not in held and held != {REPORT}:
        raise ValueError(
            "output must be a folder that is not there yet, or empty, or holds a run to go on with, but got "
            f"{str(output)!r}."
        )
    work = output / WORK
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def save_model(output: Path, model: Path, facts: Mapping[str, Any]) -> None:
    """
    Write a model with its card into the output folder, and remove the work folder.

    :param model: A folder with the model's files.
    :param facts: Plain values, see `card`.
    """
    facts = {**facts, "machine": machine()}
    write_text(output / SETTINGS, json.dumps(facts, indent=2, allow_nan=False))
    write_text(output / CARD, card(facts))
    for file in sorted(model.iterdir(), key=lambda one: one.suffix == ".safetensors"):  # the weights come last
        if file.is_dir():
            shutil.copytree(file, output / file.name)
        else:
            shutil.copy2(file, output / file.name)
    (output / REPORT).unlink(missing_ok=True)
    shutil.rmtree(output / WORK)


def save_refusal(output: Path, facts: Mapping[str, Any]) -> Path:
    """
    Write what was tried and why it was refused, and remove the work folder with the model.

    :returns: The report's path.
    """
    shutil.rmtree(output / WORK)
    write_text(output / REPORT, json.dumps({**facts, "machine": machine()}, indent=2, allow_nan=False))
    return output / REPORT
