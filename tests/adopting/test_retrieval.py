"""The retrieval part of a pipeline runs as it is: no generator is called or loaded, and no key is needed."""

import json
from pathlib import Path

import pytest
import yaml
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker.adopting.files import AdoptError
from haystack_ce_ranker.adopting.retrieval import retrieval_of

FORMS = Path(__file__).parent / "forms"
HERE = Path("p.yaml")
BM25 = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
RANKERS = "haystack.components.rankers"
STORE = {
    "type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore",
    "init_parameters": {"index": "retrieval"},
}
RETRIEVER = {"type": BM25, "init_parameters": {"document_store": STORE, "top_k": 2}}
GENERATOR = {"type": "nowhere.components.generators.chat.ours.OurGenerator", "init_parameters": {}}
PROMPT = {
    "type": "haystack.components.builders.prompt_builder.PromptBuilder",
    "init_parameters": {"template": "{{ query }} {{ documents }}", "required_variables": ["query"]},
}
ADAPTER = {
    "type": "haystack.components.converters.output_adapter.OutputAdapter",
    "init_parameters": {"template": "{{ replies[0] }}", "output_type": "str"},
}
SUPER = "haystack.core.super_component.super_component.SuperComponent"


def edge(sender, receiver):
    return {"sender": sender, "receiver": receiver}


def retrieval(components, connections=(), **further):
    described = {"components": components, "connections": list(connections), **further}
    return retrieval_of(yaml.safe_dump(described, sort_keys=False), HERE)


@pytest.fixture
def documents():
    store = InMemoryDocumentStore(index="retrieval")
    store.write_documents([Document(id=text, content=text) for text in ("the hut", "a car", "the snow")])
    yield
    store.delete_documents(["the hut", "a car", "the snow"])


def best(retrieved, query="hut"):
    return retrieved.measured.run(query).documents[0].id


def test_what_stands_behind_the_documents_is_not_even_loaded(documents):
    later = {"type": "nowhere.Parser", "init_parameters": {}}
    made = retrieval(
        {"retriever": RETRIEVER, "prompt": PROMPT, "llm": GENERATOR, "parser": later},
        [edge("retriever.documents", "prompt.documents"), edge("prompt", "llm"), edge("llm.replies", "parser.x")],
    )
    assert set(made.measured.pipeline.graph) == {"retriever"}
    assert made.notes == ("not run: prompt, llm, parser",)
    assert best(made) == "the hut"


@pytest.mark.parametrize("declared", [{}, {"inputs": {"query": ["prompt.query"]}}])
def test_a_query_that_a_generator_would_write_anew_is_taken_as_it_is(declared, documents):
    made = retrieval(
        {"prompt": PROMPT, "llm": GENERATOR, "adapter": ADAPTER, "retriever": RETRIEVER},
        [
            edge("prompt.prompt", "llm.prompt"),
            edge("llm.replies", "adapter.replies"),
            edge("adapter", "retriever.query"),
        ],
        **declared,
    )
    assert set(made.measured.pipeline.graph) == {"retriever"}
    assert made.notes[1:] == ("retriever.query gets the query itself, as adapter is not run",)
    assert best(made) == "the hut"


def test_a_component_that_holds_a_generator_is_not_run(documents):
    expander = {"type": "x.QueryExpander", "init_parameters": {"chat_generator": GENERATOR}}
    multi = {
        "type": "haystack.components.retrievers.multi_query_text_retriever.MultiQueryTextRetriever",
        "init_parameters": {"retriever": RETRIEVER},
    }
    made = retrieval({"expander": expander, "multi": multi}, [edge("expander.queries", "multi.queries")])
    assert made.measured.query_sockets == (("multi", "queries"),)
    assert best(made) == "the hut"


def test_of_a_super_component_with_a_generator_the_inner_pipeline_is_run(documents):
    inner = {
        "components": {"retriever": RETRIEVER, "prompt": PROMPT, "llm": GENERATOR},
        "connections": [edge("retriever.documents", "prompt.documents"), edge("prompt.prompt", "llm.prompt")],
    }
    mapping = {"question": ["retriever.query", "prompt.query"]}
    parameters = {"pipeline": inner, "input_mapping": mapping, "output_mapping": {"retriever.documents": "documents"}}
    made = retrieval({"rag": {"type": SUPER, "init_parameters": parameters}})
    assert set(made.measured.pipeline.graph) == {"retriever"}
    assert made.measured.ends == (("retriever", "documents"),)
    assert best(made) == "the hut"


def test_the_declared_query_and_documents_take_precedence(documents):
    branch = {"type": "haystack.components.joiners.branch.BranchJoiner", "init_parameters": {"type_": "str"}}
    made = retrieval(
        {"again": branch, "first": RETRIEVER, "second": RETRIEVER},
        [edge("again.value", "first.query"), edge("again.value", "second.query")],
        inputs={"query": ["again.value"]},
        outputs={"documents": "second.documents"},
    )
    assert made.measured.query_sockets == (("again", "value"),)
    assert made.measured.ends == (("second", "documents"),)
    assert best(made) == "the hut"


def test_the_form_with_a_chat_generator_needs_no_key(tiny_bert, monkeypatch):
    monkeypatch.delenv("OUR_OPENAI_KEY", raising=False)
    text = (FORMS / "rag.yaml").read_text(encoding="utf-8").replace("TINY_MODEL", tiny_bert)
    made = retrieval_of(text, HERE)
    assert set(made.measured.pipeline.graph) == {"retriever", "ranker"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "it is no YAML"),
        ("just a text", "describes no pipeline"),
        (json.dumps({"components": {"llm": GENERATOR}, "connections": []}), "no retriever, joiner or ranker"),
        (json.dumps({"components": {"r": {"type": "nowhere.BM25Retriever"}}}), "does not load here"),
        (
            json.dumps(
                {"components": {"r": {"type": "haystack.components.rankers.lost_in_the_middle.LostInTheMiddleRanker"}}}
            ),
            "cannot be run alone",
        ),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(text, told):
    with pytest.raises(AdoptError) as raised:
        retrieval_of(text, HERE)
    assert str(raised.value).startswith("p.yaml")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
