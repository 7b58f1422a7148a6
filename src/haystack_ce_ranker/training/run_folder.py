"""
The folder of a training run: checkpoints while it goes on, the model when it is done, and the settings that it is for.

Files are written at once or not at all, so that a kill leaves none that is half of one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from haystack_ce_ranker.data_files import write_text

MODEL, CHECKPOINTS = "model", "checkpoints"
SETTINGS, DONE, SPENT, BEFORE = "settings.json", "done.json", "spent.jsonl", "before.json"
_STATE = "trainer_state.json"


class OtherSettingsError(ValueError):
    """A folder holds a run with other settings, which cannot go on with these."""


def claim(folder: Path, key: str, *, resume: bool) -> None:
    """Take a folder for a run: as it is if it holds the same run, else empty."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / SETTINGS
    if not resume:
        for name in (CHECKPOINTS, MODEL):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (SETTINGS, DONE, SPENT, BEFORE):
            (folder / name).unlink(missing_ok=True)
    if not settings.is_file():
        write(settings, key)
    elif json.loads(settings.read_text(encoding="utf-8")) != key:
        raise OtherSettingsError(
            f"{folder} holds a run with another base, other data or other settings, which cannot go on with these: "
            "use another folder, or begin anew (--fresh)."
        )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; None if there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]), reverse=True)
    for one in found:
        try:
            state_of(one)
        except (OSError, ValueError):  # a kill came while it was written
            continue
        return one
    return None


def state_of(checkpoint: Path | None) -> dict[str, Any]:
    """Return the trainer's state, which is written last of a checkpoint."""
    if checkpoint is None:
        raise FileNotFoundError("there is no checkpoint")
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    return state


def is_over(checkpoint: Path, patience: int) -> bool:
    """Tell whether the run had stopped early when it wrote this checkpoint."""
    stopping = state_of(checkpoint)["stateful_callbacks"].get("EarlyStoppingCallback", {})
    waited: int = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return waited >= patience


def keep(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint's model, without what only the trainer needs."""
    unfinished = folder.with_name(f"{folder.name}.part")
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.pt", "*.pth", "*.bin", _STATE)
    shutil.copytree(checkpoint, unfinished, ignore=ignored)
    unfinished.replace(folder)


def write(file: Path, value: Any) -> None:
    """Write a file at once or not at all."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False))
