"""
An experiment: ask all systems for every query, keep what they did, and turn it into results.json and run files.

Systems are asked in turn for each query, so that a machine's slower moments hit all alike and an interrupted run
compares the same queries. Which systems there are decides `sweep.py`; what follows from the figures, `comparison.py`,
`segments.py` and `verdict.py`.
"""

import json
import os
import platform
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.evaluation.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.comparison import helped_and_hurt, versus
from haystack_ce_ranker.evaluation.judging.measures import measures
from haystack_ce_ranker.evaluation.judging.observations import QUALITY, Description, Observation, System, restored
from haystack_ce_ranker.evaluation.judging.segments import features, judge
from haystack_ce_ranker.evaluation.judging.verdict import subject, verdict
from haystack_ce_ranker.evaluation.running.energy import IDLE
from haystack_ce_ranker.evaluation.running.groups import FIRST, PIPELINE, SystemGroup, key_of
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.evaluation.running.memory import peak_megabytes
from haystack_ce_ranker.evaluation.running.sweep import Variant

Rankings = Mapping[str, Mapping[str, float]]

RESULTS_VERSION = 2
"""Raised when a key of results.json changes its meaning."""

BATCH_TOKENS = (None, 4096, 16384)
"""For which batch sizes peak memory is measured; None is the backend's default."""

_PACKAGES = ("ce-ranker-haystack", "haystack-ai", "torch", "onnxruntime", "openvino", "sentence-transformers")


@dataclass(frozen=True)
class Measurements:
    """
    What was measured.

    :ivar collection: With only those queries that all systems did.
    :ivar complete: False if the run was interrupted.
    :ivar notes: In words, which systems could not be loaded, and how energy was measured.
    """

    collection: Collection
    systems: tuple[System, ...]
    complete: bool
    notes: tuple[str, ...] = ()


def measure(
    groups: Sequence[SystemGroup],
    collection: Collection,
    *,
    journal: Journal | None = None,
    optional: Container[str] = (),
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Measurements:
    """
    Ask every system for every query.

    What the journal holds is not done again: a group of which it holds everything is not even loaded. Ctrl-C ends the
    run with what there is.

    :param journal: Keeps each observation as soon as it is made.
    :param optional: Keys of groups that are left out, with a note, if they cannot be loaded.
    :param track: Wraps the query ids, to show progress.
    :raises ValueError: If nothing could be measured.
    """
    journal = journal if journal is not None else Journal()
    entries = {query_id: f"{query_id} {key_of(text)}" for query_id, text in collection.queries.items()}
    kept: list[SystemGroup] = []
    notes: list[str] = []
    for group in groups:
        if any(journal.get(group.key, entry) is None for entry in ("systems", *entries.values())):
            try:
                group.prepare()
            except (ImportError, OSError, ValueError) as error:
                if group.key not in optional:
                    raise
                notes.append(f"{group.names[0].partition('@')[0]} is left out: {error}")
                continue
            journal.note(group.key, "systems", [asdict(what) for what in group.describe()])
        kept.append(group)
    systems = {name: System(name, what) for group in kept for name, what in _described(group, journal)}
    if not systems:
        raise ValueError(f"there is nothing to measure: {'; '.join(notes)}.")
    done: list[str] = []
    try:
        for query_id in track(list(collection.queries)):
            found: dict[str, Observation] = {}
            for group in kept:
                plain = journal.get(group.key, entries[query_id])
                if plain is None:
                    plain = [one.plain() for one in group.observe(query_id, found)]
                    journal.note(group.key, entries[query_id], plain)
                found |= zip(group.names, map(restored, plain), strict=True)
            for name, system in systems.items():
                system.observations[query_id] = found[name]
            done.append(query_id)
    except KeyboardInterrupt:
        if not done:
            raise
    complete = len(done) == len(collection.queries)
    if not complete:
        why = f"interrupted after {len(done)} of {len(collection.queries)} queries; the same command goes on from there"
        collection = collection.only(set(done), why)
    sources = dict.fromkeys(system.description.energy_source for system in systems.values())
    notes += [f"energy: {source}; {IDLE}" for source in sources]
    return Measurements(collection, tuple(systems.values()), complete, tuple(notes))


def check_baseline(baseline: str | None, names: Sequence[str]) -> None:
    """
    Check that there is such a system; None is always there.

    :raises ValueError: If there is not.
    """
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline must be one of {', '.join(map(repr, names))}, but got {baseline!r}.")


def memory_by_batch(
    swept: Sequence[Variant], journal: Journal, *, track: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> list[dict[str, Any]]:
    """
    Measure each cross-encoder's peak memory by batch size, each in a process of its own.

    :returns: `model`, `backend`, `device`, `batch_tokens` and `peak_memory_mb`; what fails is left out.
    """
    rows = []
    pairs = list(dict.fromkeys((one.model, one.backend) for one in swept))
    for model, backend, batch_tokens in track([(*pair, size) for pair in pairs for size in BATCH_TOKENS]):
        key = key_of("memory", model, backend, batch_tokens)
        found = journal.get(key, "peak")
        if found is None:
            try:
                found = peak_megabytes(model, backend, batch_tokens)
            except RuntimeError:
                continue
            journal.note(key, "peak", found)
        rows.append({"model": model, "backend": backend, **found})
    return rows


def results(
    measured: Measurements,
    *,
    baseline: str | None = None,
    relevance_level: int = 1,
    memory: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    budget_ms: float | None = None,
    budget_joules: float | None = None,
) -> dict[str, Any]:
    """
    Return all figures as plain values: what results.json holds, as `results.schema.json` describes it. No text of the
    collection is among them.

    :param baseline: The system that the others are compared with; None for the first.
    :param relevance_level: The lowest grade that counts as relevant in binary measures.
    :param memory: Of `memory_by_batch`.
    :raises ValueError: If there is no system of the baseline's name.
    """
    collection, systems = measured.collection, {system.name: system for system in measured.systems}
    baseline = next(iter(systems)) if baseline is None else baseline
    check_baseline(baseline, list(systems))
    wanted = measures(relevance_level)
    values = {name: system.by_query(collection.judgments, wanted) for name, system in systems.items()}
    by_query = {name: {QUALITY: of_system[QUALITY]} for name, of_system in values.items()}
    figures = {
        name: system.figures(values[name], peak_memory_mb=_peak(system.description, memory))
        for name, system in systems.items()
    }
    for name, against in versus(by_query, baseline).items():
        figures[name]["versus"] = against
    first = systems[baseline].description.first_stage
    of_queries = features(
        collection, systems[first].rankings if first in systems else {}, relevance_level=relevance_level
    )
    found: dict[str, Any] = {
        "version": RESULTS_VERSION,
        "collection": collection.name,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "relevance_level": relevance_level,
        "complete": measured.complete,
        "baseline": baseline,
        "notes": [*collection.notes, *notes, *measured.notes],
        "machine": machine(),
        "systems": figures,
        "by_query": by_query,
        "memory_by_batch": [dict(row) for row in memory],
        "features": of_queries,
        "segments": None,
        "helped_and_hurt": None,
    }
    if (closer := subject(found, budget_ms=budget_ms, budget_joules=budget_joules)) is not None:
        found["segments"] = judge(of_queries, by_query, baseline=baseline, system=closer)
        found["helped_and_hurt"] = helped_and_hurt(
            by_query,
            baseline=baseline,
            system=closer,
            before=systems[baseline].rankings,
            after=systems[closer].rankings,
            judgments=collection.judgments,
            readings={query_id: seen.readings for query_id, seen in systems[closer].observations.items()},
        )
    found["verdict"] = verdict(found, budget_ms=budget_ms, budget_joules=budget_joules)
    return found


def write(folder: str | Path, found: Mapping[str, Any], systems: Sequence[System]) -> list[Path]:
    """Write results.json and a run file in TREC format for each system; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.json"]
    paths[0].write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for system in systems:
        path = folder / f"run.{re.sub(r'[^A-Za-z0-9._-]+', '-', system.name)}.trec"
        lines = [
            f"{query_id} Q0 {document_id} {rank} {score!r} {path.stem}\n"
            for query_id, ranking in system.rankings.items()
            for rank, (document_id, score) in enumerate(ranking.items(), start=1)
        ]
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cpus": allowed_cpus(),
        "memory_gb": _memory_gb(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def stages(measured: Measurements, choice: str | None = None) -> dict[str, tuple[Rankings, Rankings]]:
    """
    Return rankings before and after re-ranking, by the name of the system after it: what a gate is fitted on.

    Of a sweep that is the system chosen or, where the choice is to leave re-ranking out, the deepest ones; of a
    pipeline its last stage. Before re-ranking there are as many documents as are re-ranked.
    """
    by_name = {system.name: system for system in measured.systems}
    lasts: dict[tuple[str | None, ...], System] = {}
    for system in measured.systems:
        what = system.description
        if what.kind != FIRST and what.first_stage in by_name and system.name != what.first_stage:
            pipeline = system.name.rpartition("/")[0] if what.kind == PIPELINE else None
            lasts[what.first_stage, what.model, what.backend, what.strategy, pipeline] = system
    if choice is not None and choice in {system.name for system in measured.systems if system.description.depth}:
        lasts = {(choice,): by_name[choice]}
    found: dict[str, tuple[Rankings, Rankings]] = {}
    for system in lasts.values():
        first = by_name[system.description.first_stage].rankings
        depth = system.description.depth
        cut = {query_id: dict(list(scores.items())[:depth]) for query_id, scores in first.items()}
        found[system.name] = (cut, system.rankings)
    return found


def _described(group: SystemGroup, journal: Journal) -> list[tuple[str, Description]]:
    plain: Any = journal.get(group.key, "systems")
    return [(name, Description(**what)) for name, what in zip(group.names, plain, strict=True)]


def _peak(what: Description, memory: Sequence[Mapping[str, Any]]) -> float | None:
    """The peak at the backend's default batch size, which is measured first."""
    for row in memory:
        if (row["model"], row["backend"]) == (what.model, what.backend):
            return float(row["peak_memory_mb"])
    return None


def _processor() -> str:
    """Return the processor's name; the architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
