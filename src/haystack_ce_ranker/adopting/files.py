"""Moves a pipeline's file: reads it, changes its text, and sees that a fresh process loads it before it is written."""

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from haystack_ce_ranker.adopting.converting import changes_of
from haystack_ce_ranker.adopting.edits import Change, edited, edits_of
from haystack_ce_ranker.adopting.yaml_text import FormError, edited_text, parsed
from haystack_ce_ranker.data_files import write_text

_SECONDS = 300
_LOAD = """
import sys
from haystack import Pipeline
try:
    Pipeline.loads(sys.stdin.read())
except Exception as error:
    print(f"{type(error).__name__}: {' '.join(str(error).split())}")
    sys.exit(3)
"""
_OPEN = re.compile(r"\$\{(\w+)\}")
_OF_CODE = ("HAYSTACK_", "PYTHON", "LD_", "DYLD_")
_TOLD = 400  # characters of another library's error


class AdoptError(ValueError):
    """A file cannot be moved; the message names it and says what to do."""


@dataclass(frozen=True)
class AdoptedFile:
    """
    A file's text before and after.

    :ivar changes: What is different, and what stays as it is and why.
    """

    before: str
    after: str
    changes: list[Change]

    def difference(self) -> list[str]:
        """Return the lines that differ, as `diff` shows them, without those around them."""
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0)
        return [line for line in list(lines)[2:] if not line.startswith("@@")]


def adopt_text(text: str, *, model: str | None = None, backend: str | None = None, insert: bool = False) -> AdoptedFile:
    """
    Return what a pipeline's YAML becomes; see `pipelines.adopt` for the parameters.

    :raises AdoptError: If it describes no pipeline, or its form does not allow a change.
    """
    try:
        described = parsed(text)
    except yaml.YAMLError as error:
        raise AdoptError(f"it is no YAML: {' '.join(str(error).split())[:_TOLD]}") from error
    changes = changes_of(described, model=model, backend=backend, insert=insert)
    edits = edits_of(changes)
    try:
        after = edited_text(text, edits)
        same = parsed(after) == edited(described, edits)
    except (FormError, yaml.YAMLError) as error:
        raise AdoptError(f"its form does not allow the change: {error}") from error
    if not same:
        raise AdoptError("lines of it stand for two components (`&` and `*`): write both out, and adopt again")
    return AdoptedFile(text, after, changes)


def adopt_file(
    path: Path, *, model: str | None = None, backend: str | None = None, insert: bool = False
) -> AdoptedFile:
    """
    Return what a pipeline's file becomes, once a fresh process has loaded it; nothing is written.

    :raises AdoptError: If it cannot be moved, or does not load afterwards.
    :raises OSError: If it cannot be read, or `model` names a folder that is not there.
    """
    text = read(path)
    try:
        found = adopt_text(text, model=model, backend=backend, insert=insert)
    except ValueError as error:
        raise AdoptError(f"{path}: {error}") from error
    if found.after != text:
        fault = loading_fault(found.after)
        if fault is not None:
            before = loading_fault(text)
            whose = "the pipeline does not load here, neither before nor after the change"
            if before is None:
                whose = "the pipeline loads as it is, but not after the change; please report this"
            raise AdoptError(f"{path}: {whose}: {fault}. {remedy(fault)}Nothing was written.")
    return found


def read(path: Path) -> str:
    """
    Return the text of a pipeline's file, with plain line ends.

    :raises AdoptError: If it is no text.
    :raises OSError: If it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise AdoptError(f"{path}: it is no text in UTF-8") from error


def filled(text: str) -> str:
    """Return a text with `${NAME}` filled in from the environment, where it is set there."""
    return _OPEN.sub(lambda found: os.environ.get(found[1], found[0]), text)


def write(found: AdoptedFile, source: Path, output: Path) -> None:
    """Write a file's new text, with the line ends of the old one; at once, so that no reader sees a part of it."""
    ends = "\r\n" if b"\r\n" in source.read_bytes() else "\n"
    write_text(output, found.after.replace("\n", ends))


def loading_fault(text: str) -> str | None:
    """
    Load a pipeline in a fresh process, as a server does, and return what is wrong in one line; None if it loads.

    `${NAME}` is filled in from the environment where it is set there. Secrets need not be set: a placeholder stands for
    those that the pipeline names, and none is used by loading.
    """
    whole = filled(text)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOAD],  # -P: no module is taken from the current folder
        input=whole,
        env={**dict.fromkeys(_secrets(parsed(whole)), "placeholder"), **os.environ},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return None
    told = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["the process ended"]
    return told[-1][:_TOLD]


def _secrets(described: Any) -> set[str]:
    """
    Return the environment variables that a description names, and that must be set.

    None of those that say what code runs, Haystack's own list of modules to trust among them.
    """
    if isinstance(described, Mapping):
        if described.get("type") == "env_var" and described.get("strict", True):
            named = map(str, described.get("env_vars") or ())
            return {name for name in named if not name.upper().startswith(_OF_CODE)}
        return set().union(*map(_secrets, described.values()))
    return set().union(*map(_secrets, described)) if isinstance(described, list) else set()


def remedy(fault: str) -> str:
    """Return what to do about a fault, where that is known."""
    if "safe mode" in fault:
        return "If you trust the file, set HAYSTACK_UNSAFE_DESERIALIZATION=1 for this command. "
    if "HAYSTACK_DESERIALIZATION_ALLOWLIST" in fault or "allowlist" in fault:
        return "Name your own modules in HAYSTACK_DESERIALIZATION_ALLOWLIST. "
    if "environment variables" in fault:
        return "Set that variable to any text: loading does not use it. "
    if "import" in fault.lower() or "No module" in fault:
        return "Install the package that it names, or correct the path: it may be that of another version of Haystack. "
    return ""
