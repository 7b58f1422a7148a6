"""
Asks whether advisories are known for the packages that are installed, with pip-audit; `make audit` calls it.

    python .ci/audit.py                       # asks PyPI
    python .ci/audit.py --advisories FOLDER   # asks no network

FOLDER holds advisories in the form of OSV, as YAML or JSON, such as a clone of github.com/pypa/advisory-database. A
server on this machine then answers pip-audit from it. Such a list knows nothing newer than itself, so its newest entry
is named. What could not be asked is a failure, and no good news.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

OWN = "ce-ranker-haystack"


def canonical(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the versions of all packages of this environment but our own, without what only a builder added."""
    found = {canonical(one.metadata["Name"]): one.version.partition("+")[0] for one in distributions()}
    return {name: found[name] for name in sorted(found) if name != OWN}


def advisories(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the advisories of a folder by the package that they are about; those that were withdrawn are left out."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml", ".json")):
        one = yaml.load(file.read_text(encoding="utf-8"), loader)  # safe, and JSON is YAML
        if isinstance(one, dict) and "affected" in one and not one.get("withdrawn"):
            for affected in one["affected"]:
                if affected.get("package", {}).get("ecosystem") == "PyPI":
                    found.setdefault(canonical(affected["package"]["name"]), []).append({**one, "affected": [affected]})
    if not found:
        raise SystemExit(f"{folder} holds no advisories about packages of PyPI in the form of OSV")
    return found


def concerns(advisory: Mapping[str, Any], version: str) -> bool:
    """Tell whether an advisory is about a version: it lists it, or a range holds it."""
    for affected in advisory["affected"]:
        if version in affected.get("versions", ()):
            return True
        for span in affected.get("ranges", ()):
            if span["type"] == "ECOSYSTEM" and _within(span["events"], Version(version)):
                return True
    return False


def _within(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    """Tell whether a version lies in a range, whose events are in the order of the versions."""
    inside = False
    for event in events:
        kind, at = next(iter(event.items()))
        try:
            bound = Version("0.dev0" if str(at) == "0" else str(at))
        except InvalidVersion:
            continue
        if kind == "introduced" and version >= bound:
            inside = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            inside = False
    return inside


def server(known: Mapping[str, Sequence[Mapping[str, Any]]]) -> ThreadingHTTPServer:
    """Return a server of this machine that answers as OSV does."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = asked["package"]["name"], asked["version"]
            told = [_told(one, name) for one in known.get(name, ()) if concerns(one, version)]
            body = json.dumps({"vulns": told} if told else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Answers)


def _told(advisory: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what pip-audit wants to know of an advisory."""
    affected = [{**one, "package": {"name": name, "ecosystem": "PyPI"}} for one in advisory["affected"]]
    ranges = [[span for span in one.get("ranges", ()) if span["type"] == "ECOSYSTEM"] for one in affected]
    slim = [{"package": one["package"], "ranges": spans} for one, spans in zip(affected, ranges, strict=True)]
    summary = str(advisory.get("summary") or advisory.get("details") or "")
    return {"id": advisory["id"], "aliases": advisory.get("aliases", []), "summary": summary, "affected": slim}


def audit(packages: Mapping[str, str], options: Sequence[str]) -> int:
    """Run pip-audit over packages; returns its exit status, which is 0 only if all were asked for and none is known."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "installed.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()), encoding="utf-8")
        how = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--desc", "off"]
        return subprocess.run([sys.executable, "-m", "pip_audit", *how, *options, "-r", file], check=False).returncode


def main() -> int:
    """Audit this environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisories", type=Path, help="a folder of advisories; by default PyPI is asked")
    given = parser.parse_args()
    packages = installed()
    if given.advisories is None:
        return audit(packages, ())
    known = advisories(given.advisories)
    newest = max(str(one.get("published", ""))[:10] for many in known.values() for one in many)
    answers = server(known)
    threading.Thread(target=answers.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as cache:
            url = f"http://127.0.0.1:{answers.server_port}"
            code = audit(packages, ("-s", "osv", "--osv-url", url, "--cache-dir", cache))
    finally:
        answers.shutdown()
    named = len(packages.keys() & known.keys())
    print(f"{len(packages)} packages were asked for; {given.advisories} has advisories about {named} of them.")
    print(f"Its newest advisory is of {newest}: what was found out since then is not known here.")
    return code


if __name__ == "__main__":
    sys.exit(main())
