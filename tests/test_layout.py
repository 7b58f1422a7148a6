"""Imports go downward only, nothing heavy is imported early, and shared folders stay free of our files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
ENGINE = SOURCE / "haystack_ce_ranker"
ABOVE = ("cli.py", "demo.py", "__init__.py")  # these run pipelines, or look the components up


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def engine_files():
    return [path for path in [*ENGINE.glob("*.py"), *ENGINE.glob("backends/*.py")] if path.name not in ABOVE]


@pytest.mark.parametrize("path", engine_files(), ids=lambda path: path.name)
def test_the_engine_knows_nothing_of_haystack_or_of_what_stands_above_it(path):
    forbidden = ("haystack.", "haystack_integrations", "haystack_ce_ranker.evaluation", "haystack_ce_ranker.cli")
    assert [name for name in imported(path) if f"{name}.".startswith(forbidden)] == []


def test_importing_the_package_imports_neither_torch_nor_haystack():
    code = "import sys, haystack_ce_ranker; print([m for m in ('torch', 'haystack') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_three_components_are_offered_by_name():
    import haystack_ce_ranker

    for name in haystack_ce_ranker.__all__:
        assert getattr(haystack_ce_ranker, name).__name__ == name
        assert name in dir(haystack_ce_ranker)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = haystack_ce_ranker.Nothing


def test_namespace_folders_shared_with_other_integrations_hold_no_file_of_ours():
    shared = [SOURCE / "haystack_integrations", SOURCE / "haystack_integrations" / "components"]
    shared += [folder for folder in shared[1].iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    assert [file for folder in shared for file in folder.iterdir() if file.is_file()] == []
