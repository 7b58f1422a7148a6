"""What the wheel and the sdist hold, and that the list for an environment without torch follows pyproject.toml."""

import re
import runpy
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fakes import REPOSITORY
from light_environment import listed

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIGHT = REPOSITORY / "requirements-light.txt"
INSTALLING = REPOSITORY / "docs" / "installing.md"
DOCKERFILE = REPOSITORY / "examples" / "Dockerfile"
SOURCE = REPOSITORY / "src"
OURS = re.compile(r"haystack_ce_ranker/.+|haystack_integrations/components/[a-z]+/ce_ranker/.+")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling", reason="needs the extra 'dev'")
    pytest.importorskip("hatch_vcs", reason="needs the extra 'dev'")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    """The names of the files in the wheel, without those about it."""
    (path,) = built.glob("*.whl")
    return {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def sdist(built):
    """The names of the files in the sdist, from its folder on."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def sources():
    """The files of our two packages, as the wheel names them."""
    files = (path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(SOURCE).as_posix() for path in files}


def test_the_wheel_holds_our_two_packages_whole_and_no_other_file(wheel):
    assert wheel == sources()
    assert [name for name in wheel if not OURS.fullmatch(name)] == []
    assert "haystack_integrations/__init__.py" not in wheel  # other integrations share that folder
    for name in ("haystack_ce_ranker/py.typed", "haystack_integrations/components/rankers/ce_ranker/py.typed"):
        assert name in wheel


def test_the_sdist_holds_what_is_needed_to_build_test_and_document(wheel, sdist):
    assert {f"src/{name}" for name in wheel} <= sdist
    needed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "requirements-light.txt"}
    needed |= {"tests/test_packaging.py", "examples/Dockerfile", ".ci/test-packages", "docs/installing.md"}
    assert needed <= sdist
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:  # no file that is nobody's
        assert sdist - {"PKG-INFO"} <= set(tracked.stdout.splitlines())


def derived():
    """What the script makes of pyproject.toml and the installed packages."""
    return runpy.run_path(str(REPOSITORY / ".ci" / "light_requirements.py"))


def pins(text):
    return dict(line.split("==") for line in text.splitlines() if "==" in line)


def test_the_light_list_is_that_of_pyproject_and_of_what_is_installed():
    script = derived()
    try:
        text = script["derive"]()
    except ModuleNotFoundError as error:
        pytest.skip(f"needs the environment of `make test`: {error}")
    assert text == LIGHT.read_text(encoding="utf-8"), "run `make light-requirements`"


def test_the_light_list_has_the_versions_of_the_constraints():
    light = pins(LIGHT.read_text(encoding="utf-8"))
    constraints = pins((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    of_both = {canonicalize_name(name): pin for name, pin in constraints.items() if canonicalize_name(name) in light}
    assert of_both
    assert of_both == {name: light[name] for name in of_both}


def test_the_light_list_has_every_dependency_but_those_that_it_says_it_leaves_out():
    left_out = derived()["LEFT_OUT"]
    required = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert required - listed() == {"torch", "sentence-transformers"} <= set(left_out)
    assert not listed() & set(left_out)
    head = [line for line in LIGHT.read_text(encoding="utf-8").splitlines() if line.startswith("#   ")]
    assert [line[4:].partition(":")[0] for line in head] == list(left_out)


def test_the_manual_says_what_each_extra_is_for():
    table = INSTALLING.read_text(encoding="utf-8").partition("| extra | what it is for |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    named = [extra for cells in rows for extra in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(named) == sorted(PROJECT["optional-dependencies"])
    assert all(len(cells[1].split()) > 2 for cells in rows)


def test_an_extra_asks_for_no_other_extra_that_is_not_there():
    own = {
        extra
        for lines in PROJECT["optional-dependencies"].values()
        for line in lines
        for extra in Requirement(line).extras
        if Requirement(line).name == PROJECT["name"]
    }
    assert own <= set(PROJECT["optional-dependencies"])


def test_the_dockerfile_copies_what_is_there_and_installs_as_the_manual_says():
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    copied = [
        part
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for part in line.split()[1:-1]
    ]
    assert copied
    assert [part for part in copied if not (REPOSITORY / part).exists()] == []
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src", LIGHT.name}
    assert needed <= set(copied)
    (install,) = [line for line in text.splitlines() if line.startswith("RUN ") and "pip install" in line]
    manual = re.search(r"^pip install (--no-deps .+) -e \.$", INSTALLING.read_text(encoding="utf-8"), re.MULTILINE)
    options = set(shlex.split(manual[1]))
    assert options <= set(shlex.split(install))
    python = re.search(r"^ARG PYTHON=(.+)$", text, re.MULTILINE)[1]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]


def test_the_makefile_makes_the_demo_of_the_light_list_and_the_rest_in_the_same_place():
    rules = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    light = rules.partition("$(VENV)/.light:")[2].partition("\n\n")[0]
    rest = rules.partition("$(VENV)/.installed:")[2].partition("\n\n")[0]
    assert "--no-deps --no-compile -r requirements-light.txt -e ." in light
    assert "requirements-light.txt" in light.splitlines()[0]
    assert "requirements-light.txt" in rest.splitlines()[0]
    assert re.search(r"^demo: \$\(VENV\)/\.light$", rules, re.MULTILINE)
    assert "touch $(VENV)/.light $@" in rest  # else the demo would install the list over what is there


def test_the_check_of_real_environments_loads_the_example_and_names_its_best_document():
    check = runpy.run_path(str(REPOSITORY / ".ci" / "check_installed.py"))
    corpus = (REPOSITORY / "examples" / "handbook" / "corpus.jsonl").read_text(encoding="utf-8")
    assert f'"{check["BEST"]}"' in corpus
    assert Path(REPOSITORY / "examples" / "pipeline.yaml").is_file()
