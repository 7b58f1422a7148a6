"""Asks the retrieval part of a pipeline each query, and adds up what happened at its rankers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from haystack_ce_ranker.adopting.files import AdoptError
from haystack_ce_ranker.adopting.retrieval import Retrieval
from haystack_ce_ranker.evaluation.running.graphs import one_line
from haystack_ce_ranker.inspecting.findings import AtRanker, Findings, QueryFindings, Ranker, total_of
from haystack_ce_ranker.inspecting.mixing import Scores, is_ranker, mixed_scores
from haystack_ce_ranker.inspecting.readings import Reader, is_without_text
from haystack_ce_ranker.inspecting.watching import Call, Place, Watch, label_of
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker


def findings_of(
    retrieval: Retrieval,
    queries: Mapping[str, str],
    *,
    notes: Sequence[str] = (),
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Findings:
    """
    Ask the retrieval part each query, and return what was found. Its components are changed: use it for nothing else.

    :param queries: Texts by id.
    :param notes: What was done before, to be told beside the rest.
    :param track: Wraps the query ids, to show progress.
    :raises ValueError: If a model cannot be loaded, a component fails, or no query finds a document.
    """
    # No end is asked for: what comes out at two places is no fault here.
    asked = replace(retrieval.measured, ends=())
    watch = Watch(asked.pipeline)
    rankers = [place for place in watch.inner() if is_ranker(watch.components[place])]
    for place in rankers:
        _load(label_of(place), watch.components[place])
    asked.warm_up()
    asked.run(next(iter(queries.values())))  # no query pays for what is built at the first one
    readers = {place: Reader(watch.components[place]) for place in rankers}
    watch.calls.clear()
    scores: dict[Place, Scores] = {}
    found: dict[str, QueryFindings] = {}
    for query_id in track(list(queries)):
        seconds = asked.run(queries[query_id]).seconds
        found[query_id] = _of_query(watch, readers, seconds)
        for call in watch.calls:
            for document in call.made:
                if document.score is not None:
                    scores.setdefault(call.place, Scores()).add(float(document.score))
        watch.calls.clear()
    if not any(one.found for one in found.values()):
        raise AdoptError(
            f"none of {len(found)} queries found a document: check that the queries and the documents belong together, "
            "and the filters and the language of the retrievers"
        )
    limits = {label_of(place): getattr(watch.components[place], "top_k", None) for place in watch.inner()}
    return Findings(
        asked.name,
        (*retrieval.notes, *notes),
        {name: limit for name, limit in limits.items() if isinstance(limit, int)},
        {label_of(place): _ranker(label_of(place), reader, found) for place, reader in readers.items()},
        tuple(mixed_scores(watch, scores)),
        found,
    )


def _load(label: str, ranker: Any) -> None:
    """Load a ranker's model, so that an error names the ranker."""
    try:
        if hasattr(ranker, "warm_up"):
            ranker.warm_up()
    except Exception as error:  # each runtime has its own kinds
        model = getattr(ranker, "model", None)
        named = f" {model!r}" if isinstance(model, str) else ""
        raise AdoptError(
            f"the model{named} of {label} could not be loaded ({one_line(error)}): check its name, and that it is on "
            "this machine or can be downloaded"
        ) from error


def _ranker(name: str, reader: Reader, found: Mapping[str, QueryFindings]) -> Ranker:
    total = total_of([one.rankers[name] for one in found.values() if name in one.rankers])
    ours = isinstance(reader.ranker, CrossEncoderRanker)
    return Ranker(type(reader.ranker).__name__, ours, reader.most, reader.known, total)


def _of_query(watch: Watch, readers: Mapping[Place, Reader], seconds: float) -> QueryFindings:
    rankers: dict[str, list[AtRanker]] = {}
    for number, call in enumerate(watch.calls):
        if call.place in readers:
            before = [one for one in watch.calls[:number] if watch.leads_to(one.place, call.place)]
            rankers.setdefault(label_of(call.place), []).append(_at(call, readers[call.place], before, watch))
    made = {one.id: one for call in watch.calls for one in call.made}
    return QueryFindings(
        len(made),
        sum(is_without_text(one) for one in made.values()),
        1000 * seconds,
        {name: total_of(some) for name, some in rankers.items()},
    )


def _at(call: Call, reader: Reader, before: Sequence[Call], watch: Watch) -> AtRanker:
    """Return what happened at a run of a ranker, and at the components that ran before it and lead to it."""
    arrived = {one.id for one in call.received}
    dropped = {}
    inner = set(watch.inner())
    for place in dict.fromkeys(one.place for one in before if one.place in inner):
        runs = [one for one in before if one.place == place]
        given = {one.id for run in runs for one in run.received}
        kept = {one.id for run in runs for one in run.made}
        if kept <= given and (gone := given - kept - arrived):  # what makes new documents drops none
            dropped[label_of(place)] = gone
    lost = set[str]().union(*dropped.values())
    return AtRanker(reader.read(call), len(lost), {name: len(gone) for name, gone in dropped.items()})
