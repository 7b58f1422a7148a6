"""
Run examples/opensearch.yaml's retriever against a real OpenSearch, and compare it with the index in process.

    make check-opensearch

starts a server and runs this; `CE_RANKER_OPENSEARCH=http://127.0.0.1:9200` names one that runs already. By hand:

    pip install opensearch-haystack
    docker compose -f examples/docker-compose.opensearch.yaml up -d --wait && python examples/opensearch_check.py

Writes the handbook into the index `ce-ranker-example`, asks its queries with and without a filter, and says how many of
the ten best both engines share. Ends with an error if these are less than 95 of 100, the server returns too few
documents, a filter lets something else through, or a record is missing.
"""

import json
import os
import sys
import time
from pathlib import Path

import yaml
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from opensearchpy.exceptions import ConnectionError as NoConnection

from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

EXAMPLES = Path(__file__).parent
LEAST_SHARED = 0.95


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the objects of a JSON lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def wait_for(retriever: BM25Retriever, url: str, seconds: float = 60.0) -> None:
    """Wait until the server takes connections, and say why it does not yet. Any other error of it is raised at once."""
    until = time.monotonic() + seconds
    said = None
    while True:
        try:
            retriever.document_store.count_documents()
        except NoConnection as error:
            if time.monotonic() > until:
                raise SystemExit(f"no OpenSearch at {url} after {seconds:.0f} s: {error}") from error
            if str(error) != said:
                said = str(error)
                print(f"waiting for {url}: {said}", file=sys.stderr)
            time.sleep(1.0)
        else:
            return


def main() -> int:
    """Compare both engines on the handbook; returns how many checks failed."""
    definition = yaml.safe_load((EXAMPLES / "opensearch.yaml").read_text(encoding="utf-8"))
    described = definition["components"]["bm25_retriever"]
    parameters = described["init_parameters"]["document_store"]["init_parameters"]
    parameters["hosts"] = os.environ.get("CE_RANKER_OPENSEARCH", parameters["hosts"])
    native = BM25Retriever.from_dict(described)
    wait_for(native, parameters["hosts"])

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
        asked += len(here)
        shared += len({d.id for d in there} & {d.id for d in here})
    if shared < LEAST_SHARED * asked:
        failures += 1
        print("the rankings differ: delete the index ce-ranker-example if it was made with other settings")
    print(f"{len(documents)} documents; of the ten best, both engines share {shared} of {asked}; {failures} failures")
    return failures


if __name__ == "__main__":
    sys.exit(main() > 0)
