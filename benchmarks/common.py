"""
What the benchmarks share: command line, report with targets, facts on the machine, memory in a process of its own.

A `Benchmark` is a table of parts, each a function of the arguments and the report; it runs those that were asked for. A
part prints through the report, which collects its targets and, with `--write`, puts its lines into the Markdown file
beside the script. What a machine cannot run raises `CannotRun` and is left out with the reason.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
SKIPPED = 77
"""The exit status of a benchmark of which nothing can run here, as automake's tests have it."""
PACKAGES = (
    *("haystack-ai", "sentence-transformers", "transformers", "torch", "onnxruntime", "openvino", "tokenizers"),
    *("bm25s", "numba", "ranx", "rerankers", "flashrank"),
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class CannotRun(Exception):  # noqa: N818 - not a fault: the machine lacks something
    """Something that this machine lacks: a collection, weights, a package or a GPU."""


# The command line


def parser(description: str | None, parts: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks; a script adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all by default")
    data = Path(os.environ.get("CE_RANKER_DATA", "../shared/data"))
    models = Path(os.environ.get("CE_RANKER_MODELS", ".models"))
    made.add_argument("--data", type=Path, default=data, help="the folder of the collections (CE_RANKER_DATA)")
    made.add_argument("--models", type=Path, default=models, help="the folder of the weights (CE_RANKER_MODELS)")
    made.add_argument("--queries", type=int, default=None, help="at most this many queries of each collection")
    made.add_argument("--threads", type=int, default=allowed_cpus(), help="threads of torch, onnxruntime and OpenVINO")
    made.add_argument("--quick", action="store_true", help="few queries: does everything run?")
    made.add_argument("--write", action="store_true", help="put the tables into the tracked files beside the script")
    made.add_argument("--strict", action="store_true", help="end with 1 if a target is missed")
    cache = REPOSITORY / ".bench"
    made.add_argument("--cache", type=Path, default=cache, help="a folder that keeps scores and pictures (.bench)")
    return made


def add_model(made: argparse.ArgumentParser, default: str) -> None:
    """Add the options that name a cross-encoder."""
    made.add_argument("--model", default=default, help="the cross-encoder: a folder or a `package:` name")
    made.add_argument("--backend", default="onnx", help="what runs it")


def collection_folder(arguments: argparse.Namespace, name: str) -> Path:
    """Return the folder of a collection, which must be there."""
    folder: Path = arguments.data / name
    if not folder.is_dir():
        raise CannotRun(f"there is no {folder}; name the folder of the collections with --data or CE_RANKER_DATA")
    return folder


def weights_folder(arguments: argparse.Namespace, name: str) -> Path:
    """Return a folder of weights, which must be there."""
    folder: Path = arguments.models / name
    if not folder.is_dir():
        raise CannotRun(f"there is no {folder}; name the folder of the weights with --models or CE_RANKER_MODELS")
    return folder


def located_model(arguments: argparse.Namespace) -> str:
    """Return the cross-encoder that was named, which must be there."""
    from haystack_ce_ranker.backends.model_files import ModelNotFoundError, locate

    try:
        locate(arguments.model)
    except ModelNotFoundError as error:
        raise CannotRun(str(error)) from error
    return str(arguments.model)


# The report


class Target(NamedTuple):
    """A figure beside the bound that it should keep."""

    label: str
    holds: bool
    figure: str

    @property
    def line(self) -> str:
        """The target as a line of Markdown."""
        return f"- {'holds' if self.holds else 'MISSED'}: {self.label}: {self.figure}"


@dataclass
class Part:
    """What one part of a benchmark printed, and its targets."""

    lines: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


class Report:
    """
    Prints Markdown to stdout and keeps it by part.

    :param script: The benchmark's file.
    :param page: The Markdown file that it writes; the one beside it if None.
    :param cache: A folder for pictures that are not written beside the script.
    :param write: Whether the files beside the script are written.
    """

    def __init__(
        self, script: Path, *, page: Path | None = None, cache: Path | None = None, write: bool = False
    ) -> None:
        self._script = script
        self._page = script.with_suffix(".md") if page is None else page
        self._cache = cache
        self._write = write
        self._part = Part()
        self.parts: dict[str, Part] = {}
        self.left_out: list[str] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Collect what is printed inside as a part, with its targets at the end."""
        print(f"\n# {name}", flush=True)
        self._part = part = Part()
        try:
            yield
        except CannotRun as reason:
            self.leave_out(name, reason)
            return
        if part.targets:
            self.say()
        for target in part.targets:
            self.say(target.line)
        self.parts[name] = part

    @contextlib.contextmanager
    def or_left_out(self, name: str) -> Iterator[None]:
        """Leave out what cannot run here, with the reason, and go on."""
        try:
            yield
        except CannotRun as reason:
            self.leave_out(name, reason)

    def leave_out(self, name: str, reason: object) -> None:
        """Say that something is left out, and why."""
        self.left_out.append(f"{name}: {reason}")
        print(f"- left out: {name}: {reason}", flush=True)

    def say(self, text: str = "") -> None:
        """Print a line."""
        self._part.lines.append(text)
        print(text, flush=True)

    def table(self, title: str | None, *headings: str) -> None:
        """Begin a table."""
        self.say()
        if title is not None:
            self.say(f"## {title}\n")
        self.row(*headings)
        self.row(*["---"] * len(headings))

    def row(self, *cells: Any) -> None:
        """Print a row of the table: numbers with a point to two places, None as an empty cell."""
        self.say(f"| {' | '.join(map(cell_text, cells))} |")

    def target(self, label: str, holds: bool, figure: str) -> None:
        """Note whether a target holds."""
        self._part.targets.append(Target(label, bool(holds), figure))

    def at_least(self, label: str, value: float, bound: float, form: str = "{:.2f}") -> None:
        """Note whether a figure reaches its bound."""
        self.target(label, value >= bound, form.format(value))

    def at_most(self, label: str, value: float, bound: float, form: str = "{:.2f}") -> None:
        """Note whether a figure stays within its bound."""
        self.target(label, value <= bound, form.format(value))

    def picture(self, name: str) -> Path:
        """Return where a picture goes: beside the script with `--write`, else into the folder of kept scores."""
        folder = HERE if self._write or self._cache is None else self._cache
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f"\n![{name}]({name})")
        return folder / name

    def finish(self, options: Sequence[str] = ()) -> None:
        """
        With `--write`, put the parts into the page.

        :param options: Those that the benchmark was called with.
        """
        if not self._write:
            return
        text = self._page.read_text(encoding="utf-8") if self._page.exists() else f"# {self._script.stem}\n"
        for name, part in self.parts.items():
            lines = [made_by(self._script, name, options), *part.lines]
            text = with_block(text, name, "\n".join(lines))
        self._page.write_text(text, encoding="utf-8")
        print(f"\nwrote {self._page.name}")

    @property
    def missed(self) -> list[Target]:
        """The targets that do not hold."""
        return [target for part in self.parts.values() for target in part.targets if not target.holds]


def cell_text(cell: Any) -> str:
    """Return how a cell of a table is printed."""
    if cell is None:
        return ""
    return f"{cell:,.2f}" if isinstance(cell, float) else str(cell)


def percent(share: float | None) -> str | None:
    """Return a share as it stands in tables; None where it is not known."""
    return None if share is None else f"{share:.1%}"


def made_by(script: Path, part: str, options: Sequence[str]) -> str:
    """Return the line that says which command made a part, when and where."""
    command = " ".join([f"python benchmarks/{script.name}", part, *without_folders(options)])
    return f"Generated by `{command}` on {date.today().isoformat()}: {machine()}"


def without_folders(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the names of files only, as pages show them."""
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def with_block(text: str, name: str, block: str) -> str:
    """Return a page with a generated block of this name replaced, or added at its end."""
    begin, end = f"<!-- begin generated: {name} -->", f"<!-- end generated: {name} -->"
    new = f"{begin}\n{block.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: new, text, count=1)
    return f"{text.rstrip()}\n\n{new}\n"


@dataclass(frozen=True)
class Benchmark:
    """
    A script: its parts and how it is called.

    :ivar script: Its file.
    :ivar description: Its docstring.
    :ivar parts: What it measures, by name.
    :ivar quick: The defaults of `--quick`, by option; an option that is given still counts.
    :ivar options: Adds the script's own options.
    :ivar page: The Markdown file that `--write` changes; the one beside the script if None.
    :ivar pin: Whether the process keeps no more CPUs than it has threads; see `use_threads`.
    """

    script: str
    description: str | None
    parts: Mapping[str, Callable[[argparse.Namespace, Report], None]]
    quick: Mapping[str, Any]
    options: Callable[[argparse.ArgumentParser], None]
    page: Path | None = None
    pin: bool = True

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the command line."""
        made = parser(self.description, self.parts)
        self.options(made)
        if made.parse_args(argv).quick:
            made.set_defaults(**self.quick)
        arguments = made.parse_args(argv)
        if arguments.quick and arguments.write:
            made.error("--quick makes no figures to keep; omit --write")
        unknown = sorted(set(arguments.parts) - set(self.parts))
        if unknown:
            made.error(f"PART must be one of {', '.join(self.parts)}, but got {unknown[0]!r}")
        arguments.parts = arguments.parts or list(self.parts)
        return arguments

    def main(self, argv: Sequence[str] | None = None) -> None:
        """
        Run the parts that were asked for and end the process.

        The exit status is 0 whether the targets hold or not (1 with `--strict` if one is missed), and `SKIPPED` where
        no part can run here.
        """
        given = sys.argv[1:] if argv is None else argv
        arguments = self.parse(given)
        use_threads(arguments.threads, pin=self.pin)
        report = Report(Path(self.script).resolve(), page=self.page, cache=arguments.cache, write=arguments.write)
        print(machine())
        for name in arguments.parts:
            with report.part(name):
                self.parts[name](arguments, report)
        report.finish([word for word in given if word not in self.parts])
        if not report.parts:
            sys.exit(SKIPPED)
        sys.exit(1 if arguments.strict and report.missed else 0)


# The machine


def allowed_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int, *, pin: bool = True) -> None:
    """
    Let this process and its children use this many threads.

    :param pin: Whether to take CPUs away beyond that number, too: the only limit that some runtimes go by.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    if pin and hasattr(os, "sched_setaffinity") and count < allowed_cpus():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def machine() -> str:
    """Return what runs where: the processor, its CPUs and load, and the versions of what is measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{cpu}, {allowed_cpus()} of {os.cpu_count()} CPUs, {load}; {', '.join(versions)}."


def resident_gb() -> float:
    """Return the memory that this process has now."""
    return _memory_gb("VmRSS")


def own_gb() -> float:
    """Return what of it no file backs: the system cannot take it back, and workers do not share it."""
    return _memory_gb("RssAnon")


def peak_gb() -> float:
    """Return the most memory that this process has had."""
    return _memory_gb("VmHWM")


def _memory_gb(key: str) -> float:
    """Read a line of /proc; where there is none, the peak by getrusage, which a process inherits from its parent."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def milliseconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


@contextlib.contextmanager
def svg(file: Path, *, width: float, height: float) -> Iterator[Any]:
    """Give the axes of a picture, which is written as SVG with a legend; equal figures make an equal file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": file.stem}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})


# A process of its own


def in_a_process(script: Path, **job: Any) -> dict[str, Any]:
    """
    Run a script's worker in a process of its own and return what it printed last, as JSON.

    :param job: What `serve` gives to the worker; paths become texts.
    :returns: The worker's figures; with `failed`, why it ended, where it did not end well.
    """
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(job, default=str)], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found.setdefault("failed", f"ended with {done.returncode}: {last}")
    return found


def serve(workers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Be the process that `in_a_process` starts: run the worker that the job names and print its figures."""
    job = json.loads(sys.argv[1])
    print(json.dumps(workers[job.pop("worker")](**job)), flush=True)
