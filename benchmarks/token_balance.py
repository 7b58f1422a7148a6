"""
What the model reads of a pair, and what that is worth: nDCG@10 and tokens per query.

    python benchmarks/token_balance.py strategies     # head, passages, every window: the table of the README
    python benchmarks/token_balance.py time           # tokenising and choosing windows, beside scoring
    python benchmarks/token_balance.py sweep          # window, passages, evidence, aggregate: why the defaults
    python benchmarks/token_balance.py finding        # evidence by tokens or stems, whose idf, aligned to what
    python benchmarks/token_balance.py choices        # the same by the ranking that comes of it
    python benchmarks/token_balance.py mixed          # short documents among long ones: is either favoured
    python benchmarks/token_balance.py positions      # who is found by where in the document the answer stands
    python benchmarks/token_balance.py queries        # which part of a query to keep when it is too long
    python benchmarks/token_balance.py shares         # how much of a pair a long query may take

Several parts may be named at once. Every setting re-ranks the same candidates with the same model in one process, and a
pair that several settings share is scored once; with `--cache FILE` also across runs. Collections that are missing are
skipped with a word. Needs the extras `evaluate` and `onnx`; the model is a folder or a `package:` name.
"""

import argparse
import csv
import hashlib
import math
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import Stemmer

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.configuration import load_tokenizer
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions, locate
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.evaluation.data.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText, EncodedDocument
from haystack_ce_ranker.reading.passages import STRATEGIES, Piece, Span, WindowSettings, align, evidence, windows
from haystack_ce_ranker.reading.queries import REDUCTIONS
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer, QueryScores, ReadingPolicy, Stats
from haystack_ce_ranker.tokenizing.pairs import PackedPair

DEPTHS = {"covidqa": 10, "dl19-long": 50, "dl19": 50, "cacm": 10, "med": 10, "stackfaq": 10}
DEFAULT = ReadingPolicy()
HEAD_LABEL = "first 512 tokens (head)"
DEFAULT_LABEL = "best passages (default)"
ALONE_LABEL = "the passages alone"
POLICIES = {
    HEAD_LABEL: ReadingPolicy(long_documents="head"),
    "best passage": ReadingPolicy(passages_per_document=1),
    "two best passages": ReadingPolicy(passages_per_document=2),
    DEFAULT_LABEL: DEFAULT,
}
EVERY_WINDOW = ReadingPolicy(long_documents="windows")
Found = Mapping[str, Sequence[str]]
Scores = Mapping[str, Mapping[str, float]]


class Remembering:
    """
    A backend that scores each pair once, for settings that share most of their pairs.

    :param file: An SQLite file that keeps the logits for the next run too, so that a long run may be stopped and gone
        on with; None for this run only.
    """

    def __init__(self, backend: Backend, *, model: str = "", file: Path | None = None) -> None:
        self.forgetful = backend
        self.model = model
        self._salt = f"{model}|{backend.name}|{backend.dtype}|".encode()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(file if file is not None else ":memory:", timeout=60)
        self._file.execute("CREATE TABLE IF NOT EXISTS logits (pair BLOB PRIMARY KEY, logit REAL) WITHOUT ROWID")
        self._known: dict[bytes, float] = dict(self._file.execute("SELECT pair, logit FROM logits"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forgetful, name)

    def logits(self, batch: Batch) -> Any:
        keys = [self._key(pair) for pair in batch.pairs]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if new:
            values = self.forgetful.logits(Batch([batch.pairs[place] for place in new], batch.pad_id))
            found = [(keys[place], float(value)) for place, value in zip(new, values, strict=True)]
            self._known.update(found)
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO logits VALUES (?, ?)", found)
        return np.asarray([self._known[key] for key in keys], dtype=np.float32)

    def _key(self, pair: PackedPair) -> bytes:
        ids, types = np.asarray(pair.ids, dtype=np.int32), np.asarray(pair.types, dtype=np.int32)
        return hashlib.blake2b(self._salt + ids.tobytes() + types.tobytes(), digest_size=16).digest()


def candidates(folder: Path, collection: Collection) -> dict[str, list[str]]:
    """Document ids for each query, best first: the collection's own run where it has one, else our BM25."""
    depth = DEPTHS[folder.name]
    if (folder / "run.bm25.tsv").is_file():
        run = load_run(folder / "run.bm25.tsv", collection=collection, depth=depth)
        return {query_id: list(run[query_id]) for query_id in collection.queries}
    ids = list(collection.documents)
    index = BM25Index.build(text.content for text in collection.documents.values())
    return {
        query_id: [ids[position] for position in index.search(query, depth).positions]
        for query_id, query in collection.queries.items()
    }


def score(
    backend: Backend, policy: ReadingPolicy, collection: Collection, found: Found
) -> tuple[dict[str, QueryScores], Stats]:
    scores, stats = CrossEncoderScorer(backend, policy).score_many(requests(collection, found))
    return dict(zip(found, scores, strict=True)), stats


def requests(collection: Collection, found: Found) -> list[tuple[str, list[DocumentText]]]:
    return [
        (collection.queries[query_id], [DocumentText(collection.documents[one].content) for one in ids])
        for query_id, ids in found.items()
    ]


def logits(found: Found, scores: Mapping[str, QueryScores]) -> dict[str, dict[str, float]]:
    return {
        query_id: {one: s.logit for one, s in zip(ids, scores[query_id].documents, strict=True) if s.logit is not None}
        for query_id, ids in found.items()
    }


def quality(found: Scores, collection: Collection) -> float:
    run = {}
    for query_id, of_query in found.items():
        order = sorted(of_query, key=lambda one: -of_query[one])
        run[query_id] = ranked_scores(order, [of_query[one] for one in order])
    judged = {query_id: collection.judgments[query_id] for query_id in found if query_id in collection.judgments}
    return mean(ndcg_at_10(run, judged))


def only(found: Found, queries: int) -> dict[str, Sequence[str]]:
    return dict(list(found.items())[:queries])


def collections(arguments: argparse.Namespace, names: str, queries: int) -> Iterable[tuple[str, Collection, Found]]:
    for name in (arguments.collections or names).split(","):
        folder = arguments.data / name
        if not folder.is_dir():
            print(f"{name} is not there: {folder}", flush=True)
            continue
        collection = load_collection(folder).sample(arguments.queries or queries)
        yield name, collection, candidates(folder, collection)


def table(*titles: str) -> None:
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|", flush=True)


def row(name: str, of: Found, label: str, figure: float, tokens: float = 0, head: float = 0) -> None:
    cells = f"{tokens:,.0f} | {tokens / head:.0%}" if tokens else "0 | "
    print(f"| {name} | {len(of)} | {label} | {figure:.4f} | {cells} |", flush=True)


def holds(what: str, is_so: bool, figures: str) -> None:
    print(f"- {'holds' if is_so else 'MISSED'}: {what}: {figures}", flush=True)


def strategies(arguments: argparse.Namespace, backend: Any) -> None:
    table("collection", "queries", "what is read", "nDCG@10", "tokens / query", "share of head's")
    verdicts: list[tuple[str, bool, str]] = []
    head_of: dict[str, tuple[float, float]] = {}  # quality and tokens per query of the first 512 tokens
    found_of: dict[str, dict[str, tuple[float, float]]] = {}
    for name, collection, found in collections(arguments, "covidqa,dl19-long,dl19", 10**6):
        first_stage = {q: ranked_scores(ids) for q, ids in found.items()}
        row(name, found, "nothing (BM25)", mean(ndcg_at_10(first_stage, collection.judgments)))
        by_policy, figures = {}, {}
        for label, policy in POLICIES.items():
            scores, stats = score(backend, policy, collection, found)
            by_policy[label] = logits(found, scores)
            figures[label] = quality(by_policy[label], collection), stats.tokens / len(found)
            head_of.setdefault(name, figures[label])
            row(name, found, label, *figures[label], head_of[name][1])
        found_of[name] = figures
        if name == "dl19":
            plain = plain_logits(backend, collection, found)
            worst = max(abs(plain[q][one] - logit) for q, of in by_policy[DEFAULT_LABEL].items()
                        for one, logit in of.items())  # fmt: skip
            verdicts.append(("dl19: scores identical to plain scoring", worst == 0.0, f"largest difference {worst:g}"))
            continue
        few = only(found, arguments.windows_queries)
        sample = quality({q: by_policy[DEFAULT_LABEL][q] for q in few}, collection)
        row(name, few, "default, on the sample", sample)
        scores, stats = score(backend, EVERY_WINDOW, collection, few)
        every = {join: quality(aggregated(few, scores, AGGREGATES[join]), collection) for join in ("max", "logsumexp")}
        for join, figure in every.items():
            row(name, few, f"every window ({join}), on the sample", figure, stats.tokens / len(few), head_of[name][1])
        verdicts.append((f"{name}: the default does not lose to every window (same {len(few)} queries)",
                         sample >= max(every.values()), f"{sample:.4f} against {max(every.values()):.4f}"))  # fmt: skip
    if "covidqa" in found_of:
        (head, tokens), (ours, cost) = head_of["covidqa"], found_of["covidqa"][DEFAULT_LABEL]
        verdicts.append(("covidqa: default >= head + 0.10 at <= 85 % of its tokens",
                         ours >= head + 0.10 and cost <= 0.85 * tokens,
                         f"{ours - head:+.4f} at {cost / tokens:.0%}"))  # fmt: skip
        verdicts.append(a_setting("covidqa: a setting >= head + 0.06 at <= 30 %", found_of["covidqa"], head + 0.06,
                                  0.3 * tokens, lambda figure: f"{figure - head:+.4f}", tokens))  # fmt: skip
    if {"dl19", "dl19-long"} <= set(found_of):
        (_, tokens), (alone, _) = head_of["dl19-long"], found_of["dl19"][DEFAULT_LABEL]
        ours, cost = found_of["dl19-long"][DEFAULT_LABEL]
        verdicts.append(("dl19-long: default >= 93 % of the passages alone at no more tokens than head",
                         ours >= 0.93 * alone and cost <= tokens,
                         f"{ours / alone:.1%} at {cost / tokens:.0%}"))  # fmt: skip
        verdicts.append(a_setting("dl19-long: a setting >= 95 % of the passages alone at <= 30 %",
                                  found_of["dl19-long"], 0.95 * alone, 0.3 * tokens,
                                  lambda figure: f"{figure / alone:.1%}", tokens))  # fmt: skip
    print()
    for verdict in verdicts:
        holds(*verdict)


def a_setting(
    what: str,
    figures: Mapping[str, tuple[float, float]],
    least: float,
    most: float,
    say: Callable[[float], str],
    head: float,
) -> tuple[str, bool, str]:
    """The setting of best quality among those within `most` tokens, and whether it reaches `least`."""
    within = {label: figure for label, figure in figures.items() if figure[1] <= most}
    if not within:
        return what, False, "no setting is that cheap"
    label = max(within, key=lambda one: within[one][0])
    figure, tokens = within[label]
    return what, figure >= least, f"{label}, {say(figure)} at {tokens / head:.0%}"


def plain_logits(backend: Any, collection: Collection, found: Found) -> dict[str, dict[str, float]]:
    """The logits of pairs as the model's own tokenizer packs and truncates them."""
    tokenizer = load_tokenizer(locate(backend.model), ModelOptions(model=backend.model))
    result: dict[str, dict[str, float]] = {}
    for query_id, ids in found.items():
        texts = [collection.documents[one].content for one in ids]
        packed = tokenizer([collection.queries[query_id]] * len(ids), texts, truncation="only_second", max_length=512)
        pairs = [
            PackedPair(np.asarray(tokens, dtype=np.int32), np.asarray(types, dtype=np.int32))
            for tokens, types in zip(packed["input_ids"], packed["token_type_ids"], strict=True)
        ]
        values = backend.logits(Batch(pairs, backend.tokenizer.pad_id))
        result[query_id] = dict(zip(ids, map(float, values), strict=True))
    return result


def time_of_steps(arguments: argparse.Namespace, backend: Any) -> None:
    """Medians over queries; each first time with a scorer whose cache is empty."""
    table("collection", "queries", "tokenising, ms", "choosing, ms", "scoring, ms", "both of scoring", "again, cached")
    verdicts = []
    for name, collection, found in collections(arguments, "covidqa,dl19-long,dl19", 15):
        wanted = requests(collection, found)
        warm = CrossEncoderScorer(backend.forgetful)
        warm.score(*wanted[0])  # numpy and onnxruntime have their first time here
        first, again = [], []
        for request in wanted:
            fresh = CrossEncoderScorer(backend.forgetful)
            first.append(fresh.score(*request)[1])
            again.append(fresh.score(*request)[1])
        shares = [float(np.median([(s.tokenise + s.select) / s.score for s in of])) for of in (first, again)]
        steps = [1000 * float(np.median([getattr(s, step) for s in first])) for step in ("tokenise", "select", "score")]
        cells = " | ".join(f"{step:.1f}" for step in steps) + " | " + " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {name} | {len(wanted)} | {cells} |", flush=True)
        verdicts.append((f"{name}: tokenising and choosing < 15 % of scoring, < 5 % cached",
                         shares[0] < 0.15 and shares[1] < 0.05, " and ".join(f"{s:.1%}" for s in shares)))  # fmt: skip
    print()
    for verdict in verdicts:
        holds(*verdict)


AGGREGATES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "max": lambda logits, _: max(logits),
    "mean_top2": lambda logits, _: float(np.mean(sorted(logits)[-2:])),
    "logsumexp": lambda logits, _: float(np.logaddexp.reduce(np.asarray(logits))),
    "evidence": lambda logits, evidence: max(
        logit + (math.log(max(one / max(evidence), 0.01)) if max(evidence) > 0 else 0.0)
        for logit, one in zip(logits, evidence, strict=True)
    ),
}
"""`evidence` weighs a window's logit with the logarithm of its share of the best window's lexical evidence."""


EVIDENCE_OF_PASSAGES = {1: (0.8,), 2: (0.0, 0.8), 4: (0.6, 0.8, 0.9), 8: (0.6, 0.8)}
"""The shares of the best window's evidence that the sweep tries, by how many windows a document may have."""


def sweep(arguments: argparse.Namespace, backend: Any) -> None:
    """Settings that read no more of a document than the head does."""
    table("collection", "queries", "window", "passages", "evidence", "tokens / query", *AGGREGATES)
    for name, collection, found in collections(arguments, "covidqa,dl19-long", 20):
        for label in ("head", "head_tail"):
            scores, stats = score(backend, ReadingPolicy(long_documents=label), collection, found)
            figure = quality(logits(found, scores), collection)
            print(f"| {name} | {len(found)} | {label} | | | {stats.tokens / len(found):,.0f} | {figure:.3f} | | | |")
        for window in (64, 128, 256):
            for passages in (1, 2, 4, 8):
                for share in EVIDENCE_OF_PASSAGES[passages] if window * passages <= 512 else ():
                    policy = replace(
                        DEFAULT,
                        passage_tokens=window,
                        passage_stride=window // 2,
                        passages_per_document=passages,
                        passage_evidence=share,
                    )
                    scores, stats = score(backend, policy, collection, found)
                    figures = [quality(aggregated(found, scores, join), collection) for join in AGGREGATES.values()]
                    cells = " | ".join(f"{figure:.3f}" for figure in figures)
                    print(
                        f"| {name} | {len(found)} | {window} | {passages} | {share} "
                        f"| {stats.tokens / len(found):,.0f} | {cells} |",
                        flush=True,
                    )


def aggregated(
    found: Found, scores: Mapping[str, QueryScores], join: Callable[[Sequence[float], Sequence[float]], float]
) -> dict[str, dict[str, float]]:
    return {
        query_id: {
            one: join([part.logit for part in s.read], [part.evidence for part in s.read])
            for one, s in zip(ids, scores[query_id].documents, strict=True)
        }
        for query_id, ids in found.items()
    }


class Choice(NamedTuple):
    """
    A way to choose windows.

    :ivar stems: Whether evidence counts stems of words instead of tokens.
    :ivar shared: Whether the document frequencies are those of all candidates' windows instead of the document's own.
    :ivar aligned: Where windows may begin: at `sentences` (else words), at `words`, or `anywhere`.
    """

    stems: bool = False
    shared: bool = False
    aligned: str = "sentences"


CHOICES = {
    "tokens, the document's idf, sentences (default)": Choice(),
    "tokens, the candidates' idf, sentences": Choice(shared=True),
    "stems, the document's idf, sentences": Choice(stems=True),
    "stems, the candidates' idf, sentences": Choice(stems=True, shared=True),
    "tokens, the document's idf, words": Choice(aligned="words"),
    "tokens, the document's idf, anywhere": Choice(aligned="anywhere"),
}


class Chooser:
    """
    A strategy for long documents by a `Choice`, for models whose tokens are WordPieces of English.

    `begin` must be told the candidates of each query: what the engine's own strategies never know.
    """

    def __init__(self, choice: Choice, backend: Any, encoder: DocumentEncoder | None = None) -> None:
        self._choice = choice
        self._encoder = encoder if encoder is not None else DocumentEncoder(backend.tokenizer, cache_tokens=50_000_000)
        self._names = {place: token for token, place in backend.tokenizer.vocabulary().items()}
        self._stemmer = Stemmer.Stemmer("english")
        self._stems: dict[str, int] = {}
        self._units: dict[bytes, Any] = {}
        self._holding = Counter[int]()
        self._total = 0

    def begin(self, query: Any, texts: Sequence[DocumentText], settings: WindowSettings) -> None:
        self._holding.clear()
        self._total = 0
        if not self._choice.shared:
            return
        for document in self._encoder.encode(texts):
            size = settings.passage_tokens
            starts = self._starts(document, size, settings)
            self._total += len(starts)
            body = self._as_units(document.body.ids)
            for unit in set(self._as_units(query).tolist()) - {-1}:
                places = np.flatnonzero(body == unit)
                self._holding[unit] += int(
                    np.count_nonzero(np.searchsorted(places, starts + size) - np.searchsorted(places, starts))
                )

    def __call__(self, document: EncodedDocument, query: Any, room: int, settings: WindowSettings) -> list[Piece]:
        size = min(settings.passage_tokens, room)
        starts = self._starts(document, size, settings)
        body, wanted = self._as_units(document.body.ids), self._as_units(query)
        found = self._evidence(body, wanted[wanted >= 0], starts, size)
        best = np.argsort(-found, kind="stable")[: settings.passages_per_document]
        enough = settings.passage_evidence * found[best[0]] - 1e-9
        kept = best[:1] if found[best[0]] <= 0.0 else best[found[best] >= enough]
        tokens = len(body)
        return [
            Piece((Span(int(starts[one]), min(int(starts[one]) + size, tokens)),), float(found[one])) for one in kept
        ]

    def _evidence(self, body: Any, query: Any, starts: Any, size: int) -> Any:
        if not self._choice.shared:
            return evidence(body, query, starts, size=size)
        total = np.zeros(len(starts))
        for unit in np.unique(query):
            places = np.flatnonzero(body == unit)
            frequency = np.searchsorted(places, starts + size) - np.searchsorted(places, starts)
            holding = self._holding[int(unit)]
            idf = np.log1p((self._total - holding + 0.5) / (holding + 0.5))
            total += idf * frequency * 2.2 / (frequency + 1.2)
        return total

    def _starts(self, document: EncodedDocument, size: int, settings: WindowSettings) -> Any:
        starts = windows(len(document.body.ids), size=size, stride=settings.passage_stride)
        slack = max(size - settings.passage_stride, 0) // 2
        if self._choice.aligned == "anywhere":
            return starts
        if self._choice.aligned == "words":
            document = replace(document, sentence_starts=document.word_starts)
        return align(starts, document, slack=slack)

    def _as_units(self, ids: Any) -> Any:
        """For each token the stem of the word that begins there, -1 where none begins; or the tokens themselves."""
        if not self._choice.stems:
            return ids
        key = ids.tobytes()
        if key not in self._units:
            names = [self._names[token] for token in ids.tolist()]
            units = np.full(len(ids), -1, dtype=np.int64)
            firsts = [place for place, name in enumerate(names) if not name.startswith("##")]
            for first, after in zip(firsts, [*firsts[1:], len(names)], strict=True):
                word = "".join(name.removeprefix("##") for name in names[first:after])
                units[first] = self._stems.setdefault(self._stemmer.stemWord(word), len(self._stems))
            self._units[key] = units
        return self._units[key]


def finding(arguments: argparse.Namespace, backend: Any) -> None:
    """
    Without the model: whether the chosen windows hold what answers the query, in relevant candidates that do not fit.

    covidqa: the token where the annotated answer begins; dl19-long: the middle of the window lies in the passage.
    """
    table("collection", "documents", "evidence", "in the best window", "in one of the chosen", "chosen windows")
    for name, collection, found in collections(arguments, "covidqa,dl19-long", 10**6):
        answers = answers_of(arguments.data, name, collection)
        encoder = DocumentEncoder(backend.tokenizer, cache_tokens=50_000_000)
        for label, choice in CHOICES.items():
            chooser = Chooser(choice, backend, encoder)
            first, any_, counts = [], [], []
            for query_id, (query, texts) in zip(found, requests(collection, found), strict=True):
                ids = backend.tokenizer.encode([query])[0].ids
                chooser.begin(ids, texts, DEFAULT.windows)
                for one, document in zip(found[query_id], encoder.encode(texts), strict=True):
                    room = 509 - len(ids)
                    if (query_id, one) not in answers or len(document) <= room:
                        continue
                    spans = [piece.spans[0] for piece in chooser(document, ids, room, DEFAULT.windows)]
                    start, end = answers[query_id, one]
                    low = int(np.searchsorted(document.body.starts, start, side="right")) - 1
                    high = int(np.searchsorted(document.body.starts, end))
                    held = [
                        span.start <= low < span.stop if name == "covidqa" else low <= sum(span) // 2 < high
                        for span in spans
                    ]
                    first.append(held[0])
                    any_.append(any(held))
                    counts.append(len(held))
            print(
                f"| {name} | {len(first)} | {label} | {mean_of(first):.1%} | {mean_of(any_):.1%} | "
                f"{mean_of(counts):.2f} |",
                flush=True,
            )


def answers_of(data: Path, name: str, collection: Collection) -> dict[tuple[str, str], tuple[int, int]]:
    """Where in a relevant document its query's answer stands, in characters."""
    if name == "covidqa":
        with (data / name / "answers.tsv").open(encoding="utf-8") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        starts = [(line["qid"], line["docid"], int(line["answer_start_char"])) for line in lines]
        return {(query, document): (start, start + 1) for query, document, start in starts}
    passages = load_collection(data / "dl19").documents
    answers = {}
    for query_id, grades in collection.judgments.items():
        for one, grade in grades.items():
            if grade >= 2 and one in collection.documents:
                start = int(collection.documents[one].metadata["needle_start_char"])
                answers[query_id, one] = (start, start + len(passages[one.split("@")[0]].content))
    return answers


def choices(arguments: argparse.Namespace, backend: Any) -> None:
    """Which window is found (one per document), and what the default settings make of it."""
    table("collection", "queries", "evidence", "best passage", "tokens / query", "default settings", "tokens / query")
    for name, collection, found in collections(arguments, "covidqa,dl19-long", 100):
        for label, choice in CHOICES.items():
            STRATEGIES["choice"] = chooser = Chooser(choice, backend)
            cells = []
            for most in (1, DEFAULT.passages_per_document):
                policy = replace(DEFAULT, long_documents="choice", passages_per_document=most)
                scorer = CrossEncoderScorer(backend, policy, cache_tokens=50_000_000)
                scores, tokens = {}, 0
                for query_id, request in zip(found, requests(collection, found), strict=True):
                    chooser.begin(backend.tokenizer.encode([request[0]])[0].ids, request[1], policy.windows)
                    scores[query_id], stats = scorer.score(*request)
                    tokens += stats.tokens
                cells.append(f"{quality(logits(found, scores), collection):.4f} | {tokens / len(found):,.0f}")
            del STRATEGIES["choice"]
            print(f"| {name} | {len(found)} | {label} | {' | '.join(cells)} |", flush=True)


def mixed(arguments: argparse.Namespace, backend: Any) -> None:
    """Half of dl19-long's candidates are shown as the passage alone, then the other half."""
    folder, of_passages = arguments.data / "dl19-long", arguments.data / "dl19"
    if not (folder.is_dir() and of_passages.is_dir()):
        print(f"dl19-long and dl19 are not both there: {arguments.data}", flush=True)
        return
    collection = load_collection(folder).sample(arguments.queries or 10**6)
    passages = load_collection(of_passages).documents
    found = candidates(folder, collection)
    table("window", "passages", "tokens / query", *(t for name in AGGREGATES for t in (name, "long in top 10")))
    for window, most in ((64, 1), (64, 2), (64, 4), (128, 4)):
        policy = replace(DEFAULT, passage_tokens=window, passage_stride=window // 2, passages_per_document=most)
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in AGGREGATES}
        tokens = 0.0
        for parity in (0, 1):
            shown = {
                one: document if is_long(one, parity) else passages[one.split("@")[0]]
                for one, document in collection.documents.items()
            }
            scores, stats = score(backend, policy, replace(collection, documents=shown), found)
            tokens += stats.tokens / len(found) / 2
            for name, join in AGGREGATES.items():
                of_queries = aggregated(found, scores, join)
                top = [one for of in of_queries.values() for one in sorted(of, key=lambda one: -of[one])[:10]]
                figures[name].append((quality(of_queries, collection), mean_of(is_long(one, parity) for one in top)))
        cells = [
            f"{mean_of(q for q, _ in pairs):.3f} | {mean_of(s for _, s in pairs):.0%}" for pairs in figures.values()
        ]
        print(f"| {window} | {most} | {tokens:,.0f} | " + " | ".join(cells) + " |", flush=True)


def is_long(document_id: str, parity: int) -> bool:
    return zlib.crc32(document_id.encode()) % 2 == parity


def mean_of(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def positions(arguments: argparse.Namespace, backend: Any) -> None:
    """
    Of the relevant documents (grade 2 and up) among the candidates, the share in the top 10, by needle position.

    The passages alone, which have no position, stand beside: how uneven chance made the groups of documents.
    """
    shares: dict[str, list[tuple[int, int]]] = {}
    for _, collection, found in collections(arguments, "dl19-long", 10**6):
        ranked = {
            label: logits(found, score(backend, POLICIES[label], collection, found)[0])
            for label in (HEAD_LABEL, DEFAULT_LABEL)
        }
        passages = load_collection(arguments.data / "dl19").documents
        alone = replace(collection, documents={one: passages[one.split("@")[0]] for one in collection.documents})
        ranked[ALONE_LABEL] = logits(found, score(backend, DEFAULT, alone, found)[0])
        for label, of_label in ranked.items():
            hits, all_ = Counter[int](), Counter[int]()
            for query_id, of_query in of_label.items():
                best = set(sorted(of_query, key=lambda one: -of_query[one])[:10])
                for one in of_query:
                    if collection.judgments[query_id].get(one, 0) >= 2:
                        place = int(collection.documents[one].metadata["needle_position"])
                        all_[place] += 1
                        hits[place] += one in best
            shares[label] = [(hits[place], all_[place]) for place in range(12)]
    table("needle position", *(f"{label}: top 10 (95 % interval)" for label in shares))
    for place in range(12):
        cells = []
        for of_label in shares.values():
            low, high = wilson(*of_label[place])
            cells.append(f"{of_label[place][0]} of {of_label[place][1]} ({low:.0%} - {high:.0%})")
        print(f"| {place + 1} | " + " | ".join(cells) + " |", flush=True)
    print()
    for label, of_label in shares.items():
        hit, total = sum(h for h, _ in of_label), sum(n for _, n in of_label)
        share = hit / max(total, 1)
        chi = sum((h - n * share) ** 2 / (n * share * (1 - share)) for h, n in of_label if n and 0 < share < 1)
        figures = f"{share:.0%} of {total} over all positions, chi-square {chi:.1f} (5 % level with 11 degrees: 19.7)"
        if label == DEFAULT_LABEL:
            holds("flat within its interval by default", chi < 19.7, figures)
        else:
            print(f"- {label}: {figures}", flush=True)
        if label == HEAD_LABEL:
            unread = of_label[UNREAD_BY_HEAD:]
            low, high = wilson(sum(h for h, _ in unread), sum(n for _, n in unread))
            chance = 10 / DEPTHS["dl19-long"]
            holds(f"the head is no better than chance ({chance:.0%}) from position {UNREAD_BY_HEAD + 1} on",
                  low <= chance, f"{low:.0%} - {high:.0%}")  # fmt: skip
    if arguments.picture:
        arguments.picture.write_text(picture(shares), encoding="utf-8")
        print(f"wrote {arguments.picture}")


UNREAD_BY_HEAD = 7
"""The first of the twelve passages (from 0) that the first 512 tokens do not reach, mostly."""


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return middle - half, middle + half


def picture(shares: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    """The shares as an SVG: one line with whiskers per strategy."""
    colours = ("#b45309", "#1d4ed8", "#6b7280")
    x = [60 + 44 * place for place in range(12)]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 320" font-family="sans-serif" font-size="12">',
        '<rect width="600" height="320" fill="white"/>',
        '<text x="60" y="20">Relevant documents in the top 10, by the answer\'s position in the document</text>',
    ]
    for tick in range(0, 101, 25):
        y = 270 - 2.2 * tick
        parts.append(f'<path d="M50 {y:.1f}H560" stroke="#ddd"/><text x="14" y="{y + 4:.1f}">{tick} %</text>')
    parts += [f'<text x="{x[place] - 4}" y="288">{place + 1}</text>' for place in range(12)]
    parts.append('<text x="215" y="308">passage of twelve that holds the answer</text>')
    for number, ((label, of_label), colour) in enumerate(zip(shares.items(), colours, strict=True)):
        heights = [270 - 220 * hits / total if total else 270.0 for hits, total in of_label]
        dots = " ".join(f"{place:.1f},{height:.1f}" for place, height in zip(x, heights, strict=True))
        parts.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for place, of_place in zip(x, of_label, strict=True):
            low, high = wilson(*of_place)
            shift = place + 4 * number
            parts.append(f'<path d="M{shift} {270 - 220 * low:.1f}V{270 - 220 * high:.1f}" stroke="{colour}"/>')
        parts.append(f'<text x="{190 * number + 60}" y="38" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>\n"])


def queries(arguments: argparse.Namespace, backend: Any) -> None:
    """Short documents, so that only the query's part matters; only queries longer than the limit count."""
    table("collection", "limit", "queries cut", "whole", *REDUCTIONS, "rarest in the collection")
    for name, collection, found in collections(arguments, "cacm,med,stackfaq", 60):
        tokenizer = backend.tokenizer
        texts = [document.content for document in collection.documents.values()]
        seen = Counter(token for encoded in tokenizer.encode(texts) for token in set(encoded.ids.tolist()))
        lengths = dict(zip(found, (len(q.ids) for q in tokenizer.encode([collection.queries[q] for q in found])),
                           strict=True))  # fmt: skip

        def rarest(query: Any, tokens: int, seen: Mapping[int, int] = seen) -> Any:
            order = sorted(range(len(query)), key=lambda place: (seen.get(int(query[place]), 0), place))
            return query[sorted(order[:tokens])]

        for limit in (8, 16, 32):
            long = {query_id: ids for query_id, ids in found.items() if lengths[query_id] > limit}
            if len(long) < 5:
                continue
            cells = [quality(logits(long, score(backend, DEFAULT, collection, long)[0]), collection)]
            for reduction, function in {**REDUCTIONS, "of_collection": rarest}.items():
                REDUCTIONS[reduction] = function
                policy = replace(DEFAULT, max_query_tokens=limit, query_reduction=reduction)
                cells.append(quality(logits(long, score(backend, policy, collection, long)[0]), collection))
            REDUCTIONS.pop("of_collection")
            print(f"| {name} | {limit} | {len(long)} of {len(found)} | "
                  + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)  # fmt: skip


def shares(arguments: argparse.Namespace, backend: Any) -> None:
    """Queries and documents that do not fit together: which side gives way."""
    table("collection", "max_length", "queries over a quarter", "the rule (default)", "1/4", "1/2", "3/4")
    special = backend.tokenizer.format.special_tokens
    for name, collection, found in collections(arguments, "cacm,med", 60):
        encoded = backend.tokenizer.encode([collection.queries[q] for q in found])
        lengths = dict(zip(found, (len(tokens.ids) for tokens in encoded), strict=True))
        for limit in (64, 128):
            room = limit - special
            long = {q: ids for q, ids in found.items() if lengths[q] > room // 4}
            if len(long) < 5:
                continue
            cells = []
            for most in (None, room // 4, room // 2, 3 * room // 4):
                policy = replace(DEFAULT, max_length=limit, max_query_tokens=most)
                scores, stats = score(backend, policy, collection, long)
                cells.append(f"{quality(logits(long, scores), collection):.4f} ({stats.tokens / len(long):,.0f})")
            print(f"| {name} | {limit} | {len(long)} of {len(found)} | {' | '.join(cells)} |", flush=True)


PARTS = {
    "strategies": strategies,
    "time": time_of_steps,
    "sweep": sweep,
    "finding": finding,
    "choices": choices,
    "mixed": mixed,
    "positions": positions,
    "queries": queries,
    "shares": shares,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=["strategies"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--collections", help="comma-separated; those of the part if not given")
    parser.add_argument("--queries", type=int, help="at most so many per collection, drawn with seed 0")
    parser.add_argument("--windows-queries", type=int, default=5, help="queries for reading every window")
    parser.add_argument("--picture", type=Path, help="where `positions` writes its picture, as SVG")
    parser.add_argument("--cache", type=Path, help="an SQLite file that keeps logits between runs")
    parser.add_argument("--model", default=OFFLINE_MODEL)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    backend = loading.load(arguments.backend, ModelOptions(model=arguments.model, threads=arguments.threads))
    remembering = Remembering(backend, model=arguments.model, file=arguments.cache)
    for part in arguments.parts:
        PARTS[part](arguments, remembering)


if __name__ == "__main__":
    main()
