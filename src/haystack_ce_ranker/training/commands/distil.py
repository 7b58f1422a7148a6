"""The workflow of `haystack-ce-ranker distil`: cut or take a student, teach it the teacher's logits, and test it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions, require_outside
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import choice, number
from haystack_ce_ranker.data.collections import Collection, load_unjudged
from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.evaluation.judging.comparison import Versus
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.reading.documents import content_key
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.training.adapting import (
    GIVEN,
    GRADES,
    TEACHERS_ORDER,
    Asked,
    given_queries,
    learnt_documents,
    moved,
    taught_order,
    with_evidence,
)
from haystack_ce_ranker.training.bases import load_base
from haystack_ce_ranker.training.bi_encoders import BiEncoderRecipe, load_bi_encoder, rank_by_similarity, teach
from haystack_ce_ranker.training.candidates import BM25, BOTH, BiEncoder, Progress
from haystack_ce_ranker.training.card import model_name
from haystack_ce_ranker.training.commands.adapt import (
    AdaptRun,
    gather_asked,
    gather_lessons,
    gather_queries,
    judged_queries,
    parted,
)
from haystack_ce_ranker.training.commands.ending import conclude, judged, or_stopped
from haystack_ce_ranker.training.cutting import DEFAULT_KEEP, cut
from haystack_ce_ranker.training.fitting import fit
from haystack_ce_ranker.training.gate import BASE, TEACHER, TRAINED, Better, Decision, GateResult, Rule, ShareOf
from haystack_ce_ranker.training.groups import Group
from haystack_ce_ranker.training.held_out import HeldOut, Run, graded_by_order, rank
from haystack_ce_ranker.training.losses import LOSSES
from haystack_ce_ranker.training.made_queries import MadeQuery
from haystack_ce_ranker.training.run_folder import claim
from haystack_ce_ranker.training.runs import Fitted, key_of, require_packages
from haystack_ce_ranker.training.saving import work_folder
from haystack_ce_ranker.training.showing import bar_on, say, shown_by
from haystack_ce_ranker.training.splits import split_queries
from haystack_ce_ranker.training.taught import as_served
from haystack_ce_ranker.training.teachers import Teacher

CROSS_ENCODER, BI_ENCODER = "cross-encoder", "bi-encoder"
INTO = (CROSS_ENCODER, BI_ENCODER)
"""What a student may be."""

SHARES = {CROSS_ENCODER: 0.95, BI_ENCODER: 0.9}
"""The share of the teacher's nDCG@10 that a student must have to be written, if no other is asked for."""


@dataclass(frozen=True)
class DistilRun:
    """
    What is to be distilled, and how.

    :ivar lessons: The collection, the output folder, how queries are made, and the teacher. Its `base` is what a
        student is cut from: the teacher, in a form that torch loads. A bi-encoder's documents are found by BM25 and the
        student in turns, and a blend moves the teacher's logits by both.
    :ivar into: One of `INTO`.
    :ivar student: A model to teach; None cuts one from the teacher.
    :ivar layers: How many of the teacher's layers the cut student has.
    :ivar keep: Which ones; see `cutting.chosen_layers`.
    :ivar own: The share of the judged queries that is learnt from. Their judgments are not looked at.
    :ivar share: The share of the teacher's nDCG@10 that the student must have; None for that of `SHARES`.
    :ivar states: How much the teacher's hidden states count beside the loss of a cross-encoder; 0 for nothing.
    :ivar similar: How a bi-encoder is taught. Its seed is that of the lessons.
    """

    lessons: AdaptRun
    into: str = CROSS_ENCODER
    student: ModelOptions | None = None
    layers: int | None = None
    keep: str = DEFAULT_KEEP
    own: float = 0.5
    share: float | None = None
    states: float = 0.0
    similar: BiEncoderRecipe = field(default_factory=BiEncoderRecipe)

    def __post_init__(self) -> None:
        """Check what would otherwise be found out only after hours."""
        choice("into", self.into, INTO)
        object.__setattr__(self, "own", number("own", self.own, least=0, most=0.9))
        share = SHARES[self.into] if self.share is None else self.share
        object.__setattr__(self, "share", number("share", share, least=0, most=1))
        object.__setattr__(self, "states", number("states", self.states, least=0))
        replace(self.lessons.recipe, states=self.states)  # which checks whether the loss allows them
        if (self.student is None) == (self.layers is None):
            raise ValueError("a student is cut (--layers) or named (--student): give one of the two.")
        if self.into == BI_ENCODER and self.student is None:
            raise ValueError("layers cannot make a bi-encoder of a cross-encoder: name one (--student).")
        if self.into == BI_ENCODER and self.states:
            raise ValueError(f"states are learnt by a cross-encoder alone: leave them out, but got {self.states:g}.")
        if self.layers is not None and self.lessons.recipe.interpolate != 1:
            raise ValueError(
                f"interpolate must be 1 where a student is cut, which ranks nothing before it learns, but got "
                f"{self.lessons.recipe.interpolate:g}: leave it out."
            )
        if self.into == CROSS_ENCODER and self.lessons.settings.blend is not None:
            raise ValueError("a blend is for a bi-encoder, which learns what it finds: leave it out (--no-blend).")

    @property
    def teacher(self) -> ModelOptions:
        """The model that a student is cut from."""
        return self.lessons.base


@dataclass(frozen=True)
class _All:
    """Met if each of some rules is."""

    rules: Sequence[Rule]

    def decide(self, quality: Mapping[str, float], versus: Mapping[str, Versus]) -> Decision:
        """Return the decision, with all reasons."""
        found = [rule.decide(quality, versus) for rule in self.rules]
        return Decision(all(one.met for one in found), "; ".join(one.reason for one in found))


@dataclass(frozen=True)
class _Lessons:
    """
    What there is to learn, to stop by, and to test on; without judgments the test has none yet.

    :ivar dev: Where windows are learnt, their documents: a ranker ranks documents, whichever windows decide.
    :ivar evidence: Of the test's documents, what the first stages say; empty where no blend asks for it.
    """

    collection: Collection
    queries: Sequence[MadeQuery]
    parts: Mapping[str, Sequence[Group]]
    dev: HeldOut
    test: HeldOut
    evidence: Sequence[Asked]


def run_distilling(run: DistilRun, console: Console) -> GateResult | None:
    """
    Teach a student what a teacher scores, test it, and write it if the test lets it through.

    What the teacher and the trainer have done is kept in the output folder until the end. The same call goes on there.

    :returns: What the test found; None after an interruption.
    :raises ValueError: If a setting does not fit, the teacher cannot be cut, or there is nothing to learn from.
    :raises OSError: If a model or a file is not there.
    :raises ImportError: If a package is missing.
    """
    require_packages()
    models = [run.teacher, *run.lessons.teachers, *([run.student] if run.student is not None else [])]
    require_outside(run.lessons.output, models)
    work = work_folder(run.lessons.output, fresh=run.lessons.fresh)
    return or_stopped(lambda: _run(run, work, console), console)


def _run(run: DistilRun, work: Path, console: Console) -> GateResult:
    student, most = _student(run, work, console)
    policy = ReadingPolicy(max_length=run.lessons.recipe.max_length)
    lessons = _lessons(run, policy, most, work, console)
    fitted = _taught(run, student, lessons, policy, work, console)
    found = _judged(run, student, fitted, lessons, policy, console)
    facts = _facts(run, student, lessons, fitted, found)
    conclude(run.lessons.output, run.lessons.save, fitted.model, found, facts, console)
    return found


def _student(run: DistilRun, work: Path, console: Console) -> tuple[ModelOptions, int | None]:
    """
    Return the student that was named, or cut one, unless an interrupted run has.

    :returns: With it, the most tokens of a pair that it reads; None for a bi-encoder.
    """
    if run.student is not None:
        if run.into == BI_ENCODER:
            return run.student, None
        how = {name: getattr(run.lessons.recipe, name) for name in ("seed", "max_length", "interpolate")}
        base = load_base(run.student, **how)  # what cannot be trained is told first
        return run.student, base.cross_encoder.max_seq_length
    claim(work / "cut", key_of(run.teacher, run.layers, run.keep), resume=True)
    folder, unfinished = work / "student", work / "student.part"
    if not folder.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        made = cut(run.teacher, unfinished, layers=run.layers or 0, keep=run.keep)
        unfinished.rename(folder)
        say(console, f"student: {made}")
    cut_student = ModelOptions(str(folder), device=run.teacher.device)
    base = load_base(cut_student, seed=run.lessons.recipe.seed, max_length=run.lessons.recipe.max_length)
    return ModelOptions(str(folder)), base.cross_encoder.max_seq_length


def _lessons(run: DistilRun, policy: ReadingPolicy, most: int | None, work: Path, console: Console) -> _Lessons:
    asking = run.lessons
    whole = load_unjudged(asking.collection, split=asking.split)
    for line in (*lines(whole.all_left_out, "test"), *(f"note: {note}" for note in whole.notes)):
        say(console, line)
    own, collection = _parted_queries(run, whole)
    if own:
        say(console, f"{len(own)} of {len(whole.queries)} judged queries are learnt from, without their judgments")
    index = BM25Index.build([document.content for document in collection.documents.values()])
    queries = [*given_queries(own), *gather_queries(asking, collection, index, console)]
    bi_encoder = BiEncoder(load_bi_encoder(run.student)) if run.into == BI_ENCODER and run.student is not None else None
    found = gather_asked(asking, collection, index, queries, console, bi_encoder, searches=bi_encoder is not None)
    # a contrast with the batch tells documents apart, and two windows of one document would count as two of them
    windows = run.into == CROSS_ENCODER and not LOSSES[asking.recipe.loss].in_batch
    groups = gather_lessons(asking, found, policy, work, console, most=most, windows=windows)
    asked = {one.query.id: one for one in found}
    texts = {name: dict(zip(one.document_ids, one.texts, strict=True)) for name, one in asked.items()}
    if run.into == BI_ENCODER:
        groups = as_served(groups, texts)
    parts = parted(groups, asking, is_judged=bool(collection.queries))
    if collection.queries:
        with bar_on(console) as (bars, bar):
            show = shown_by(bars, bar, "embedding documents for the test")
            test, evidence = _judged_test(run, collection, index, bi_encoder, show)
    else:
        names = [group.query_id for group in parts["test"]]
        of_test = {name: texts[name] for name in names}
        test = HeldOut({name: asked[name].query.text for name in names}, of_test, {name: {} for name in names})
        evidence = [asked[name] for name in names]
    dev = taught_order(parts["dev"])
    if windows:
        dev = _in_teachers_order(run, [asked[name] for name in dev.queries], policy, work)
    return _Lessons(collection, queries, parts, dev, test, evidence if asking.settings.blend is not None else ())


def _judged_test(
    run: DistilRun, collection: Collection, index: BM25Index, bi_encoder: BiEncoder | None, progress: Progress
) -> tuple[HeldOut, list[Asked]]:
    """Return the judged queries with what the first stages find for them, and with what these say of it."""
    settings = run.lessons.settings
    test = judged_queries(collection, settings.depth, bi_encoder, progress=progress)
    found = [(MadeQuery(name, text, GIVEN, ""), test.documents[name]) for name, text in test.queries.items()]
    return test, with_evidence(found, collection.documents, index, settings, bi_encoder, progress=progress)


def _in_teachers_order(run: DistilRun, asked: Sequence[Asked], policy: ReadingPolicy, work: Path) -> HeldOut:
    """
    Return the documents of some queries, judged by the order in which the teacher ranks them.

    The order is kept: a run that goes on must find the same one, and near-equal scores may change places on a GPU.
    """
    documents = {one.query.id: learnt_documents(one, run.lessons.settings) for one in asked}
    unjudged = HeldOut({one.query.id: one.query.text for one in asked}, documents, {name: {} for name in documents})
    teacher = replace(run.lessons.teachers[0], threads=run.lessons.threads)
    loaded = Teacher.load(teacher, policy, backend=run.lessons.backend)
    key, name = f"{loaded.key} order", content_key(json.dumps(unjudged.plain())).hex()
    with Journal(work / "teachers") as journal:
        judgments = journal.get(key, name)
        if judgments is None:
            judgments = graded_by_order(rank(loaded.reader.scorer, unjudged), top=GRADES)
            journal.note(key, name, judgments)
    return replace(unjudged, judgments=judgments, judged_by=TEACHERS_ORDER)


def _parted_queries(run: DistilRun, collection: Collection) -> tuple[dict[str, str], Collection]:
    """Return the judged queries to learn from, and the collection with the others."""
    if not run.own or len(collection.queries) < 2:
        return {}, _sampled(run, collection)
    shares = {"own": run.own, "test": 1 - run.own}
    parts = split_queries(collection.queries, shares, seed=run.lessons.settings.seed)
    return {name: collection.queries[name] for name in parts["own"]}, _sampled(run, collection.only(set(parts["test"])))


def _sampled(run: DistilRun, collection: Collection) -> Collection:
    return collection.sample(run.lessons.test_queries, seed=run.lessons.settings.seed)


def _taught(
    run: DistilRun, student: ModelOptions, lessons: _Lessons, policy: ReadingPolicy, work: Path, console: Console
) -> Fitted:
    train, dev = lessons.parts["train"], lessons.dev
    recipe = replace(run.lessons.recipe, states=run.states)
    how: dict[str, Any] = {"threads": run.lessons.threads, "console": console}
    if run.into == BI_ENCODER:
        return teach(student, train, dev, work / "run", replace(run.similar, seed=recipe.seed), **how)
    return fit(student, train, dev, work / "run", recipe, policy=policy, teacher=run.teacher, **how)


def _teachers_test(run: DistilRun, lessons: _Lessons, policy: ReadingPolicy, console: Console) -> tuple[HeldOut, Run]:
    """
    Return the test with how the teacher ranks it, which is what judges it if nothing else does.

    Where its logits were moved by the evidence in the lessons, they are moved here, too.
    """
    teacher = replace(run.lessons.teachers[0], threads=run.lessons.threads)
    with bar_on(console) as (bars, bar):
        scorer = Teacher.load(teacher, policy, backend=run.lessons.backend).reader.scorer
        ranked = rank(scorer, lessons.test, progress=shown_by(bars, bar, "asking the teacher for the test"))
    if run.lessons.settings.blend is not None:
        ranked = moved(ranked, lessons.evidence, run.lessons.settings.blend)
    if lessons.collection.queries:
        return lessons.test, ranked
    return replace(lessons.test, judgments=graded_by_order(ranked), judged_by=TEACHERS_ORDER), ranked


def _judged(
    run: DistilRun,
    student: ModelOptions,
    fitted: Fitted,
    lessons: _Lessons,
    policy: ReadingPolicy,
    console: Console,
) -> GateResult:
    """Compare the student with its teacher and with what it was before."""
    share = ShareOf(TEACHER, float(run.share or 0.0))
    untaught = run.student is None or fitted.fresh_head  # what could not rank before
    rule: Rule = share if untaught else _All((share, Better(BASE)))
    test, teachers_run = _teachers_test(run, lessons, policy, console)
    known: dict[str, Run] = {TEACHER: teachers_run}
    if run.into == BI_ENCODER:
        models = {BASE: student, TRAINED: ModelOptions(str(fitted.model))}
        known |= {name: rank_by_similarity(load_bi_encoder(one), test) for name, one in models.items()}
    before, trained = (
        replace(one, dtype="float32", threads=run.lessons.threads) for one in (student, ModelOptions(str(fitted.model)))
    )
    base = None if BASE in known or fitted.fresh_head else before
    return judged(base, trained, test, console, rule=rule, policy=policy, known=known)


def _facts(
    run: DistilRun, student: ModelOptions, lessons: _Lessons, fitted: Fitted, found: GateResult
) -> dict[str, Any]:
    collection, asking = lessons.collection, run.lessons
    recipes = dict.fromkeys(query.recipe for query in lessons.queries)
    name = model_name(run.teacher.model)
    title = (
        f"{name} with {run.layers} layers" if run.student is None else f"{model_name(student.model)} taught by {name}"
    )
    blend = asking.settings.blend
    recipe = asdict(run.similar) if run.into == BI_ENCODER else {**asdict(asking.recipe), "states": run.states}
    return {
        "title": f"{title}, on {collection.name}",
        "kind": run.into,
        "base": model_name(run.teacher.model if run.student is None else student.model),
        "data": {
            "collection": collection.name,
            "documents": len(collection.documents),
            "fingerprint": collection.fingerprint(),
            "queries": [f"{sum(one.recipe == kind for one in lessons.queries)} by {kind}" for kind in recipes],
            **{f"{part} queries": len(some) for part, some in lessons.parts.items()},
            "teachers": [model_name(one.model) for one in asking.teachers],
        },
        "settings": {
            "layers": run.layers,
            "keep": None if run.layers is None else run.keep,
            "share of the teacher": run.share,
            **{key: value for key, value in recipe.items() if value is not None},
            "first stage": BOTH if run.into == BI_ENCODER else BM25,
            "depth": asking.settings.depth,
            "candidates": asking.settings.candidates,
            **({} if blend is None else {f"blend_{name}": value for name, value in asdict(blend).items()}),
        },
        "fitted": fitted.plain(),
        "gate": found.plain(),
    }
