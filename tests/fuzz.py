"""
Fuzzes the targets of `fuzz_targets.py` with atheris, each in a process of its own, and says what was found.

    python tests/fuzz.py --seconds 60                # all targets
    python tests/fuzz.py --seconds 600 run journal   # these

What breaks a target is kept in the folder that is named, and is found again with `python tests/fuzz.py --again FILE`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

MEMORY_MB, SLOWEST = 2048, 10
"""More memory than this, or more seconds for one input, count as a fault."""


def main() -> int:
    """Run the targets one after the other; returns 1 if one was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names of fuzz_targets.TARGETS; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="where inputs are kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--again", type=Path, help="an input that was kept; the target is the first part of its name")
    given, rest = parser.parse_known_args()
    if given.again is not None:
        target(given.again.name.partition("-")[0])(given.again.read_bytes())
        return 0
    if given.one is not None:
        return fuzz(given.one, rest)
    from fuzz_targets import TARGETS

    broken = [name for name in given.targets or TARGETS if not holds(name, given.seconds, given.keep)]
    print(f"broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def target(name: str):  # type: ignore[no-untyped-def]
    """Return a target by its name."""
    from fuzz_targets import TARGETS

    return TARGETS[name]


def holds(name: str, seconds: int, keep: Path) -> bool:
    """Fuzz one target in a process of its own; returns whether nothing broke it."""
    from fuzz_targets import seeds

    corpus = keep / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOWEST}", "-max_len=4096"]
    command = [sys.executable, __file__, "--one", name, *limits, f"-artifact_prefix={keep}/{name}-", str(corpus)]
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        output.seek(0)
        told = output.read().splitlines()
    done = next((line for line in reversed(told) if line.startswith(("Done", "#"))), "")
    print(f"{name}: {'holds' if code == 0 else 'BROKEN'}  {done}", flush=True)
    if code:
        print("\n".join(told[-40:]), flush=True)
    return code == 0


def fuzz(name: str, arguments: list[str]) -> int:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["haystack_ce_ranker"]):
        run = target(name)
    run(b"")  # what is loaded or compiled only once is not to count as slow
    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
