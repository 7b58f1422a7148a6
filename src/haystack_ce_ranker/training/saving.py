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
_MARK = "of-haystack-ce-ranker.json"
"""Stands in a work folder of ours, and names the files that are being written beside it."""


def work_folder(output: Path, *, fresh: bool = False) -> Path:
    """
    Return the folder for checkpoints and the like, inside the output folder, and make it.

    :param output: A folder that is not there yet, or is empty, or holds a run that was interrupted or refused.
    :param fresh: Whether to throw away what an interrupted run left.
    :raises ValueError: If `output` holds something else.
    """
    work = output / WORK
    held = {one.name for one in output.iterdir()} if output.is_dir() else {output.name} if output.exists() else set()
    if not held <= {REPORT, *_of_ours(work)}:
        raise ValueError(
            "output must be a folder that is not there yet, or empty, or holds a run to go on with and nothing else, "
            f"but got {str(output)!r}."
        )
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / _MARK).is_file():
        write_text(work / _MARK, "[]")
    return work


def _of_ours(work: Path) -> list[str]:
    """Return what may stand in an output folder because of its work folder: nothing if that is none of ours."""
    if work.is_symlink() or not (work / _MARK).is_file():
        return []
    return [WORK, *map(str, json.loads((work / _MARK).read_text(encoding="utf-8")))]


def save_model(output: Path, model: Path, facts: Mapping[str, Any]) -> None:
    """
    Write a model with its card into the output folder, and remove the work folder.

    :param model: A folder with the model's files.
    :param facts: Plain values, see `card`.
    """
    facts = {**facts, "machine": machine()}
    files = sorted(model.iterdir(), key=lambda one: one.suffix == ".safetensors")  # the weights come last
    write_text(output / WORK / _MARK, json.dumps([SETTINGS, CARD, *(file.name for file in files)]))
    write_text(output / SETTINGS, json.dumps(facts, indent=2, allow_nan=False))
    write_text(output / CARD, card(facts))
    for file in files:
        _put(file, output / file.name, output / WORK / "part")
    (output / REPORT).unlink(missing_ok=True)
    shutil.rmtree(output / WORK)


def _put(file: Path, target: Path, part: Path) -> None:
    """Copy a file or a folder at once or not at all, by way of another place on the same disk."""
    for old in (part, target):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    if file.is_dir():
        shutil.copytree(file, part)
    else:
        shutil.copy2(file, part)
    part.replace(target)


def save_refusal(output: Path, facts: Mapping[str, Any]) -> Path:
    """
    Write what was tried and why it was refused, and remove the work folder with the model.

    :returns: The report's path.
    """
    shutil.rmtree(output / WORK)
    write_text(output / REPORT, json.dumps({**facts, "machine": machine()}, indent=2, allow_nan=False))
    return output / REPORT
