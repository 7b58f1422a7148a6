"""A moved pipeline is run or measured before it is written, and one that is measured to be worse is not."""

import json
import random

import haystack
import pytest
import yaml
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from rich.console import Console
from typer.testing import CliRunner

from haystack_ce_ranker.adopting import files
from haystack_ce_ranker.adopting.files import AdoptError, adopt_text
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.systems import Finding
from haystack_ce_ranker.proving import adoption
from haystack_ce_ranker.proving.adoption import Adoption, run_adoption
from haystack_ce_ranker.proving.comparing import compare_texts

BM25 = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
STOCK = (
    "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity."
    "SentenceTransformersSimilarityRanker"
)
STORE = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
OLDER = "haystack.components.rankers.transformers_similarity.TransformersSimilarityRanker"
WORDS = ["hut", "snow", "car", "berlin", "paris", "brake", "germany", "france", "city"]


def pipeline(model=None, index=None, **further):
    store = {"type": STORE, "init_parameters": {} if index is None else {"index": index}}
    components = {"retriever": {"type": BM25, "init_parameters": {"document_store": store}}}
    edges = []
    if model is not None:
        components["ranker"] = {"type": STOCK, "init_parameters": {"model": model}}
        edges = [{"sender": "retriever.documents", "receiver": "ranker.documents"}]
    return yaml.safe_dump({"components": components, "connections": edges, **further}, sort_keys=False)


@pytest.fixture(autouse=True)
def loads(monkeypatch):
    """No fresh process is started; the list says what was asked to load."""
    asked = []
    monkeypatch.setattr(files, "loading_fault", lambda text: asked.append(text))
    return asked


@pytest.fixture
def old(tmp_path):
    return tmp_path / "old.yaml"


@pytest.fixture
def collection(tmp_path):
    """Queries of two words each, of which one document has both: BM25 finds it first."""
    folder, draw = tmp_path / "judged", random.Random(0)
    (folder / "qrels").mkdir(parents=True)
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b][:16]
    corpus = [{"_id": f"d{n}", "text": f"{a} {b} {a} {b}"} for n, (a, b) in enumerate(pairs)]
    corpus += [{"_id": f"x{n}", "text": " ".join(draw.choices(WORDS, k=200))} for n in range(4)]
    queries = [{"_id": f"q{n}", "text": f"{a} {b}"} for n, (a, b) in enumerate(pairs)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(len(pairs)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return folder


def adopted(old, text, **settings):
    old.write_text(text, encoding="utf-8")
    console = Console(record=True, width=120)
    given = {"output": old.with_name("new.yaml"), **settings}
    return run_adoption(Adoption(old, **given), console), console.export_text()


def test_before_and_after_stand_in_one_table_with_the_test_and_their_costs(old, collection, tiny_bert, caplog):
    written, told = adopted(old, pipeline(tiny_bert), collection=collection)
    assert written
    assert (old.with_name("new.yaml")).read_text(encoding="utf-8") == adopt_text(pipeline(tiny_bert)).after
    starts = [line.split()[0] for line in told.splitlines() if line.startswith((" before", " after"))]
    assert starts == ["before", "after"]
    for column in ("nDCG@10", "baseline", "tokens", "p95 ms", "joules"):
        assert column in told, column
    assert "The new pipeline is not shown to differ from before: nDCG@10 " in told
    assert "16 queries" in told
    assert "Make sure the component's output" not in caplog.text
    assert told.rstrip().endswith("new.yaml is written; it loads in a fresh process.")


def test_both_are_counted_alike(collection, tiny_bert, old):
    """A long document is read from its start by both; the best windows would be several pairs."""
    text = pipeline(tiny_bert)
    moved = adopt_text(text).after.replace("model:", "long_documents: head\n      model:")
    found = compare_texts(text, moved, old, load_collection(collection).sample(3))
    before, after = found.results.systems
    assert (before.pairs_per_query, before.tokens_per_query) == (after.pairs_per_query, after.tokens_per_query)
    assert before.tokens_per_query > 0
    assert before.read_share < 1


def test_a_pipeline_that_becomes_worse_is_not_written_unless_always(old, collection, tiny_bert):
    """A ranker with random weights is put behind a retriever that finds what is asked for."""
    settings = {"collection": collection, "insert": True, "model": tiny_bert}
    written, told = adopted(old, pipeline(), **settings)
    assert not written
    assert not old.with_name("new.yaml").exists()
    assert "The new pipeline is worse than before: nDCG@10 -" in told
    assert "Nothing is written. It would be if the new pipeline were not significantly worse" in told
    assert adopted(old, pipeline(), save="always", **settings)[0]
    assert old.with_name("new.yaml").exists()


@pytest.mark.parametrize(
    ("finding", "save", "written"),
    [
        (Finding.WORSE, None, False),
        (Finding.WORSE, "better", False),
        (Finding.WORSE, "always", True),
        (Finding.UNCERTAIN, None, True),
        (Finding.BETTER, "better", True),
    ],
)
def test_what_is_written_follows_from_the_finding(finding, save, written, old, collection, tiny_bert, monkeypatch):
    real = adoption.compare_texts

    def compared(*given, **named):
        found = real(*given, **named)
        monkeypatch.setattr(type(found.after), "significance", finding)
        return found

    monkeypatch.setattr(adoption, "compare_texts", compared)
    settings = {"collection": collection, "save": save, "queries": 2}
    result, told = adopted(old, pipeline(tiny_bert), **settings)
    assert (result, old.with_name("new.yaml").exists()) == (written, written)
    words = {Finding.WORSE: "worse than", Finding.BETTER: "better than", Finding.UNCERTAIN: "not shown to differ from"}
    assert f"The new pipeline is {words[finding]} before" in told
    assert "Only 2 queries" in told


def test_a_dry_run_measures_and_writes_nothing(old, collection, tiny_bert):
    written, told = adopted(old, pipeline(tiny_bert), collection=collection, dry_run=True, queries=2)
    assert written
    assert "The new pipeline is" in told
    assert not old.with_name("new.yaml").exists()


@pytest.fixture
def held():
    store = InMemoryDocumentStore(index="proved")
    store.write_documents([Document(id="a", content="which text is this")])
    yield
    store.delete_documents(["a"])


def test_it_runs_on_the_documents_of_its_own_store_before_it_is_written(old, tiny_bert, held):
    written, told = adopted(old, pipeline(tiny_bert, "proved"))
    assert written
    assert "It ran on the 1 documents of its own stores." in told


def test_what_loads_but_does_not_run_is_not_written(old, held):
    """Its model is missing: loading a pipeline's file does not look for it."""
    with pytest.raises(AdoptError, match="does not run after the change") as raised:
        adopted(old, pipeline("./not/there", "proved"))
    assert "\n" not in str(raised.value)
    assert not old.with_name("new.yaml").exists()


def test_what_fails_only_when_it_runs_is_not_written(old, tiny_bert, held):
    described = yaml.safe_load(pipeline(tiny_bert, "proved"))
    never = {"condition": "{{ False }}", "output": "{{ query }}", "output_name": "asked"}
    router = {
        "type": "haystack.components.routers.conditional_router.ConditionalRouter",
        "init_parameters": {"routes": [{**never, "output_type": "str"}]},
    }
    described["components"]["router"] = router
    described["connections"].append({"sender": "router.asked", "receiver": "retriever.query"})
    with pytest.raises(AdoptError, match="does not run after the change .*router"):
        adopted(old, yaml.safe_dump(described, sort_keys=False))
    assert not old.with_name("new.yaml").exists()


def test_without_documents_it_says_that_it_was_not_run(old, tiny_bert):
    assert "no documents are at hand" in adopted(old, pipeline(tiny_bert))[1]
    alone = pipeline(tiny_bert, inputs={"query": ["nowhere.query"]})
    assert "its retrieval part cannot be run alone" in adopted(old, alone, force=True)[1]


def test_generators_are_not_called_by_a_measurement(old, collection, tiny_bert, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    described = yaml.safe_load(pipeline(tiny_bert))
    generator = {"type": "haystack.components.generators.chat.openai.OpenAIChatGenerator", "init_parameters": {}}
    template = "{% message role='user' %}{{ documents }}{% endmessage %}"
    prompt = {
        "type": "haystack.components.builders.chat_prompt_builder.ChatPromptBuilder",
        "init_parameters": {"template": template},
    }
    described["components"] |= {"prompt": prompt, "llm": generator}
    described["connections"] += [
        {"sender": "ranker.documents", "receiver": "prompt.documents"},
        {"sender": "prompt.prompt", "receiver": "llm.messages"},
    ]
    written, told = adopted(old, yaml.safe_dump(described, sort_keys=False), collection=collection, queries=2)
    assert written
    assert "Note: after: not run: prompt, llm" in told


TWO_ENDS = yaml.safe_load(pipeline("MODEL"))
TWO_ENDS["components"]["other"] = dict(TWO_ENDS["components"]["ranker"], init_parameters={"model": "MODEL"})
TWO_ENDS["connections"].append({"sender": "retriever.documents", "receiver": "other.documents"})
OLD_PATH = pipeline("MODEL").replace(
    STOCK, "haystack.components.rankers.transformers_similarity.TransformersSimilarityRanker"
)


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        (pipeline("MODEL"), ("--save", "better"), "--save needs a collection"),
        (pipeline("MODEL"), ("--queries", "3"), "--queries needs a collection"),
        (pipeline("MODEL"), ("--collection", "judged", "--save", "often"), "save must be one of"),
        (pipeline("MODEL"), ("--collection", "nowhere"), "there is no such folder"),
        (pipeline("./not/there"), ("--collection", "judged"), "old.yaml: it cannot be measured ("),
        (pipeline("MODEL"), ("--collection", "judged", "--model", "./not/there"), "was not found"),
        (yaml.safe_dump(TWO_ENDS), ("--collection", "judged"), "name the one to measure in the YAML as `outputs:"),
        pytest.param(
            *(OLD_PATH, ("--collection", "judged"), "Without --collection, the old file need not run here."),
            marks=pytest.mark.skipif(haystack.__version__.startswith("2."), reason="Haystack 2 loads it"),
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    text, options, told, tmp_path, collection, tiny_bert, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(text.replace("MODEL", tiny_bert), encoding="utf-8")
    done = CliRunner().invoke(app, ["adopt", "old.yaml", "--output", "new.yaml", *options])
    assert done.exit_code == 2
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    if "nowhere" not in options:  # a missing collection is told with the files that it must have
        assert done.output.splitlines()[-1] == errors[0]
    assert not (tmp_path / "new.yaml").exists()


def test_the_command_ends_with_1_where_it_writes_nothing_for_being_worse(old, collection, tiny_bert):
    old.write_text(pipeline(), encoding="utf-8")
    options = ["--insert", "--model", tiny_bert, "--collection", str(collection)]
    done = CliRunner().invoke(app, ["adopt", str(old), "--output", str(old.with_name("new.yaml")), *options])
    assert done.exit_code == 1
