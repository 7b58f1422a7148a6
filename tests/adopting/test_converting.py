"""Which components of a description are moved, wherever they stand in it."""

import copy

import pytest

from haystack_ce_ranker.adopting.converting import changes_of
from haystack_ce_ranker.adopting.edits import Change, edited, edits_of
from haystack_ce_ranker.adopting.equivalences import RANKER, RETRIEVER, TABLE

SIMILARITY, JINA = TABLE[0], TABLE[5]
STORE = {"type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore", "init_parameters": {}}
BM25 = {
    "type": "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever",
    "init_parameters": {"document_store": STORE, "top_k": 3},
}


def adopted(components, connections=(), **options):
    given = {"components": components, "connections": list(connections)}
    before = copy.deepcopy(given)
    changes = changes_of(given, **options)
    assert given == before
    return edited(given, edits_of(changes))["components"], [change for change in changes if change.left]


def left(components, connections=()):
    after, reasons = adopted(components, connections)
    assert after == components
    return [str(one) for one in reasons]


@pytest.mark.parametrize("ranker", [{}, {"init_parameters": None}, {"init_parameters": {}}])
def test_parameters_may_be_missing(ranker):
    after, reasons = adopted({"r": {"type": SIMILARITY.types[0], **ranker}})
    assert (after["r"], reasons) == ({"type": RANKER, **ranker}, [])
    after, _ = adopted({"r": {"type": SIMILARITY.types[0], **ranker}}, model="a/b")
    assert after["r"]["init_parameters"] == {"model": "a/b"}
    both = {"r": {"type": SIMILARITY.types[0], **ranker}, "s": {"type": RANKER}}
    assert adopted(both)[0]["r"]["init_parameters"] == {"name": "r"}


def test_a_default_that_ours_lacks_is_written_out_in_the_parameters_of_the_engine():
    (theirs,) = next(one.types for one in TABLE if one.name == "ElasticsearchBM25Retriever")
    given = {"document_store": STORE}
    after, _ = adopted({"r": {"type": theirs, "init_parameters": given}})
    assert after["r"]["init_parameters"] == {**given, "top_k": 10, "native_parameters": {"fuzziness": "AUTO"}}


def test_what_a_tool_holds_stays():
    tool = {"type": "haystack.tools.component_tool.ComponentTool", "data": {"component": BM25, "name": "search"}}
    agent = {"type": "haystack.components.agents.agent.Agent", "init_parameters": {"tools": [tool]}}
    assert left({"agent": agent}) == [
        "agent > tools: left as it is: a tool holds it, and its description for the language model would change"
    ]


def test_a_ranker_or_a_pipeline_inside_of_another_component_stays():
    ranker = {"type": SIMILARITY.types[0], "init_parameters": {}}
    assert left({"outer": {"type": "x.Y", "init_parameters": {"ranker": ranker}}}) == [
        "outer > ranker: left as it is: another component holds it, and may use what only it has"
    ]
    inner = {"parts": [{"components": {"retriever": BM25}, "connections": []}]}
    (told,) = left({"outer": {"type": "x.Y", "init_parameters": inner}})
    assert told.startswith("outer > parts > retriever: left as it is: it is in a pipeline that another component")


def test_retrievers_are_found_at_any_depth():
    deep = {
        "type": "x.Multi",
        "init_parameters": {"retrievers": {"a": {"type": "x.Y", "init_parameters": {"b": BM25}}}},
    }
    after, _ = adopted({"outer": deep})
    found = after["outer"]["init_parameters"]["retrievers"]["a"]["init_parameters"]["b"]
    assert found["type"] == RETRIEVER
    assert found["init_parameters"]["document_store"] == STORE


def test_a_super_component_inside_of_another_is_a_pipeline_as_well():
    def wrapped(components):
        described = {"components": components, "connections": []}
        return {"type": "x.SuperComponent", "init_parameters": {"pipeline": described, "input_mapping": None}}

    after, _ = adopted({"outer": wrapped({"inner": wrapped({"retriever": BM25})})})
    inner = after["outer"]["init_parameters"]["pipeline"]["components"]["inner"]
    assert inner["init_parameters"]["pipeline"]["components"]["retriever"]["type"] == RETRIEVER


@pytest.mark.parametrize(
    ("ranker", "connection", "told"),
    [
        (SIMILARITY, {"sender": "x.y", "receiver": "r.truncation"}, "its input truncation is used, and CrossEncoder"),
        (JINA, {"sender": "r.meta", "receiver": "x.y"}, "its output meta is used, and CrossEncoderRanker has none"),
    ],
)
def test_a_socket_that_ours_lacks_keeps_a_component(ranker, connection, told):
    (reason,) = left({"r": {"type": ranker.types[0], "init_parameters": {}}, "x": {"type": "x.X"}}, [connection])
    assert told in reason


def test_a_path_that_is_not_known_is_named():
    (reason,) = left({"r": {"type": "haystack.components.rankers.TransformersSimilarityRanker"}})
    assert "its path is not the one of the TransformersSimilarityRanker known here, haystack.components" in reason


def test_a_change_is_told_in_a_line():
    assert str(Change("it", "why")) == "it: left as it is: why"
    changes = changes_of({"components": {"k": BM25}, "connections": []})
    assert str(changes[1]) == "k: method: 'bm25l' is written out"
