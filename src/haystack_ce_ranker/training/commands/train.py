"""
The workflow of `haystack-ce-ranker train`: part the queries, mine, fine-tune, and keep the model if it is better.

What learns stands in `fitting.py`, what decides in `gate.py`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from haystack_ce_ranker.backends.devices import require_device
from haystack_ce_ranker.backends.model_files import ModelOptions, require_outside
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.training.bases import load_base
from haystack_ce_ranker.training.candidates import BM25, first_stage
from haystack_ce_ranker.training.card import model_name
from haystack_ce_ranker.training.commands.ending import conclude, judged, or_stopped
from haystack_ce_ranker.training.fitting import Fitted, Recipe, fit, require_packages
from haystack_ce_ranker.training.gate import SAVE, GateResult
from haystack_ce_ranker.training.groups import Group, read_groups
from haystack_ce_ranker.training.held_out import HeldOut, Run
from haystack_ce_ranker.training.losses import usual_loss
from haystack_ce_ranker.training.mining import KEEP, Mining, mine
from haystack_ce_ranker.training.saving import work_folder
from haystack_ce_ranker.training.showing import bar_on, say
from haystack_ce_ranker.training.splits import near_to, split_queries
from haystack_ce_ranker.training.teachers import KeptJudge, Teacher

TRAIN, DEV, TEST = "train", "dev", "test"
MOST_DEV = 100
"""The most dev queries: all of them are ranked again at every evaluation."""


@dataclass(frozen=True)
class TrainingRun:
    """
    What is to be trained on what, and when it is kept.

    :ivar collection: A folder in BEIR format, with judgments.
    :ivar output: The folder to write.
    :ivar base: The model to begin from.
    :ivar recipe: How to train; its seed parts the queries, too.
    :ivar usual_loss: Whether a trained base learns by the usual loss for as many queries as there are, and not by the
        recipe's.
    :ivar mining: How negatives are chosen, where no `groups` are given.
    :ivar groups: A file of groups to learn from; None to mine the training queries.
    :ivar teacher: A cross-encoder whose logits stand beside each pair; None for the base itself, which then only
        chooses the window of a long document.
    :ivar split: The judgments to use, as in `load_collection`.
    :ivar queries: At most this many queries, drawn at random.
    :ivar dev_share: The share of the queries that training stops by.
    :ivar test_share: The share of the queries that decides whether the model is kept.
    :ivar depth: How many of BM25's documents are ranked for each dev and test query.
    :ivar save: One of `gate.SAVE`.
    :ivar threads: Threads of one operation; None for torch's own number.
    :ivar fresh: Whether to throw away what an interrupted run left.
    """

    collection: Path
    output: Path
    base: ModelOptions
    recipe: Recipe = field(default_factory=Recipe)
    usual_loss: bool = False
    mining: Mining = field(default_factory=lambda: Mining(negatives=4, positives=2, last_rank=50))
    groups: Path | None = None
    teacher: ModelOptions | None = None
    split: str | None = None
    queries: int | None = None
    dev_share: float = 0.1
    test_share: float = 0.2
    depth: int = 20
    save: str = "better"
    threads: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check what is not checked elsewhere."""
        choice("save", self.save, SAVE)
        whole_number("depth", self.depth)
        for name in ("dev_share", "test_share"):
            number(name, getattr(self, name), above=0, most=1)
        if self.dev_share + self.test_share >= 1:
            raise ValueError(
                f"dev_share and test_share must leave queries to train on, but got {self.dev_share} and "
                f"{self.test_share}."
            )
        if self.recipe.learns == "teacher" and self.teacher is None and self.groups is None:
            raise ValueError("learning from a teacher needs one: name it with --teacher, or use groups with logits.")
        if self.teacher is not None and self.groups is not None:
            raise ValueError("groups hold their teacher's logits: leave --teacher out, or give it to `mine`.")
        whole_number("threads", self.threads, optional=True)
        require_device("device", self.base.device)


@dataclass(frozen=True)
class Parts:
    """The collection's queries in parts, with candidates for those that are held out."""

    train: Collection
    dev: HeldOut
    test: HeldOut


@dataclass(frozen=True)
class Learnt:
    """What was learnt from, how, and what unseen queries say of the model."""

    parts: Parts
    groups: Sequence[Group]
    recipe: Recipe
    fitted: Fitted
    found: GateResult


def run_training(run: TrainingRun, console: Console) -> bool | None:
    """
    Train, judge, print the table, and write the model or the report.

    :returns: Whether a model was written; None after an interruption, from which the same command goes on.
    :raises ValueError: If a setting or the collection does not fit, or nothing can be learnt.
    :raises OSError: If a model is not there, or nothing can be written.
    :raises ImportError: If a package is missing.
    """
    require_packages()
    require_outside(run.output, [run.base, *([run.teacher] if run.teacher is not None else [])])
    work = work_folder(run.output, fresh=run.fresh)
    return or_stopped(lambda: _run(run, work, console), console)


def _run(run: TrainingRun, work: Path, console: Console) -> bool:
    how = {name: getattr(run.recipe, name) for name in ("seed", "max_length", "interpolate")}
    load_base(run.base, **how)  # what cannot be trained is told first
    learnt = learn(run, part(run, console), work, console)
    return conclude(run.output, run.save, learnt.fitted.model, learnt.found, _facts(run, learnt), console)


def learn(
    run: TrainingRun, parts: Parts, work: Path, console: Console, *, known: Mapping[str, Run] | None = None
) -> Learnt:
    """
    Mine or read the groups, train, and judge. Nothing is written outside the work folder.

    :param known: Rankings of the test queries that are known already, see `gate.judge`.
    :raises Interrupted: If Ctrl-C ended it while it learnt.
    """
    fresh_head, most = _head_and_room(run)
    groups = _groups(run, parts, work, has_head=not fresh_head, most=most, console=console)
    chooses = run.usual_loss and not fresh_head  # what knows nothing yet is to be moved far
    recipe = replace(run.recipe, loss=usual_loss(len(groups))) if chooses else run.recipe
    fitted = fit(run.base, groups, parts.dev, work / "run", recipe, threads=run.threads, console=console)
    options = replace(run.base, dtype="float32", threads=run.threads)
    trained = ModelOptions(str(fitted.model), device=run.base.device, dtype="float32", threads=run.threads)
    found = judged(None if fresh_head else options, trained, parts.test, console, known=known)
    return Learnt(parts, groups, recipe, fitted, found)


def _head_and_room(run: TrainingRun) -> tuple[tuple[str, ...], int]:
    """Return which weights of the base are new, and the most tokens of a pair that it reads, without keeping it."""
    base = load_base(run.base, seed=run.recipe.seed, max_length=run.recipe.max_length)
    return base.fresh_head, base.cross_encoder.max_seq_length


def part(run: TrainingRun, console: Console) -> Parts:
    """
    Read the collection, part its queries, and find candidates for those that are held out.

    :raises ValueError: If the collection cannot be read or parted.
    """
    collection = load_collection(run.collection, split=run.split).sample(run.queries, seed=run.recipe.seed)
    for line in (*lines(collection.all_left_out, "training"), *(f"note: {note}" for note in collection.notes)):
        say(console, line)
    shares = {TRAIN: 1 - run.dev_share - run.test_share, DEV: run.dev_share, TEST: run.test_share}
    ids = split_queries(collection.queries, shares, seed=run.recipe.seed)
    if len(ids[DEV]) > MOST_DEV:
        ids[DEV] = random.Random(run.recipe.seed).sample(ids[DEV], MOST_DEV)
    say(console, "queries: " + ", ".join(f"{len(of_part):,} {name}" for name, of_part in ids.items()))
    return with_candidates(collection, ids, depth=run.depth)


def with_candidates(collection: Collection, ids: Mapping[str, Sequence[str]], *, depth: int) -> Parts:
    """
    Return the parts of a collection, with BM25's first documents for the queries that are held out.

    :param ids: The query ids of `TRAIN`, `DEV` and `TEST`.
    """
    held = {name: collection.queries[name] for name in (*ids[DEV], *ids[TEST])}
    found = first_stage(collection, held, BM25, depth)

    def held_out(names: Sequence[str]) -> HeldOut:
        texts = {
            name: {one.document_id: collection.documents[one.document_id].content for one in found[name]}
            for name in names
        }
        judgments = {name: collection.judgments[name] for name in names}
        return HeldOut({name: held[name] for name in names}, texts, judgments)

    return Parts(collection.only(set(ids[TRAIN])), held_out(ids[DEV]), held_out(ids[TEST]))


def without_leaks(groups: Sequence[Group], held: Mapping[str, str]) -> list[Group]:
    """Return the groups whose query is not equal or near-equal to one that is held out."""
    leaking = near_to({group.query_id: group.query for group in groups}, held.values())
    return [group for group in groups if group.query_id not in leaking]


def _groups(run: TrainingRun, parts: Parts, work: Path, *, has_head: bool, most: int, console: Console) -> list[Group]:
    if run.groups is not None:
        read = read_groups(run.groups)
        kept = without_leaks(read, {**parts.dev.queries, **parts.test.queries})
        say(console, f"{run.groups}: {len(kept)} of {len(read)} queries are far enough from those that are held out")
        return kept
    candidates = first_stage(parts.train, parts.train.queries, BM25, run.mining.last_rank)
    options = run.teacher if run.teacher is not None else run.base if has_head else None
    if options is None:
        say(console, "note: without a trained base or a teacher, long documents are read from their beginning")
        return mine(parts.train, candidates, replace(run.mining, seed=run.recipe.seed)).groups
    # The base cannot tell what it does not know yet: only a teacher may drop what it takes for relevant.
    settings = replace(run.mining, seed=run.recipe.seed)
    settings = settings if run.teacher is not None else replace(settings, false_negatives=KEEP)
    with Journal(work / "teacher") as journal, bar_on(console) as (bars, bar):
        policy = ReadingPolicy(max_length=run.recipe.max_length)
        asked = KeptJudge(
            Teacher.load(replace(options, threads=run.threads), policy, most=most),
            journal,
            progress=lambda done, total: bars.update(bar, description="reading", completed=done, total=total),
        )
        mined = mine(parts.train, candidates, settings, asked)
    for what, count in mined.left_out.items():
        say(console, f"left out: {count} {what}")
    return mined.groups


def _facts(run: TrainingRun, learnt: Learnt) -> dict[str, Any]:
    parts, groups = learnt.parts, learnt.groups
    base = model_name(run.base.model)
    candidates = [one for group in groups for one in group.candidates]
    data = {
        "collection": parts.train.name,
        "documents": len(parts.train.documents),
        "training_queries": len(groups),
        "relevant_documents": sum((one.label or 0) > 0 for one in candidates),
        "negatives": sum(one.label == 0 for one in candidates),
        "groups": None if run.groups is None else run.groups.name,
        "teacher": None if run.teacher is None else model_name(run.teacher.model),
        "dev_queries": len(parts.dev.queries),
        "test_queries": len(parts.test.queries),
        "candidates": f"BM25's first {run.depth}",
    }
    settings = {**asdict(learnt.recipe), "save": run.save}
    title = f"{base}, fine-tuned on {parts.train.name}"
    return {"title": title, "base": base, "data": data, "settings": settings} | {
        "fitted": learnt.fitted.plain(),
        "gate": learnt.found.plain(),
    }
