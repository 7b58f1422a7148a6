"""The workflow of `haystack-ce-ranker mine`: read a collection, find candidates, ask the teacher, and write groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from haystack_ce_ranker.backends.model_files import ModelOptions, require_outside
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.training.candidates import BM25, BOTH, BiEncoder, Found, first_stage
from haystack_ce_ranker.training.groups import check_path, write_groups
from haystack_ce_ranker.training.mining import DROP, KEEP, Mined, Mining, mine
from haystack_ce_ranker.training.showing import bars_on, say
from haystack_ce_ranker.training.teachers import KeptJudge, Teacher

MARGINS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
"""The margins of the table that says what each would do."""


@dataclass(frozen=True)
class MiningRun:
    """
    What is to be mined, and how.

    :ivar collection: A folder in BEIR format, with judgments.
    :ivar output: The file to write; its suffix says in which form.
    :ivar teacher: A cross-encoder; None for no logits.
    :ivar backend: What runs the teacher.
    :ivar kind: A first stage of `candidates.KINDS`; None for BM25, with a bi-encoder for both.
    :ivar bi_encoder: Its folder or hub id.
    :ivar language: Whose word stems BM25 and the comparison of queries go by; None for a language without a stemmer.
    :ivar settings: How negatives are chosen.
    :ivar split: The judgments to use, as in `load_collection`.
    :ivar queries: At most this many, drawn at random.
    :ivar overwrite: Whether `output` may be there already.
    """

    collection: Path
    output: Path
    teacher: ModelOptions | None = None
    backend: str = "torch"
    kind: str | None = None
    bi_encoder: str | None = None
    language: str | None = "english"
    settings: Mining = field(default_factory=Mining)
    split: str | None = None
    queries: int | None = None
    overwrite: bool = False

    @property
    def analysis(self) -> Analysis:
        """How a text becomes terms."""
        return Analysis(self.language)

    @property
    def journal(self) -> Path:
        """The folder that keeps the teacher's logits."""
        return self.output.with_suffix(".progress")


def run_mining(run: MiningRun, console: Console) -> Mined | None:
    """
    Mine a collection, write the file, and say what became of it.

    :returns: What was found; None after an interruption, which leaves the journal to go on from.
    :raises ValueError: If a setting does not fit the others or the collection, or nothing can be learned from it.
    :raises OSError: If a model is not there, or the file cannot be written.
    """
    check_path(run.output)
    bi_encoders = [] if run.bi_encoder is None else [ModelOptions(run.bi_encoder)]
    require_outside(run.output, [*([] if run.teacher is None else [run.teacher]), *bi_encoders])
    _ = run.analysis  # an unknown language is an error before anything is read
    if run.output.exists() and not run.overwrite:
        raise ValueError(f"output {str(run.output)!r} is there already: name another file, or use --overwrite.")
    collection = load_collection(run.collection, split=run.split).sample(run.queries, seed=run.settings.seed)
    for line in (*lines(collection.all_left_out, "file"), *(f"note: {note}" for note in collection.notes)):
        say(console, line)
    teacher = None if run.teacher is None else Teacher.load(run.teacher, backend=run.backend)
    candidates = _candidates(run, collection, console)
    try:
        with Journal(None if teacher is None else run.journal) as journal:
            judge = None if teacher is None else KeptJudge(teacher, journal)
            mined = _mined(run, collection, candidates, judge, console)
    except KeyboardInterrupt:
        kept = "" if teacher is None else f": the teacher's logits are kept in {run.journal}"
        say(console, f"Interrupted{kept}; the same command goes on from there")
        return None
    if not mined.groups:
        reasons = "; ".join(f"{count} {what}" for what, count in mined.left_out.items())
        raise ValueError(f"there is nothing to learn from in {str(run.collection)!r}: {reasons}.")
    write_groups(run.output, mined.groups)
    for line in _report(run, mined, judge):
        say(console, line)
    if mined.above:
        console.print(margins_table(mined.above, run.settings))
    say(console, f"wrote {run.output}: {_what(mined)}")
    return mined


def margins_table(above: Sequence[float], settings: Mining) -> Table:
    """Return how many unjudged documents would be false negatives at several margins."""
    of = f"the {settings.reference} logit of the query's relevant ones"
    table = Table(title=f"{len(above)} unjudged documents, and margins from {of}")
    table.add_column("margin", justify="right")
    table.add_column("false negatives", justify="right")
    table.add_column("share", justify="right")
    values = np.asarray(above)
    for margin in sorted({*MARGINS, float(settings.margin)}):
        count = int(np.count_nonzero(values >= -margin))
        chosen = " *" if margin == settings.margin and settings.false_negatives != KEEP else ""
        table.add_row(f"{margin:g}{chosen}", str(count), f"{count / len(values):.1%}")
    return table


def _candidates(run: MiningRun, collection: Collection, console: Console) -> dict[str, list[Found]]:
    kind = run.kind if run.kind is not None else BM25 if run.bi_encoder is None else BOTH
    bi_encoder = None
    if run.bi_encoder is not None:
        bi_encoder = BiEncoder.load(run.bi_encoder)
        texts = [document.content for document in collection.documents.values()]
        if cut := bi_encoder.cut(texts):
            say(console, f"note: the bi-encoder reads only the beginning of {cut} of {len(texts)} documents")
    with bars_on(console, shown=bi_encoder is not None) as bars:
        bar = bars.add_task("embedding documents")
        return first_stage(
            collection,
            collection.queries,
            kind,
            run.settings.last_rank,
            bi_encoder,
            analysis=run.analysis,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )


def _mined(
    run: MiningRun,
    collection: Collection,
    candidates: Mapping[str, Sequence[Found]],
    judge: KeptJudge | None,
    console: Console,
) -> Mined:
    """Mine with a bar for each round of the teacher."""
    with bars_on(console, shown=judge is not None) as bars:
        bar = bars.add_task("")

        def begin(number: int, documents: int) -> None:
            doing = "asking the teacher" if number == 1 else f"replacing what was dropped, round {number}"
            bars.reset(bar, total=documents, description=doing)

        if judge is not None:
            judge.progress = lambda done, total: bars.update(bar, completed=done, total=total)
        return mine(collection, candidates, run.settings, judge, analysis=run.analysis, rounds=begin)


def _report(run: MiningRun, mined: Mined, judge: KeptJudge | None) -> Iterator[str]:
    settings = run.settings
    for what, count in mined.left_out.items():
        yield f"left out: {count} {what}"
    if judge is None:
        yield "note: without a teacher no false negative is found, and documents stand whole"
    else:
        yield f"teacher: {judge.asked} documents scored, {judge.kept} taken from {run.journal}"
        if settings.false_negatives != KEEP:
            done = "dropped" if settings.false_negatives == DROP else "relabelled as relevant"
            limit = f"the {settings.reference} logit of the query's relevant ones, less {settings.margin:g}"
            yield f"false negatives: {mined.false_negatives} unjudged documents {done} that have at least {limit}"
    few = sum(
        sum(candidate.label == 0 for candidate in group.candidates) < settings.negatives for group in mined.groups
    )
    if few:
        yield f"note: {few} of {len(mined.groups)} queries have fewer than {settings.negatives} negatives"


def _what(mined: Mined) -> str:
    candidates = [one for group in mined.groups for one in group.candidates]
    negatives = sum(one.label == 0 for one in candidates)
    return f"{len(mined.groups)} queries, {len(candidates) - negatives} relevant documents, {negatives} negatives"
