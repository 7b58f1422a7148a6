"""
Runs all benchmarks, each in a process of its own, and prints a line for each with its targets.

    python benchmarks/run_all.py                 # everything: some hours on two cores
    python benchmarks/run_all.py --quick         # few queries each, to see that everything runs: ten minutes
    python benchmarks/run_all.py fusion gate --write

Outputs go to `.bench/`, and with `--write` to the tracked files, too. What cannot run here is skipped with the reason.
A missed target is reported and no more: only a benchmark that failed to run makes the exit status 1.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common

BENCHMARKS = (
    "bm25",
    "bulk",
    "engines",
    "fusion",
    "gate",
    "load",
    "token_balance",
    "long_context",
    "mining",
    "results",
    "sharing",
    "soak",
    "speed",
    "training",
    "watts",
)
NICENESS = 10


class Outcome(NamedTuple):
    """
    How a benchmark ended.

    :ivar status: Its exit status.
    :ivar output: What it printed to stdout.
    """

    name: str
    status: int
    output: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it failed to run."""
        return self.status not in (0, common.SKIPPED)

    def lines(self) -> list[str]:
        """Return the lines of the summary: one that says how it ended, then what was missed and left out."""
        lines = self.output.splitlines()
        held, missed, left_out = (
            [line for line in lines if line.startswith(f"- {word}: ")] for word in ("holds", "MISSED", "left out")
        )
        if self.failed:
            said = f"FAILED with {self.status}"
        elif self.status == common.SKIPPED:
            said = "skipped"
        else:
            said = f"{len(held)} of {len(held) + len(missed)} targets hold" if held or missed else "no targets"
        unique = dict.fromkeys([*missed, *left_out])  # what several parts lack is said once
        return [f"{self.name}: {said}, took {self.seconds:.0f} s", *(f"  {line}" for line in unique)]


def run_one(name: str, options: Sequence[str], folder: Path) -> Outcome:
    """Run a benchmark; its output is shown, and kept in the folder."""
    command = [sys.executable, str(common.HERE / f"{name}.py"), *options]
    print(f"\n$ python benchmarks/{name}.py {' '.join(options)}", flush=True)
    start = time.perf_counter()
    kept = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            kept.append(line)
    output = "".join(kept)
    (folder / f"{name}.md").write_text(output, encoding="utf-8")
    return Outcome(name, running.returncode, output, time.perf_counter() - start)


def main() -> None:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="few queries: does everything run?")
    parser.add_argument("--write", action="store_true", help="put the tables into the tracked files")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(BENCHMARKS)}, but got {unknown[0]!r}")
    if arguments.quick and arguments.write:
        parser.error("--quick makes no figures to keep; omit --write")
    options = [f"--{name}" for name in ("quick", "write") if getattr(arguments, name)]
    folder = common.REPOSITORY / ".bench"
    folder.mkdir(exist_ok=True)
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # the benchmarks inherit it
    outcomes = [run_one(name, options, folder) for name in names]
    print("\n# Summary\n")
    for outcome in outcomes:
        print("\n".join(outcome.lines()))
    sys.exit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
