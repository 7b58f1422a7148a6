"""Makes a process what it would be in an environment that requirements-light.txt alone was installed into."""

import sys
from collections.abc import Collection, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder, packages_distributions
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements-light.txt"
OURS = ("ce-ranker-haystack", "haystack_ce_ranker", "haystack_integrations")


def listed() -> set[str]:
    """The names of the packages in the file, as it writes them."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0] for line in lines if "==" in line}


def hide_all_but(kept: Collection[str]) -> None:
    """
    Hide every installed package but ours, those that are named, and the standard library.

    Importing one raises ModuleNotFoundError, `find_spec` finds none, and its version is not known.
    """
    names = {_normal(name) for name in (*kept, *OURS)}
    of_module = packages_distributions()
    hidden = {module for module, owners in of_module.items() if not names & set(map(_normal, owners))} - set(OURS)

    class Kept:
        """The finder of installed packages, for those that are kept."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

        @staticmethod
        def find_distributions(context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
            asked = context if context is not None else DistributionFinder.Context()
            return (one for one in PathFinder.find_distributions(asked) if _normal(one.name) in names)

        @staticmethod
        def invalidate_caches() -> None:
            PathFinder.invalidate_caches()

    sys.meta_path[:] = [Kept if finder is PathFinder else finder for finder in sys.meta_path]


def _normal(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()
