"""Imports go downward only, nothing heavy is imported early, and shared folders stay free of our files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fakes import REPOSITORY

SOURCE = REPOSITORY / "src"
ENGINE = "haystack_ce_ranker"
COMPONENTS = "haystack_integrations.components"

LAYERS = (
    # The package itself only looks components up by name; everything below it may be imported from there.
    f"{ENGINE}.__init__",
    f"{ENGINE}.cli",
    f"{ENGINE}.bulk",
    f"{ENGINE}.training",
    f"{ENGINE}.proving",
    f"{ENGINE}.inspecting",
    f"{ENGINE}.adopting",
    f"{ENGINE}.evaluation.commands",
    f"{ENGINE}.evaluation.showing",
    f"{ENGINE}.evaluation.running",
    f"{ENGINE}.evaluation.judging",
    f"{ENGINE}.evaluation",
    COMPONENTS,
    f"{ENGINE}.observing",
    # From here on down is the engine: it knows nothing of Haystack.
    f"{ENGINE}.data",
    f"{ENGINE}.machine",
    f"{ENGINE}.quantizing",
    f"{ENGINE}.scoring",
    f"{ENGINE}.reading",
    f"{ENGINE}.backends",
    f"{ENGINE}.tokenizing",
    f"{ENGINE}.bm25",
    f"{ENGINE}.fusion",
    f"{ENGINE}.gating",
    f"{ENGINE}.significance",
    f"{ENGINE}.provenance",
    f"{ENGINE}.checks",
    f"{ENGINE}.compiling",
    f"{ENGINE}.forking",
    f"{ENGINE}.pictures",
    f"{ENGINE}.data_files",
)
"""All layers, the topmost first: a module may import modules of its own layer and of those below."""

KNOWS_HAYSTACK = LAYERS[: LAYERS.index(f"{ENGINE}.observing") + 1]


def sources() -> dict[str, str]:
    """The text of each module of both packages, by its dotted name; a package's own file ends in `__init__`."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in SOURCE.rglob("*.py")
    }


def layer_of(module: str) -> str | None:
    """The layer with the longest name that `module` lies in."""
    fitting = [layer for layer in LAYERS if f"{module}.".startswith(f"{layer}.")]
    return max(fitting, key=len, default=None)


def imported(text: str, modules: set[str]) -> Iterator[str]:
    """What a module imports, wherever the import stands; a name imported from a package is the module of that name."""
    for node in import_statements(text):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{a.name}" if f"{start}.{a.name}" in modules else start for a in node.names)


@cache  # of the same modules again and again, each time with a fault planted in another
def import_statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a module, wherever they stand."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def faults(texts: dict[str, str]) -> list[str]:
    """What breaks the order of the layers, a line each."""
    packages = {module.removesuffix(".__init__") for module in texts}
    found = []
    for module, text in sorted(texts.items()):
        own = layer_of(module)
        if own is None:
            found.append(f"{module} is in no layer")
            continue
        for name in sorted(set(imported(text, packages))):
            target = f"{name}.__init__" if f"{name}.__init__" in texts else name
            if name.startswith("."):
                found.append(f"{module} imports {name}: relative imports hide the layer")
            elif target in texts:
                other = layer_of(target)
                if other is not None and LAYERS.index(other) < LAYERS.index(own):
                    found.append(f"{module} imports {name}, which stands above it")
            elif name.partition(".")[0] in ("haystack", "haystack_integrations") and own not in KNOWS_HAYSTACK:
                found.append(f"{module} imports {name}, but the engine knows nothing of Haystack")
    return found


def cycles(texts: dict[str, str]) -> list[str]:
    """Modules that import each other at import time or later, directly or by way of others."""
    packages = {module.removesuffix(".__init__") for module in texts}
    needs = {
        module: {name for name in imported(text, packages) if name in texts} - {module}
        for module, text in texts.items()
        if not module.endswith("__init__")
    }
    left = dict(needs)
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_every_module_is_in_a_layer_and_imports_only_what_stands_below():
    assert faults(sources()) == []


def test_no_modules_import_each_other():
    assert cycles(sources()) == []


def test_every_layer_has_modules():
    assert {layer_of(module) for module in sources()} == set(LAYERS)


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        (f"{ENGINE}.backends.devices", f"from {ENGINE}.scoring import batching", "which stands above it"),
        (f"{ENGINE}.fusion.fuse", f"import {ENGINE}.evaluation.judging.measures", "which stands above it"),
        (f"{ENGINE}.data.converters", f"import {ENGINE}.cli", "which stands above it"),
        (f"{ENGINE}.bm25.index", f"def late():\n    from {ENGINE} import BM25Retriever", "which stands above it"),
        (f"{ENGINE}.scoring.cache", "from haystack import Document", "knows nothing of Haystack"),
        (f"{ENGINE}.reading.budget", "import haystack.dataclasses", "knows nothing of Haystack"),
        (f"{ENGINE}.reading.queries", "def late():\n    import haystack", "knows nothing of Haystack"),
        (f"{ENGINE}.reading.documents", "from . import budget", "relative imports hide the layer"),
        (f"{ENGINE}.somewhere", "", "is in no layer"),
    ],
)
def test_a_planted_fault_is_found(module, line, fault):
    texts = sources()
    planted = {**texts, module: f"{texts.get(module, '')}\n{line}\n"}
    assert [one for one in faults(planted) if one.startswith(module) and fault in one] == faults(planted) != []


def test_a_planted_cycle_is_found():
    texts = sources()
    first, second = f"{ENGINE}.reading.budget", f"{ENGINE}.reading.queries"
    planted = {**texts, first: f"import {second}\n", second: f"def late():\n    import {first}\n"}
    assert {first, second} <= set(cycles(planted))


def test_importing_the_package_imports_neither_torch_nor_haystack():
    code = "import sys, haystack_ce_ranker; print([m for m in ('torch', 'haystack') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_components_are_offered_by_name():
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


def outline(path: Path) -> list[tuple[str, int]]:
    """The functions of a file with the lines that each takes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_no_file_has_more_than_500_lines():
    counted = {name(path): lines(path) for path in SOURCE.rglob("*.py")}
    assert {file: count for file, count in counted.items() if count > 500} == {}


def test_no_function_has_more_than_60_lines():
    counted = {f"{name(path)}: {function}": count for path in SOURCE.rglob("*.py") for function, count in outline(path)}
    assert {function: count for function, count in counted.items() if count > 60} == {}


def test_the_evaluation_has_fewer_than_5500_lines():
    assert 0 < sum(lines(path) for path in (SOURCE / ENGINE / "evaluation").rglob("*.py")) < 5500
