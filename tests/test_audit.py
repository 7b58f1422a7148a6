"""The audit of dependencies: which advisories concern which versions, and that what was not asked is no good news."""

import importlib.util
import json
import subprocess
import sys
import threading
import urllib.request

import pytest

from fakes import REPOSITORY

SCRIPT = REPOSITORY / ".ci" / "audit.py"
ADVISORY = """
id: PYSEC-2099-1
details: "A made up one. With two lines."
aliases: [CVE-2099-1]
affected:
- package: {name: Some_Package, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}, {fixed: abc}]
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: 1.0.1}, {introduced: 2.0.0}, {fixed: 2.1.0}]
  versions: [2.0.0rc1]
published: 2099-01-02T03:04:05Z
"""


@pytest.fixture(scope="module")
def audit():
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "some-package").mkdir()
    (tmp_path / "some-package" / "PYSEC-2099-1.yaml").write_text(ADVISORY, encoding="utf-8")
    withdrawn = {"id": "X", "withdrawn": "now", "affected": [{"package": {"name": "other", "ecosystem": "PyPI"}}]}
    elsewhere = {"id": "Y", "affected": [{"package": {"name": "some-package", "ecosystem": "npm"}}]}
    for name, one in (("x", withdrawn), ("y", elsewhere)):
        (tmp_path / f"{name}.json").write_text(json.dumps(one), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("version", "concerned"),
    [
        *(("0.0.1", True), ("1.0.0", True), ("1.0.1", False), ("1.9", False), ("2.0.0", True), ("2.0.9", True)),
        *(("2.1.0", False), ("2.1.0rc1", True), ("2.0.0rc1", True), ("2.0.0rc2", False), ("3", False)),
    ],
)
def test_an_advisory_concerns_the_versions_that_it_names(audit, folder, version, concerned):
    known = audit.advisories(folder)
    assert list(known) == ["some-package"]
    assert [audit.concerns(one, version) for one in known["some-package"]] == [concerned]


def test_the_server_answers_as_osv_does(audit, folder):
    server = audit.server(audit.advisories(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        answers = []
        for version in ("1.0.0", "1.0.1"):
            asked = {"package": {"name": "some-package", "ecosystem": "PyPI"}, "version": version}
            url = f"http://127.0.0.1:{server.server_port}"
            with urllib.request.urlopen(url, json.dumps(asked).encode()) as answer:
                answers.append(json.load(answer))
    finally:
        server.shutdown()
        server.server_close()
    (found,) = answers[0]["vulns"]
    assert (found["id"], found["aliases"]) == ("PYSEC-2099-1", ["CVE-2099-1"])
    assert found["affected"][0]["package"]["name"] == "some-package"
    assert {"fixed": "1.0.1"} in found["affected"][0]["ranges"][0]["events"]
    assert answers[1] == {}


def test_a_folder_without_advisories_is_an_error(audit, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--advisories", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "holds no advisories" in done.stderr
