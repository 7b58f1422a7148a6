"""
An experiment: ask all systems for every query, keep what they did, and turn it into results.

Systems are asked in turn for each query, so that a machine's slower moments hit all alike and an interrupted run
compares the same queries. `sweep.py` decides which systems there are; `judging` draws the conclusions.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Ids
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from haystack_ce_ranker import checks
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.data.left_out import LeftOut, part, sorted_by_weight
from haystack_ce_ranker.evaluation.judging.choosing import NO_LIMITS, Judge, Limits
from haystack_ce_ranker.evaluation.judging.comparison import HelpedAndHurt, Rankings, helped_and_hurt, versus
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, measures, per_query
from haystack_ce_ranker.evaluation.judging.observations import Observation, Observed, restored
from haystack_ce_ranker.evaluation.judging.results import RESULTS_VERSION, Results
from haystack_ce_ranker.evaluation.judging.segments import Features, Segments, features, judge
from haystack_ce_ranker.evaluation.judging.systems import Description, Kind, Weights
from haystack_ce_ranker.evaluation.judging.verdict import verdict
from haystack_ce_ranker.evaluation.running.contents import key_of, system_key
from haystack_ce_ranker.evaluation.running.graphs import PipelineError, one_line
from haystack_ce_ranker.evaluation.running.groups import SystemGroup
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.evaluation.running.sweep import Variant
from haystack_ce_ranker.machine.energy import UNCOUNTED, omitted
from haystack_ce_ranker.machine.facts import machine
from haystack_ce_ranker.machine.memory import MemoryRow, peak_megabytes
from haystack_ce_ranker.machine.units import WORLD, Grid

BATCH_TOKENS = (None, 4096, 16384)  # for which peak memory is measured; None is the backend's default

_DESCRIPTION = TypeAdapter(Description)


@dataclass(frozen=True)
class Measurements:
    """
    What was measured.

    :ivar collection: With only those queries that all systems did.
    :ivar complete: False if the run was interrupted.
    :ivar notes: In words, what was done with stores, and how energy was measured.
    :ivar left_out: What could not be measured, and what no system found.
    """

    collection: Collection
    systems: tuple[Observed, ...]
    complete: bool
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def measure(
    groups: Sequence[SystemGroup],
    collection: Collection,
    *,
    journal: Journal | None = None,
    optional: Container[str] = (),
    needed: Mapping[str, Container[str]] = MappingProxyType({}),
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Measurements:
    """
    Ask every system for every query. Ctrl-C ends the run with what there is.

    What the journal holds is not done again, and a group of which it holds everything is not even loaded.

    :param journal: Keeps each observation as soon as it is made.
    :param optional: Keys of groups that are left out, and named, if they cannot be loaded.
    :param needed: For each model that was named the keys of its groups, one of which must be loaded.
    :param track: Wraps the query ids, to show progress.
    :raises ValueError: If nothing, or nothing of a model, could be measured, or no query found anything.
    """
    journal = journal if journal is not None else Journal()
    entries = {query_id: f"{query_id} {key_of(text)}" for query_id, text in collection.queries.items()}
    kept, unable = _prepared(groups, entries.values(), journal, optional)
    _check_models(kept, unable, needed)
    systems = {name: Observed(name, what) for group in kept for name, what in _described(group, journal)}
    done = _ask(kept, systems, entries, journal, track)
    for group in kept:
        seen = [name for one in group.names for did in systems[one].observations.values() for name, _ in did.ranking]
        check_found(group.names[0], len(done), seen, collection.documents)
    queries = len(entries)
    undone = part(queries - len(done), queries, "queries were not measured: it was interrupted, and can go on there")
    notes = [note for group in kept for note in journal.restore(group.key, "notes", list) or ()]
    sources = dict.fromkeys(str(system.description.energy_source) for system in systems.values())
    notes += [f"energy: {source}; {omitted(source)}" for source in sources if UNCOUNTED not in source]
    uncounted = [LeftOut(f"energy: {source}") for source in sources if UNCOUNTED in source]
    left_out = (*undone, *unable.values(), *_empty_handed(systems), *uncounted)
    measured = collection.only(done) if undone else collection
    return Measurements(measured, tuple(systems.values()), not undone, tuple(notes), left_out)


def _ask(
    groups: Sequence[SystemGroup],
    systems: Mapping[str, Observed],
    entries: Mapping[str, str],
    journal: Journal,
    track: Callable[[Sequence[str]], Iterable[str]],
) -> set[str]:
    """Note what each system did for each query; returns the queries that all systems did."""
    done: set[str] = set()
    try:
        for query_id in track(list(entries)):
            found: dict[str, Observation] = {}
            for group in groups:
                named = partial(_named, group.names)
                noted = journal.restore(group.key, entries[query_id], named, counts=True)
                if noted is None:
                    plain = [one.plain() for one in group.observe(query_id, found)]
                    journal.note(group.key, entries[query_id], plain)
                    noted = named(plain)
                found |= noted
            for name, system in systems.items():
                system.observations[query_id] = found[name]
            done.add(query_id)
    except KeyboardInterrupt:
        if not done:
            raise
    return done


def _named(names: Sequence[str], plain: Any) -> dict[str, Observation]:
    return dict(zip(names, map(restored, plain), strict=True))


def _empty_handed(systems: Mapping[str, Observed]) -> Iterator[LeftOut]:
    """Yield for how many queries a system has no document, where its first stage had some."""
    empty = {name: sum(not did.ranking for did in one.observations.values()) for name, one in systems.items()}
    for name, one in systems.items():
        first, queries = one.description.first_stage, len(one.observations)
        if first == name or empty[name] > empty.get(first or "", 0):
            told = part(empty[name], queries, f"judged queries have no document in {name} (they count as 0)")
            yield from told if one.description.kind == Kind.FIRST_STAGE else (LeftOut(one.text) for one in told)


def check_found(what: str, queries: int, found: Ids[str], known: Container[str]) -> None:
    """
    Check that queries found documents of a collection at all: what found none has nothing to measure.

    :param what: What was asked.
    :param queries: How many queries it was asked.
    :param found: The ids of all documents that it found.
    :param known: The collection's ids.
    :raises PipelineError: If none of them is known.
    """
    if any(one in known for one in found):
        return
    problem = "found no document at all: check filters, thresholds and the language of its retrievers"
    if found:
        such = next(iter(found))
        problem = (
            f"found {len(found)} documents, such as {such!r}, but none of the collection: its documents must keep the "
            "ids of the collection, so take out what splits or replaces them, and point it at an empty index"
        )
    raise PipelineError(f"{what} was asked {queries} {'query' if queries == 1 else 'queries'} and {problem}")


def _prepared(
    groups: Sequence[SystemGroup], entries: Iterable[str], journal: Journal, optional: Container[str]
) -> tuple[list[SystemGroup], dict[str, LeftOut]]:
    """Return the groups that can be asked, loaded where the journal does not hold everything, and by key the others."""
    kept: list[SystemGroup] = []
    left_out, names = {}, ("systems", *entries)
    for group in groups:
        if group.needs is not None and not any(group.needs in one.names for one in kept):
            continue  # what it needs was left out, with the reason
        if any(journal.get(group.key, name) is None for name in names):
            try:
                group.prepare()
            except Exception as error:  # each runtime has its own kinds
                if group.key not in optional:
                    raise
                why = str(error) if isinstance(error, ImportError | OSError | ValueError) else one_line(error)
                left_out[group.key] = LeftOut(f"{group.names[0].partition('@')[0]} could not be loaded: {why}")
                continue
            journal.note(group.key, "systems", [asdict(what) for what in group.describe()])
            journal.note(group.key, "notes", list(group.notes))
        kept.append(group)
    return kept, left_out


def _check_models(
    kept: Sequence[SystemGroup], left_out: Mapping[str, LeftOut], needed: Mapping[str, Container[str]]
) -> None:
    """Check that each model that was named could be loaded once, and that there is something to measure."""
    for model, keys in needed.items():
        if not any(group.key in keys for group in kept):
            why = "; ".join(dict.fromkeys(one.text for key, one in left_out.items() if key in keys))
            raise ValueError(f"model {model!r} could not be loaded by any backend: {why}")
    if not kept:
        raise ValueError(f"there is nothing to measure: {'; '.join(one.text for one in left_out.values())}")


def _described(group: SystemGroup, journal: Journal) -> list[tuple[str, Description]]:
    def form(plain: Any) -> list[tuple[str, Description]]:
        return list(zip(group.names, map(_DESCRIPTION.validate_python, plain), strict=True))

    return journal.restore(group.key, "systems", form) or []


def memory_by_batch(
    swept: Sequence[Variant], journal: Journal, *, track: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> tuple[list[MemoryRow], list[LeftOut]]:
    """Measure each cross-encoder's peak memory by batch size, each in a process of its own; return also what failed."""
    rows: list[MemoryRow] = []
    left_out: list[LeftOut] = []
    pairs = list(dict.fromkeys((one.model, one.backend) for one in swept))
    for model, backend, batch_tokens in track([(*pair, size) for pair in pairs for size in BATCH_TOKENS]):
        key = system_key("memory", model, backend, batch_tokens)
        found = journal.restore(key, "peak", lambda plain: MemoryRow(**plain), counts=True)
        if found is None:
            try:
                found = peak_megabytes(model, backend, batch_tokens)
            except RuntimeError as error:
                left_out.append(LeftOut(one_line(error)))
                continue
            journal.note(key, "peak", asdict(found))
        rows.append(found)
    return rows, left_out


def results(
    measured: Measurements,
    *,
    baseline: str | None = None,
    relevance_level: int = 1,
    memory: Sequence[MemoryRow] = (),
    notes: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    limits: Limits = NO_LIMITS,
    grid: Grid = WORLD,
) -> Results:
    """
    Return all figures and the verdict: what results.json holds. No text of the collection is among them.

    :param baseline: The system that the others are compared with; None for the first.
    :param relevance_level: The lowest grade that counts as relevant in binary measures.
    :param memory: Of `memory_by_batch`.
    :param left_out: What else was left out.
    :param limits: What a query may cost.
    :param grid: What a kilowatt-hour emits.
    :raises ValueError: If there is no system of the baseline's name.
    """
    collection, observed = measured.collection, {system.name: system for system in measured.systems}
    baseline = next(iter(observed)) if baseline is None else baseline
    checks.choice("baseline", baseline, observed)
    rankings = {name: system.rankings for name, system in observed.items()}
    values = {name: per_query(run, collection.judgments, measures(relevance_level)) for name, run in rankings.items()}
    by_query = {name: {NDCG_AT_10: of_system[NDCG_AT_10]} for name, of_system in values.items()}
    against = versus(by_query, baseline)
    systems = tuple(
        one.figures(values[name], versus=against.get(name), peak_memory_mb=_peak(one.description, memory), grid=grid)
        for name, one in observed.items()
    )
    first = observed[baseline].description.first_stage
    of_queries = features(collection, rankings.get(first or "", {}), relevance_level=relevance_level)
    judging = Judge(systems, baseline, by_query, limits)
    segments, helped = _on_subject(judging, observed, of_queries, collection.judgments)
    queries, complete = len(collection.queries), measured.complete
    missing = _missing(measured, relevance_level, left_out)
    decided = verdict(judging, queries=queries, complete=complete, memory=memory, segments=segments, left_out=missing)
    return Results(
        version=RESULTS_VERSION,
        collection=collection.name,
        documents=len(collection.documents),
        queries=queries,
        relevance_level=relevance_level,
        complete=complete,
        baseline=baseline,
        notes=(*collection.notes, *notes, *measured.notes),
        left_out=missing,
        machine=machine(),
        systems=systems,
        by_query=by_query,
        memory_by_batch=tuple(memory),
        features=of_queries,
        segments=segments,
        helped_and_hurt=helped,
        verdict=decided,
        grid=grid,
    )


def _on_subject(
    judging: Judge, observed: Mapping[str, Observed], of_queries: Features, grades: Mapping[str, Mapping[str, int]]
) -> tuple[Segments | None, HelpedAndHurt | None]:
    """Return where the verdict's subject helps and harms, and on which queries most."""
    if judging.subject is None or judging.baseline is None:
        return None, None
    by_query, first, last = judging.by_query, observed[judging.baseline.name], observed[judging.subject.name]
    segments = judge(of_queries, by_query, baseline=first.name, system=last.name)
    helped = helped_and_hurt(
        by_query,
        first.rankings,
        last.rankings,
        baseline=first.name,
        system=last.name,
        judgments=grades,
        readings=last.readings,
    )
    return segments, helped


def _missing(measured: Measurements, relevance_level: int, others: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """Return all that was left out, what takes most of the judgments first."""
    collection = measured.collection
    grades = [grade for some in collection.judgments.values() for grade in some.values()]
    found = [*collection.all_left_out, *measured.left_out, *others]
    if 1 < relevance_level > max(grades, default=0):
        found.append(LeftOut(f"no judgment reaches the relevance level {relevance_level}: all measures but nDCG are 0"))
    return sorted_by_weight(found)


def stages(measured: Measurements, choice: str | None = None) -> dict[str, tuple[Rankings, Rankings]]:
    """
    Return rankings before and after re-ranking, by the name of the system after it: what a gate is fitted on.

    Of a sweep that is the system chosen or, where the choice is to leave re-ranking out, the deepest ones, hybrids by
    fixed weights; of a pipeline its last stage. Before re-ranking there are as many documents as are re-ranked.
    """
    by_name = {system.name: system for system in measured.systems}
    lasts: dict[tuple[str | None, ...], Observed] = {}
    for system in measured.systems:
        what = system.description
        if what.weights == Weights.ADAPTIVE:
            continue
        if what.kind != Kind.FIRST_STAGE and what.first_stage in by_name and system.name != what.first_stage:
            pipeline = system.name.rpartition("/")[0] if what.kind == Kind.PIPELINE else None
            lasts[what.first_stage, what.model, what.backend, what.strategy, pipeline] = system
    if choice is not None and choice in by_name and by_name[choice].description.depth:
        lasts = {(choice,): by_name[choice]}
    found: dict[str, tuple[Rankings, Rankings]] = {}
    for system in lasts.values():
        what = system.description
        first = by_name[what.first_stage or ""].rankings
        cut = {query_id: dict(list(scores.items())[: what.depth]) for query_id, scores in first.items()}
        found[system.name] = (cut, system.rankings)
    return found


def _peak(what: Description, memory: Sequence[MemoryRow]) -> float | None:
    """The peak at the backend's default batch size, which is measured first."""
    peaks = (row.peak_memory_mb for row in memory if (row.model, row.backend) == (what.model, what.backend))
    return next(peaks, None)
