"""The workflow of `haystack-ce-ranker score`: read a run, score what is not kept, write it, and say what it took."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from haystack_ce_ranker.backends.model_files import require_outside
from haystack_ce_ranker.bulk.asking import ToScore, read_asked
from haystack_ce_ranker.bulk.engines import ENGINES, Workers
from haystack_ce_ranker.bulk.outputs import check_path, write_scores
from haystack_ce_ranker.bulk.replica import Model
from haystack_ce_ranker.bulk.shards import Shard, ShardScores, shards_of
from haystack_ce_ranker.checks import choice, whole_number
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.reading.plan import NO_QUERY, NO_ROOM, NO_TEXT
from haystack_ce_ranker.scoring.scores import OVER_BUDGET
from haystack_ce_ranker.training.showing import bars_on, say

SHARD = 500
"""The most pairs of a shard: what is lost with a replica that dies."""

_REASONS = {
    NO_TEXT: "the document has no text",
    NO_QUERY: "the query has no text that the model can read",
    NO_ROOM: "there is no room beside what stands around the document",
    OVER_BUDGET: "the token budget of the query was spent",
}


@dataclass(frozen=True)
class BulkScoring:
    """
    What is to be scored, and how.

    :ivar run: The pairs, as a TREC run or another form that `load_run` reads.
    :ivar collection: A folder in BEIR format with the texts.
    :ivar output: The file to write; its suffix says in which form.
    :ivar engine: A name in `engines.ENGINES`.
    :ivar depth: The most documents of a query; None for all.
    :ivar shard: The most pairs of a shard; other shards make other batches, and so other last bits in float32.
    :ivar force: Whether `output` may be there already.
    :ivar fresh: Whether to throw away what an interrupted run left.
    :raises ValueError: If a value is not what its field takes.
    """

    run: Path
    collection: Path
    output: Path
    model: Model
    engine: str = "local"
    workers: Workers = field(default_factory=Workers)
    depth: int | None = None
    shard: int = SHARD
    force: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        choice("engine", self.engine, ENGINES)
        whole_number("shard", self.shard)
        check_path(self.output, force=self.force)
        require_outside(self.output, [self.model.options])

    @property
    def journal(self) -> Path:
        """The folder that keeps the scores of shards."""
        return self.output.with_suffix(".progress")


@dataclass(frozen=True)
class Found:
    """
    The scores of a run.

    :ivar scores: By the shard's number.
    :ivar kept: The numbers of those shards that an earlier run scored.
    :ivar seconds: How long the others took, loading included.
    """

    shards: Sequence[Shard]
    scores: Mapping[int, ShardScores]
    kept: frozenset[int]
    seconds: float


def run_scoring(settings: BulkScoring, console: Console) -> Found | None:
    """
    Score a run, write the scores, and say what became of it.

    :returns: The scores; None after an interruption, which leaves the journal to go on from.
    :raises ValueError: If a setting, a file or the model cannot be used.
    :raises OSError: If the model is not there, a file cannot be written, or workers are lost again and again.
    """
    key = settings.model.key()
    todo = read_asked(settings.run, settings.collection, depth=settings.depth)
    shards = shards_of(todo.asked, settings.shard, whole=settings.model.policy.max_tokens_per_query is not None)
    for note in todo.notes:
        say(console, f"note: {note}")
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Journal(settings.journal, fresh=settings.fresh) as journal:
            found = _scored(settings, shards, journal, key, console)
    except KeyboardInterrupt:
        say(console, f"Interrupted: what was scored is kept in {settings.journal}; the same command goes on from there")
        return None
    write_scores(settings.output, shards, found.scores)
    for line in _report(settings, todo, found):
        say(console, line)
    return found


def _scored(settings: BulkScoring, shards: Sequence[Shard], journal: Journal, key: str, console: Console) -> Found:
    """Take from the journal what it has, and let an engine score the rest. A shard is noted whole or not at all."""
    scores: dict[int, ShardScores] = {}
    for shard in shards:
        kept = journal.restore(key, shard.key, partial(ShardScores.from_plain, pairs=len(shard)))
        if kept is not None:
            scores[shard.number] = kept
    known, started = frozenset(scores), time.perf_counter()
    missing = [shard for shard in shards if shard.number not in known]
    with bars_on(console, shown=bool(missing)) as bars:
        bar = bars.add_task("scoring", total=sum(map(len, shards)), completed=sum(len(shards[one]) for one in known))
        if missing:
            with closing(ENGINES[settings.engine](settings.model, missing, settings.workers)) as found:
                for number, one in found:
                    journal.note(key, shards[number].key, one.plain())
                    scores[number] = one
                    bars.advance(bar, len(shards[number]))
    return Found(shards, scores, known, time.perf_counter() - started)


def _report(settings: BulkScoring, todo: ToScore, found: Found) -> Iterator[str]:
    """Yield what was done, and what was cut or left out."""
    all_scores = [found.scores[shard.number] for shard in found.shards]
    logits = sum(logit is not None for one in all_scores for logit in one.logits)
    kept = sum(len(found.shards[number]) for number in found.kept)
    new = sum(map(len, found.shards)) - kept
    speed = f", {new / found.seconds:,.1f} pairs a second" if new else ""
    yield f"scored: {new:,} pairs in {found.seconds:,.1f} s{speed}; {kept:,} taken from {settings.journal}"
    places = [pair for one in all_scores for pair in zip(one.tokens, one.tokens_read, one.logits, strict=True)]
    cut = [tokens - read for tokens, read, logit in places if logit is not None and read < tokens]
    if cut:
        yield f"cut: {len(cut):,} pairs show a part of their document; {sum(cut):,} tokens are unread"
    if queries := sum(one.queries_cut for one in all_scores):
        yield f"cut: {queries:,} queries are not shown whole"
    if todo.unknown:
        yield f"left out: {todo.unknown:,} pairs of queries that the collection does not have, or has without a text"
    for why, count in Counter(why for one in all_scores for why in one.why_unscored.values()).items():
        in_file = "stand last, without a score" if settings.output.suffix == ".parquet" else "are not in the run"
        yield f"left out: {count:,} pairs {in_file}: {_REASONS.get(why, why)}"
    ways = Counter(one.how for one in all_scores)
    if len(ways) > 1:
        yield f"note: not all shards were scored alike: {', '.join(f'{n} by {how}' for how, n in ways.items())}"
    yield f"wrote {settings.output}: {logits:,} pairs of {len(todo.asked):,} queries"
