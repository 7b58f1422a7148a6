"""
Which windows of long documents are read, how many, and what is made of their logits: several rules side by side.

    python benchmarks/watts.py windows

A part of `watts.py`, which prints and keeps it. Each rule ranks the same BM25 candidates with the same model, and reads
a document that fits whole. `watts_window_choices.py` chooses the windows; this file makes one score of a document's
logits, and counts.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import CannotRun, Report, collection_folder
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.fusion.normalizers import FloatArray
from haystack_ce_ranker.reading.budget import room_for_texts
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.passages import AGGREGATES, Piece, Span
from haystack_ce_ranker.reading.soft_matches import SoftMatches, soft_matches_of
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scorer import DEFAULT_MAX_LENGTH
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.significance import bootstrap
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from token_scoring import DEFAULT, Remembering, backend_of, candidates
from watts_window_choices import Asked, Choose, apart, by_evidence, by_settings, by_soft_matches

TASKS: Mapping[str, int | None] = {"qmsum-dev": None, "covidqa": 30, "dl19-long": 20}
"""How many queries of each collection; None: all."""
TRANSCRIPTS = "qmsum-dev"
GAIN, SHARE, CHOOSING = 0.08, 0.6, 0.05
TIMED = 2
"""Of how many queries of each collection the time is taken."""
_PAIRS = 512  # scored and kept at a time


class Window(NamedTuple):
    """A pair that was read: its logit, and its tokens with special tokens."""

    logit: float
    tokens: int


class Ranking(NamedTuple):
    """What a rule makes of a query: a score for each candidate, and the tokens that it read for them."""

    scores: Sequence[float]
    tokens: int


Join = Callable[[Sequence[float]], float]
Spend = Callable[[Sequence[Sequence[Window]]], Ranking]
"""From each candidate's windows, those with most evidence first, to a ranking. What it leaves out costs nothing."""


def all_of(join: Join) -> Spend:
    """Read all windows that were chosen."""

    def spend(windows: Sequence[Sequence[Window]]) -> Ranking:
        scores = [join([window.logit for window in of]) for of in windows]
        return Ranking(scores, sum(window.tokens for of in windows for window in of))

    return spend


def first_of(count: int, join: Join) -> Spend:
    """Read so many windows of each candidate."""
    return lambda windows: all_of(join)([of[:count] for of in windows])


def one_more_of_half(most: int, join: Join) -> Spend:
    """Read one window more of the better half of the candidates; a score of more windows stays comparable."""

    def spend(windows: Sequence[Sequence[Window]]) -> Ranking:
        early = first_of(most - 1, join)(windows)
        best = set(np.argsort(-np.asarray(early.scores), kind="stable")[: (len(windows) + 1) // 2].tolist())
        return all_of(join)([of[:most] if place in best else of[: most - 1] for place, of in enumerate(windows)])

    return spend


def within(tokens: int, join: Join) -> Spend:
    """Spend so many tokens a candidate as the ranker spends `max_tokens_per_query`: where first logits are highest."""

    def spend(windows: Sequence[Sequence[Window]]) -> Ranking:
        left = tokens * len(windows) - sum(of[0].tokens for of in windows)
        read = [[of[0]] for of in windows]
        best = sorted(range(len(windows)), key=lambda place: -windows[place][0].logit)
        for nth in range(1, max(map(len, windows))):
            for place in best:
                if nth < len(windows[place]) and windows[place][nth].tokens <= left:
                    left -= windows[place][nth].tokens
                    read[place].append(windows[place][nth])
        return all_of(join)(read)

    return spend


def more_of_the_best(first: int, documents: int, join: Join) -> Spend:
    """Read the first windows of all candidates, and the others of the best by then, which stay before the rest."""

    def spend(windows: Sequence[Sequence[Window]]) -> Ranking:
        early = first_of(first, join)(windows)
        best = set(np.argsort(-np.asarray(early.scores), kind="stable")[:documents].tolist())
        late = all_of(join)([of if place in best else of[:first] for place, of in enumerate(windows)])
        above = max(late.scores) - min(late.scores) + 1.0
        return Ranking([score + above * (place in best) for place, score in enumerate(late.scores)], late.tokens)

    return spend


def mean(logits: Sequence[float]) -> float:
    return float(np.mean(logits))


def logsumexp(logits: Sequence[float]) -> float:
    return AGGREGATES["logsumexp"](np.asarray(logits))


def warm(logits: Sequence[float]) -> float:
    """Return logsumexp at a temperature of 4: between the maximum and the mean."""
    return 4.0 * float(np.logaddexp.reduce(np.asarray(logits) / 4.0))


def by_level(logits: Sequence[float]) -> float:
    return AGGREGATES["level"](np.asarray(logits))


def by_default(logits: Sequence[float]) -> float:
    return AGGREGATES[DEFAULT.aggregate](np.asarray(logits))


class Rule(NamedTuple):
    """Which windows are read, by a name in `ways`, and what is made of their logits."""

    way: str
    spend: Spend


DEFAULT_RULE = "the ranker's default"
FIRST_DEFAULT = "4 of 64, evidence 0.8, logsumexp"
OPTION = "4 of 64 by soft matches, evidence 0.6, by level"
BUDGET = "4 of 64 by soft matches, 300 tokens a candidate, by level"
BY_BUDGET = within(300, by_level)
RULES: Mapping[str, Rule] = {
    DEFAULT_RULE: Rule("default", all_of(by_default)),
    FIRST_DEFAULT: Rule("64, evidence 0.8", all_of(logsumexp)),
    "2 of 64, logsumexp": Rule("64", first_of(2, logsumexp)),
    "3 of 64, mean": Rule("64", first_of(3, mean)),
    "4 of 64, logsumexp": Rule("64", first_of(4, logsumexp)),
    "4 of 64, logsumexp at temperature 4": Rule("64", first_of(4, warm)),
    "4 of 64, mean": Rule("64", first_of(4, mean)),
    "3 of 64, by level": Rule("64", first_of(3, by_level)),
    "4 of 64, by level": Rule("64", first_of(4, by_level)),
    "4 of 64, evidence 0.8, by level": Rule("64, evidence 0.8", all_of(by_level)),
    "4 of 64, evidence 0.5, by level": Rule("64, evidence 0.5", all_of(by_level)),
    "6 of 64, by level": Rule("64", all_of(by_level)),
    "3 of 64, 6 of the best five, mean": Rule("64", more_of_the_best(3, 5, mean)),
    "6 of 64, mean": Rule("64", all_of(mean)),
    "6 of 32, logsumexp": Rule("32", all_of(logsumexp)),
    "6 of 32, mean": Rule("32", all_of(mean)),
    "3 of 64 by soft matches, logsumexp": Rule("soft", first_of(3, logsumexp)),
    "3 of 64 by soft matches, mean": Rule("soft", first_of(3, mean)),
    "3 of 64 by soft matches, by level": Rule("soft", first_of(3, by_level)),
    "4 of 64 by soft matches, logsumexp": Rule("soft", all_of(logsumexp)),
    "4 of 64 by soft matches, mean": Rule("soft", all_of(mean)),
    "4 of 64 by soft matches, by level": Rule("soft", all_of(by_level)),
    OPTION: Rule("soft, evidence 0.6", all_of(by_level)),
    "4 of 64 by soft matches, evidence 0.6, logsumexp": Rule("soft, evidence 0.6", all_of(logsumexp)),
    "4 of 64, 300 tokens a candidate, by level": Rule("64", lambda windows: BY_BUDGET([of[:4] for of in windows])),
    BUDGET: Rule("soft", BY_BUDGET),
    "3 of 64 by soft matches, a fourth of the better half, by level": Rule("soft", one_more_of_half(4, by_level)),
    "3 of 64 by soft matches that overlap less, by level": Rule("soft, apart", all_of(by_level)),
    "4 of 56 by soft matches, by level": Rule("soft, 56", all_of(by_level)),
    "4 of 60 by soft matches, evidence 0.6, by level": Rule("soft, 60", all_of(by_level)),
}
BOUND = "the best of these rules for each query, with hindsight"


def ways(soft: SoftMatches | None) -> dict[str, Choose]:
    """Return the ways to choose that rules name; those by soft matches only with their vectors."""
    found = {
        "default": by_settings(DEFAULT.windows, DEFAULT.long_documents),
        "64": by_evidence(64, 6),
        "64, evidence 0.8": by_evidence(64, 4, 0.8),
        "64, evidence 0.5": by_evidence(64, 4, 0.5),
        "32": by_evidence(32, 6),
    }
    if soft is None:
        return found
    return {
        **found,
        "soft": by_soft_matches(soft, 64, 4),
        "soft, evidence 0.6": by_soft_matches(soft, 64, 4, 0.6),
        "soft, apart": apart(soft, 64, 3, 0.7),
        "soft, 56": by_soft_matches(soft, 56, 4),
        "soft, 60": by_soft_matches(soft, 60, 4, 0.6),
    }


class Query:
    """
    A query with its candidates, best first, as tokens.

    :ivar half: Which half of the queries it is in.
    """

    def __init__(
        self,
        backend: Backend,
        encoder: DocumentEncoder,
        text: str,
        texts: Mapping[str, str],
        judged: Mapping[str, int],
        *,
        half: int = 0,
    ) -> None:
        self.half = half
        self._format = backend.tokenizer.format
        self._tokens = backend.tokenizer.encode_queries([text])[0].ids
        self._ids = list(texts)
        self._judged = dict(judged)
        documents = encoder.encode([DocumentText(content) for content in texts.values()])
        most = min(DEFAULT_MAX_LENGTH, backend.max_length or DEFAULT_MAX_LENGTH)
        self._room = room_for_texts(most, self._format.special_tokens) - len(self._tokens)
        self._asked = [Asked(self._tokens, document, self._room) for document in documents]

    def __len__(self) -> int:
        """Return how many candidates it has."""
        return len(self._ids)

    @property
    def head(self) -> int:
        """Tokens of the pairs that show the beginning of each candidate."""
        around = self._format.special_tokens + len(self._tokens)
        return sum(around + min(len(one.document.body.ids), self._room) for one in self._asked)

    def pairs(self, choose: Choose) -> list[list[PackedPair]]:
        """Return the pairs of each candidate, those with most evidence first."""
        return [[self._packed(piece, one) for piece in _pieces(choose, one)] for one in self._asked]

    def _packed(self, piece: Piece, one: Asked) -> PackedPair:
        body = one.document.body.ids
        return self._format.pack(self._tokens, *(body[span.start : span.stop] for span in piece.spans))

    def quality(self, scores: Sequence[float]) -> float:
        """Return nDCG@10; candidates with equal scores keep BM25's order."""
        order = np.argsort(-np.asarray(scores), kind="stable")
        run = {"query": ranked_scores([self._ids[place] for place in order])}
        return ndcg_at_10(run, {"query": self._judged})["query"]


def _pieces(choose: Choose, one: Asked) -> list[Piece]:
    tokens = len(one.document.body.ids)
    return [Piece((Span(0, tokens),))] if tokens <= one.room else choose(one)


def queries_of(
    arguments: argparse.Namespace,
    name: str,
    *,
    limit: int | None,
    backend: Remembering | None = None,
    text_of: Callable[[str, str], str] = lambda _, content: content,
) -> list[Query]:
    """
    Return the queries of a collection that have candidates.

    :param limit: How many at most, beside those of `--queries`; None: all.
    :param backend: Whose tokens they are; None for the model that was asked for.
    :param text_of: What is read of a document, by its id and its content.
    """
    folder = collection_folder(arguments, name)
    limits = [one for one in (limit, arguments.queries) if one is not None]
    collection = load_collection(folder).sample(min(limits, default=None))
    backend = backend_of(arguments) if backend is None else backend
    encoder = DocumentEncoder(backend.tokenizer, cache_tokens=50_000_000)
    return [
        Query(
            backend,
            encoder,
            collection.queries[query_id],
            {one: text_of(one, collection.documents[one].content) for one in ids},
            collection.judgments[query_id],
            half=hashlib.sha256(query_id.encode()).digest()[-1] % 2,
        )
        for query_id, ids in candidates(folder, collection).items()
        if ids
    ]


def windows_of(queries: Sequence[Query], choose: Choose, backend: Backend) -> list[list[list[Window]]]:
    """Return for each query and candidate the windows that are chosen, scored."""
    pairs = [query.pairs(choose) for query in queries]
    flat = [pair for of_query in pairs for of in of_query for pair in of]
    runner = PairRunner(backend)
    logits = iter(
        logit
        for start in range(0, len(flat), _PAIRS)
        for logit in runner.run(flat[start : start + _PAIRS], ScoringCost()).tolist()
    )
    return [[[Window(next(logits), len(pair.ids)) for pair in of] for of in of_query] for of_query in pairs]


class Times(NamedTuple):
    """CPU seconds that a way takes to choose the windows of a query's candidates, and to score one token of them."""

    choosing: float
    a_token: float


def times_of(queries: Sequence[Query], choose: Choose, backend: Backend) -> Times:
    """Measure on the first queries, whose documents are tokens already; what is like their tokens is found then."""
    chosen, scored, tokens = 0.0, 0.0, 0
    runner = PairRunner(backend)
    queries[-1].pairs(choose)
    for query in queries[:TIMED]:
        start = time.process_time()
        pairs = [pair for of in query.pairs(choose) for pair in of]
        middle = time.process_time()
        runner.run(pairs, ScoringCost())
        chosen, scored = chosen + middle - start, scored + time.process_time() - middle
        tokens += sum(len(pair.ids) for pair in pairs)
    return Times(chosen / len(queries[:TIMED]), scored / tokens)


@dataclass(frozen=True)
class Outcome:
    """
    What a rule is worth on a collection.

    :ivar quality: nDCG@10 of each query.
    :ivar tokens: The tokens that it reads, as a share of the head's.
    :ivar choosing: The time that choosing takes, as a share of choosing and scoring.
    """

    quality: FloatArray
    tokens: float
    choosing: float


def outcomes(queries: Sequence[Query], choose: Mapping[str, Choose], backend: Remembering) -> dict[str, Outcome]:
    """Return what each rule is worth."""
    head = sum(query.head for query in queries)
    found: dict[str, Outcome] = {}
    for way, choice in choose.items():
        windows, times = windows_of(queries, choice, backend), times_of(queries, choice, backend.forgetful)
        for title, rule in RULES.items():
            if rule.way == way:
                rankings = list(map(rule.spend, windows))
                quality = [query.quality(one.scores) for query, one in zip(queries, rankings, strict=True)]
                tokens = sum(one.tokens for one in rankings)
                scoring = times.a_token * tokens / len(queries)
                share = times.choosing / (times.choosing + scoring)
                found[title] = Outcome(np.asarray(quality), tokens / head, share)
    return {title: found[title] for title in RULES if title in found}


def windows(arguments: argparse.Namespace, report: Report) -> None:
    """Each rule on each collection, beside BM25 and beside the default."""
    backend = backend_of(arguments)
    choose = ways(soft_matches_of(backend.forgetful))
    found = {}
    for name in TASKS:
        with report.or_left_out(name):
            queries = queries_of(arguments, name, limit=TASKS[name])
            bm25 = np.asarray([query.quality(np.zeros(len(query))) for query in queries])
            found[name] = outcomes(queries, choose, backend)
            show(name, bm25, found[name], report, np.asarray([query.half for query in queries]))
            targets(name, bm25, found[name], report)
    if not found:
        raise CannotRun(f"none of {', '.join(TASKS)} is there")
    if len(found) == len(TASKS):
        say_what_is_better(found, report)


def show(name: str, bm25: FloatArray, found: Mapping[str, Outcome], report: Report, half: NDArray[np.int_]) -> None:
    """Show the rules on one collection, and what each gains on either half of its queries."""
    report.table(
        f"{name}, {len(bm25)} queries: nDCG@10 of BM25 is {bm25.mean():.4f}",
        *("what is read of a long document", "nDCG@10", "over BM25 [95 %]", "over the default [95 %]"),
        *("by halves", "tokens of the head's", "choosing, of the time"),
    )
    today = found[DEFAULT_RULE].quality
    for title, one in found.items():
        gain = one.quality - today
        over = "" if title == DEFAULT_RULE else difference(gain)
        halves = " / ".join(f"{gain[half == which].mean():+.3f}" for which in np.unique(half))
        cells = f"{one.quality.mean():.4f}", difference(one.quality - bm25), over, halves
        report.row(title, *cells, f"{one.tokens:.0%}", f"{one.choosing:.1%}")
    best = np.max([one.quality for one in found.values()], axis=0)
    report.row(BOUND, f"{best.mean():.4f}", difference(best - bm25), difference(best - today), None, None, None)


def difference(values: FloatArray) -> str:
    """Return a mean with its interval, as text."""
    gain = bootstrap(values)
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def targets(name: str, bm25: FloatArray, found: Mapping[str, Outcome], report: Report) -> None:
    """Note what should hold of the default."""
    today = found[DEFAULT_RULE]
    report.at_most(f"{name}: choosing, of the time when tokens are cached", today.choosing, CHOOSING, "{:.1%}")
    if name == TRANSCRIPTS:
        gain = float((today.quality - bm25).mean())
        label = f"{name}: the default at least {GAIN} above BM25 at no more than {SHARE:.0%} of the head's tokens"
        report.target(label, gain >= GAIN and today.tokens <= SHARE, f"{gain:+.4f} at {today.tokens:.0%}")
    else:
        gain = float((today.quality - found[FIRST_DEFAULT].quality).mean())
        report.at_least(f"{name}: the default not below {FIRST_DEFAULT}", gain, 0.0, "{:+.4f}")


def say_what_is_better(found: Mapping[str, Mapping[str, Outcome]], report: Report) -> None:
    """Name the rules that rank better than the default on transcripts, within the tokens, and no worse elsewhere."""
    better = []
    for title in found[TRANSCRIPTS]:
        gains = {name: float((of[title].quality - of[DEFAULT_RULE].quality).mean()) for name, of in found.items()}
        affordable = all(of[title].tokens <= SHARE for of in found.values())
        if affordable and gains[TRANSCRIPTS] > 0 and min(gains.values()) >= 0:
            better.append(f"{title} ({', '.join(f'{name} {gain:+.4f}' for name, gain in gains.items())})")
    label = f"Better than the default on {TRANSCRIPTS}, nowhere worse, at no more than {SHARE:.0%} of the head's tokens"
    report.say(f"\n{label}: {'; '.join(better) or 'none of them'}.")


WINDOW_PARTS = {"windows": windows}
