"""Two nodes of OpenSearch, one of which is killed while queries run: an answer or the client's error, and then on."""

import threading
import time

import pytest
from haystack import Document, Pipeline

from haystack_ce_ranker.bm25.lucene import index_definition
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
from stores.servers import GUARD, free_port, start_node, stop_node

opensearchpy = pytest.importorskip("opensearchpy", reason="needs opensearch-haystack")
package = pytest.importorskip("haystack_integrations.document_stores.opensearch", exc_type=ImportError)


@pytest.fixture
def nodes(tmp_path):
    """The URLs and folders of two nodes of one cluster, of which the first manages it."""
    ports = [free_port(), free_port()]
    seeds = "discovery.seed_hosts=" + ",".join(f"127.0.0.1:{port + 100}" for port in ports)
    homes = [tmp_path / "first", tmp_path / "second"]
    try:
        first = start_node(
            homes[0],
            "--heap",
            "256m",
            "node.name=first",
            "cluster.initial_cluster_manager_nodes=first",
            seeds,
            port=ports[0],
        )
        second = start_node(homes[1], "--heap", "256m", "node.name=second", seeds, port=ports[1])
        yield [first, second], homes
    finally:
        for home in homes:
            stop_node(home, kill=True)


def test_a_node_that_is_killed_during_a_run_costs_an_error_at_most(nodes):
    urls, homes = nodes
    definition = index_definition()
    definition["settings"] |= {"number_of_shards": 2, "number_of_replicas": 1}
    store = package.OpenSearchDocumentStore(hosts=urls, index="docs", timeout=10, **definition)
    documents = [Document(id=f"d{i}", content=f"word{i} common", meta={"i": i}) for i in range(200)]
    store.write_documents(documents, refresh=True)
    health = store._client.cluster.health(index="docs", wait_for_status="green")
    assert (health["status"], health["number_of_nodes"]) == ("green", 2)

    pipeline = Pipeline()
    pipeline.add_component("retriever", BM25Retriever(store, top_k=200))
    pipeline.add_component("joiner", HybridScoreJoiner({"bm25": 1.0}))
    pipeline.connect("retriever.documents", "joiner.bm25")

    def asked():
        return [one.id for one in pipeline.run({"retriever": {"query": "common word7"}})["joiner"]["documents"]]

    whole = asked()
    assert (len(whole), whole[0]) == (200, "d7")
    killer = threading.Thread(target=stop_node, args=(homes[1],), kwargs={"kill": True})
    answers, errors = [], []
    until = time.monotonic() + GUARD
    killer.start()
    while (killer.is_alive() or len(answers) < 20) and time.monotonic() < until:
        try:
            answers.append(asked())
        except Exception as error:
            errors.append(error)
            answers.clear()  # what follows the last error counts
    killer.join()
    assert all("opensearchpy" in type(error.__cause__ or error).__module__ for error in errors), errors
    assert len(answers) >= 20
    # While the copy of a shard takes the place of a lost one, a search may return the other shard's documents alone.
    assert all(answer[0] == "d7" for answer in answers if len(answer) == len(whole))
    assert sorted(answers[-1]) == sorted(whole)
    assert store._client.cluster.health(index="docs")["number_of_nodes"] == 1
    store.close()
