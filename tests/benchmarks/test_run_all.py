"""benchmarks/run_all.py: a line for each benchmark, and failure only where one did not run; each script starts."""

import ast
import importlib
import sys

import pytest

import common
import run_all
from fakes import REPOSITORY, import_torch

FILES = sorted((REPOSITORY / "benchmarks").glob("*.py"))
SCRIPTS = {
    "good": "print('- holds: fast: 1')\nprint('- MISSED: small: 2')\nprint('- left out: peer: not installed')",
    "absent": f"import sys\nprint('- left out: all: no collections')\nsys.exit({common.SKIPPED})",
    "broken": "raise SystemExit('a fault')",
}


@pytest.fixture
def fake_benchmarks(tmp_path, monkeypatch):
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(common, "REPOSITORY", tmp_path)
    monkeypatch.setattr(run_all, "BENCHMARKS", tuple(SCRIPTS))
    monkeypatch.setattr(run_all, "NICENESS", 0)
    return tmp_path


def status_of(monkeypatch, *names):
    monkeypatch.setattr(sys, "argv", ["run_all.py", *names])
    with pytest.raises(SystemExit) as ended:
        run_all.main()
    return int(ended.value.code)


def test_missed_targets_and_what_is_skipped_are_reported_and_are_no_failure(fake_benchmarks, monkeypatch, capsys):
    assert status_of(monkeypatch, "good", "absent") == 0
    summary = capsys.readouterr().out.partition("# Summary\n\n")[2].splitlines()
    assert [line.partition(", took ")[0] for line in summary] == [
        "good: 1 of 2 targets hold",
        "  - MISSED: small: 2",
        "  - left out: peer: not installed",
        "absent: skipped",
        "  - left out: all: no collections",
    ]
    assert "- holds: fast: 1" in (fake_benchmarks / ".bench" / "good.md").read_text("utf-8")


def test_a_benchmark_that_fails_does_not_stop_the_next_one(fake_benchmarks, monkeypatch, capsys):
    assert status_of(monkeypatch, "broken", "good") == 1
    out = capsys.readouterr().out
    assert "broken: FAILED with 1" in out
    assert "good: 1 of 2 targets hold" in out


def test_an_unknown_benchmark_is_refused(fake_benchmarks, monkeypatch, capsys):
    assert status_of(monkeypatch, "other") == 2
    assert "NAME must be one of good, absent, broken, but got 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("name", run_all.BENCHMARKS)
def test_each_benchmark_starts_and_runs_all_its_parts_without_arguments(name, capsys):
    if name == "training":
        import_torch()
    module = importlib.import_module(name)
    assert module.BENCHMARK.parse([]).parts == list(module.PARTS)
    quick = vars(module.BENCHMARK.parse(["--quick"]))
    assert {option: quick[option] for option in module.QUICK} == module.QUICK
    assert set(module.QUICK) <= set(vars(module.BENCHMARK.parse([])))
    with pytest.raises(SystemExit) as ended:
        module.BENCHMARK.parse(["--help"])
    assert ended.value.code == 0
    assert f"python benchmarks/{name}.py" in capsys.readouterr().out


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_says_what_it_is_for_and_stays_small(file):
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 500
    long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long
    assert ast.get_docstring(tree)
