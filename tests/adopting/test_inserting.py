"""Where a ranker is added, what its query is, and when none is added."""

import pytest
import yaml

from haystack_ce_ranker.adopting.converting import changes_of
from haystack_ce_ranker.adopting.edits import edited, edits_of
from haystack_ce_ranker.adopting.equivalences import RANKER
from haystack_ce_ranker.adopting.files import adopt_text

BM25 = {"type": "x.BM25Retriever", "init_parameters": {"top_k": 7}}
DENSE = {"type": "x.DenseRetriever", "init_parameters": {"top_k": 5}}
JOINER = {"type": "x.DocumentJoiner", "init_parameters": {}}
PROMPT = {"type": "x.PromptBuilder"}


def edge(sender, receiver):
    return {"sender": sender, "receiver": receiver}


def inserted(components, connections, **further):
    given = {"components": components, "connections": connections, **further}
    changes = changes_of(given, insert=True, model="a/b")
    return edited(given, edits_of(changes)), changes[-1]


def test_it_stands_behind_the_joiner_and_before_the_prompt():
    after, change = inserted(
        {"e": {"type": "x.Embedder"}, "k": BM25, "d": DENSE, "j": JOINER, "p": PROMPT},
        [
            edge("e.embedding", "d.query_embedding"),
            edge("k.documents", "j.documents"),
            edge("d", "j"),
            edge("j", "p.documents"),
        ],
        inputs={"question": ["k.query", "e.text"], "filters": "k.filters"},
        outputs={"documents": "j.documents", "found": ["k.documents"]},
    )
    assert list(after["components"]) == ["e", "k", "d", "j", "ranker", "p"]
    assert after["components"]["ranker"] == {"type": RANKER, "init_parameters": {"model": "a/b", "top_k": 12}}
    assert after["connections"][3:] == [
        edge("ranker.documents", "p.documents"),
        edge("j.documents", "ranker.documents"),
    ]
    assert after["inputs"]["question"] == ["k.query", "e.text", "ranker.query"]
    assert after["outputs"] == {"documents": "ranker.documents", "found": ["k.documents"]}
    assert "The input question is its query, too." in change.text


def test_a_query_that_another_component_makes_goes_to_the_ranker_as_well():
    after, change = inserted({"r": {"type": "x.Rewriter"}, "k": BM25}, [edge("r.query", "k.query")])
    assert after["connections"][1:] == [edge("k.documents", "ranker.documents"), edge("r.query", "ranker.query")]
    assert "Its query comes from r" in change.text
    components = {"r": {"type": "x.Rewriter"}, "e": {"type": "x.Embedder"}, "d": DENSE}
    after, _ = inserted(components, [edge("r.text", "e.text"), edge("e.embedding", "d.query_embedding")])
    assert after["connections"][2:] == [edge("d.documents", "ranker.documents"), edge("r.text", "ranker.query")]


@pytest.mark.parametrize("connections", [None, [], "missing"])
def test_a_retriever_alone(connections):
    given = {"components": {"k": BM25, "ranker": PROMPT}, "connections": connections}
    if connections == "missing":
        del given["connections"]
    changes = changes_of(given, insert=True)
    after = edited(given, edits_of(changes))
    assert after["connections"] == [edge("k.documents", "ranker_2.documents")]
    assert "must now pass ranker_2.query" in changes[-1].text


@pytest.mark.parametrize(
    ("components", "connections", "told"),
    [
        ({"k": BM25, "r": {"type": "x.NvidiaRanker"}}, [edge("k", "r")], "it has a ranker, r"),
        ({"p": PROMPT}, [], "no retriever and no joiner"),
        ({"k": BM25, "d": DENSE}, [], "k, d all come last"),
        ({"k": BM25, "o": {"type": "x.Router"}}, [edge("k", "o"), edge("o", "k")], "k is part of a loop"),
        (
            {"a": PROMPT, "b": PROMPT, "k": BM25, "d": DENSE, "j": JOINER},
            [edge("a.x", "k.query"), edge("b.x", "d.query"), edge("k", "j"), edge("d", "j")],
            "different queries",
        ),
    ],
)
def test_where_it_is_not_sure_none_is_added(components, connections, told):
    after, change = inserted(components, connections)
    assert after == {"components": components, "connections": connections}
    assert change.left
    assert told in change.text


def test_different_inputs_as_queries_are_refused():
    inputs = {"one": "k.query", "two": ["d.query"]}
    components = {"k": BM25, "d": DENSE, "j": JOINER}
    _, change = inserted(components, [edge("k", "j"), edge("d", "j")], inputs=inputs)
    assert "different queries" in change.text


def test_rearrangers_are_no_rankers():
    middle = {"type": "haystack.components.rankers.lost_in_the_middle.LostInTheMiddleRanker"}
    after, _ = inserted({"k": BM25, "m": middle}, [edge("k.documents", "m.documents")])
    assert after["connections"] == [edge("ranker.documents", "m.documents"), edge("k.documents", "ranker.documents")]


SUPER = "haystack.core.super_component.super_component.SuperComponent"


def held(components, connections, inputs, outputs, kind=SUPER):
    pipeline = {"components": components, "connections": connections}
    return {
        "type": kind,
        "init_parameters": {"input_mapping": inputs, "output_mapping": outputs, "pipeline": pipeline},
    }


def test_inside_of_a_super_component_it_takes_the_place_of_the_documents_that_come_out():
    inner = held(
        {"k": BM25, "d": DENSE, "j": JOINER},
        [edge("k", "j"), edge("d.documents", "j.documents")],
        {"question": ["k.query"], "vector": ["d.query_embedding"]},
        {"k.documents": "found", "j.documents": "documents"},
    )
    after, change = inserted({"search": inner, "p": PROMPT}, [edge("search.documents", "p.documents")])
    made = after["components"]["search"]["init_parameters"]
    assert list(made["pipeline"]["components"]) == ["k", "d", "j", "ranker"]
    assert made["pipeline"]["connections"][2:] == [edge("j.documents", "ranker.documents")]
    assert made["input_mapping"] == {"question": ["k.query", "ranker.query"], "vector": ["d.query_embedding"]}
    assert made["output_mapping"] == {"k.documents": "found", "ranker.documents": "documents"}
    assert list(after["components"]) == ["search", "p"]
    assert after["connections"] == [edge("search.documents", "p.documents")]
    assert str(change).startswith("search > ranker: a CrossEncoderRanker is added behind j")


def test_before_what_reads_the_documents_inside_of_a_super_component():
    inner = held({"k": BM25, "p": PROMPT}, [edge("k", "p.documents")], {"q": ["k.query", "p.query"]}, {"p": "prompt"})
    after, _ = inserted({"rag": inner}, [])
    made = after["components"]["rag"]["init_parameters"]
    assert made["pipeline"]["connections"] == [
        edge("ranker.documents", "p.documents"),
        edge("k.documents", "ranker.documents"),
    ]
    assert made["input_mapping"] == {"q": ["k.query", "p.query", "ranker.query"]}
    assert made["output_mapping"] == {"p": "prompt"}


QUERY, FOUND = {"q": ["k.query"]}, {"k.documents": "documents"}


@pytest.mark.parametrize(
    ("components", "told"),
    [
        (
            {"a": held({"k": BM25}, [], QUERY, FOUND), "b": held({"k": DENSE}, [], QUERY, FOUND)},
            "a > k and b > k are in different pipelines",
        ),
        ({"a": held({"k": BM25}, [], {"f": ["k.filters"]}, FOUND)}, "which query k gets is not known"),
        ({"a": held({"k": BM25}, [], QUERY, FOUND, kind="x.PipelineTool")}, "no retriever and no joiner"),
        ({"a": held({"k": BM25}, [], QUERY, FOUND), "r": {"type": "x.NvidiaRanker"}}, "it has a ranker, r"),
        (
            {"k": BM25, "a": held({"r": {"type": "x.NvidiaRanker"}}, [], {"q": ["r.query"]}, {"r.documents": "d"})},
            "it has a ranker, a > r",
        ),
    ],
)
def test_where_it_is_not_sure_inside_of_super_components_none_is_added(components, told):
    _, change = inserted(components, [])
    assert change.left
    assert told in change.text


def test_the_text_of_a_super_component_gets_the_same_edits():
    given = {
        "components": {"search": held({"k": BM25}, [], QUERY, FOUND)},
        "connections": [],
    }
    text = yaml.safe_dump(given, sort_keys=False)
    found = adopt_text(text, insert=True, model="a/b")
    made = yaml.safe_load(found.after)["components"]["search"]["init_parameters"]
    assert made["output_mapping"] == {"ranker.documents": "documents"}
    assert adopt_text(found.after, insert=True).after == found.after
