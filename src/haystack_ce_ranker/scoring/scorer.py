"""
CrossEncoderScorer: queries with documents in, one score per document out, in the order they came.

Texts become tokens, `reading` plans what to show of them, `runner.py` runs the pairs, and `scores.py` makes one score
of a document's logits. This file holds the four ways to do that for a query; `CrossEncoderScorer.score` lists them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import checks
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText, content_key
from haystack_ce_ranker.reading.plan import Planner, ReadingPlan
from haystack_ce_ranker.reading.policy import EXACT, SOFT, ReadingPolicy
from haystack_ce_ranker.reading.queries import EncodedQuery, QueryText
from haystack_ce_ranker.reading.soft_matches import soft_matches_of
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.depth import Depth, DepthRule, DepthSearch
from haystack_ce_ranker.scoring.requests import (
    Candidate,
    CountedProgress,
    Pair,
    Part,
    Progress,
    Request,
    Work,
    groups_of,
)
from haystack_ce_ranker.scoring.runner import LearntBatchSizes, PairRunner
from haystack_ce_ranker.scoring.scores import (
    BEYOND_DEPTH,
    OUT_OF_TIME,
    OVER_BUDGET,
    SCREENED,
    DocumentScore,
    QueryScores,
    ScoredPiece,
    ScoringCost,
    document_score,
    skipped,
)
from haystack_ce_ranker.scoring.shared_budget import dearest, first_pieces, further_pieces
from haystack_ce_ranker.scoring.slices import CHARACTERS_PER_TOKEN, SlicePart, plan_slices, prepared
from haystack_ce_ranker.scoring.visits import Visit

DEFAULT_MAX_LENGTH = 512
"""
Tokens of a pair if nothing else is asked for and the model can read as many.

With a model that reads 8,192 tokens, documents that fit would be read whole: fifty articles would cost many times what
their best windows cost. benchmarks/long_context.py has the figures.
"""


class CrossEncoderScorer:
    """
    Scores documents for queries with a loaded cross-encoder. Safe from several threads.

    :param backend: The loaded model.
    :param policy: What the model may read.
    :param batch_tokens: The most tokens of one forward pass, padding among them; None for the backend's default.
    :param batch_size: The most pairs of one forward pass; None for no limit.
    :param model_name: The model's name, under which a batch size learnt from running out of memory is remembered.
    :param batch_sizes: Where learnt batch sizes are kept; None for a memory of its own.
    :param runner: A runner of the model that others use, too; it has its own limits. None makes one of the three above.
    :param cache_tokens: How many tokens of documents to keep for the next query.
    :param scores: A cache in which `score` looks first and keeps new scores; None for no cache. Scorers may share one.
        Only scores that depend on a query and a text alone are kept: calls with a deadline or a shared token budget
        do not use it.
    :param identity: What tells the model from others in `scores` beside its name: the revision, loading options.
    :ivar max_length: The most tokens of a pair.
    :ivar model_limit: The most that the model could read; None if it names no limit.
    :ivar passage_matches: What counts as evidence; `exact` where the policy says `soft` and the model cannot.
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
        batch_sizes: LearntBatchSizes | None = None,
        runner: PairRunner | None = None,
        cache_tokens: int = 2_000_000,
        scores: ScoreCache[DocumentScore] | None = None,
        identity: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.policy = policy if policy is not None else ReadingPolicy()
        self.model_limit = _model_limit(backend)
        self.max_length = _max_length(self.model_limit, self.policy.max_length)
        self.runner = (
            runner
            if runner is not None
            else PairRunner(
                backend,
                batch_tokens=batch_tokens,
                batch_size=batch_size,
                model_name=model_name,
                batch_sizes=batch_sizes,
            )
        )
        soft = soft_matches_of(backend) if self.policy.passage_matches == SOFT else None
        self.passage_matches = EXACT if soft is None else SOFT
        self._planner = Planner(
            self.policy, self.max_length, backend.tokenizer, None if soft is None else soft.evidence
        )
        self._documents = DocumentEncoder(backend.tokenizer, cache_tokens=cache_tokens)
        self._scores = scores
        self._identity = content_key(
            model_name, backend.name, backend.dtype, backend.device, str(self.max_length), repr(self.policy), *identity
        )

    def __deepcopy__(self, _memo: object) -> "CrossEncoderScorer":
        """Return the scorer itself: copied pipelines share the loaded model, which holds no state of a request."""
        return self

    def score(
        self,
        query: str | QueryText,
        documents: Sequence[str | DocumentText],
        *,
        top_k: int | None = None,
        depth: int | DepthRule | None = None,
        screen: bool = False,
        deadline: float | None = None,
        visit: Visit | None = None,
    ) -> tuple[QueryScores, ScoringCost]:
        """
        Score the documents of one query. Documents with equal texts are scored once.

        There are five ways, and the first that applies is taken: within one token budget that all documents share; step
        by step, where logits decide on the next documents; in the order they came, until a deadline; only the documents
        without a kept score; all documents, slice by slice.

        :param query: What is asked; a `QueryText` if something stands around every query.
        :param documents: Texts, or texts with what is embedded around them.
        :param top_k: How many of the best the caller wants. A shared token budget is spent where it can change those.
        :param depth: Score only the first `depth` documents, or as many as a rule decides; None for all.
        :param screen: With a `depth`, whether to score those documents of which most can be expected, instead of the
            first ones.
        :param deadline: A time of `time.monotonic()` at which to stop; see `PairRunner.run`. Documents are tokenised
            and scored in the order they came, each by all its windows or not at all. Documents that were not reached
            keep a logit of None. With a shared token budget, a rule or `screen` all documents are tokenised first,
            because the shares and the choice depend on them.
        :param visit: The request that this is done for. Once it is withdrawn, no further batch begins.
        :returns: The scores, and what they cost. Documents without text, all documents of a query without text, and
            documents whose header leaves no room have a logit of None; `DocumentScore.why_unscored` says which.
        :raises ValueError: If a value is not what its parameter takes, or what stands around all documents leaves no
            room for a text.
        :raises CancelledError: If the visit is withdrawn before all is scored.
        """
        top_k, wanted = checks.whole_number("top_k", top_k, optional=True), Depth.of(depth, screen=screen)
        deadline = checks.number("deadline", deadline, infinite=True, optional=True)
        work = Work(deadline=deadline, visit=visit)
        request = Request(self._encode_queries([query], work.cost)[0], documents, depth=wanted.first)
        if self.policy.max_tokens_per_query is not None:
            found = self._score_shared(request, work, wanted, len(documents) if top_k is None else top_k)
        elif wanted.stepwise:
            found = self._score_stepwise(request, work, wanted)
        elif deadline is not None:
            found = self._score_in_order(request, work, deadline)
        elif self._scores is not None:
            found = self._score_new(request, work, self._scores)
        else:
            found = request.scores(self._score_all([request], work)[0])
        return found, work.cost

    def score_many(
        self,
        requests: Iterable[tuple[str, Sequence[str | DocumentText]]],
        *,
        progress: Progress | None = None,
    ) -> tuple[list[QueryScores], ScoringCost]:
        """
        Score the documents of many queries in batches that reach across queries; for evaluation, mining, distilling.

        The scores are those of `score`. A shared token budget needs two passes per query, so the queries are then
        scored one after the other. However many documents there are, only about `slices.SLICE_TOKENS` tokens of them
        are held at once, beside the cache of `cache_tokens`.

        :param requests: Queries, each with its documents.
        :param progress: Called after each batch; a document counts once all its windows are scored.
        """
        todo = [(query, list(documents)) for query, documents in requests]
        work = Work()
        cost = work.cost
        if self.policy.max_tokens_per_query is not None:
            results: list[QueryScores] = []
            for query, documents in todo:
                result, own_cost = self.score(query, documents)
                results.append(result)
                cost.add(own_cost)
                if progress is not None:
                    progress(sum(len(of_query.documents) for of_query in results), sum(len(docs) for _, docs in todo))
            return results, cost
        queries = self._encode_queries([query for query, _ in todo], cost)
        asked = [Request(query, documents) for query, (_, documents) in zip(queries, todo, strict=True)]
        found = self._score_all(asked, work, progress)
        return [request.scores(scores) for request, scores in zip(asked, found, strict=True)], cost

    def score_pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str | DocumentText],
        *,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """
        Score pairs of a query and a document in one go, for any number of queries.

        :param queries: One query per document; repeat it for each of its documents.
        :param progress: Called after each batch with the number of pairs scored so far, and of all pairs.
        :returns: One logit per pair, in the order they came; NaN for a pair that was not scored, see `score`. Shape
            (pairs,).
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

    def pair_limit(self, query: str | QueryText) -> int:
        """Return the most tokens a document may have to be read whole with `query`; 0 if the query itself is cut."""
        return self._planner.document_limit(self._encode_queries([query], ScoringCost())[0])

    def _encode_queries(self, queries: Sequence[str | QueryText], cost: ScoringCost) -> list[EncodedQuery]:
        started = time.perf_counter()
        asked = [one if isinstance(one, QueryText) else QueryText(checks.text("query", one)) for one in queries]
        different = list(dict.fromkeys(asked))
        unique = [self.backend.query_prompt + query.whole() for query in different]
        encode = partial(EncodedQuery.of, prompt=self.backend.query_prompt)
        by_text = dict(
            zip(different, map(encode, different, self.backend.tokenizer.encode_queries(unique)), strict=True)
        )
        cost.tokenise += time.perf_counter() - started
        return [by_text[query] for query in asked]

    def _score_all(
        self, requests: Sequence[Request], work: Work, progress: Progress | None = None
    ) -> list[list[DocumentScore]]:
        """Score the texts of some requests, slice by slice, in batches that reach across the queries of a slice."""
        found: list[list[DocumentScore]] = [[] for _ in requests]
        counted = CountedProgress(progress, requests) if progress is not None else None
        prepare = partial(self._prepare, requests)
        with closing(prepared(self._slices(requests), prepare, ahead=not self.runner.on_cpu)) as slices:
            for parts, own_cost in slices:
                work.cost.add(own_cost)
                pairs = [pair for part in parts for pair in part.pairs]
                report = None if counted is None else counted.of_slice(parts)
                self._run(pairs, work, report=report)
                if report is not None and not pairs:
                    report(np.empty(0, dtype=np.bool_))  # documents without text count as done, too
                for part in parts:
                    found[part.request] += map(self._document_score, part.candidates)
        return found

    def _slices(self, requests: Sequence[Request]) -> list[list[SlicePart]]:
        special = self.backend.tokenizer.format.special_tokens
        return plan_slices(
            [[sum(map(len, text)) for text in request.texts] for request in requests],
            [special + len(request.query) for request in requests],
            max_length=self.max_length,
            batch_tokens=self.runner.batch_tokens,
            pads=self.backend.pads,
            starts_small=not (self.runner.on_cpu or self.backend.pads),
        )

    def _prepare(self, requests: Sequence[Request], one: list[SlicePart]) -> tuple[list[Part], ScoringCost]:
        """Tokenise and pack a slice. The cost is returned with it, since another thread may do this."""
        cost = ScoringCost()
        parts = []
        for part in one:
            candidates = self._plan(requests[part.request], part.documents, cost)
            parts.append(Part(part.request, candidates, self._pairs(candidates, cost)))
        return parts, cost

    def _plan(self, request: Request, positions: range, cost: ScoringCost) -> list[Candidate]:
        """Tokenise some texts of a request, and decide what the model is to read of each."""
        started = time.perf_counter()
        texts = request.texts[positions.start : positions.stop]
        documents = self._documents.encode(texts)
        tokenised = time.perf_counter()
        candidates = [
            Candidate(self._planner.plan(request.query, text, document, place=request.places[position]))
            for position, text, document in zip(positions, texts, documents, strict=True)
        ]
        cost.tokenise += tokenised - started
        cost.select += time.perf_counter() - tokenised
        return candidates

    def _pairs(self, candidates: Sequence[Candidate], cost: ScoringCost) -> list[Pair]:
        started = time.perf_counter()
        pairs = [Pair.of(candidate, piece) for candidate in candidates for piece in candidate.plan.pieces]
        cost.select += time.perf_counter() - started
        return pairs

    def _run(
        self,
        pairs: Sequence[Pair],
        work: Work,
        *,
        report: Callable[[NDArray[np.bool_]], None] | None = None,
    ) -> bool:
        """Score pairs and hand each logit to its document; tell whether the deadline left time for all."""
        owners = [id(pair.candidate) for pair in pairs] if work.deadline is not None else ()
        packed = [pair.packed for pair in pairs]
        logits = self.runner.run(
            packed, work.cost, owners=owners, deadline=work.deadline, report=report, visit=work.visit
        )
        reached = ~np.isnan(logits)
        for place in np.flatnonzero(reached).tolist():
            pairs[place].candidate.scored.append(ScoredPiece(pairs[place].piece, float(logits[place])))
        return bool(reached.all())

    def _document_score(self, candidate: Candidate, why_unscored: str = OUT_OF_TIME) -> DocumentScore:
        return document_score(candidate.plan, candidate.scored, self.policy.aggregate, why_unscored=why_unscored)

    def _if_scored(self, candidate: Candidate, why_unscored: str) -> DocumentScore:
        """Return a document's score; one that was not reached has no tokens, and is not counted as cut."""
        reached = candidate.scored or candidate.plan.why_unread
        return self._document_score(candidate) if reached else skipped(why_unscored)

    def _score_new(self, request: Request, work: Work, kept: ScoreCache[DocumentScore]) -> QueryScores:
        """Score those texts whose score with this query is not kept."""
        fresh: list[DocumentScore] = []

        def score(positions: list[int]) -> Sequence[DocumentScore]:
            [found] = self._score_all([request.only(positions)], work)
            fresh.extend(found)
            return found

        found = kept.get(self._keys(request), score)
        return request.scores(found, fresh=fresh)

    def _keys(self, request: Request) -> list[tuple[object, object]]:
        """Return for each text what its score is kept under."""
        query = (request.query.text, repr(request.query.own))
        return [(self._identity, content_key(*query, *text)) for text in request.texts]

    def _score_in_order(self, request: Request, work: Work, deadline: float) -> QueryScores:
        """Tokenise and score texts in the order they came, about one batch at a time, until the time is up."""
        found: list[DocumentScore] = []
        in_time, texts = True, request.texts
        while in_time and len(found) < len(texts):
            in_time = time.monotonic() < deadline
            if not in_time:
                break
            stop = start = len(found)
            characters_left = CHARACTERS_PER_TOKEN * self.runner.affordable_batch_tokens
            while stop < len(texts) and (stop == start or len(texts[stop].content) <= characters_left):
                characters_left -= len(texts[stop].content)
                stop += 1
            candidates = self._plan(request, range(start, stop), work.cost)
            in_time = self._run(self._pairs(candidates, work.cost), work)
            found += [self._if_scored(candidate, OUT_OF_TIME) for candidate in candidates]
        found += [skipped(OUT_OF_TIME)] * (len(texts) - len(found))
        return request.scores(found, out_of_time=not in_time)

    def _score_stepwise(self, request: Request, work: Work, depth: Depth) -> QueryScores:
        """Score some texts, and let their logits decide which ones follow and when to stop."""
        cost, deadline = work.cost, work.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return request.scores([skipped(OUT_OF_TIME)] * len(request.texts), out_of_time=True)
        kept = self._scores if deadline is None else None
        candidates = self._plan(request, range(len(request.texts)), cost)
        search, left = self._search(request, candidates, depth, cost)
        keys = self._keys(request)
        found = [self._if_scored(candidate, left) for candidate in candidates]
        fresh: list[DocumentScore] = []

        def score(places: Sequence[int]) -> list[DocumentScore]:
            chosen = [candidates[place] for place in places]
            for group in [chosen] if deadline is None else groups_of(chosen, self.runner.affordable_batch_tokens):
                self._run(self._pairs(group, cost), work)
            fresh.extend(self._if_scored(candidate, OUT_OF_TIME) for candidate in chosen)
            return fresh[-len(chosen) :]

        def kept_or_scored(places: Sequence[int]) -> list[DocumentScore]:
            if kept is None:
                return score(places)
            return kept.get([keys[place] for place in places], lambda own: score([places[one] for one in own]))

        for places in search:
            scores = kept_or_scored(places)
            for place, one in zip(places, scores, strict=True):
                found[place] = one
            reached = [place for place in places if found[place].why_unscored != OUT_OF_TIME]
            search.see(reached, [found[place].logit for place in reached])
            if len(reached) < len(places):
                found = [skipped(OUT_OF_TIME) if one.why_unscored == left else one for one in found]
                return request.scores(found, fresh=fresh, out_of_time=True, missing=search.missing)
        return request.scores(found, fresh=fresh, missing=search.missing)

    def _search(
        self, request: Request, candidates: Sequence[Candidate], depth: Depth, cost: ScoringCost
    ) -> tuple[DepthSearch, str]:
        """Return the search among some candidates, and why those are not scored that it leaves."""
        started = time.perf_counter()
        plans = [candidate.plan for candidate in candidates]
        search = depth.search(plans, request.query.asked, on_cpu=self.runner.on_cpu)
        cost.select += time.perf_counter() - started
        return search, SCREENED if depth.screen else BEYOND_DEPTH

    def _score_shared(self, request: Request, work: Work, depth: Depth, top_k: int) -> QueryScores:
        """Share one token budget among all texts: one piece of each, then more of those that can reach the top k."""
        budget = self.policy.max_tokens_per_query
        if budget is None:
            raise ValueError("max_tokens_per_query must be a number where texts share it, but got None.")
        candidates = self._plan(request, range(len(request.texts)), work.cost)
        search, left = self._search(request, candidates, depth, work.cost) if depth.stepwise else (None, OUT_OF_TIME)
        in_time, over = True, set[int]()
        for places in [range(len(candidates))] if search is None else search:
            later = [] if search is None else self._dearest_to_come(search, candidates)
            pairs = self._first_pairs([candidates[place] for place in places], later, budget)
            budget -= sum(len(pair.packed.ids) for pair in pairs)
            in_time = self._run(pairs, work)
            paid = {id(pair.candidate) for pair in pairs}
            over = {place for place in places if id(candidates[place]) not in paid}
            if search is not None:
                seen = [place for place in places if candidates[place].scored]
                search.see(seen, [candidates[place].scored[0].logit for place in seen])
            if over or not in_time:
                break
        missing = None if search is None else search.missing
        if not in_time:
            left = OUT_OF_TIME
        elif over and search is not None:
            over.update(search.rest())
        plans = [candidate.plan for candidate in candidates]
        logits = [candidate.scored[0].logit if candidate.scored else None for candidate in candidates]
        further = further_pieces(plans, logits, budget, top_k=top_k)
        in_time = in_time and self._run([Pair.of(candidates[place], piece) for place, piece in further], work)
        found = [
            self._document_score(candidate, OVER_BUDGET) if place in over else self._if_scored(candidate, left)
            for place, candidate in enumerate(candidates)
        ]
        return request.scores(found, out_of_time=not in_time, missing=missing)

    def _first_pairs(self, candidates: Sequence[Candidate], later: Sequence[ReadingPlan], budget: int) -> list[Pair]:
        """Return a pair of each candidate that a budget has a share for beside `later`; their plans may change."""
        pairs = []
        for place, piece in first_pieces([*(candidate.plan for candidate in candidates), *later], budget):
            if place < len(candidates):
                candidate = candidates[place]
                candidate.plan, piece = self._planner.showing(candidate.plan, piece)
                pairs.append(Pair.of(candidate, piece))
        return pairs

    def _dearest_to_come(self, search: DepthSearch, candidates: Sequence[Candidate]) -> list[ReadingPlan]:
        """Return what the candidates that a number of a search leaves room for may cost at most."""
        count, places = search.to_come()
        return dearest([candidates[place].plan for place in places], count)


def _model_limit(backend: Backend) -> int | None:
    """Return the most tokens of a pair that the model and its tokenizer name; None if neither names a limit."""
    limits = [limit for limit in (backend.max_length, backend.tokenizer.max_length) if limit is not None]
    return min(limits, default=None)


def _max_length(own: int | None, asked: int | None) -> int:
    """Return the most tokens of a pair: what was asked for, or the default, both within the model's own limit."""
    if asked is None:
        return DEFAULT_MAX_LENGTH if own is None else min(own, DEFAULT_MAX_LENGTH)
    if own is not None and asked > own:
        raise ValueError(f"max_length must be at most {own}, the model's own limit, but got {asked}.")
    return asked
