"""The table of equivalences: it knows every parameter of what is installed, and the manual shows what it says."""

import importlib
import inspect
import math

import pytest
from haystack.document_stores.types import FilterPolicy
from haystack.utils import Secret

from fakes import REPOSITORY
from haystack_ce_ranker.adopting.components import Wanted, moved
from haystack_ce_ranker.adopting.edits import edited, edits_of
from haystack_ce_ranker.adopting.equivalences import DOCUMENT_JOINER, SOCKETS, TABLE, equivalence_of
from haystack_ce_ranker.adopting.manual import filled, rewrite
from haystack_ce_ranker.adopting.parameters import REQUIRED, CannotMove, Required

ENTRIES = {entry.name: entry for entry in (*TABLE, DOCUMENT_JOINER)}
OURS = sorted({entry.to for entry in ENTRIES.values()})


def class_at(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def installed():
    found = []
    for entry in ENTRIES.values():
        for path in entry.types:
            try:
                found.append((entry, class_at(path)))
            except ImportError:
                continue
    return found


def parameters(made):
    return {name: one for name, one in inspect.signature(made.__init__).parameters.items() if name != "self"}


def plain(value):
    if value is inspect.Parameter.empty:
        return REQUIRED
    if isinstance(value, Secret):
        return value.to_dict()
    return getattr(value, "value", value)


def test_several_of_the_components_are_installed():
    pytest.importorskip("haystack_integrations.components.retrievers.opensearch", reason="needs the extra 'dev'")
    assert len(installed()) >= 4


@pytest.mark.parametrize(("entry", "made"), installed(), ids=lambda one: getattr(one, "__name__", ""))
def test_the_table_has_every_parameter_with_its_default(entry, made):
    theirs = {name: plain(one.default) for name, one in parameters(made).items()}
    assert {one.name: one.default for one in entry.parameters} == theirs


@pytest.mark.parametrize("name", ENTRIES)
def test_what_a_parameter_becomes_is_a_parameter_of_ours(name):
    entry = ENTRIES[name]
    ours = parameters(class_at(entry.to))
    targets = [one.to.partition(".")[0] for one in entry.parameters if one.to] + [
        one.partition(".")[0] for one in entry.added
    ]
    assert targets
    assert [one for one in targets if one not in ours] == []


@pytest.mark.parametrize("name", [entry.name for entry in TABLE])
def test_a_default_that_differs_from_ours_is_written_or_explained(name):
    entry = ENTRIES[name]
    ours = {key: plain(one.default) for key, one in parameters(class_at(entry.to)).items()}
    silent = [
        one.name
        for one in entry.parameters
        if one.to in ours
        and not isinstance(one.default, Required)
        and not (one.written or one.note or entry.name == "CohereRanker")
        and plain(ours[one.to]) != one.convert(one.default)
    ]
    assert silent == []


@pytest.mark.parametrize("path", OURS)
def test_the_sockets_are_those_of_ours(path):
    taken, given = SOCKETS[path]
    accepted = set(parameters(class_at(path))) | set(inspect.signature(class_at(path).run).parameters)
    assert given == {"documents"}
    assert taken - accepted - {"documents"} == set()


def test_every_path_leads_to_one_entry():
    paths = [path for entry in ENTRIES.values() for path in entry.types]
    assert len(paths) == len(set(paths))
    for entry in ENTRIES.values():
        assert all(equivalence_of(path) is entry for path in entry.types)
    assert equivalence_of("haystack.components.joiners.branch.BranchJoiner") is None


def test_the_page_shows_the_table():
    page = (REPOSITORY / "docs" / "coming_from.md").read_text(encoding="utf-8")
    assert [name for name in ENTRIES if f"<!-- equivalences: {name} -->" not in page] == []
    assert filled(page) == page, "run haystack_ce_ranker.adopting.manual.rewrite on docs/coming_from.md"


def test_tables_are_written_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- equivalences: JinaRanker -->\nold\n<!-- end -->\nb\n", encoding="utf-8")
    rewrite(page)
    text = page.read_text(encoding="utf-8")
    assert text == filled(text)
    assert text.startswith("a\n<!-- equivalences: JinaRanker -->\n\nPaths: `haystack_integrations.")
    assert text.endswith(
        "| `backend: remote` | written out |\n| | `model_kwargs.api: jina` | written out |\n\n<!-- end -->\nb\n"
    )
    assert "old" not in text.split()


def becomes(name, given, **wanted):
    """What a component of some parameters becomes."""
    entry = ENTRIES[name]
    component = {"type": entry.types[0], "init_parameters": given}
    changes = moved("it", ("it",), component, entry, Wanted(**wanted))
    found = edited({"it": component}, edits_of(changes))["it"]
    assert found["type"] == entry.to
    return found["init_parameters"]


def test_a_calibrated_threshold_keeps_the_same_documents():
    for slope, threshold in ((2.0, 0.4), (0.5, 0.9), (3, 0.5)):
        new = becomes("TransformersSimilarityRanker", {"calibration_factor": slope, "score_threshold": threshold})
        assert set(new) == {"score_threshold"}
        logit = math.log(threshold / (1 - threshold)) / slope  # the lowest that passes there
        assert 1 / (1 + math.exp(-logit)) == pytest.approx(new["score_threshold"], rel=1e-9)
    unused = {"calibration_factor": 2.0, "score_threshold": 0.4, "scale_score": False}
    assert becomes("TransformersSimilarityRanker", unused) == {"score_threshold": 0.4, "scale_score": False}
    assert becomes("TransformersSimilarityRanker", {"calibration_factor": 5.0}) == {}


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        (
            "TransformersSimilarityRanker",
            {"calibration_factor": "${SLOPE}"},
            "calibration_factor.*filled in only later",
        ),
        ("TransformersSimilarityRanker", {"calibration_factor": -1.0}, "calibration_factor must be a number above 0"),
        ("TransformersSimilarityRanker", {"calibration_factor": 2, "score_threshold": "${T}"}, "score_threshold"),
        ("SentenceTransformersSimilarityRanker", {"a_new_one": 1}, "a_new_one is no parameter of SentenceTransformers"),
        ("SentenceTransformersSimilarityRanker", "${ALL}", "no mapping"),
        ("HuggingFaceTEIRanker", {"url": "http://tei:80", "token": {"type": "env_var"}}, "plain http"),
        ("HuggingFaceTEIRanker", {"url": "tei"}, "url must be the address of a server"),
        ("HuggingFaceTEIRanker", {"url": "https://tei", "timeout": None}, "timeout: null waits for ever"),
        ("HuggingFaceTEIRanker", {"url": "https://tei", "max_retries": 0}, "max_retries must be"),
        ("HuggingFaceTEIRanker", {"url": "https://tei", "raw_scores": "no"}, "raw_scores must be true or false"),
        ("CohereRanker", {"model": "rerank-v3.5"}, "model_kwargs.tokenizer"),
        ("JinaRanker", {}, "none is known here for 'jina-reranker-v1-base-en'"),
        ("InMemoryBM25Retriever", {"document_store": "${STORE}"}, "InMemoryDocumentStore"),
    ],
)
def test_what_cannot_be_moved_is_left_with_the_reason(name, given, told):
    with pytest.raises(CannotMove, match=told):
        becomes(name, given)


def store(**given):
    kind = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
    return {"document_store": {"type": kind, "init_parameters": given}}


def test_the_retriever_takes_over_what_the_store_says_of_bm25():
    new = becomes("InMemoryBM25Retriever", store(bm25_parameters={"k1": 1.1, "epsilon": 0.2}, bm25_algorithm="BM25L"))
    assert {key: new[key] for key in ("method", "k1", "language", "top_k")} == {
        "method": "bm25l",
        "k1": 1.1,
        "language": None,
        "top_k": 10,
    }
    assert becomes("InMemoryBM25Retriever", store(bm25_tokenization_regex=r"\w\w+"))["tokenization_regex"] == r"\w\w+"
    for refused in (
        {"bm25_algorithm": "BM25Okapi"},
        {"bm25_algorithm": "BM25Plus"},
        {"bm25_parameters": {"b": "${B}"}},
    ):
        with pytest.raises(CannotMove, match="bm25_algorithm|filled in only later"):
            becomes("InMemoryBM25Retriever", store(**refused))


def test_a_server_gives_way_to_a_model_of_ones_own():
    given = {"url": "https://tei", "top_k": 3, "timeout": None, "token": None}
    assert becomes("HuggingFaceTEIRanker", given, model="a/b") == {"top_k": 3, "model": "a/b"}
    cohere = {"model": "rerank-v3.5", "api_base_url": "https://x", "meta_data_separator": " ", "top_k": 2}
    expected = {"model": "a/b", "backend": "onnx", "embedding_separator": " ", "top_k": 2}
    assert becomes("CohereRanker", cohere, model="a/b", backend="onnx") == expected
    assert becomes("JinaRanker", {}, model="a/b") == {"model": "a/b", "top_k": 10_000}
    fastembed = becomes("FastembedRanker", {"threads": 2}, model="a/b")
    assert fastembed == {"threads": 2, "model": "a/b", "scale_score": False}  # the new model may have no ONNX file
    with pytest.raises(CannotMove, match="name a model with --model"):
        becomes("HuggingFaceTEIRanker", given, backend="onnx")
    with pytest.raises(CannotMove, match="device_map is for torch alone"):
        becomes("TransformersSimilarityRanker", {"model_kwargs": {"device_map": "cpu"}}, backend="onnx")


def test_a_server_is_asked_as_before():
    given = {"url": "https://tei/v1", "max_retries": 5, "timeout": 7, "token": None, "retry_status_codes": [418]}
    options = {"api": "tei", "retries": 4, "timeout": 7}
    assert becomes("HuggingFaceTEIRanker", given) == {
        "model": "https://tei",
        "backend": "remote",
        "model_kwargs": options,
    }


def test_a_token_of_the_environment_is_not_sent_over_plain_http():
    assert "api_key" in becomes("HuggingFaceTEIRanker", {"url": "http://127.0.0.1:80"})
    assert "api_key" not in becomes("HuggingFaceTEIRanker", {"url": "http://tei:80"})
    assert becomes("HuggingFaceTEIRanker", {"url": "${TEI}", "raw_scores": True})["scale_score"] is False


def test_filter_policies_are_named_as_haystack_names_them():
    assert FilterPolicy("replace").value == ENTRIES["InMemoryBM25Retriever"].parameter("filter_policy").default
