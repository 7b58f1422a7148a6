"""The project's own files agree with each other: workflows, Makefile, versions."""

import re
import tomllib
from importlib.metadata import version as installed_version
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import profiles
from fakes import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@(v\d+(\.\d+)*|release/v\d+|[0-9a-f]{40})")

MAY_WRITE = {("docs", "deploy"): {"pages", "id-token"}, ("release", "publish"): {"id-token"}}
"""The jobs of workflows that may do more than read, with what they may write."""


def parsed(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(pin) for name, pin in pins.items()}


def steps():
    return [
        (path, step) for path in WORKFLOWS for job in parsed(path)["jobs"].values() for step in job.get("steps", ())
    ]


def test_the_workflows_are_those_of_checks_docs_and_releases():
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]
    for path in WORKFLOWS:
        workflow = parsed(path)
        assert workflow[True], path  # YAML 1.1 reads the key `on` as true
        assert workflow["jobs"], path


def test_every_action_is_pinned():
    used = [(path.name, step["uses"]) for path, step in steps() if "uses" in step]
    assert used
    assert [(name, action) for name, action in used if not PINNED.fullmatch(action)] == []


def test_only_publishing_jobs_may_write():
    for path in WORKFLOWS:
        workflow = parsed(path)
        assert workflow["permissions"] == {"contents": "read"}, path
        for name, job in workflow["jobs"].items():
            may = {right for right, access in job.get("permissions", {}).items() if access != "read"}
            assert may == MAY_WRITE.get((path.stem, name), set()), (path, name)


def test_a_release_waits_for_the_tests():
    jobs = parsed(REPOSITORY / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert set(jobs["publish"]["needs"]) == {"test", "build"}
    assert jobs["publish"]["environment"]["name"] == "pypi"


def test_the_pythons_are_the_same_everywhere():
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["project"]["classifiers"] if line.startswith(prefix)]
    assert (
        parsed(REPOSITORY / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    )
    assert re.search(r"^PYTHONS \?= (.+)$", MAKEFILE, re.MULTILINE).group(1).split() == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert PROJECT["tool"]["mypy"]["python_version"] == named[0]
    assert all(SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{name}.0") for name in named)


def named_targets(text):
    """The targets of make that a page or a workflow names: in code alone, since prose makes things, too."""
    fenced = [
        line for block in re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    code = [*fenced, *re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ *- run: (.+)$", text, re.MULTILINE)]
    calls = [re.match(r"make((?: [a-z][a-z-]*(?![\w=-]))+)", line) for line in code]
    return {target for call in calls if call for target in call.group(1).split()}


def test_every_target_of_make_that_is_named_somewhere_exists():
    pages = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md"), *WORKFLOWS]
    named = {page: named_targets(page.read_text(encoding="utf-8")) for page in pages}
    assert {"demo", "test", "format", "lint", "docs", "suite"} <= set().union(*named.values())
    assert {page: missing for page, targets in named.items() if (missing := targets - TARGETS)} == {}


def test_every_target_is_declared_to_be_no_file():
    declared = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE).group(1).split())
    assert declared == TARGETS


def test_the_tests_that_the_makefile_names_are_there():
    named = re.findall(r"tests/[\w/.]+", MAKEFILE)
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_ci_runs_the_test_command_of_the_readme():
    assert "\nexec make test\n" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_constraints_lie_within_what_is_required():
    project, pins = PROJECT["project"], constraints()
    extras = project["optional-dependencies"]
    required = [
        Requirement(line) for line in [*project["dependencies"], *(one for lines in extras.values() for one in lines)]
    ]
    outside = [
        f"{one} is pinned to {pins[canonicalize_name(one.name)]}"
        for one in required
        if canonicalize_name(one.name) in pins and not one.specifier.contains(pins[canonicalize_name(one.name)])
    ]
    assert outside == []
    assert "torch" in pins  # the Makefile installs it first, by this line


def test_the_hook_runs_the_ruff_of_the_constraints():
    repositories = parsed(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    (ruff,) = [one for one in repositories if one["repo"].endswith("/ruff-pre-commit")]
    assert ruff["rev"] == f"v{constraints()['ruff']}"


def test_dependabot_keeps_packages_and_actions():
    updates = parsed(REPOSITORY / ".github" / "dependabot.yml")["updates"]
    assert {one["package-ecosystem"] for one in updates} == {"pip", "github-actions"}


def test_the_version_can_be_asked_for():
    assert Version(installed_version("ce-ranker-haystack")) >= Version("0.1.dev0")


@pytest.mark.parametrize("entry", [*profiles.SLOW, *profiles.LONGEST, *profiles.UNTRACED])
def test_each_entry_of_the_lists_of_tests_is_there(entry):
    file, _, test = entry.partition("::")
    path = REPOSITORY / file
    assert path.exists(), "take it off the list in tests/profiles.py"
    name = test.rpartition("::")[2]
    assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), "take it off the list in tests/profiles.py"


def test_a_slow_test_is_one_that_is_listed_or_in_a_file_or_folder_that_is(monkeypatch):
    monkeypatch.setattr(profiles, "SLOW", ("tests/slow", "tests/test_file.py", "tests/test_mixed.py::test_one"))
    slow = ["tests/slow/test_a.py::test_b", "tests/test_file.py::test_a[1]", "tests/test_mixed.py::test_one[x-y]"]
    quick = [
        "tests/slower/test_a.py::test_b",
        "tests/test_file_of_others.py::test_a",
        "tests/test_mixed.py::test_one_more",
    ]
    assert [test for test in slow + quick if profiles.is_slow(test)] == slow


def test_a_profile_multiplies_the_examples_that_a_test_asks_for():
    tried = []

    @profiles.settings(max_examples=7, deadline=None, database=None)
    @given(st.integers())
    def some_test(number):
        tried.append(number)

    profiles.multiply([some_test, some_test], 3)  # twice, as a test with parameters is collected
    some_test()
    assert len(tried) == 21


@pytest.mark.parametrize(
    ("test", "expected"), [(profiles.UNTRACED[0], ["stop", "start"]), ("tests/test_habits.py", [])]
)
def test_coverage_s_tracer_rests_during_the_tests_that_the_list_names_and_then_goes_on(monkeypatch, test, expected):
    done = []
    tracer = SimpleNamespace(stop=lambda: done.append("stop"), start=lambda: done.append("start"))
    monkeypatch.setattr(profiles.Coverage, "current", lambda: tracer)
    with profiles.traced_or_not(f"{test}::test_one"):
        assert done == expected[:1]
    assert done == expected
