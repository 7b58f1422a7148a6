"""
The workflow of `haystack-ce-ranker adapt`: make queries, have a teacher judge what they find, learn, and test it.

A contrastive loss learns which document a query was made of, and others learn the teacher's order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from haystack_ce_ranker.backends.devices import require_device
from haystack_ce_ranker.backends.model_files import ModelOptions, require_outside
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import choice, whole_number
from haystack_ce_ranker.data.collections import Collection, load_queries, load_unjudged
from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.training.adapting import (
    Adapting,
    Asked,
    find_documents,
    given_queries,
    lessons,
    taught_order,
    unlike,
)
from haystack_ce_ranker.training.bases import load_base
from haystack_ce_ranker.training.candidates import BM25, BOTH, BiEncoder, Progress, first_stage
from haystack_ce_ranker.training.card import model_name
from haystack_ce_ranker.training.commands.ending import conclude, judged, or_stopped
from haystack_ce_ranker.training.fitting import Fitted, Recipe, fit, require_packages
from haystack_ce_ranker.training.gate import SAVE, GateResult
from haystack_ce_ranker.training.groups import Group
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.losses import CONTRASTIVE
from haystack_ce_ranker.training.made_queries import RECIPES, MadeQuery, make_queries
from haystack_ce_ranker.training.origins import by_origin, origins_sought
from haystack_ce_ranker.training.saving import work_folder
from haystack_ce_ranker.training.showing import bar_on, say, shown_by
from haystack_ce_ranker.training.splits import split_queries
from haystack_ce_ranker.training.teachers import KeptJudge, Teacher, several

RECIPE = Recipe(loss="margin_mse", learns="teacher", epochs=1, learning_rate=2e-5)
"""How an adapted model learns, if nothing else is asked for."""

DEV, TEST = 60, 200
"""The most made queries to stop by, and to test on where nothing is judged."""


@dataclass(frozen=True)
class AdaptRun:
    """
    What is to be adapted, and how.

    :ivar collection: A folder in BEIR format. Queries and judgments may be missing.
    :ivar output: The folder to write.
    :ivar base: The cross-encoder to adapt.
    :ivar teachers: Cross-encoders to learn from; the base itself if there are none.
    :ivar backend: What runs the teachers.
    :ivar bi_encoder: Its folder or hub id: evidence beside a teacher's logits.
    :ivar mix: The recipes of made queries with their shares, as `make_queries` takes them.
    :ivar queries: The most queries to make.
    :ivar log: A file of real queries, which are learnt from, too.
    :ivar settings: How candidates are chosen and targets made.
    :ivar recipe: How the model learns: from the `teacher`, or from `labels`, which say what each query was made of and
        are for the loss `contrastive` alone.
    :ivar split: The judgments to test on, as in `load_collection`.
    :ivar test_queries: The most judged queries to test on, drawn at random.
    :ivar save: One of `gate.SAVE`.
    :ivar threads: Threads of one operation.
    :ivar fresh: Whether to throw away what an interrupted run left.
    """

    collection: Path
    output: Path
    base: ModelOptions
    teachers: Sequence[ModelOptions] = ()
    backend: str = "torch"
    bi_encoder: str | None = None
    mix: Mapping[str, float] | Sequence[str] = tuple(RECIPES)
    queries: int = 1000
    log: Path | None = None
    settings: Adapting = field(default_factory=Adapting)
    recipe: Recipe = RECIPE
    split: str | None = None
    test_queries: int | None = None
    save: str = "better"
    threads: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check what would otherwise be found out only after hours."""
        choice("save", self.save, SAVE)
        whole_number("queries", self.queries)
        whole_number("threads", self.threads, optional=True)
        require_device("device", self.base.device)
        if self.recipe.learns != "teacher" and self.recipe.loss != CONTRASTIVE:
            raise ValueError(
                f"recipe must learn from the teacher with the loss {self.recipe.loss!r}, but learns from "
                f"{self.recipe.learns!r}: the labels of made queries are for the loss {CONTRASTIVE!r} alone."
            )
        if self.bi_encoder is not None and self.settings.blend is None:
            raise ValueError(
                f"bi_encoder is evidence for a blend, and there is none, but got {self.bi_encoder!r}: leave it out, or "
                "ask for a blend (--blend)."
            )
        if not self.teachers and self.settings.blend is None and not self.by_origin:
            raise ValueError(
                "a model learns nothing from its own logits: name a teacher (--teacher), or leave the blend on."
            )

    @property
    def by_origin(self) -> bool:
        """Whether the model learns which document a query was made of, and not the teacher's order."""
        return self.recipe.learns == "labels"


def run_adapting(run: AdaptRun, console: Console) -> GateResult | None:
    """
    Adapt a model to a corpus, test it, and write it if the test lets it through.

    What the teachers and the trainer have done is kept in the output folder until the end. The same call goes on there.

    :returns: What the test found; None after an interruption.
    :raises ValueError: If a setting does not fit, or there is nothing to learn from.
    :raises OSError: If a model or a file is not there.
    :raises ImportError: If a package is missing.
    """
    require_packages()
    beside = [] if run.bi_encoder is None else [ModelOptions(run.bi_encoder)]
    require_outside(run.output, [run.base, *run.teachers, *beside])
    work = work_folder(run.output, fresh=run.fresh)
    return or_stopped(lambda: _run(run, work, console), console)


def _run(run: AdaptRun, work: Path, console: Console) -> GateResult:
    how = {name: getattr(run.recipe, name) for name in ("seed", "max_length", "interpolate")}
    most = load_base(run.base, **how).cross_encoder.max_seq_length  # what cannot be trained is told first
    collection = load_unjudged(run.collection, split=run.split).sample(run.test_queries, seed=run.settings.seed)
    for line in (*lines(collection.all_left_out, "test"), *(f"note: {note}" for note in collection.notes)):
        say(console, line)
    policy = ReadingPolicy(max_length=run.recipe.max_length)
    index = BM25Index.build([document.content for document in collection.documents.values()])
    queries = gather_queries(run, collection, index, console)
    bi_encoder = None if run.bi_encoder is None else BiEncoder.load(run.bi_encoder)
    asked = gather_asked(run, collection, index, queries, console, bi_encoder)
    groups = gather_lessons(run, asked, policy, work, console, most=most)
    if run.by_origin:
        groups = _by_origin(run, groups, queries, console)
    unseen = origins_sought if run.by_origin else taught_order
    parts = parted(groups, run, is_judged=bool(collection.queries))
    test = judged_queries(collection, run.settings.depth) if collection.queries else unseen(parts["test"])
    fitted = fit(
        run.base,
        parts["train"],
        unseen(parts["dev"]),
        work / "run",
        run.recipe,
        policy=policy,
        threads=run.threads,
        console=console,
    )
    options = replace(run.base, dtype="float32", threads=run.threads)
    trained = ModelOptions(str(fitted.model), device=run.base.device, dtype="float32", threads=run.threads)
    found = judged(None if fitted.fresh_head else options, trained, test, console, policy=policy)
    facts = _facts(run, collection, parts, queries, fitted, found)
    conclude(run.output, run.save, fitted.model, found, facts, console)
    return found


def gather_queries(run: AdaptRun, collection: Collection, index: BM25Index, console: Console) -> list[MadeQuery]:
    """Make queries, and take in those of a log, but none that the test asks."""
    made = make_queries(collection.documents, run.mix, run.queries, seed=run.settings.seed, index=index)
    told = ", ".join(f"{count} by {recipe}" for recipe, count in made.by_recipe().items())
    say(console, f"{len(made.queries)} queries made of {len(collection.documents):,} documents: {told or 'none'}")
    for reason, count in made.left_out.items():
        say(console, f"left out: {count} ({reason})")
    log = {} if run.log is None else load_queries(run.log)
    given = given_queries({f"log-{name}": text for name, text in log.items()})  # others may have the same ids
    if given:
        say(console, f"{len(given)} queries of {run.log}")
    kept = unlike([*given, *made.queries], collection.queries)
    if len(kept) < len(given) + len(made.queries):
        say(console, f"left out: {len(given) + len(made.queries) - len(kept)} (near-equal to a query of the test)")
    return kept


def gather_lessons(
    run: AdaptRun,
    asked: Sequence[Asked],
    policy: ReadingPolicy,
    work: Path,
    console: Console,
    *,
    most: int | None = None,
    windows: bool = False,
) -> list[Group]:
    """
    Ask the teachers for what some queries found.

    :param most: The most tokens of a pair that who learns can read; the teachers read no more.
    :param windows: Whether each window that they read of a document is learnt, and not the best one alone.
    """
    options = run.teachers if run.teachers else (run.base,)
    names = ", ".join(one.model for one in options)
    with Journal(work / "teachers") as journal, bar_on(console) as (bars, bar):
        judges = [
            KeptJudge(
                Teacher.load(replace(one, threads=run.threads), policy, backend=run.backend, most=most),
                journal,
                progress=shown_by(bars, bar, f"asking {model_name(one.model)}"),
            )
            for one in options
        ]
        reader = judges[0].teacher.reader if windows else None
        groups = lessons(asked, several(judges), run.settings, origins=run.by_origin, reader=reader)
    pairs = sum(len(group.candidates) for group in groups)
    evidence = "" if run.settings.blend is None else f", moved by {' and '.join(asked[0].evidence)}" if asked else ""
    what = "passages" if windows else "documents"
    say(console, f"{pairs:,} {what} of {len(groups):,} queries judged by {names}{evidence}")
    if len(groups) < len(asked):
        say(console, f"left out: {len(asked) - len(groups)} queries of which the teacher reads fewer than two {what}")
    return groups


def _by_origin(run: AdaptRun, groups: Sequence[Group], queries: Sequence[MadeQuery], console: Console) -> list[Group]:
    """Label what each query was made of. Only what knows more than the base may say that others are right, too."""
    found = by_origin(groups, queries, drops=bool(run.teachers) or run.settings.blend is not None)
    for count, what in (
        (found.doubtful, "documents that the teacher scores no lower than the one that the query was made of"),
        (found.unread, "queries whose own document holds no more than they copy, or cannot be read"),
        (found.alone, "queries of which the teacher scores no document lower"),
    ):
        if count:
            say(console, f"left out: {count} {what}")
    return list(found.groups)


def gather_asked(
    run: AdaptRun,
    collection: Collection,
    index: BM25Index,
    queries: Sequence[MadeQuery],
    console: Console,
    bi_encoder: BiEncoder | None = None,
    *,
    searches: bool = False,
) -> list[Asked]:
    """
    Find documents for queries, and what the first stages say of them where the targets are blended.

    :param searches: Whether the bi-encoder finds documents, too.
    """
    with bar_on(console) as (bars, bar):
        show = shown_by(bars, bar, "embedding documents")
        found = find_documents(
            queries,
            collection.documents,
            index,
            run.settings,
            bi_encoder,
            searches=searches,
            origins=run.by_origin,
            progress=show,
        )
    if bi_encoder is not None:
        texts = list(dict.fromkeys(text for one in found for text in one.texts))
        if cut := bi_encoder.cut(texts):
            say(console, f"note: the bi-encoder reads only the beginning of {cut} of {len(texts)} texts")
    if len(found) < len(queries):
        say(console, f"left out: {len(queries) - len(found)} queries that find fewer than two documents")
    return found


def parted(groups: Sequence[Group], run: AdaptRun, *, is_judged: bool) -> dict[str, list[Group]]:
    """Part the queries into those to learn from, to stop by, and, where nothing is judged, to test on."""
    wanted = {"dev": DEV, **({} if is_judged else {"test": TEST})}
    held = {name: min(most, len(groups) / 10) for name, most in wanted.items()}
    shares = {"train": len(groups) - sum(held.values()), **held}
    if not groups:
        raise ValueError(
            "there is nothing to learn from: no query finds two documents that differ. Use more recipes, or --queries."
        )
    parted = split_queries({one.query_id: one.query for one in groups}, shares, seed=run.settings.seed)
    by_id = {group.query_id: group for group in groups}
    return {name: [by_id[query_id] for query_id in ids] for name, ids in parted.items()}


def judged_queries(
    collection: Collection, depth: int, bi_encoder: BiEncoder | None = None, *, progress: Progress | None = None
) -> HeldOut:
    """Return the judged queries with what BM25 finds for them, or BM25 and a bi-encoder in turns."""
    kind = BM25 if bi_encoder is None else BOTH
    found = first_stage(collection, collection.queries, kind, depth, bi_encoder, progress=progress)
    documents = {
        query_id: {one.document_id: collection.documents[one.document_id].content for one in of_query}
        for query_id, of_query in found.items()
    }
    return HeldOut(collection.queries, documents, collection.judgments)


def _facts(
    run: AdaptRun,
    collection: Collection,
    parts: Mapping[str, Sequence[Group]],
    queries: Sequence[MadeQuery],
    fitted: Fitted,
    found: GateResult,
) -> dict[str, Any]:
    made = Counter(query.recipe for query in queries)
    teachers = [model_name(one.model) for one in run.teachers]
    blend, base = run.settings.blend, model_name(run.base.model)
    bi_encoder = None if run.bi_encoder is None else model_name(run.bi_encoder)
    return {
        "title": f"{base}, adapted to {collection.name} without labels",
        "base": base,
        "data": {
            "collection": collection.name,
            "documents": len(collection.documents),
            "queries": [f"{count} by {name}" for name, count in made.items()],
            **{f"{name}_queries": len(of_part) for name, of_part in parts.items()},
            "teachers": teachers if teachers else f"{base} itself",
            "evidence": None if blend is None else [BM25, *([bi_encoder] if bi_encoder else [])],
            "candidates": f"{run.settings.candidates} of BM25's first {run.settings.depth}",
            "right_document": "the one that the query was made of" if run.by_origin else None,
        },
        "settings": {
            **asdict(run.recipe),
            "save": run.save,
            **({} if blend is None else {f"blend_{name}": value for name, value in asdict(blend).items()}),
        },
        "fitted": fitted.plain(),
        "gate": found.plain(),
    }
