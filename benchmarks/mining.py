"""
What margins do in mining: how many relevant documents that nobody had judged a teacher finds, and how many of the other
unjudged candidates it drops with them.

    python benchmarks/mining.py

Every second relevant document of a query counts as not judged. Negatives are eight a query, drawn from BM25's first
100. The teacher's logits are kept in `--cache`.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import common
from common import Report
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.training.candidates import first_stage
from haystack_ce_ranker.training.commands.mine import MARGINS
from haystack_ce_ranker.training.groups import JUDGED, Group
from haystack_ce_ranker.training.mining import KEEP, REFERENCES, Mining, mine
from haystack_ce_ranker.training.teachers import KeptJudge, Teacher

COLLECTIONS = ("stackfaq", "cacm", "med")
QUICK = {"queries": 2}
QUERIES = 250

Logits = list[float]


class Halved(NamedTuple):
    """The logits of a query's relevant documents, judged and hidden, and of those that are not judged."""

    judged: Logits
    hidden: Logits
    others: Logits


def margins(arguments: argparse.Namespace, report: Report) -> None:
    """Print for each collection what each margin does, measured from each reference."""
    teacher = Teacher.load(ModelOptions(common.located_model(arguments)), backend=arguments.backend)
    for name in COLLECTIONS:
        with report.or_left_out(name):
            halves = [one for one in map(halved, mined(name, teacher, arguments)) if one.judged]
            report.table(
                f"{name}, {len(halves)} queries: relevant documents found / others dropped", "margin", *REFERENCES
            )
            for margin in MARGINS:
                report.row(f"{margin:g}", *(cell(halves, of, margin) for of in REFERENCES.values()))


def mined(name: str, teacher: Teacher, arguments: argparse.Namespace) -> list[Group]:
    """Mine a collection and keep all that was drawn."""
    queries = QUERIES if arguments.queries is None else arguments.queries
    collection = load_collection(common.collection_folder(arguments, name)).sample(queries)
    settings = Mining(false_negatives=KEEP)
    candidates = first_stage(collection, collection.queries, "bm25", settings.last_rank)
    with Journal(arguments.cache / f"mining-{name}") as journal:
        return mine(collection, candidates, settings, KeptJudge(teacher, journal)).groups


def halved(group: Group) -> Halved:
    """Return the logits of a query's documents; every second relevant one is hidden."""
    known = [(one, one.teacher) for one in group.candidates if one.teacher is not None]
    relevant = [logit for one, logit in known if one.label]
    others = [logit for one, logit in known if one.label == 0 and one.source != JUDGED]
    return Halved(relevant[::2], relevant[1::2], others)


def cell(halves: list[Halved], reference: Callable[[Logits], float], margin: float) -> str:
    """Return which share of the hidden documents and of the others a margin reaches."""
    limits = [(one, reference(one.judged) - margin) for one in halves]
    found = [logit >= limit for one, limit in limits for logit in one.hidden]
    dropped = [logit >= limit for one, limit in limits for logit in one.others]
    return f"{np.mean(found):.1%} / {np.mean(dropped):.1%}"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    common.add_model(parser, OFFLINE_MODEL)


PARTS = {"margins": margins}
BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options)

if __name__ == "__main__":
    BENCHMARK.main()
