"""
An experiment: ask all systems for every query, keep what they did, and turn it into results.

Systems are asked in turn for each query, so that a machine's slower moments hit all alike and an interrupted run
compares the same queries. `sweep.py` decides which systems there are; `judging` draws the conclusions.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from collections.abc import Collection as Ids
from dataclasses import asdict, dataclass
from typing import Any

from haystack_ce_ranker import checks
from haystack_ce_ranker.evaluation.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.choosing import NO_LIMITS, Judge, Limits
from haystack_ce_ranker.evaluation.judging.comparison import Rankings, helped_and_hurt, versus
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, measures, per_query
from haystack_ce_ranker.evaluation.judging.observations import Observation, Observed, restored
from haystack_ce_ranker.evaluation.judging.results import RESULTS_VERSION, Results
from haystack_ce_ranker.evaluation.judging.segments import features, judge
from haystack_ce_ranker.evaluation.judging.systems import Description, Kind
from haystack_ce_ranker.evaluation.judging.verdict import verdict
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.evaluation.running.groups import SystemGroup, key_of
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.evaluation.running.sweep import Variant
from haystack_ce_ranker.machine.energy import IDLE
from haystack_ce_ranker.machine.facts import machine
from haystack_ce_ranker.machine.memory import MemoryRow, peak_megabytes

BATCH_TOKENS = (None, 4096, 16384)  # for which peak memory is measured; None is the backend's default


@dataclass(frozen=True)
class Measurements:
    """
    What was measured.

    :ivar collection: With only those queries that all systems did.
    :ivar complete: False if the run was interrupted.
    :ivar notes: In words, which systems could not be loaded, and how energy was measured.
    """

    collection: Collection
    systems: tuple[Observed, ...]
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
    Ask every system for every query. Ctrl-C ends the run with what there is.

    What the journal holds is not done again, and a group of which it holds everything is not even loaded.

    :param journal: Keeps each observation as soon as it is made.
    :param optional: Keys of groups that are left out, with a note, if they cannot be loaded.
    :param track: Wraps the query ids, to show progress.
    :raises ValueError: If nothing could be measured, or a group found nothing of the collection for any query.
    """
    journal = journal if journal is not None else Journal()
    entries = {query_id: f"{query_id} {key_of(text)}" for query_id, text in collection.queries.items()}
    kept, notes = _prepared(groups, entries.values(), journal, optional)
    systems = {name: Observed(name, what) for group in kept for name, what in _described(group, journal)}
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
    for group in kept:
        seen = [name for one in group.names for did in systems[one].observations.values() for name, _ in did.ranking]
        check_found(group.names[0], len(done), seen, collection.documents)
    sources = dict.fromkeys(system.description.energy_source for system in systems.values())
    notes += [f"energy: {source}; {IDLE}" for source in sources]
    return Measurements(collection, tuple(systems.values()), complete, tuple(notes))


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
) -> tuple[list[SystemGroup], list[str]]:
    """Return the groups that can be asked, loaded where the journal does not hold everything, and notes on others."""
    kept, notes, names = [], [], ("systems", *entries)
    for group in groups:
        if any(journal.get(group.key, name) is None for name in names):
            try:
                group.prepare()
            except (ImportError, OSError, ValueError) as error:
                if group.key not in optional:
                    raise
                notes.append(f"{group.names[0].partition('@')[0]} is left out: {error}")
                continue
            journal.note(group.key, "systems", [asdict(what) for what in group.describe()])
        kept.append(group)
    return kept, notes


def _described(group: SystemGroup, journal: Journal) -> list[tuple[str, Description]]:
    plain: Any = journal.get(group.key, "systems")
    described = [Description(**{**what, "kind": Kind(what["kind"])}) for what in plain]
    return list(zip(group.names, described, strict=True))


def memory_by_batch(
    swept: Sequence[Variant], journal: Journal, *, track: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> list[MemoryRow]:
    """Measure each cross-encoder's peak memory by batch size, each in a process of its own; what fails is left out."""
    rows = []
    pairs = list(dict.fromkeys((one.model, one.backend) for one in swept))
    for model, backend, batch_tokens in track([(*pair, size) for pair in pairs for size in BATCH_TOKENS]):
        key = key_of("memory", model, backend, batch_tokens)
        found = journal.get(key, "peak")
        if found is None:
            try:
                found = asdict(peak_megabytes(model, backend, batch_tokens))
            except RuntimeError:
                continue
            journal.note(key, "peak", found)
        rows.append(MemoryRow(**found))
    return rows


def results(
    measured: Measurements,
    *,
    baseline: str | None = None,
    relevance_level: int = 1,
    memory: Sequence[MemoryRow] = (),
    notes: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
) -> Results:
    """
    Return all figures and the verdict: what results.json holds. No text of the collection is among them.

    :param baseline: The system that the others are compared with; None for the first.
    :param relevance_level: The lowest grade that counts as relevant in binary measures.
    :param memory: Of `memory_by_batch`.
    :param limits: What a query may cost.
    :raises ValueError: If there is no system of the baseline's name.
    """
    collection, observed = measured.collection, {system.name: system for system in measured.systems}
    baseline = next(iter(observed)) if baseline is None else baseline
    checks.choice("baseline", baseline, observed)
    rankings = {name: system.rankings for name, system in observed.items()}
    wanted = measures(relevance_level)
    values = {name: per_query(run, collection.judgments, wanted) for name, run in rankings.items()}
    by_query = {name: {NDCG_AT_10: of_system[NDCG_AT_10]} for name, of_system in values.items()}
    against = versus(by_query, baseline)
    systems = tuple(
        one.figures(values[name], versus=against.get(name), peak_memory_mb=_peak(one.description, memory))
        for name, one in observed.items()
    )
    first = observed[baseline].description.first_stage
    of_queries = features(collection, rankings.get(first or "", {}), relevance_level=relevance_level)
    judging = Judge(systems, baseline, by_query, limits)
    segments = helped = None
    if judging.subject is not None:
        subject = observed[judging.subject.name]
        segments = judge(of_queries, by_query, baseline=baseline, system=subject.name)
        runs, grades, read = (rankings[baseline], rankings[subject.name]), collection.judgments, subject.readings
        helped = helped_and_hurt(
            by_query, *runs, baseline=baseline, system=subject.name, judgments=grades, readings=read
        )
    queries, complete = len(collection.queries), measured.complete
    return Results(
        version=RESULTS_VERSION,
        collection=collection.name,
        documents=len(collection.documents),
        queries=queries,
        relevance_level=relevance_level,
        complete=complete,
        baseline=baseline,
        notes=(*collection.notes, *notes, *measured.notes),
        machine=machine(),
        systems=systems,
        by_query=by_query,
        memory_by_batch=tuple(memory),
        features=of_queries,
        segments=segments,
        helped_and_hurt=helped,
        verdict=verdict(judging, queries=queries, complete=complete, memory=memory, segments=segments),
    )


def stages(measured: Measurements, choice: str | None = None) -> dict[str, tuple[Rankings, Rankings]]:
    """
    Return rankings before and after re-ranking, by the name of the system after it: what a gate is fitted on.

    Of a sweep that is the system chosen or, where the choice is to leave re-ranking out, the deepest ones; of a
    pipeline its last stage. Before re-ranking there are as many documents as are re-ranked.
    """
    by_name = {system.name: system for system in measured.systems}
    lasts: dict[tuple[str | None, ...], Observed] = {}
    for system in measured.systems:
        what = system.description
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
