"""The ranker as a component: migration, serialisation, bad input, provenance, report."""

import asyncio
import copy
import gc
import inspect
import json
import logging
import math
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.core.errors import DeserializationError
from haystack.core.super_component import SuperComponent
from haystack.utils import ComponentDevice, Secret

from fakes import REPOSITORY, calls, import_torch
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_integrations.components.rankers.ce_ranker import documents as ranker_documents
from haystack_integrations.components.rankers.ce_ranker import loading as ranker_loading

try:
    from haystack import AsyncPipeline
except ImportError:  # from 3.0 one pipeline does both
    AsyncPipeline = Pipeline

TYPE = "haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker"
TEXTS = ["a car", "the hut in the snow", "berlin is a city of germany", "paris", "brake"]
LONG = "the car is in the city. " * 40 + "the hut of berlin. " + "a brake is in the snow. " * 40


def documents(texts=TEXTS, **fields):
    return [Document(id=f"d{place}", content=text, **fields) for place, text in enumerate(texts)]


@pytest.fixture(scope="module")
def ranker(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, passage_tokens=32, passage_stride=16)
    made.warm_up()
    return made


def similarity_ranker():
    """Haystack's own ranker: a package by itself from 3.0, a part of haystack-ai before."""
    if AsyncPipeline is Pipeline:
        module = pytest.importorskip(
            "haystack_integrations.components.rankers.sentence_transformers", reason="needs the extra 'embedders'"
        )
    else:
        module = pytest.importorskip("haystack.components.rankers.sentence_transformers_similarity")
    return module.SentenceTransformersSimilarityRanker


def migrated(theirs):
    """A pipeline that holds our ranker: the YAML of one that holds theirs, with only the type changed."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", theirs)
    described = pipeline.dumps()
    old = f"{type(theirs).__module__}.{type(theirs).__name__}"
    assert described.count(old) == 1
    return Pipeline.loads(described.replace(old, TYPE))


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_changing_the_type_line_migrates_a_pipeline(tiny_bert, backend):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    theirs = similarity_ranker()(
        model=tiny_bert, top_k=3, query_prefix="a ", document_suffix=" city", meta_fields_to_embed=["title"]
    )
    given = documents(meta={"title": "germany"})
    theirs.warm_up()
    expected = theirs.run(query="the hut", documents=given)["documents"]
    theirs.backend = backend  # set late: without optimum, theirs runs on torch only
    found = migrated(theirs).run({"ranker": {"query": "the hut", "documents": given}})["ranker"]
    assert found["report"]["backend"] == backend
    assert [d.id for d in found["documents"]] == [d.id for d in expected]
    assert [d.score for d in found["documents"]] == pytest.approx([d.score for d in expected], abs=1e-4)


def test_every_parameter_of_haystacks_ranker_survives_the_change_of_type(tiny_bert):
    changed = {
        "model": tiny_bert,
        "device": ComponentDevice.from_str("cpu"),
        "token": Secret.from_env_var("ANOTHER_TOKEN", strict=False),
        "top_k": 2,
        "query_prefix": "the ",
        "query_suffix": " hut",
        "document_prefix": "a ",
        "document_suffix": " car",
        "meta_fields_to_embed": ["title"],
        "embedding_separator": " . ",
        "scale_score": False,
        "score_threshold": -1.5,
        "trust_remote_code": True,
        "model_kwargs": {"attn_implementation": "eager"},
        "tokenizer_kwargs": {"model_max_length": 64},
        "config_kwargs": {"classifier_dropout": 0.0},
        "backend": "torch",
        "batch_size": 3,
    }
    theirs = similarity_ranker()
    assert set(changed) == set(inspect.signature(theirs.__init__).parameters) - {"self"}
    ranker = migrated(theirs(**changed)).get_component("ranker")
    assert {name: getattr(ranker, name) for name in changed} == changed
    given = documents(meta={"title": "germany"})
    expected = theirs(**changed)
    expected.warm_up()
    found = ranker.run("snow", given)
    assert found["report"]["batches"] > 1
    assert [(d.id, pytest.approx(d.score, abs=1e-4)) for d in found["documents"]] == [
        (d.id, d.score) for d in expected.run(query="snow", documents=given)["documents"]
    ]


def test_the_defaults_are_haystacks_but_for_what_the_manual_lists():
    theirs, ours = (inspect.signature(made.__init__).parameters for made in (similarity_ranker(), CrossEncoderRanker))
    differing = {
        name for name, parameter in theirs.items() if name != "token" and parameter.default != ours[name].default
    }
    assert differing == {"model", "batch_size"}
    assert theirs["token"].default.to_dict() == ours["token"].default.to_dict()
    assert ours["model"].default.replace("L6", "L-6") == theirs["model"].default
    page = (REPOSITORY / "docs" / "coming_from.md").read_text(encoding="utf-8")
    listed = page.split("Deliberate differences:")[1].split("\n\n")[1]
    assert all(f"| `{name}`" in listed for name in differing)


def test_what_it_computes_in_is_chosen_reported_and_saved(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, dtype="bfloat16")
    assert made.to_dict()["init_parameters"]["dtype"] == "bfloat16"
    again = CrossEncoderRanker.from_dict(made.to_dict())
    assert again.run("the hut", documents())["report"]["dtype"] == "bfloat16"
    assert CrossEncoderRanker(model=tiny_bert).run("the hut", documents())["report"]["dtype"] == "float32"
    with pytest.raises(ValueError, match=r"dtype='float32' and model_kwargs\['torch_dtype'\] say the same thing"):
        CrossEncoderRanker(model=tiny_bert, dtype="float32", model_kwargs={"torch_dtype": "bfloat16"})


def test_it_round_trips_through_yaml_with_plain_values(tiny_bert):
    for device in (None, ComponentDevice.from_str("cpu")):
        kwargs = {"attn_implementation": "eager"}
        made = CrossEncoderRanker(model=tiny_bert, device=device, model_kwargs=kwargs, name="second", top_k=3)
        pipeline = Pipeline()
        pipeline.add_component("ranker", made)
        described = pipeline.dumps()
        assert Pipeline.loads(described).dumps() == described
        data = made.to_dict()
        before = copy.deepcopy(data)
        again = CrossEncoderRanker.from_dict(data)
        assert data == before
        assert again.to_dict() == before
        assert (data["init_parameters"]["device"] is None) == (device is None)
        assert kwargs == {"attn_implementation": "eager"}


def test_a_secret_is_saved_by_its_name_only():
    made = CrossEncoderRanker(token=Secret.from_env_var("ANOTHER_TOKEN", strict=False))
    assert made.to_dict()["init_parameters"]["token"]["env_vars"] == ["ANOTHER_TOKEN"]
    assert CrossEncoderRanker.from_dict(CrossEncoderRanker(token=None).to_dict()).token is None
    with pytest.raises(ValueError, match="serialize token-based secret"):
        CrossEncoderRanker(token=Secret.from_token("not to be written")).to_dict()


LOAD = """
import sys
from haystack import Pipeline
ranker = Pipeline.loads(sys.stdin.read()).get_component("ranker")
print("sentence_transformers" in sys.modules, ranker.model)
"""


def test_a_fresh_process_trusts_a_saved_pipeline_and_loads_no_model_yet(tiny_bert):
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=tiny_bert))
    done = subprocess.run(
        [sys.executable, "-c", LOAD], input=pipeline.dumps(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", tiny_bert]


def test_a_misspelt_parameter_in_a_yaml_is_named(tiny_bert):
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=tiny_bert))
    with pytest.raises(DeserializationError, match="top_n"):
        Pipeline.loads(pipeline.dumps().replace("top_k", "top_n"))


def test_a_ranking_says_what_was_read_and_changes_no_input(ranker):
    given = [*documents(), Document(id="long", content=LONG, meta={"ce_ranker": {"bm25": {"score": 2.0, "rank": 1}}})]
    before = copy.deepcopy(given)
    found = ranker.run("the hut of berlin", given)
    assert given == before
    ranked, report = found["documents"], found["report"]
    assert [d.score for d in ranked] == sorted((d.score for d in ranked), reverse=True)
    assert set(report["scored"]) == {d.id for d in given}
    assert report["documents"] == 6
    assert report["tokens"] > report["pairs"] >= 6
    assert 1 <= report["batches"] <= report["pairs"]
    assert 0 <= report["padding_share"] < 1
    assert report["flops"] > report["padding_flops"] >= 0
    assert set(report["seconds"]) == {"tokenise", "select", "score"}
    assert report["documents_cut"] == 1
    assert report["tokens_unread"] > 0
    assert report["query_tokens_cut"] == 0
    assert list(report["coverage"]) == ["long"]
    for rank, document in enumerate(ranked, start=1):
        note = document.meta["ce_ranker"]["cross_encoder"]
        assert note["rank"] == rank
        assert document.score == pytest.approx(1 / (1 + math.exp(-note["logit"])))
        assert note["logit"] == report["scored"][document.id]
        assert note["scored"] == 6
        assert note["lowest"] == min(report["scored"].values())
    long = next(d for d in ranked if d.id == "long")
    assert long.meta["ce_ranker"]["bm25"] == {"score": 2.0, "rank": 1}
    note = long.meta["ce_ranker"]["cross_encoder"]
    assert 0 < note["coverage"] < 1
    assert any("berlin" in LONG[part["start"] : part["end"]] for part in note["read"])


def test_passages_hold_only_what_the_model_liked_best(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, return_passages=True, passage_tokens=32, passage_stride=16)
    given = [Document(id="long", content=LONG, meta={"page": 3}), Document(id="none", content=None)]
    found = made.run("the hut of berlin", given)
    passage = next(p for p in found["passages"] if p.meta["parent_id"] == "long")
    assert passage.content == LONG[passage.meta["passage_start"] : passage.meta["passage_end"]]
    assert len(passage.content) < len(LONG) / 5
    assert passage.meta["page"] == 3
    assert len(found["passages"]) == 2
    again = made.run("the hut of berlin", given)["passages"]
    assert [p.id for p in again] == [p.id for p in found["passages"]]
    assert len({p.id for p in [*again, *given]}) == 4


@pytest.mark.parametrize(
    ("content", "passage"),
    [
        ("A hut. It is in the snow, which is deep. " * 9, "A hut. It is in the snow, which is deep. A hut. "),
        ("the hut of berlin is in the deep snow of a mountain of germany " * 9,
         "the hut of berlin is in the deep snow of a mountain of germany "),
        ("x" * 900, "x" * 64),
        ("Art. 5 is long and has no end of its own here or anywhere else in it " * 9,
         "Art. 5 is long and has no end of its own here or anywhere else "),
        ("\n" * 200 + "a hut\tin\u00a0the\tsnow\t" * 40, "a hut\tin\u00a0the\tsnow\t" * 3 + "a hut\tin\u00a0"),
        ("é" * 900, "é" * 64),
        ("e\u0301" * 63 + "x" * 900, ("e\u0301" * 63)[:64]),
        ("x" * 63 + "e\u0301" * 900, "x" * 63 + "e\u0301"),
        (" \n ", " \n "),
        ("the hut", "the hut"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_passage_of_a_document_without_a_score_is_its_beginning(tiny_bert, content, passage):
    made = CrossEncoderRanker(model=tiny_bert, return_passages=True, passage_tokens=16, passage_stride=8, depth=1)
    found = made.run("the hut of berlin", [Document(id="first", content="a hut"), Document(id="x", content=content)])
    [one] = [one for one in found["passages"] if one.meta["parent_id"] == "x"]
    start, end = one.meta["passage_start"], one.meta["passage_end"]
    assert one.content == content[start:end] == passage


def test_top_k_threshold_and_scale_at_run_time(ranker):
    given = documents()
    raw = ranker.run("the hut", given, scale_score=False)["documents"]
    assert [d.score for d in raw] == [d.meta["ce_ranker"]["cross_encoder"]["logit"] for d in raw]
    assert len(ranker.run("the hut", given, top_k=2)["documents"]) == 2
    middle = raw[2].score
    kept = ranker.run("the hut", given, scale_score=False, score_threshold=middle)["documents"]
    assert [d.id for d in kept] == [d.id for d in raw[:3]]


def test_ties_keep_the_incoming_order_and_the_better_duplicate_stays(ranker):
    same = [Document(id=name, content="the hut") for name in "cab"]
    found = ranker.run("the hut", same)
    assert [d.id for d in found["documents"]] == ["c", "a", "b"]
    assert len({d.score for d in found["documents"]}) == 1
    assert (found["report"]["pairs"], found["report"]["cached"]) == (1, 2)
    twice = [
        Document(id="x", content="low", score=None),
        Document(id="x", content="high", score=0.5),
        Document(id="x", content="nan", score=float("nan")),
    ]
    found = ranker.run("the hut", twice)
    assert [d.content for d in found["documents"]] == ["high"]
    assert found["report"]["duplicates"] == 2


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_documents_without_text_are_not_scored(ranker, content):
    (found,) = ranker.run("the hut", [Document(id="x", content=content)])["documents"]
    assert found.score is None
    assert found.meta["ce_ranker"]["cross_encoder"]["why_unscored"] == "no_text"


def test_no_documents_and_an_empty_query(ranker):
    found = ranker.run("the hut", [])
    assert found["documents"] == []
    assert found["report"]["scored"] == {}
    assert len(ranker.run("", documents())["documents"]) == 5


def test_scores_that_come_in_as_nan_do_not_matter(ranker):
    given = [Document(id=str(n), content=t, score=float("nan")) for n, t in enumerate(TEXTS)]
    assert all(math.isfinite(d.score) for d in ranker.run("the hut", given)["documents"])


@pytest.mark.parametrize(
    "text",
    [
        "half \udfff of a pair",
        "nul \0 inside",
        "\u202eשלום عربي",
        "👩‍👩‍👧‍👧🏴‍☠️",
        "Z̷̢̛e\u0301",
        "\u2003\u200b",
        "\x1b[31m",
    ],
)
def test_any_unicode_is_read_as_query_and_as_document_with_true_offsets(tiny_bert, text):
    made = CrossEncoderRanker(model=tiny_bert, return_passages=True)
    given = [Document(id="short", content=text), Document(id="long", content=f"{text} a hut, " * 60)]
    found = made.run(text, given)
    json.dumps(found["report"])
    assert found["report"]["documents"] == 2
    for document in found["documents"]:
        note = document.meta["ce_ranker"]["cross_encoder"]
        assert note["logit"] is None if text == "\u2003\u200b" else math.isfinite(note["logit"])
        assert all(0 <= part["start"] <= part["end"] <= len(document.content) for part in note["read"])
    for passage in found["passages"]:
        whole = given[passage.meta["parent_id"] == "long"].content
        assert passage.content == whole[passage.meta["passage_start"] : passage.meta["passage_end"]]


def test_a_megabyte_of_content_costs_as_few_tokens_as_any_long_document(ranker):
    given = [Document(id="x", content="the car is in the city. " * 41_000 + "the hut of berlin."), *documents()]
    found = ranker.run("the hut of berlin", given)
    assert found["report"]["tokens"] < 500
    (huge,) = [d for d in found["documents"] if d.id == "x"]
    assert any(part["end"] == len(huge.content) for part in huge.meta["ce_ranker"]["cross_encoder"]["read"])


def test_thousands_of_candidates_are_ranked_and_all_reported(ranker):
    given = [Document(id=str(n), content=f"{TEXTS[n % 5]} {n}") for n in range(3_000)]
    _, few = calls(ranker.run, "the hut", given[:300], top_k=300)
    found, many = calls(ranker.run, "the hut", given, top_k=3_000)
    assert len(found["documents"]) == len(found["report"]["scored"]) == 3_000
    assert [d.meta["ce_ranker"]["cross_encoder"]["rank"] for d in found["documents"]] == list(range(1, 3_001))
    assert many < 15 * few  # ten times the documents: nothing is done for each pair of them


def test_dictionaries_from_a_servers_request_are_read_as_documents(ranker):
    given = documents(meta={"page": 3})
    expected = ranker.run("the hut", given)["documents"]
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=ranker.model, passage_tokens=32, passage_stride=16))
    for flatten in (True, False):
        request = [d.to_dict(flatten=flatten) for d in given]
        before = copy.deepcopy(request)
        found = pipeline.run({"ranker": {"query": "the hut", "documents": request}})["ranker"]["documents"]
        assert found == expected
        assert request == before


@pytest.mark.parametrize("given", [None, "the hut", Document(content="a"), ["the hut"], [None]])
def test_what_is_not_a_list_of_documents_is_named(ranker, given):
    with pytest.raises(TypeError, match="documents must be a list of Documents, but"):
        ranker.run("the hut", given)


@pytest.mark.parametrize("score_threshold", [float("nan"), "0.5", True])
def test_a_threshold_must_be_a_number(ranker, score_threshold):
    with pytest.raises(ValueError, match="score_threshold must be a number"):
        CrossEncoderRanker(score_threshold=score_threshold)
    with pytest.raises(ValueError, match="score_threshold must be a number"):
        ranker.run("q", [], score_threshold=score_threshold)


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5])
def test_top_k_must_be_a_positive_number(ranker, top_k):
    with pytest.raises(ValueError, match="top_k must be a whole number >= 1, but got"):
        CrossEncoderRanker(top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be a whole number >= 1, but got"):
        ranker.run("q", [], top_k=top_k)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backend": "jax"}, "backend must be one of 'torch', .*, but got 'jax'"),
        ({"dtype": "int4"}, "dtype must be one of 'auto', 'float32', 'float16', 'bfloat16' or None, but got 'int4'"),
        ({"on_truncation": "cut"}, "on_truncation must be one of"),
        ({"name": ""}, "name must not be empty"),
        (
            {"model": " "},
            "model must be a hub id, .*'package:<name>/<path>' or a server's address, but got ' '",
        ),
        ({"meta_fields_to_embed": "title"}, "meta_fields_to_embed must be a list of names or None, but got 'title'"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1 or None"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1 or None"),
        ({"threads": "2"}, "threads must be a whole number >= 1 or None"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number >= 1 or None"),
        ({"long_documents": "tail"}, "long_documents must be one of"),
    ],
)
def test_parameters_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderRanker(**parameters)


def test_a_query_must_be_a_text(ranker):
    with pytest.raises(ValueError, match="query must be a text, but got None"):
        ranker.run(None, [])


def test_a_query_longer_than_the_model_is_reported(ranker):
    report = ranker.run("the hut " * 200, documents([LONG]))["report"]
    assert 0 < report["query_tokens_cut"] < report["query_tokens"]


def test_truncation_can_warn_or_be_refused(tiny_bert, caplog):
    with caplog.at_level(logging.WARNING):
        CrossEncoderRanker(model=tiny_bert, on_truncation="warn").run("the hut", documents([LONG, "a"]))
    assert "1 of 2 documents were not read whole, 0 of them not at all" in caplog.text
    strict = CrossEncoderRanker(model=tiny_bert, on_truncation="error")
    with pytest.raises(ValueError, match=r"1 of 2 documents do not fit .* d0 "):
        strict.run("the hut", documents([LONG, "a"]))
    assert len(strict.run("the hut", documents(["a"]))["documents"]) == 1


def test_what_a_budget_would_cut_is_refused_before_any_scoring(tiny_bert):
    given = documents(["a hut in the snow", "a car", ""])
    tokens = CrossEncoderRanker(model=tiny_bert).run("the hut", given)["report"]["tokens"]
    strict = CrossEncoderRanker(model=tiny_bert, on_truncation="error", max_tokens_per_query=tokens)
    assert strict.run("the hut", given)["report"]["documents_cut"] == 0
    strict = CrossEncoderRanker(model=tiny_bert, on_truncation="error", max_tokens_per_query=tokens - 1)
    with pytest.raises(ValueError, match=f"have {tokens} tokens, more than max_tokens_per_query={tokens - 1}"):
        strict.run("the hut", given)


def test_dictionaries_are_read_as_documents_and_stay_as_they_are(tiny_bert, monkeypatch):
    """Haystack before 2.31 takes the meta out of the dictionary that it reads."""

    def taking(data):
        return Document(content=data["content"], meta=data.pop("meta"))

    monkeypatch.setattr(ranker_documents.Document, "from_dict", staticmethod(taking))
    given = [{"content": "a hut", "meta": {"title": "snow"}}]
    before = copy.deepcopy(given)
    made = CrossEncoderRanker(model=tiny_bert, meta_fields_to_embed=["title"])
    assert made.run("snow", given)["documents"][0].meta["title"] == "snow"
    assert given == before


def test_an_array_without_a_dimension_is_a_value_like_others(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, meta_fields_to_embed=["year"])
    scores = [
        made.run("dogs", [Document(content="dogs", meta={"year": year})])["documents"][0].score
        for year in (np.array(5), 5)
    ]
    assert scores[0] == scores[1]


def test_embedded_fields_that_leave_no_room_keep_their_document_from_being_scored(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, meta_fields_to_embed=["title"])
    found = made.run("q", [Document(content="a", meta={"title": "the car " * 90}), Document(content="a")])
    assert [document.meta.get("title") is None for document in found["documents"]] == [True, False]
    assert found["report"]["why_unscored"] == {"no_room": 1}


def test_a_shared_budget_leaves_the_rest_below_in_order(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, max_tokens_per_query=90)
    found = made.run("the hut", documents([f"{LONG} {n}" for n in range(5)]))
    assert found["report"]["tokens"] <= 90
    unscored = found["report"]["unscored"]
    assert unscored
    assert [d.id for d in found["documents"]][-len(unscored) :] == unscored
    assert all(d.score is None for d in found["documents"] if d.id in unscored)


def test_onnx_weights_without_their_backend_say_which_backend_to_set(tmp_path):
    import_torch()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OSError, match=r"only ONNX weights \(onnx.model.onnx\) in .*: set backend='onnx'"):
        CrossEncoderRanker(model=tmp_path).warm_up()


def test_a_folder_without_safetensors_says_what_it_holds(tmp_path):
    import_torch()
    with pytest.raises(OSError, match="no weights as safetensors in .*, which holds nothing"):
        CrossEncoderRanker(model=tmp_path).warm_up()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(OSError, match="which holds pytorch_model.bin.*convert them to safetensors"):
        CrossEncoderRanker(model=tmp_path).warm_up()


def test_many_threads_that_meet_a_cold_ranker_load_the_model_once(tiny_bert, monkeypatch):
    loads, load = [], loading.load

    def slowly(*arguments):
        loads.append(threading.get_ident())
        time.sleep(0.1)
        return load(*arguments)

    monkeypatch.setattr(loading, "load", slowly)
    cold = CrossEncoderRanker(model=tiny_bert)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cold.run("the hut", documents())["report"]["scored"], range(16)))
    cold.warm_up()
    assert len(loads) == 1
    assert all(scored == found[0] for scored in found)


def test_an_asynchronous_pipeline_ranks_several_requests_at_once(ranker):
    pipeline = AsyncPipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=ranker.model, passage_tokens=32, passage_stride=16))
    queries = ["the hut", "a car", "berlin", "paris in snow"]

    async def all_of_them():
        requests = ({"ranker": {"query": query, "documents": documents([*TEXTS, LONG])}} for query in queries)
        return await asyncio.gather(*(pipeline.run_async(request) for request in requests))

    for query, found in zip(queries, asyncio.run(all_of_them()), strict=True):
        expected = ranker.run(query, documents([*TEXTS, LONG]))["documents"]
        assert [d.id for d in found["ranker"]["documents"]] == [d.id for d in expected]


def test_errors_of_loading_are_clear(monkeypatch, two_label_bert, tmp_path):
    with pytest.raises(OSError, match="no/such-model"):
        CrossEncoderRanker(model="no/such-model").warm_up()
    with pytest.raises(ValueError, match="2 output labels"):
        CrossEncoderRanker(model=two_label_bert).warm_up()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"\[onnx\]"):
        CrossEncoderRanker(model=str(tmp_path), backend="onnx").warm_up()


def test_async_threads_and_copies_give_the_same(ranker):
    given = documents()

    def ids(found):
        return [d.id for d in found["documents"]]

    expected = ids(ranker.run("the hut", given))
    assert ids(asyncio.run(ranker.run_async("the hut", given))) == expected
    with ThreadPoolExecutor(8) as pool:
        assert all(ids(found) == expected for found in pool.map(lambda _: ranker.run("the hut", given), range(24)))
    assert ids(copy.deepcopy(ranker).run("the hut", given)) == expected


def test_two_rankers_keep_their_own_records_inside_a_super_component(tiny_bert):
    pipeline = Pipeline()
    pipeline.add_component("one", CrossEncoderRanker(model=tiny_bert, name="one"))
    pipeline.add_component("two", CrossEncoderRanker(model=tiny_bert, name="two", top_k=2))
    pipeline.connect("one.documents", "two.documents")
    both = SuperComponent(
        pipeline,
        input_mapping={"query": ["one.query", "two.query"], "documents": ["one.documents"]},
        output_mapping={"two.documents": "documents"},
    )
    found = both.run(query="the hut", documents=documents())["documents"]
    assert len(found) == 2
    assert set(found[0].meta["ce_ranker"]) == {"one", "two"}


def test_numpy_scalars_are_taken_and_saved_as_plain_numbers(tiny_bert):
    parameters = {"top_k": np.int64(3), "score_threshold": np.float32(0.5), "max_length": np.int64(64)}
    made = CrossEncoderRanker(model=tiny_bert, deadline_ms=np.float64(9e9), **parameters)
    pipeline = Pipeline()
    pipeline.add_component("ranker", made)
    again = Pipeline.loads(pipeline.dumps()).get_component("ranker")
    assert (again.top_k, again.score_threshold, again.max_length) == (3, 0.5, 64)
    assert len(made.run("hut", [Document(content="snow")], top_k=np.int32(1), score_threshold=0.0)["documents"]) == 1


def test_every_parameter_is_saved(tiny_bert):
    parameters = inspect.signature(CrossEncoderRanker.__init__).parameters.keys() - {"self"}
    made = CrossEncoderRanker(model=tiny_bert, model_kwargs={"a": 1}, meta_fields_to_embed=["title"])
    saved = made.to_dict()["init_parameters"]
    assert saved.keys() == parameters == set(made.__annotations__)
    saved["model_kwargs"]["a"] = 2
    saved["meta_fields_to_embed"].append("other")
    assert (made.model_kwargs, made.meta_fields_to_embed) == ({"a": 1}, ["title"])


def test_a_closed_ranker_releases_its_model_and_loads_it_again(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert)
    made.close()  # before anything was loaded
    documents = [Document(content="the hut"), Document(content="snow")]
    before = made.run("hut", documents)["documents"]
    loaded = weakref.ref(made._scorer.backend)
    made.close()
    made.close()
    gc.collect()
    assert loaded() is None
    assert made.run("hut", documents)["documents"] == before


def test_closing_waits_for_a_load_without_blocking_the_event_loop(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert)
    lock, seen = ranker_loading.loading(), threading.Event()

    def load():
        with lock:
            held.set()
            seen.wait(10)  # or, if the loop is blocked, until it must see that nothing is held any longer

    held = threading.Event()
    loads = threading.Thread(target=load)
    loads.start()
    held.wait()

    async def live():
        closing = asyncio.ensure_future(made.close_async())
        await asyncio.sleep(0.05)
        waits = lock.locked()
        seen.set()
        await closing
        return waits

    assert asyncio.run(live())
    loads.join()


def test_a_system_without_a_thread_left_does_not_stop_later_runs(tiny_bert, monkeypatch):
    made = CrossEncoderRanker(model=tiny_bert, deadline_ms=60_000)
    given = documents(["a hut"])
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            made.run("hut", given)
    assert made.run("hut", given)["documents"][0].score is not None


def _no_thread(_):
    raise RuntimeError("can't start new thread")


def test_the_async_lifecycle_does_what_the_other_does(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert)

    async def live():
        await made.warm_up_async()
        loaded = made._scorer is not None
        await made.close_async()
        return loaded, made._scorer is None

    assert asyncio.run(live()) == (True, True)


def test_a_ranker_may_be_closed_while_it_runs(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert)
    documents = [Document(content=f"the hut {place}") for place in range(5)]
    expected = made.run("hut", documents)["documents"]
    found = []
    threads = [threading.Thread(target=lambda: found.append(made.run("hut", documents)["documents"])) for _ in range(6)]
    for thread in threads:
        thread.start()
        made.close()
    for thread in threads:
        thread.join(timeout=60)
    assert [[document.id for document in one] for one in found] == [[document.id for document in expected]] * 6


def test_the_report_says_by_which_matches_windows_were_chosen(tiny_bert):
    soft = CrossEncoderRanker(model=tiny_bert, passage_tokens=32, passage_stride=16, passage_matches="soft")
    again = CrossEncoderRanker.from_dict(soft.to_dict())
    assert again.passage_matches == "soft"
    assert again.run("the hut", documents([LONG]))["report"]["passage_matches"] == "soft"
    older = soft.to_dict()
    del older["init_parameters"]["passage_matches"]  # a pipeline of before
    loaded = CrossEncoderRanker.from_dict(older)
    assert loaded.run("the hut", documents([LONG]))["report"]["passage_matches"] == "exact"
