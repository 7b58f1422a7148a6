"""
What the model reads of long documents, and what that is worth: nDCG@10 and tokens per query, by strategy.

    python benchmarks/token_balance.py --queries 100

Every strategy re-ranks the same BM25 candidates with the same model in one process. Collections that are missing are
skipped with a word. Needs the extras `evaluate` and `onnx`; the model is a folder or a `package:` name.
"""

import argparse
import os
import time
from pathlib import Path

from haystack_ce_ranker import backends
from haystack_ce_ranker.bm25 import BM25Index
from haystack_ce_ranker.documents import DocumentText
from haystack_ce_ranker.evaluation.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.models import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.scoring import CrossEncoderScorer, ReadingPolicy

DEPTHS = {"covidqa": 10, "dl19-long": 50}
POLICIES = {
    "first 512 tokens (head)": ReadingPolicy(long_documents="head"),
    "head and tail": ReadingPolicy(long_documents="head_tail"),
    "best passage": ReadingPolicy(passages_per_document=1),
    "best passages (default)": ReadingPolicy(),
    "best passages, sum of exponentials": ReadingPolicy(aggregate="logsumexp"),
    "best passages, mean of two": ReadingPolicy(aggregate="mean_top2"),
    "best 4 passages, any evidence": ReadingPolicy(passage_evidence=0.0),
}


def candidates(folder: Path, collection: Collection, depth: int) -> dict[str, list[str]]:
    """Document ids for each query, best first: the collection's own run where it has one, else our BM25."""
    if (folder / "run.bm25.tsv").is_file():
        run = load_run(folder / "run.bm25.tsv", collection=collection, depth=depth)
        return {query_id: list(run[query_id]) for query_id in collection.queries}
    ids = list(collection.documents)
    index = BM25Index.build(text.content for text in collection.documents.values())
    return {
        query_id: [ids[position] for position in index.search(query, depth).positions]
        for query_id, query in collection.queries.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--collections", default=",".join(DEPTHS), help="comma-separated")
    parser.add_argument("--queries", type=int, default=100, help="at most so many per collection, drawn with seed 0")
    parser.add_argument("--model", default=OFFLINE_MODEL)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    options = ModelOptions(model=arguments.model, threads=arguments.threads)
    backend = backends.load(arguments.backend, options)
    print("| collection | what is read | nDCG@10 | tokens / query | share of head's | seconds / query |")
    print("|---|---|---|---|---|---|")
    for name in arguments.collections.split(","):
        if not (arguments.data / name).is_dir():
            print(f"| {name} | not there: {arguments.data / name} | | | | |")
            continue
        collection = load_collection(arguments.data / name).sample(arguments.queries)
        found = candidates(arguments.data / name, collection, DEPTHS.get(name, 50))
        first_stage = {query_id: ranked_scores(ids) for query_id, ids in found.items()}
        print(f"| {name} | nothing (BM25) | {mean(ndcg_at_10(first_stage, collection.judgments)):.3f} | 0 | 0 | |")
        head = 0
        for label, policy in POLICIES.items():
            scorer = CrossEncoderScorer(backend, policy)
            requests = [
                (collection.queries[query_id], [DocumentText(collection.documents[one].content) for one in ids])
                for query_id, ids in found.items()
            ]
            started = time.perf_counter()
            scores, stats = scorer.score_many(requests)
            seconds = (time.perf_counter() - started) / len(requests)
            run = {}
            for (query_id, ids), of_query in zip(found.items(), scores, strict=True):
                logits = {one: score.logit for one, score in zip(ids, of_query.documents, strict=True)}
                order = sorted(ids, key=lambda one: -logits[one])
                run[query_id] = ranked_scores(order, [logits[one] for one in order])
            tokens = stats.tokens / len(requests)
            head = head or tokens
            quality = mean(ndcg_at_10(run, collection.judgments))
            print(
                f"| {name} | {label} | {quality:.3f} | {tokens:.0f} | {tokens / head:.0%} | {seconds:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
