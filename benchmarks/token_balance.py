"""
What the model reads of a pair, and what that is worth: nDCG@10 and tokens per query.

    python benchmarks/token_balance.py strategies     # head, passages, every window; tokens, time per step
    python benchmarks/token_balance.py sweep          # window, passages, evidence, aggregate: why the defaults
    python benchmarks/token_balance.py mixed          # short documents among long ones: is either favoured
    python benchmarks/token_balance.py positions      # who is found by where in the document the answer stands
    python benchmarks/token_balance.py queries        # which part of a query to keep when it is too long

Several parts may be named at once. Every setting re-ranks the same candidates with the same model in one process, and a
pair that several settings share is scored once (`speed.py` measures time). Collections that are missing
are skipped with a word. Needs the extras `evaluate` and `onnx`; the model is a folder or a `package:` name.
"""

import argparse
import hashlib
import math
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from haystack_ce_ranker import backends
from haystack_ce_ranker.backends import Backend, Batch
from haystack_ce_ranker.bm25 import BM25Index
from haystack_ce_ranker.documents import DocumentText
from haystack_ce_ranker.evaluation.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.models import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.pairs import PackedPair
from haystack_ce_ranker.queries import REDUCTIONS
from haystack_ce_ranker.scoring import CrossEncoderScorer, QueryScores, ReadingPolicy, Stats

DEPTHS = {"covidqa": 10, "dl19-long": 50, "dl19": 50, "cacm": 20, "med": 20, "stackfaq": 20}
DEFAULT = ReadingPolicy()
POLICIES = {
    "first 512 tokens (head)": ReadingPolicy(long_documents="head"),
    "best passage": ReadingPolicy(passages_per_document=1),
    "two best passages": ReadingPolicy(passages_per_document=2),
    "best passages (default)": DEFAULT,
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


def row(name: str, of: Found, label: str, figure: float, tokens: float = 0, head: float = 0) -> None:
    cells = f"{tokens:,.0f} | {tokens / head:.0%}" if tokens else "0 | "
    print(f"| {name} | {len(of)} | {label} | {figure:.4f} | {cells} |", flush=True)


def strategies(arguments: argparse.Namespace, backend: Any) -> None:
    print("| collection | queries | what is read | nDCG@10 | tokens / query | share of head's |")
    print("|---|---|---|---|---|---|")
    steps = []
    for name, collection, found in collections(arguments, "covidqa,dl19-long,dl19", 10**6):
        first_stage = {q: ranked_scores(ids) for q, ids in found.items()}
        row(name, found, "nothing (BM25)", mean(ndcg_at_10(first_stage, collection.judgments)))
        head = 0.0
        by_policy = {}
        for label, policy in POLICIES.items():
            scores, stats = score(backend, policy, collection, found)
            by_policy[label] = logits(found, scores)
            tokens = stats.tokens / len(found)
            head = head or tokens
            row(name, found, label, quality(by_policy[label], collection), tokens, head)
            if policy == DEFAULT:
                fresh = CrossEncoderScorer(backend.forgetful, policy)
                few = requests(collection, only(found, 5))
                _, first = fresh.score_many(few)
                _, again = fresh.score_many(few)
                steps.append((name, first, again))
        if name == "dl19":
            plain, ours = by_policy["first 512 tokens (head)"], by_policy["best passages (default)"]
            equal = all(plain[q][one] == ours[q][one] for q in plain for one in plain[q])
            print(f"| {name} | | default and head score every passage the same: {equal} | | | |", flush=True)
            continue
        few_found = only(found, arguments.windows_queries)
        sample = {q: by_policy["best passages (default)"][q] for q in few_found}
        row(name, few_found, "default, on the sample", quality(sample, collection))
        scores, stats = score(backend, EVERY_WINDOW, collection, few_found)
        tokens = stats.tokens / len(few_found)
        figure = quality(logits(few_found, scores), collection)
        row(name, few_found, "every window, on the sample", figure, tokens, head)
    print("\n| collection | tokenising and choosing, of scoring time: texts seen for the first time | seen before |")
    print("|---|---|---|")
    for name, first, again in steps:
        shares = [(stats.tokenise + stats.select) / stats.score for stats in (first, again)]
        print(f"| {name} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


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


def sweep(arguments: argparse.Namespace, backend: Any) -> None:
    print(
        "| collection | queries | window | passages | evidence | tokens / query |", *AGGREGATES, sep=" | ", end=" |\n"
    )
    print("|---" * (6 + len(AGGREGATES)) + "|")
    for name, collection, found in collections(arguments, "covidqa,dl19-long", 20):
        for label in ("head", "head_tail"):
            scores, stats = score(backend, ReadingPolicy(long_documents=label), collection, found)
            figure = quality(logits(found, scores), collection)
            print(f"| {name} | {len(found)} | {label} | | | {stats.tokens / len(found):,.0f} | {figure:.3f} | | | |")
        for window in (64, 128, 256):
            for passages in (1, 2, 4, 8):
                for evidence in (0.0, 0.6, 0.8, 0.9) if passages > 1 else (0.8,):
                    policy = replace(
                        DEFAULT,
                        passage_tokens=window,
                        passage_stride=window // 2,
                        passages_per_document=passages,
                        passage_evidence=evidence,
                    )
                    scores, stats = score(backend, policy, collection, found)
                    figures = [quality(aggregated(found, scores, join), collection) for join in AGGREGATES.values()]
                    cells = " | ".join(f"{figure:.3f}" for figure in figures)
                    print(
                        f"| {name} | {len(found)} | {window} | {passages} | {evidence} "
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


def mixed(arguments: argparse.Namespace, backend: Any) -> None:
    """Half of dl19-long's candidates are shown as the passage alone, then the other half."""
    folder, of_passages = arguments.data / "dl19-long", arguments.data / "dl19"
    if not (folder.is_dir() and of_passages.is_dir()):
        print(f"dl19-long and dl19 are not both there: {arguments.data}", flush=True)
        return
    collection = load_collection(folder).sample(arguments.queries or 10**6)
    passages = load_collection(of_passages).documents
    found = candidates(folder, collection)
    print(
        "| window | passages | tokens / query |",
        *(f"{name} | long in top 10" for name in AGGREGATES),
        sep=" | ",
        end=" |\n",
    )
    print("|---" * (3 + 2 * len(AGGREGATES)) + "|")
    for window, most in ((64, 2), (64, 4), (128, 4), (256, 4)):
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
    """Of the relevant documents (grade 2 and up) among the candidates, the share in the top 10, by needle position."""
    shares: dict[str, list[tuple[int, int]]] = {}
    for _, collection, found in collections(arguments, "dl19-long", 10**6):
        for label in ("first 512 tokens (head)", "best passages (default)"):
            scores, _ = score(backend, POLICIES[label], collection, found)
            hits, all_ = Counter[int](), Counter[int]()
            for query_id, of_query in logits(found, scores).items():
                best = set(sorted(of_query, key=lambda one: -of_query[one])[:10])
                for one in of_query:
                    if collection.judgments[query_id].get(one, 0) >= 2:
                        place = int(collection.documents[one].metadata["needle_position"])
                        all_[place] += 1
                        hits[place] += one in best
            shares[label] = [(hits[place], all_[place]) for place in range(12)]
    print("| needle position | " + " | ".join(f"{label}: top 10 (95 % interval)" for label in shares) + " |")
    print("|---" * (1 + len(shares)) + "|")
    for place in range(12):
        cells = []
        for of_label in shares.values():
            low, high = wilson(*of_label[place])
            cells.append(f"{of_label[place][0]} of {of_label[place][1]} ({low:.0%} - {high:.0%})")
        print(f"| {place} | " + " | ".join(cells) + " |", flush=True)
    for label, of_label in shares.items():
        hit, total = sum(h for h, _ in of_label), sum(n for _, n in of_label)
        share = hit / max(total, 1)
        chi = sum((h - n * share) ** 2 / (n * share * (1 - share)) for h, n in of_label if n and 0 < share < 1)
        print(f"{label}: {share:.0%} over all positions; chi-square of flatness {chi:.1f} (5 % level: 19.7)")
    if arguments.picture:
        arguments.picture.write_text(picture(shares), encoding="utf-8")
        print(f"wrote {arguments.picture}")


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
    colours = ("#b45309", "#1d4ed8")
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
        parts.append(f'<text x="{330 * number + 60}" y="38" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>\n"])


def queries(arguments: argparse.Namespace, backend: Any) -> None:
    """Short documents, so that only the query's part matters; only queries longer than the limit count."""
    print("| collection | limit | queries cut | whole", *REDUCTIONS, "rarest in the collection", sep=" | ", end=" |\n")
    print("|---" * (5 + len(REDUCTIONS)) + "|")
    for name, collection, found in collections(arguments, "cacm,med,stackfaq", 150):
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


PARTS = {"strategies": strategies, "sweep": sweep, "mixed": mixed, "positions": positions, "queries": queries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=["strategies"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--collections", help="comma-separated; those of the part if not given")
    parser.add_argument("--queries", type=int, help="at most so many per collection, drawn with seed 0")
    parser.add_argument("--windows-queries", type=int, default=10, help="queries for reading every window")
    parser.add_argument("--picture", type=Path, help="where `positions` writes its picture, as SVG")
    parser.add_argument("--cache", type=Path, help="an SQLite file that keeps logits between runs")
    parser.add_argument("--model", default=OFFLINE_MODEL)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    backend = backends.load(arguments.backend, ModelOptions(model=arguments.model, threads=arguments.threads))
    remembering = Remembering(backend, model=arguments.model, file=arguments.cache)
    for part in arguments.parts:
        PARTS[part](arguments, remembering)


if __name__ == "__main__":
    main()
