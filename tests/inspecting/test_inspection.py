"""`inspect` says what a pipeline does without telling: sentences, a table and a file, or in one line what is wrong."""

import json

import pytest
import yaml
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from rich.console import Console
from typer.testing import CliRunner

from haystack_ce_ranker.cli import app
from haystack_ce_ranker.inspecting.inspection import Inspection, run_inspection

BM25 = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
STOCK = (
    "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity."
    "SentenceTransformersSimilarityRanker"
)
OURS = "haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker"
JOINER = "haystack.components.joiners.document_joiner.DocumentJoiner"
HYBRID = "haystack_integrations.components.joiners.ce_ranker.hybrid_score_joiner.HybridScoreJoiner"
SUPER = "haystack.core.super_component.super_component.SuperComponent"
GENERATOR = {"type": "haystack.components.generators.chat.openai.OpenAIChatGenerator", "init_parameters": {}}
STORE = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
LONG = "the hut is in the snow " * 60
TEXTS = {"d1": LONG, "d2": "a car in snow", "d3": f"{LONG} of germany", "d4": "paris in snow"}
QUERIES = {"q1": "hut snow", "q2": "snow car"}


def edge(sender, receiver):
    return {"sender": sender, "receiver": receiver}


def retriever(index=None, **parameters):
    store = {"type": STORE, "init_parameters": {} if index is None else {"index": index}}
    return {"type": BM25, "init_parameters": {"document_store": store, **parameters}}


def ranker(model, kind=STOCK, **parameters):
    return {"type": kind, "init_parameters": {"model": model, **parameters}}


@pytest.fixture
def collection(tmp_path):
    """A collection with two queries; without judgments they must be named."""
    folder = tmp_path / "texts"
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus.jsonl": [{"_id": name, "text": text} for name, text in TEXTS.items()],
        "queries.jsonl": [{"_id": name, "text": text} for name, text in QUERIES.items()],
    }
    for name, lines in rows.items():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judged, encoding="utf-8")
    return folder


@pytest.fixture
def inspected(tmp_path, collection):
    """Inspects a pipeline with the collection; returns the findings and what was printed."""

    def inspect(components, connections=(), **settings):
        path = tmp_path / "p.yaml"
        described = {"components": components, "connections": list(connections)}
        path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        console = Console(record=True, width=200)
        given = {"collection": collection, **settings}
        return run_inspection(Inspection(path, **given), console), console.export_text().lstrip()

    return inspect


def test_sentences_come_first_the_table_below_and_the_file_has_all(inspected, tiny_bert, tmp_path):
    output = tmp_path / "found.json"
    found, told = inspected(
        {"retriever": retriever(), "ranker": ranker(tiny_bert, top_k=1)},
        [edge("retriever.documents", "ranker.documents")],
        output=output,
    )
    total = found.rankers["ranker"].total
    read = total.reading
    assert (read.candidates, read.cut, read.pairs, total.lost) == (8, 4, 8, 0)
    lines = told.splitlines()
    share = f"{read.unread_share:.0%}".replace("%", " %")
    assert lines[0] == (
        f"ranker cuts 4 of 8 candidates and never reads {share} of their text: it reads the first 128 tokens of the "
        "query and the document together."
    )
    padding = f"{read.padding_share:.0%}".replace("%", " %")
    assert lines[1] == (
        f"ranker computes 1,024 tokens for {read.filled_tokens} tokens of text: {padding} is padding. "
        "It scores 4.0 pairs a query."
    )
    assert "ranker takes" in lines[2]
    assert [line.split()[0] for line in lines if line.startswith((" q", " all"))] == ["query", "q1", "q2", "all"]
    plain = json.loads(output.read_text(encoding="utf-8"))
    assert plain["sentences"] == lines[: len(plain["sentences"])]
    assert plain["queries"]["q1"]["rankers"]["ranker"]["unread_share"] == pytest.approx(
        found.queries["q1"].rankers["ranker"].reading.unread_share
    )
    assert plain["rankers"]["ranker"]["total"]["unread_tokens"] == read.unread_tokens
    assert not any(text[:20] in output.read_text(encoding="utf-8") for text in (*TEXTS.values(), *QUERIES.values()))


def test_our_ranker_is_told_to_read_the_best_passages(inspected, tiny_bert):
    found, told = inspected(
        {"retriever": retriever(), "ranker": ranker(tiny_bert, OURS)}, [edge("retriever.documents", "ranker.documents")]
    )
    assert found.rankers["ranker"].ours
    assert "it reads the passages that fit the query best" in told


def test_what_our_ranker_leaves_unscored_is_told(inspected, tiny_bert):
    parts = {"retriever": retriever(), "ranker": ranker(tiny_bert, OURS, depth=1)}
    found, told = inspected(parts, [edge("retriever.documents", "ranker.documents")])
    assert found.rankers["ranker"].total.reading.unscored == 6
    assert "ranker leaves 6 of 8 candidates without a score of its model." in told


def test_what_a_joiner_drops_before_the_ranker_is_counted_and_named(inspected, tiny_bert):
    found, told = inspected(
        {
            "first": retriever(top_k=3),
            "second": retriever(top_k=2),
            "joiner": {"type": JOINER, "init_parameters": {"top_k": 1, "join_mode": "reciprocal_rank_fusion"}},
            "ranker": ranker(tiny_bert),
        },
        [
            edge("first.documents", "joiner.documents"),
            edge("second.documents", "joiner.documents"),
            edge("joiner.documents", "ranker.documents"),
        ],
    )
    total = found.rankers["ranker"].total
    assert (total.lost, dict(total.dropped_by), total.reading.candidates) == (4, {"joiner": 4}, 2)
    assert "joiner drops 4 candidates before ranker sees them (its top_k is 1)." in told
    assert found.mixed == ()  # ranks compare


def test_of_two_rankers_the_second_sees_what_the_first_left(inspected, tiny_bert):
    found, told = inspected(
        {"retriever": retriever(), "first": ranker(tiny_bert, top_k=2), "second": ranker(tiny_bert)},
        [edge("retriever.documents", "first.documents"), edge("first.documents", "second.documents")],
    )
    assert dict(found.rankers["second"].total.dropped_by) == {"first": 4}
    assert found.rankers["first"].total.lost == 0
    assert "first drops 4 candidates before second sees them (its top_k is 2)." in told


def test_what_arrives_by_another_way_is_not_lost_and_what_makes_new_documents_drops_none(inspected, tiny_bert):
    joiner = {"type": JOINER, "init_parameters": {"top_k": 1, "join_mode": "reciprocal_rank_fusion"}}
    splitter = {
        "type": "haystack.components.preprocessors.document_splitter.DocumentSplitter",
        "init_parameters": {"split_by": "word", "split_length": 50},
    }
    found, _ = inspected(
        {
            "retriever": retriever(),
            "joiner": joiner,
            "first": ranker(tiny_bert),
            "splitter": splitter,
            "last": ranker(tiny_bert),
        },
        [
            edge("retriever.documents", "joiner.documents"),
            edge("retriever.documents", "first.documents"),
            edge("joiner.documents", "first.documents"),
            edge("retriever.documents", "splitter.documents"),
            edge("splitter.documents", "last.documents"),
        ],
    )
    assert (found.rankers["first"].total.lost, dict(found.rankers["first"].total.dropped_by)) == (0, {})
    assert (found.rankers["last"].total.lost, dict(found.rankers["last"].total.dropped_by)) == (0, {})
    assert found.rankers["last"].total.reading.candidates > 8


def test_what_is_dropped_inside_of_a_super_component_is_counted_once(inspected, tiny_bert):
    inner = {"components": {"first": ranker(tiny_bert, top_k=1)}, "connections": []}
    mapping = {"query": ["first.query"], "documents": ["first.documents"]}
    parameters = {"pipeline": inner, "input_mapping": mapping, "output_mapping": {"first.documents": "documents"}}
    found, _ = inspected(
        {"retriever": retriever(), "best": {"type": SUPER, "init_parameters": parameters}, "last": ranker(tiny_bert)},
        [edge("retriever.documents", "best.documents"), edge("best.documents", "last.documents")],
    )
    assert dict(found.rankers["last"].total.dropped_by) == {"best > first": 6}


@pytest.mark.parametrize(
    ("joiner", "adds"),
    [
        ({"type": JOINER, "init_parameters": {"join_mode": "merge"}}, True),
        ({"type": JOINER, "init_parameters": {"join_mode": "concatenate"}}, False),
        ({"type": HYBRID, "init_parameters": {"weights": {"one": 1, "two": 1}, "normalize": "none"}}, True),
    ],
)
def test_a_joiner_that_mixes_a_sigmoid_with_bm25_is_named(joiner, adds, inspected, tiny_bert):
    one, two = ("one", "two") if joiner["type"] == HYBRID else ("documents", "documents")
    found, told = inspected(
        {"retriever": retriever(), "ranker": ranker(tiny_bert), "joiner": joiner},
        [
            edge("retriever.documents", "ranker.documents"),
            edge("retriever.documents", f"joiner.{one}"),
            edge("ranker.documents", f"joiner.{two}"),
        ],
    )
    (mixed,) = found.mixed
    assert (mixed.joiner, mixed.adds) == ("joiner", adds)
    kinds = {name: one.kind for name, one in mixed.lists.items()}
    assert kinds == {"retriever": "BM25 scores", "ranker": "probabilities of a cross-encoder"}
    assert mixed.lists["ranker"].high <= 1 < mixed.lists["retriever"].high
    what = "adds up scores" if adds else "orders documents by the highest of scores"
    assert f"joiner {what} that do not compare: BM25 scores of retriever (" in told


@pytest.mark.parametrize(
    "joiner",
    [
        {"type": JOINER, "init_parameters": {"join_mode": "reciprocal_rank_fusion"}},
        {"type": HYBRID, "init_parameters": {"weights": {"one": 1, "two": 1}}},
        {"type": HYBRID, "init_parameters": {"weights": {"one": 1, "two": 1}, "method": "reciprocal_rank"}},
    ],
)
def test_a_joiner_that_makes_scores_comparable_is_not(joiner, inspected, tiny_bert):
    one, two = ("one", "two") if joiner["type"] == HYBRID else ("documents", "documents")
    edges = [edge("retriever.documents", f"joiner.{one}"), edge("ranker.documents", f"joiner.{two}")]
    found, _ = inspected(
        {"retriever": retriever(), "ranker": ranker(tiny_bert), "joiner": joiner},
        [edge("retriever.documents", "ranker.documents"), *edges],
    )
    assert found.mixed == ()


def test_lists_of_one_kind_compare_and_so_does_what_only_rankers_order(inspected, tiny_bert):
    joiner = {"type": JOINER, "init_parameters": {"join_mode": "concatenate"}}
    same = [edge("first.documents", "joiner.documents"), edge("second.documents", "joiner.documents")]
    parts = {"first": retriever(), "second": retriever(top_k=1), "joiner": joiner}
    assert inspected(parts, same)[0].mixed == ()
    parts["second"] = retriever(scale_score=True)
    assert len(inspected(parts, same)[0].mixed) == 1
    parts["ranker"] = ranker(tiny_bert)
    assert inspected(parts, [*same, edge("joiner.documents", "ranker.documents")])[0].mixed == ()


def test_a_ranker_in_a_super_component_is_looked_into(inspected, tiny_bert):
    inner = {
        "components": {"retriever": retriever(top_k=2), "ranker": ranker(tiny_bert)},
        "connections": [edge("retriever.documents", "ranker.documents")],
    }
    mapping = {"query": ["retriever.query", "ranker.query"]}
    parameters = {"pipeline": inner, "input_mapping": mapping, "output_mapping": {"ranker.documents": "documents"}}
    found, told = inspected({"search": {"type": SUPER, "init_parameters": parameters}})
    assert found.rankers["search > ranker"].total.reading.candidates == 4
    assert told.startswith("search > ranker cuts")


def test_documents_without_text_and_queries_that_are_cut_are_told(tmp_path, tiny_bert):
    store = InMemoryDocumentStore(index="inspected")
    store.write_documents([Document(id="a", content="snow"), Document(id="b", content=" ", meta={"title": "snow"})])
    model, path, queries = ranker(tiny_bert, OURS), tmp_path / "p.yaml", tmp_path / "queries.txt"
    described = {
        "components": {"found": retriever("inspected", filters=None), "ranker": ranker(tiny_bert), "ours": model},
        "connections": [edge("found.documents", "ranker.documents"), edge("ranker.documents", "ours.documents")],
    }
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    queries.write_text(f"{'snow hut ' * 200}\nsnow\n", encoding="utf-8")
    console = Console(record=True, width=200)
    try:
        found = run_inspection(Inspection(path, queries), console)
    finally:
        store.delete_documents(["a", "b"])
    told = console.export_text()
    assert found.rankers["ranker"].total.reading.query_cut == 1
    assert "ranker ranks by a part of the query only for 1 of 2 queries." in told
    assert "Note: InMemoryDocumentStore holds 2 documents" in told


def test_a_pipeline_without_a_ranker_is_told_how_to_get_one(inspected):
    found, told = inspected({"retriever": retriever()})
    assert found.rankers == {}
    assert told.startswith("It has no ranker: the 8 documents for 2 queries stay in the order")
    assert "adopt --insert" in told


def test_no_generator_is_called_and_no_key_is_needed(inspected, tiny_bert, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prompt = {
        "type": "haystack.components.builders.chat_prompt_builder.ChatPromptBuilder",
        "init_parameters": {"template": "{% message role='user' %}{{ documents }}{% endmessage %}"},
    }
    _, told = inspected(
        {"retriever": retriever(), "ranker": ranker(tiny_bert), "prompt": prompt, "llm": GENERATOR},
        [
            edge("retriever.documents", "ranker.documents"),
            edge("ranker.documents", "prompt.documents"),
            edge("prompt.prompt", "llm.messages"),
        ],
    )
    assert "Note: not run: prompt, llm" in told


def test_a_sample_is_of_the_queries(inspected):
    found, told = inspected({"retriever": retriever()}, sample=1)
    assert len(found.queries) == 1
    assert "Note: 1 of 2 queries, drawn at random with seed 0" in told


MISSING = "./not/there"


@pytest.mark.parametrize(
    ("pipeline", "options", "told"),
    [
        (None, ("--collection", "texts"), "No such file"),
        ("a: [1", ("--collection", "texts"), "it is no YAML"),
        ({"retriever": retriever()}, (), "name a file of queries with --queries"),
        ({"retriever": retriever()}, ("--queries", "texts/queries.jsonl"), "holds no documents"),
        ({"retriever": retriever()}, ("--queries", "empty.txt", "--collection", "texts"), "it has no queries"),
        ({"retriever": retriever()}, ("--queries", "other.txt", "--collection", "texts"), "found a document"),
        ({"retriever": {"type": "nowhere.OurRetriever"}}, ("--collection", "texts"), "p.yaml does not load here"),
        ({"retriever": retriever()}, ("--collection", "nowhere"), "nowhere"),
        ({"r": retriever(), "ranker": ranker(MISSING)}, ("--collection", "texts"), f"the model {MISSING!r} of ranker"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(pipeline, options, told, tmp_path, collection, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("xyz\n", encoding="utf-8")
    if pipeline is not None:
        edges = [edge("r.documents", "ranker.documents")] if "ranker" in pipeline else []
        text = pipeline if isinstance(pipeline, str) else yaml.safe_dump({"components": pipeline, "connections": edges})
        (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["inspect", "p.yaml", *options, "--json", "found.json"])
    assert done.exit_code == 2
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert "Traceback" not in done.output
    assert not (tmp_path / "found.json").exists()
