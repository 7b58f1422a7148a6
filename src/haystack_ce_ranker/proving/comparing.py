"""Measures a pipeline before and after it was moved, with `evaluate`'s own systems, tests and figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.core.component.types import OutputSocket

from haystack_ce_ranker.adopting.files import AdoptError
from haystack_ce_ranker.adopting.retrieval import Retrieval, retrieval_of
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.formats import p_phrase, signed
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.systems import Finding, System
from haystack_ce_ranker.evaluation.running.experiments import measure, results
from haystack_ce_ranker.evaluation.running.graphs import PipelineError, one_line
from haystack_ce_ranker.evaluation.running.groups import PipelineGroup
from haystack_ce_ranker.evaluation.running.parts import sockets_of
from haystack_ce_ranker.inspecting.mixing import is_ranker
from haystack_ce_ranker.inspecting.readings import Reader
from haystack_ce_ranker.inspecting.watching import Call
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class BeforeAndAfter:
    """
    A pipeline and what it became, measured on the same queries.

    :ivar results: The figures of both.
    """

    results: Results

    @property
    def after(self) -> System:
        """The figures of the new one, compared with the old one."""
        return next(one for one in self.results.systems if one.name == AFTER)

    @property
    def is_worse(self) -> bool:
        """Whether the new one is significantly worse."""
        return self.after.significance == Finding.WORSE

    def verdict(self) -> str:
        """Return how the two compare, in one sentence."""
        found = self.after.versus
        if found is None:
            raise RuntimeError("both are measured.")
        how = {
            Finding.BETTER: "better than before",
            Finding.WORSE: "worse than before",
        }.get(self.after.significance or Finding.UNCERTAIN, "not shown to differ from before")
        queries = self.results.queries
        return (
            f"The new pipeline is {how}: {NDCG_AT_10} {signed(found.difference)} (95 % interval {signed(found.low)} to "
            f"{signed(found.high)}, {p_phrase(found.p_corrected)}, {queries} {'query' if queries == 1 else 'queries'}: "
            f"{found.wins} better, {found.losses} worse, {found.ties} alike)."
        )


def compare_texts(
    before: str,
    after: str,
    path: Path,
    collection: Collection,
    *,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> BeforeAndAfter:
    """
    Measure both forms of a pipeline on a collection.

    :param path: Where the text comes from, for messages.
    :param track: Wraps the query ids, to show progress.
    :raises ValueError: If one of them cannot be measured.
    """
    try:
        old = retrieval_of(before, path, name=BEFORE)
    except AdoptError as error:
        raise AdoptError(f"{error} Without --collection, the old file need not run here.") from error
    new = retrieval_of(after, path, name=AFTER)
    key = collection.fingerprint()
    groups = [_group(one, collection, key) for one in (old, new)]
    try:
        measured = measure(groups, collection, track=track)
    except PipelineError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise AdoptError(
            f"{path}: it cannot be measured ({one_line(error)}): check that its models are on this machine or can be "
            "downloaded"
        ) from error
    notes = [f"{one.measured.name}: {note}" for one in (old, new) for note in one.notes]
    return BeforeAndAfter(results(measured, baseline=BEFORE, notes=notes))


def _group(retrieval: Retrieval, collection: Collection, key: str) -> PipelineGroup:
    measured = retrieval.measured
    ends = list(dict.fromkeys(name for name, _ in measured.ends))
    if len(ends) != 1:
        raise AdoptError(
            f"its documents come out at {' and '.join(ends)}: name the one to measure in the YAML as "
            f"`outputs: {{documents: {'.'.join(measured.ends[0])}}}`"
        )
    _let_report(measured.pipeline)
    return PipelineGroup(replace(measured, notes=()), collection, key, names={ends[0]: measured.name})


def _let_report(pipeline: Pipeline) -> None:
    """Let stock rankers report what they read, as ours do, so that both are counted alike."""
    for _, instance in pipeline.walk():
        if is_ranker(instance) and not isinstance(instance, CrossEncoderRanker):
            ranker: Any = instance
            ranker.run = _reporting(ranker)
            sockets_of(ranker, "output")["report"] = OutputSocket("report", dict[str, Any])


def _reporting(ranker: Any) -> Callable[..., Any]:
    run = ranker.run
    readers: list[Reader] = []

    @wraps(run)
    def reporting(**given: Any) -> Any:
        if not readers:
            if hasattr(ranker, "warm_up"):
                ranker.warm_up()
            readers.append(Reader(ranker))
        returned = run(**given)
        read = readers[0].read(Call((), given, returned, 0.0))
        if not readers[0].known:
            return returned
        report = {
            "tokens": read.filled_tokens,
            "pairs": read.pairs,
            "content_tokens": read.text_tokens,
            "tokens_unread": read.unread_tokens,
        }
        return {**returned, "report": {**report, "flops": None}}

    return reporting
