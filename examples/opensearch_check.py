"""
Run examples/opensearch.yaml's retriever against a real OpenSearch, and compare it with the index in process.

    pip install opensearch-haystack
    docker compose -f examples/docker-compose.opensearch.yaml up -d --wait && python examples/opensearch_check.py

Writes the handbook into the index `ce-ranker-example`, asks its queries with and without a filter, and says how many of
the ten best both engines share: they analyse and score differently, so not all. Ends with an error if the server
returns too few documents, a filter lets something else through, or a record is missing. So far it has run against no
cluster: the tests check the requests against a local server that knows the documented query form.
"""

import json
import sys
import time
from pathlib import Path

import yaml
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

EXAMPLES = Path(__file__).parent


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the objects of a JSON lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def wait_for(retriever: BM25Retriever, seconds: float = 60.0) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + seconds
    while True:
        try:
            retriever.document_store.count_documents()
        except Exception as error:  # whatever the client raises while the server starts
            if time.monotonic() > until:
                raise SystemExit(f"no OpenSearch at http://localhost:9200 after {seconds:.0f} s: {error}") from error
            time.sleep(1.0)
        else:
            return


def main() -> int:
    """Compare both engines on the handbook; returns how many checks failed."""
    definition = yaml.safe_load((EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8"))
    native = BM25Retriever.from_dict(definition["components"]["bm25_retriever"])
    wait_for(native)

    corpus = read_lines(EXAMPLES / "handbook" / "corpus.jsonl")
    documents = [
        Document(id=line["_id"], content=f"{line.get('title', '')}\n{line['text']}".strip(), meta={"half": i % 2})
        for i, line in enumerate(corpus)
    ]
    native.document_store.write_documents(documents, DuplicatePolicy.OVERWRITE)
    native.document_store._client.indices.refresh(index="ce-ranker-example")
    in_memory = InMemoryDocumentStore()
    in_memory.write_documents(documents)
    in_process = BM25Retriever(in_memory, top_k=50)

    failures, shared, asked = 0, 0, 0
    half = {"field": "meta.half", "operator": "==", "value": 1}
    for line in read_lines(EXAMPLES / "handbook" / "queries.jsonl"):
        there = native.run(line["text"], top_k=10)["documents"]
        here = in_process.run(line["text"], top_k=10)["documents"]
        filtered = native.run(line["text"], filters=half, top_k=10)["documents"]
        problems = [
            *(["fewer documents"] if len(there) < min(len(here), 10) else []),
            *(["the filter lets others through"] if any(d.meta["half"] != 1 for d in filtered) else []),
            *(["no record"] if any("bm25" not in d.meta.get("ce_ranker", {}) for d in there) else []),
        ]
        if problems:
            failures += 1
            print(f"{line['_id']}: {', '.join(problems)}")
        asked += 10
        shared += len({d.id for d in there} & {d.id for d in here})
    print(f"{len(documents)} documents; of the ten best, both engines share {shared} of {asked}; {failures} failures")
    return failures


if __name__ == "__main__":
    sys.exit(main() > 0)
