"""
From a folder of documents to a re-ranker of one's own, and a pipeline that uses it, with no label on the way.

    python examples/own_corpus/own_corpus.py my-reranker

The documents are those of the handbook; its queries and judgments only test the result. See README.md beside this file.
"""

import argparse
import json
from pathlib import Path

from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore
from rich.console import Console

from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.commands.adapt import AdaptRun, run_adapting

HANDBOOK = Path(__file__).parent.parent / "handbook"


def adapt(arguments: argparse.Namespace, console: Console) -> str:
    """Adapt the base to the handbook, and return the model to use: the base itself if it stayed the better one."""
    run = AdaptRun(
        HANDBOOK,
        arguments.output,
        ModelOptions(arguments.base),
        bi_encoder=arguments.bi_encoder,
        queries=arguments.made,
        save=arguments.save,
    )
    found = run_adapting(run, console)
    if found is None:
        raise SystemExit(130)
    return str(arguments.output) if found.saves(arguments.save) else arguments.base


def pipeline_with(model: str) -> Pipeline:
    """Return a pipeline over the handbook: BM25 finds, and the model ranks."""
    store = InMemoryDocumentStore()
    with (HANDBOOK / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    store.write_documents([Document(id=row["_id"], content=f"{row['title']}\n{row['text']}") for row in rows])
    pipeline = Pipeline()
    pipeline.add_component("bm25_retriever", BM25Retriever(store, top_k=30))
    pipeline.add_component("ranker", CrossEncoderRanker(model=model, top_k=10))
    pipeline.connect("bm25_retriever.documents", "ranker.documents")
    return pipeline


def main() -> None:
    """Adapt, build the pipeline, save it as YAML beside the model, and ask it something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder of the new model, not there yet")
    parser.add_argument("--base", default="cross-encoder/ms-marco-MiniLM-L6-v2", help="the cross-encoder to adapt")
    parser.add_argument("--bi-encoder", help="e.g. sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--made", type=int, default=300, help="how many queries to make of the documents")
    parser.add_argument("--save", default="better", choices=("better", "always"))
    parser.add_argument("--query", default="releasing the brake by hand")
    arguments = parser.parse_args()

    model = adapt(arguments, Console())
    pipeline = pipeline_with(model)
    yaml = arguments.output / "pipeline.yaml"
    yaml.write_text(pipeline.dumps(), encoding="utf-8")
    print(f"\n{yaml} ranks by {model}: {arguments.query}")
    asked = {"bm25_retriever": {"query": arguments.query}, "ranker": {"query": arguments.query}}
    for document in pipeline.run(asked)["ranker"]["documents"]:
        print(f"{document.score:8.3f}  {document.id}")


if __name__ == "__main__":
    main()
