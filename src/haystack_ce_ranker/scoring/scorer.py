"""
CrossEncoderScorer: queries with documents in, one logit per document out, in the order they came.

texts -> windows -> budgeted pairs -> batches -> logits -> one score per document. How the tokens are split is decided
in `budget.py`, what is read in `passages.py`, what goes into one forward pass in `batching.py`; a backend runs it.
Many documents go through in slices, so that memory stays bounded; on a GPU the next slice is tokenised meanwhile.
"""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends.protocol import Asynchronous, Backend, Batch
from haystack_ce_ranker.reading.budget import room_for_texts, split_budget
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText, EncodedDocument, content_key
from haystack_ce_ranker.reading.passages import AGGREGATES, STRATEGIES, Piece, Span, WindowSettings, characters
from haystack_ce_ranker.reading.queries import REDUCTIONS, reduce_query
from haystack_ce_ranker.scoring.batching import plan_batches
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from haystack_ce_ranker.tokenizing.tokens import Ids

logger = logging.getLogger(__name__)

MIN_SHARED_WINDOW = 16
"""Body tokens below which a shared budget leaves a candidate unscored rather than showing the model a scrap of it."""

CHARACTERS_PER_TOKEN = 4
"""How many characters of documents are taken for a token when, under a deadline, the next ones are tokenised."""

CPU_PASS_TOKENS = 40
"""How many tokens' work a forward pass of padded pairs costs on CPU beside its tokens; see benchmarks/speed.py."""

DEVICE_PASS_TOKENS = 1024
"""The same on another device, where launching a pass takes longer than on CPU; an estimate, not yet measured."""

SLICE_TOKENS = 262_144
"""About how many tokens are read before the next documents are tokenised: few MB, and yet batches of equal lengths."""

FIRST_SLICE = 8
"""So many times smaller is the first slice of packed pairs for a GPU, which waits for it; each next one is doubled."""

SLICE_BATCHES = 8
"""The fewest full batches of a slice where batches are padded: of fewer, lengths that go together are hard to find."""

UNREAD_SHARE = 8
"""A slice holds no more than so many times the tokens that it reads, however long its documents are."""

_learnt_batch_tokens: dict[tuple[str, str, str, str], int] = {}
_learnt_lock = threading.Lock()


@dataclass(frozen=True)
class ReadingPolicy:
    """
    What the model may read of a query and its documents; names and defaults are those of `CrossEncoderRanker`.

    :ivar max_length: Tokens of a pair, special tokens among them; None for the model's own limit.
    :ivar max_query_tokens: The most tokens the query may take of a pair; None for the rule of `budget.split_budget`.
    :ivar query_reduction: Which tokens of a query stay when not all do, by its name in `queries.REDUCTIONS`.
    :ivar max_tokens_per_query: The most tokens of all pairs of a query together, special tokens among them; None for
        no limit.
    :raises ValueError: If a value is out of range, or a name is not in its table.
    """

    max_length: int | None = None
    max_query_tokens: int | None = None
    max_tokens_per_query: int | None = None
    long_documents: str = "best_passages"
    passage_tokens: int = 64
    passage_stride: int = 32
    passages_per_document: int = 4
    passage_evidence: float = 0.8
    aggregate: str = "logsumexp"
    query_reduction: str = "rarest"

    def __post_init__(self) -> None:
        for name in ("max_length", "max_query_tokens", "max_tokens_per_query"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1 or None, but got {value}.")
        for name in ("passage_tokens", "passage_stride", "passages_per_document"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, but got {getattr(self, name)}.")
        if self.passage_stride > self.passage_tokens:
            raise ValueError(
                f"passage_stride must be <= passage_tokens ({self.passage_tokens}), or windows would leave out what "
                f"stands between them, but got {self.passage_stride}."
            )
        if not 0.0 <= self.passage_evidence <= 1.0:
            raise ValueError(f"passage_evidence must be between 0 and 1, but got {self.passage_evidence}.")
        tables: dict[str, Collection[str]] = {
            "long_documents": STRATEGIES,
            "aggregate": AGGREGATES,
            "query_reduction": REDUCTIONS,
        }
        for name, table in tables.items():
            if getattr(self, name) not in table:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, table))}, but got {getattr(self, name)!r}."
                )

    @property
    def windows(self) -> WindowSettings:
        """The part of the policy that the choice of windows needs."""
        return WindowSettings(
            self.passage_tokens, self.passage_stride, self.passages_per_document, self.passage_evidence
        )


@dataclass(frozen=True)
class Reading:
    """
    What the model read of a document's content in one pair.

    :ivar start: First character; `content[start:end]` is the text.
    :ivar end: Behind the last character.
    :ivar logit: What the model said to the pair.
    :ivar evidence: The lexical evidence that the pair was chosen by; 0.0 where nothing was chosen.
    """

    start: int
    end: int
    logit: float
    evidence: float = 0.0


@dataclass(frozen=True)
class DocumentScore:
    """
    The score of one document.

    :ivar logit: The model's raw output, aggregated over the pairs; None if the document was not scored.
    :ivar read: What was read, the pair with the highest logit first; head and tail of one pair are two entries.
    :ivar tokens: Tokens of the content.
    :ivar tokens_read: How many of them the model saw, each counted once.
    :ivar pairs: Forward passes that it took.
    :ivar query_tokens: Tokens of the query that its pairs showed.
    """

    logit: float | None
    read: tuple[Reading, ...] = ()
    tokens: int = 0
    tokens_read: int = 0
    pairs: int = 0
    query_tokens: int = 0

    @property
    def coverage(self) -> float:
        """Share of the content's tokens that the model saw; 1.0 for an empty document."""
        return self.tokens_read / self.tokens if self.tokens else 1.0


@dataclass(frozen=True)
class QueryScores:
    """
    The scores of one query's documents.

    :ivar documents: In the order they came.
    :ivar query_tokens: Tokens of the query, without special tokens.
    :ivar query_tokens_read: The fewest of them that a pair showed; equal to `query_tokens` if the query was never cut.
    :ivar pairs: Pairs that were scored; documents whose score was kept from before take none.
    :ivar tokens: Tokens the model read, special tokens among them and padding not.
    :ivar out_of_time: Whether the deadline came before everything was scored.
    :ivar cached: Documents that were not scored by this call: their score was kept from an earlier one, was just being
        computed by another, or is that of an equal text of this one.
    """

    documents: tuple[DocumentScore, ...]
    query_tokens: int
    query_tokens_read: int
    pairs: int
    tokens: int
    out_of_time: bool = False
    cached: int = 0


@dataclass
class Stats:
    """
    What one call of the scorer cost: seconds per step, pairs, batches, tokens, and the token slots with padding.

    On a GPU the steps overlap, so that their seconds together can be more than the call took.
    """

    tokenise: float = 0.0
    select: float = 0.0
    score: float = 0.0
    pairs: int = 0
    batches: int = 0
    tokens: int = 0
    slots: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the token slots that held padding."""
        return 1.0 - self.tokens / self.slots if self.slots else 0.0


@dataclass
class _Plan:
    """A document on its way through the scorer."""

    text: DocumentText
    document: EncodedDocument
    pieces: list[Piece]
    query: Ids
    logits: list[float] = field(default_factory=list)


@dataclass
class _Pair:
    """One pair to score, and the plan that it belongs to."""

    plan: _Plan
    piece: Piece
    packed: PackedPair


class _Request(NamedTuple):
    """A query with documents to score; `places` is where they stand in the caller's list, None if all are here."""

    query: Ids
    texts: Sequence[DocumentText]
    places: Sequence[int] | None = None


class _Part(NamedTuple):
    """Consecutive documents of one request, ready to be scored."""

    request: int
    plans: list[_Plan]
    pairs: list[_Pair]


class _Queued(NamedTuple):
    """A batch that the device has been given: places in the group, when, and what waits for its logits."""

    batch: NDArray[np.intp]
    began: float
    wait: Callable[[], NDArray[np.float32]]


class CrossEncoderScorer:
    """
    Scores documents for queries with a loaded cross-encoder. Safe from several threads.

    :param backend: The loaded model.
    :param policy: What the model may read.
    :param batch_tokens: The most tokens of one forward pass, padding among them; None for the backend's default.
    :param batch_size: The most pairs of one forward pass; None for no limit.
    :param model_name: The model's name, under which a batch size learnt from running out of memory is remembered.
    :param cache_tokens: How many tokens of documents to keep for the next query.
    :param scores: Where `score` keeps what it found and looks before it scores; None for nowhere. Scorers may share
        one. Only what depends on a query and a text alone is kept: calls with a deadline or a shared token budget
        pass by it.
    :param identity: What beside its name tells the model from others in `scores`: the revision, loading options.
    :raises ValueError: If a value is out of range, or `policy` leaves no room in the model's pairs.
    """

    def __init__(
        self,
        backend: Backend,
        policy: ReadingPolicy | None = None,
        *,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        model_name: str = "",
        cache_tokens: int = 2_000_000,
        scores: ScoreCache[DocumentScore] | None = None,
        identity: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.policy = policy if policy is not None else ReadingPolicy()
        self.max_length = self._resolve_max_length()
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens if batch_tokens is not None else backend.batch_tokens
        next(plan_batches([1], batch_tokens=self.batch_tokens, batch_size=batch_size))  # checks both
        self._learnt_key = (backend.name, backend.device, backend.dtype, model_name)
        self._on_cpu = backend.device.partition(":")[0].lower() == "cpu"
        self._queue = backend if isinstance(backend, Asynchronous) and not self._on_cpu else None
        self._format = backend.tokenizer.format
        self._room = room_for_texts(self.max_length, self._format.special_tokens)
        split_budget(1, 1, room=self._room, window=1, max_query=self.policy.max_query_tokens)  # checks max_query_tokens
        self._documents = DocumentEncoder(backend.tokenizer, cache_tokens=cache_tokens)
        self._scores = scores
        self._identity = content_key(
            model_name, backend.name, backend.dtype, backend.device, str(self.max_length), repr(self.policy), *identity
        )
        self._seconds_per_token: float | None = None  # learnt from every batch, for deadlines

    def __deepcopy__(self, _memo: object) -> "CrossEncoderScorer":
        """A copied pipeline shares the loaded model: it holds no state of a request."""
        return self

    def score(
        self,
        query: str,
        documents: Sequence[str | DocumentText],
        *,
        top_k: int | None = None,
        deadline: float | None = None,
    ) -> tuple[QueryScores, Stats]:
        """
        Score the documents of one query.

        :param documents: Texts, or texts with what is embedded around them.
        :param top_k: How many of the best the caller wants; a shared token budget goes where it can change those.
        :param deadline: A time of `time.monotonic()` at which to stop: documents are then tokenised and scored in the
            order they came, as long as the next ones can be expected to be done in time, by the speed of the batches so
            far (of earlier calls, too; the very first batch, whose speed nobody knows, is a single document). A
            document is scored by all its windows or not at all, a batch that has begun is finished, and documents that
            were not reached keep a logit of None. With a shared token budget, whose shares depend on all documents,
            they are all tokenised first.
        :returns: The scores, and what they cost.
        :raises ValueError: If what is embedded around a document leaves no room for its content.
        """
        texts = [text if isinstance(text, DocumentText) else DocumentText(text) for text in documents]
        stats = Stats()
        query_ids = self._encode_queries([query], stats)[0]
        if deadline is not None and self.policy.max_tokens_per_query is None:
            return self._score_in_order(query_ids, texts, stats, deadline), stats
        if self._scores is not None and self.policy.max_tokens_per_query is None:
            return self._score_new(query, query_ids, texts, stats, self._scores), stats
        if self.policy.max_tokens_per_query is None:
            return self._score_all([_Request(query_ids, texts)], stats)[0], stats
        plans = self._plan(query_ids, texts, stats)
        pairs, in_time = self._score_shared(plans, top_k if top_k is not None else len(plans), stats, deadline)
        return replace(self._collect(query_ids, plans, pairs), out_of_time=not in_time), stats

    def score_many(
        self,
        requests: Iterable[tuple[str, Sequence[str | DocumentText]]],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[list[QueryScores], Stats]:
        """
        Score the documents of many queries in batches that reach across queries; for evaluation, mining, distilling.

        The scores are those of `score`. A shared token budget per query needs two passes, so with one the queries are
        scored one after the other. However many documents there are, only about `SLICE_TOKENS` tokens of them are held
        at once, beside what `cache_tokens` keeps.

        :param requests: Queries, each with its documents.
        :param progress: Called after each batch with the documents scored so far and all documents; a document counts
            once all its windows are scored.
        """
        todo = [(query, list(documents)) for query, documents in requests]
        total = Stats()
        if self.policy.max_tokens_per_query is not None:
            results: list[QueryScores] = []
            for query, documents in todo:
                result, stats = self.score(query, documents)
                results.append(result)
                _add(total, stats)
                if progress is not None:
                    progress(sum(len(of_query.documents) for of_query in results), sum(len(docs) for _, docs in todo))
            return results, total
        query_ids = self._encode_queries([query for query, _ in todo], total)
        texts = [[text if isinstance(text, DocumentText) else DocumentText(text) for text in docs] for _, docs in todo]
        requested = [_Request(ids, documents) for ids, documents in zip(query_ids, texts, strict=True)]
        return self._score_all(requested, total, progress), total

    def score_pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str | DocumentText],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float64]:
        """
        Score pairs of a query and a document, of as many queries as you like, in one go.

        :param queries: One query per document; repeat it for each of its documents.
        :param progress: Called after each batch with the pairs of a query and a document scored so far, and all pairs.
        :returns: One logit per pair, in the order they came; shape (pairs,).
        :raises ValueError: If there are not as many queries as documents.
        """
        if len(queries) != len(documents):
            raise ValueError(
                f"queries and documents must be of one length, but got {len(queries)} and {len(documents)}."
            )
        places: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(query, []).append(place)
        requests = [(query, [documents[place] for place in of_query]) for query, of_query in places.items()]
        results, _ = self.score_many(requests, progress=progress)
        logits = np.full(len(documents), np.nan)
        for of_query, result in zip(places.values(), results, strict=True):
            for place, document in zip(of_query, result.documents, strict=True):
                if document.logit is not None:
                    logits[place] = document.logit
        return logits

    def document_lengths(self, documents: Sequence[DocumentText]) -> list[int]:
        """Return the tokens of each document with what is embedded around it, without special tokens."""
        return [len(document) for document in self._documents.encode(documents)]

    def pair_limit(self, query: str) -> int:
        """Return the most tokens a document may have to be read whole with `query`; 0 if the query itself is cut."""
        tokens = len(self._encode_queries([query], Stats())[0])
        limit = self.policy.max_query_tokens
        return 0 if limit is not None and tokens > limit else max(self._room - tokens, 0)

    def _resolve_max_length(self) -> int:
        limits = [limit for limit in (self.backend.max_length, self.backend.tokenizer.max_length) if limit is not None]
        own = min(limits) if limits else None
        asked = self.policy.max_length
        if asked is not None and own is not None and asked > own:
            raise ValueError(f"max_length must be at most {own}, the model's own limit, but got {asked}.")
        if asked is not None:
            return asked
        if own is None:
            raise ValueError("max_length must be given, since neither the model nor its tokenizer names a limit.")
        return own

    def _encode_queries(self, queries: Sequence[str], stats: Stats) -> list[Ids]:
        started = time.perf_counter()
        unique = list(dict.fromkeys(queries))
        tokens = self.backend.tokenizer.encode([self.backend.query_prompt + query for query in unique])
        ids = {query: encoded.ids for query, encoded in zip(unique, tokens, strict=True)}
        stats.tokenise += time.perf_counter() - started
        return [ids[query] for query in queries]

    def _score_all(
        self, requests: Sequence[_Request], stats: Stats, progress: Callable[[int, int], None] | None = None
    ) -> list[QueryScores]:
        """Score the documents of some queries, slice by slice, in batches that reach across the queries of a slice."""
        found: list[list[QueryScores]] = [[] for _ in requests]
        done, everything = 0, sum(len(request.texts) for request in requests)
        with closing(self._prepared(requests)) as slices:
            for parts, cost in slices:
                _add(stats, cost)
                plans = [plan for part in parts for plan in part.plans]
                report = None if progress is None else _counting(progress, plans, done, everything)
                self._run([pair for part in parts for pair in part.pairs], stats, report=report)
                for part in parts:
                    found[part.request].append(self._collect(requests[part.request].query, part.plans, part.pairs))
                done += len(plans)
        return [_joined(request.query, parts) for request, parts in zip(requests, found, strict=True)]

    def _prepared(self, requests: Sequence[_Request]) -> Generator[tuple[list[_Part], Stats], None, None]:
        """
        Tokenise and pack the requests slice by slice; each comes with what that cost.

        While the caller scores a slice on a GPU, a thread prepares the next one. On CPU the two would take each other's
        cores. Close the iterator to be sure that the thread has ended.
        """
        slices = self._slices(requests)
        if self._on_cpu or len(slices) < 2:
            yield from (self._prepare(requests, one) for one in slices)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="ce-ranker-tokenise") as ahead:
            following = ahead.submit(self._prepare, requests, slices[0])
            for one in slices[1:]:
                ready = following.result()
                following = ahead.submit(self._prepare, requests, one)
                yield ready
            yield following.result()

    def _slices(self, requests: Sequence[_Request]) -> list[list[tuple[int, range]]]:
        """Part the documents of all requests into slices: lists of a request and which of its documents."""
        most = max(SLICE_TOKENS, SLICE_BATCHES * self.batch_tokens) if self.backend.pads else SLICE_TOKENS
        room = most if self._on_cpu or self.backend.pads else most // FIRST_SLICE
        slices: list[list[tuple[int, range]]] = [[]]
        taken = 0
        for number, request in enumerate(requests):
            first = 0
            for place, text in enumerate(request.texts):
                tokens = sum(map(len, text)) // CHARACTERS_PER_TOKEN + self._format.special_tokens + len(request.query)
                if taken >= room:
                    if place > first:
                        slices[-1].append((number, range(first, place)))
                    slices.append([])
                    first, taken, room = place, 0, min(2 * room, most)
                taken += max(min(tokens, self.max_length), tokens // UNREAD_SHARE)
            if len(request.texts) > first:
                slices[-1].append((number, range(first, len(request.texts))))
        return slices

    def _prepare(self, requests: Sequence[_Request], one: Sequence[tuple[int, range]]) -> tuple[list[_Part], Stats]:
        cost = Stats()
        parts = []
        for number, documents in one:
            query, texts, places = requests[number]
            where = documents if places is None else [places[place] for place in documents]
            plans = self._plan(query, texts[documents.start : documents.stop], cost, places=where)
            parts.append(_Part(number, plans, self._pairs(plans, cost)))
        return parts, cost

    def _plan(
        self, query: Ids, texts: Sequence[DocumentText], stats: Stats, *, places: Sequence[int] | None = None
    ) -> list[_Plan]:
        """Decide for each document what the model is to read of it and of the query; `places` is where they stand."""
        started = time.perf_counter()
        documents = self._documents.encode(texts)
        stats.tokenise += time.perf_counter() - started
        started = time.perf_counter()
        plans = []
        for place, text, document in zip(
            range(len(texts)) if places is None else places, texts, documents, strict=True
        ):
            budget = split_budget(
                len(query),
                len(document),
                room=self._room,
                window=self.policy.passage_tokens + document.embedded,
                max_query=self.policy.max_query_tokens,
            )
            kept = reduce_query(query, budget.query, self.policy.query_reduction)
            room = self._room - len(kept) - document.embedded
            if room < 1:
                raise ValueError(
                    f"document_prefix, document_suffix and meta_fields_to_embed take {document.embedded} tokens of the "
                    f"{self._room - len(kept)} that a pair has for document {place}, which leaves none for its "
                    "content; embed less, or raise max_length."
                )
            if len(document.body.ids) <= room:
                pieces = [Piece((Span(0, len(document.body.ids)),))]
            else:
                pieces = STRATEGIES[self.policy.long_documents](document, query, room, self.policy.windows)
            plans.append(_Plan(text, document, pieces, kept))
        stats.select += time.perf_counter() - started
        return plans

    def _pairs(self, plans: Iterable[_Plan], stats: Stats) -> list[_Pair]:
        started = time.perf_counter()
        pairs = [self._pair(plan, piece) for plan in plans for piece in plan.pieces]
        stats.select += time.perf_counter() - started
        return pairs

    def _pair(self, plan: _Plan, piece: Piece) -> _Pair:
        document = plan.document
        body = [document.body.ids[span.start : span.stop] for span in piece.spans]
        return _Pair(plan, piece, self._format.pack(plan.query, document.header, *body, document.footer))

    def _score_new(
        self,
        query: str,
        query_ids: Ids,
        texts: Sequence[DocumentText],
        stats: Stats,
        kept: ScoreCache[DocumentScore],
    ) -> QueryScores:
        """Score those documents whose score with this query is not kept."""
        fresh = QueryScores((), len(query_ids), len(query_ids), 0, 0)

        def score(places: list[int]) -> Sequence[DocumentScore]:
            nonlocal fresh
            [found] = self._score_all([_Request(query_ids, [texts[place] for place in places], places)], stats)
            fresh = replace(found, pairs=fresh.pairs + found.pairs, tokens=fresh.tokens + found.tokens)
            return found.documents

        documents, hits = kept.get([(self._identity, content_key(query, *text)) for text in texts], score)
        read = min((document.query_tokens for document in documents), default=len(query_ids))
        return replace(fresh, documents=tuple(documents), query_tokens_read=read, cached=hits)

    def _score_in_order(self, query: Ids, texts: Sequence[DocumentText], stats: Stats, deadline: float) -> QueryScores:
        """Tokenise and score documents in the order they came, about one batch at a time, until the time is up."""
        plans: list[_Plan] = []
        pairs: list[_Pair] = []
        in_time = True
        while in_time and len(plans) < len(texts):
            start = len(plans)
            stop, characters_left = start, CHARACTERS_PER_TOKEN * self.affordable_batch_tokens
            while stop < len(texts) and (stop == start or len(texts[stop].content) <= characters_left):
                characters_left -= len(texts[stop].content)
                stop += 1
            if time.monotonic() >= deadline:
                in_time = False
                break
            slice_of_plans = self._plan(query, texts[start:stop], stats, places=range(start, stop))
            slice_of_pairs = self._pairs(slice_of_plans, stats)
            plans += slice_of_plans
            pairs += slice_of_pairs
            in_time = self._run(slice_of_pairs, stats, deadline)
        found = self._collect(query, plans, pairs)
        reached = [score if score.logit is not None else DocumentScore(logit=None) for score in found.documents]
        missed = [DocumentScore(logit=None)] * (len(texts) - len(reached))
        return replace(found, documents=(*reached, *missed), out_of_time=not in_time)

    def _score_shared(
        self, plans: list[_Plan], top_k: int, stats: Stats, deadline: float | None
    ) -> tuple[list[_Pair], bool]:
        """
        Share one token budget among all documents: each gets one piece, what is left goes where it can change the top
        k.

        The first pieces are cut to equal shares if they do not all fit. Further ones go by the first pass's logits: the
        second pieces of the best documents, then the second pieces of the others, and so on. Also tells whether the
        deadline left time for all of that.
        """
        left = self.policy.max_tokens_per_query
        if left is None:  # pragma: no cover - the caller has checked
            raise ValueError("max_tokens_per_query must be set to share a budget.")
        first = self._first_pieces(plans, left)
        in_time = self._run(first, stats, deadline)
        left -= sum(len(pair.packed.ids) for pair in first)
        ranked = sorted((plan for plan in plans if plan.logits), key=lambda plan: -plan.logits[0])
        further = []
        rounds = max((len(plan.pieces) for plan in plans), default=1)
        for nth in range(1, rounds):
            for group in (ranked[: 2 * top_k], ranked[2 * top_k :]):
                for plan in group:
                    if nth >= len(plan.pieces):
                        continue
                    pair = self._pair(plan, plan.pieces[nth])
                    if len(pair.packed.ids) <= left:
                        left -= len(pair.packed.ids)
                        further.append(pair)
        in_time = in_time and self._run(further, stats, deadline)
        return first + further, in_time

    def _first_pieces(self, plans: list[_Plan], budget: int) -> list[_Pair]:
        """One pair for each document in the order they came, as long as the budget can show a window worth reading."""
        pairs = [self._pair(plan, plan.pieces[0]) for plan in plans]
        if sum(len(pair.packed.ids) for pair in pairs) <= budget:
            return pairs
        overheads = [len(pair.packed.ids) - pair.piece.tokens for pair in pairs]
        least = [
            overhead + min(MIN_SHARED_WINDOW, pair.piece.tokens)
            for overhead, pair in zip(overheads, pairs, strict=True)
        ]
        affordable = int(np.searchsorted(np.cumsum(least), budget, side="right"))
        pairs, overheads = pairs[:affordable], overheads[:affordable]
        share = _equal_share([pair.piece.tokens for pair in pairs], budget - sum(overheads))
        return [self._pair(pair.plan, _shorten(pair.piece, share)) for pair in pairs]

    def _run(
        self,
        pairs: Sequence[_Pair],
        stats: Stats,
        deadline: float | None = None,
        *,
        report: Callable[[NDArray[np.bool_]], None] | None = None,
    ) -> bool:
        """
        Score pairs and hand each logit to its plan, in the order of the plan's pieces.

        :param report: Called after each batch with which pairs are scored, shape (pairs,).
        :returns: Whether all were scored; with a deadline, pairs are taken in their order as long as there is time.
        """
        started = time.perf_counter()
        logits = np.full(len(pairs), np.nan)
        if deadline is None:
            self._run_group(np.arange(len(pairs)), pairs, logits, stats, report)
        else:
            done = 0
            while done < len(pairs) and (count := self._affordable(pairs[done:], stats, deadline)):
                self._run_group(np.arange(done, done + count), pairs, logits, stats, report)
                done += count
        stats.score += time.perf_counter() - started
        reached = ~np.isnan(logits)
        for pair, logit, done_in_time in zip(pairs, logits, reached, strict=True):
            if done_in_time:
                pair.plan.logits.append(float(logit))
        return bool(reached.all())

    def _affordable(self, pairs: Sequence[_Pair], stats: Stats, deadline: float) -> int:
        """How many of the next pairs can be expected to be done in time: whole documents, at most a batch of them."""
        left = deadline - time.monotonic()
        if left <= 0.0:
            return 0
        speed = self._seconds_per_token
        room = self.affordable_batch_tokens
        count, tokens = 0, 0
        while count < len(pairs):
            stop = count + 1
            while stop < len(pairs) and pairs[stop].plan is pairs[count].plan:
                stop += 1
            tokens += sum(len(pair.packed.ids) for pair in pairs[count:stop])
            if count and (speed is None or tokens > room):
                break
            if speed is not None and speed * tokens > left:
                break
            count = stop
        if not count and not stats.batches and speed is not None:
            # A call without a score teaches nothing, so that one stall could rule out every later call.
            self._seconds_per_token = speed / 2
        return count

    def _learn_speed(self, seconds: float, tokens: int) -> None:
        """Remember the speed, the latest batches counting most."""
        latest, before = seconds / max(tokens, 1), self._seconds_per_token
        self._seconds_per_token = latest if before is None else (latest + before) / 2

    def _run_group(
        self,
        group: NDArray[np.intp],
        pairs: Sequence[_Pair],
        logits: NDArray[np.float64],
        stats: Stats,
        report: Callable[[NDArray[np.bool_]], None] | None,
    ) -> None:
        """
        Score a group of pairs; when memory runs out, halve the batches and go on with what is not scored yet.

        Where the device works by itself, the next batch is queued before the last one's logits are waited for.
        """
        lengths = np.asarray([len(pairs[place].packed.ids) for place in group], dtype=np.int64)
        ahead = 1 if self._queue is None else 2
        planned_for: int | None = self.affordable_batch_tokens
        pending = self._batches(lengths, np.arange(len(group)))
        queued: deque[_Queued] = deque()
        free_since = 0.0
        while pending or queued:
            if pending and planned_for != self.affordable_batch_tokens:  # learnt here, or by another thread
                planned_for = self.affordable_batch_tokens
                pending = self._batches(lengths, np.concatenate(pending))
            starts = bool(pending) and len(queued) < ahead
            batch = pending[0] if starts else queued[0].batch
            tokens, longest = int(lengths[batch].sum()), int(lengths[batch].max())
            try:
                if starts:
                    began = time.perf_counter()
                    queued.append(_Queued(batch, began, self._start([pairs[group[place]].packed for place in batch])))
                    pending.popleft()
                    continue
                values = queued[0].wait()
            except Exception as error:
                if not self.backend.is_out_of_memory(error):
                    raise
                # The error holds the frames of the pass that failed, and these hold what filled the memory.
                traceback.clear_frames(error.__traceback__)
                self._lower_batch_tokens(len(batch), longest, error)
                if not starts:
                    pending.appendleft(queued.popleft().batch)
                planned_for = None
                continue
            began = queued.popleft().began
            if not np.isfinite(values).all():
                raise ValueError(
                    f"model returned scores that are not finite for {int((~np.isfinite(values)).sum())} of "
                    f"{len(values)} pairs in {self.backend.dtype}; try dtype='float32'."
                )
            now = time.perf_counter()
            self._learn_speed(now - max(began, free_since), tokens)
            free_since = now
            logits[group[batch]] = values
            stats.pairs += len(batch)
            stats.batches += 1
            stats.tokens += tokens
            stats.slots += longest * len(batch) if self.backend.pads else tokens
            if report is not None:
                report(~np.isnan(logits))

    def _batches(self, lengths: NDArray[np.int64], places: NDArray[np.intp]) -> deque[NDArray[np.intp]]:
        plan = plan_batches(
            lengths[places],
            batch_tokens=self.affordable_batch_tokens,
            batch_size=self.batch_size,
            pass_tokens=(CPU_PASS_TOKENS if self._on_cpu else DEVICE_PASS_TOKENS) if self.backend.pads else None,
        )
        return deque(places[part] for part in plan)

    def _start(self, pairs: Sequence[PackedPair]) -> Callable[[], NDArray[np.float32]]:
        """Queue a batch where the device works by itself; elsewhere it runs once its logits are asked for."""
        batch = Batch(pairs, self.backend.tokenizer.pad_id)
        return partial(self.backend.logits, batch) if self._queue is None else self._queue.start(batch)

    @property
    def affordable_batch_tokens(self) -> int:
        """The most tokens of the next batch: `batch_tokens`, or less once that has run out of memory."""
        return min(self.batch_tokens, _learnt_batch_tokens.get(self._learnt_key, self.batch_tokens))

    def _lower_batch_tokens(self, pairs: int, longest: int, error: Exception) -> None:
        if pairs <= 1:
            raise MemoryError(
                f"a single pair of {longest} tokens does not fit into the memory of {self.backend.device}; "
                "lower max_length, or use a smaller model or dtype."
            ) from error
        with _learnt_lock:  # threads that fail at the same time halve once, not one after the other
            lower = min(max(pairs * longest // 2, 1), self.affordable_batch_tokens)
            _learnt_batch_tokens[self._learnt_key] = lower
        self.backend.free_memory()
        logger.warning("Out of memory with a batch of %s tokens; going on with %s.", pairs * longest, lower)

    def _collect(self, query: Ids, plans: Sequence[_Plan], pairs: Sequence[_Pair]) -> QueryScores:
        aggregate = AGGREGATES[self.policy.aggregate]
        pieces: dict[int, list[Piece]] = {}
        for pair in pairs:
            pieces.setdefault(id(pair.plan), []).append(pair.piece)
        tokens = 0
        scores = []
        for plan in plans:
            of_plan = pieces.get(id(plan), [])[: len(plan.logits)]
            tokens += sum(self._cost(plan, piece) for piece in of_plan)
            scores.append(_document_score(plan, of_plan, aggregate))
        read = [score.query_tokens for score in scores if score.logit is not None]
        return QueryScores(
            documents=tuple(scores),
            query_tokens=len(query),
            query_tokens_read=min(read, default=len(query)),
            pairs=sum(score.pairs for score in scores),
            tokens=tokens,
        )

    def _cost(self, plan: _Plan, piece: Piece) -> int:
        return self._format.special_tokens + len(plan.query) + plan.document.embedded + piece.tokens


def _counting(
    progress: Callable[[int, int], None], plans: Sequence[_Plan], before: int, everything: int
) -> Callable[[NDArray[np.bool_]], None]:
    """Return what tells `progress` how many documents are scored, given which of the pairs of `plans` are."""
    owners = np.asarray([number for number, plan in enumerate(plans) for _ in plan.pieces], dtype=np.intp)

    def report(scored: NDArray[np.bool_]) -> None:
        progress(before + len(plans) - len(np.unique(owners[~scored])), everything)

    return report


def _joined(query: Ids, parts: Sequence[QueryScores]) -> QueryScores:
    """Put together the scores of a query's documents that came in parts."""
    return QueryScores(
        documents=tuple(document for part in parts for document in part.documents),
        query_tokens=len(query),
        query_tokens_read=min((part.query_tokens_read for part in parts), default=len(query)),
        pairs=sum(part.pairs for part in parts),
        tokens=sum(part.tokens for part in parts),
    )


def _document_score(
    plan: _Plan, pieces: Sequence[Piece], aggregate: Callable[[NDArray[np.float64]], float]
) -> DocumentScore:
    tokens = len(plan.document.body.ids)
    if not pieces:
        return DocumentScore(logit=None, tokens=tokens)
    logits = np.asarray(plan.logits)
    seen = np.zeros(tokens, dtype=bool)
    readings = []
    for place in np.argsort(-logits, kind="stable"):
        for span in pieces[place].spans:
            seen[span.start : span.stop] = True
            whole = span.stop - span.start == tokens
            start, end = (0, len(plan.text.content)) if whole else characters(plan.document, plan.text.content, span)
            readings.append(Reading(start, end, float(logits[place]), pieces[place].evidence))
    return DocumentScore(
        logit=aggregate(logits),
        read=tuple(readings),
        tokens=tokens,
        tokens_read=int(np.count_nonzero(seen)),
        pairs=len(pieces),
        query_tokens=len(plan.query),
    )


def _equal_share(tokens: Sequence[int], budget: int) -> int:
    """The most tokens each of some documents may take so that all together stay within a budget."""
    left, open_documents = budget, len(tokens)
    for length in sorted(tokens):
        if length * open_documents > left:
            return left // open_documents
        left -= length
        open_documents -= 1
    return max(tokens, default=0)


def _shorten(piece: Piece, tokens: int) -> Piece:
    spans = []
    for span in piece.spans:
        stop = min(span.stop, span.start + max(tokens, 0))
        tokens -= stop - span.start
        if stop > span.start:
            spans.append(Span(span.start, stop))
    return Piece(tuple(spans), piece.evidence)


def _add(total: Stats, stats: Stats) -> None:
    for name in ("tokenise", "select", "score", "pairs", "batches", "tokens", "slots"):
        setattr(total, name, getattr(total, name) + getattr(stats, name))
