"""The sweep: which systems are measured, what they are called, and what is refused."""

import pytest

from fakes import REPOSITORY, import_embedders, import_torch
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.running import sweep
from haystack_ce_ranker.evaluation.running.groups import GivenRun


def collection(words=5, documents=4):
    texts = {f"d{n}": Text(f"d{n}", "", "word " * words) for n in range(documents)}
    return Collection("c", texts, {"q": "word"}, {"q": {"d0": 1}})


def test_names_say_what_tells_systems_apart_and_no_more():
    one = sweep.plan(collection(), models=["a/small"], backends=["torch"], depths=(20, 10))
    assert one.names == [
        "bm25",
        *("cross-encoder@10", "hybrid@10", "adaptive hybrid@10"),
        *("cross-encoder@20", "hybrid@20", "adaptive hybrid@20"),
    ]
    two = sweep.plan(collection(), models=["a/small", "a/big"], backends=["torch", "onnx"], depths=(5,))
    assert "cross-encoder small torch@5" in two.names
    assert "hybrid big onnx@5" in two.names
    assert "adaptive hybrid small onnx@5" in two.names
    assert len(two.names) == len(set(two.names)) == 13


def test_every_first_stage_is_reranked_by_itself():
    import_embedders()
    planned = sweep.plan(collection(), models=["m"], backends=["torch"], depths=(5,), bi_encoder="some/bi-encoder")
    assert planned.names == [
        "bm25",
        "bi-encoder",
        "cross-encoder after bm25@5",
        "hybrid after bm25@5",
        "adaptive hybrid after bm25@5",
        "cross-encoder after bi-encoder@5",
        "hybrid after bi-encoder@5",
        "adaptive hybrid after bi-encoder@5",
    ]


def test_long_documents_are_also_read_by_their_head_for_comparison():
    options = {"models": ["m"], "backends": ["torch"], "strategies": []}
    assert [one.strategy for one in sweep.variants(collection(words=9), **options)] == ["best_passages"]
    long = collection(words=400)
    assert [one.strategy for one in sweep.variants(long, **options)] == ["best_passages", "head"]
    assert [one.strategy for one in sweep.variants(long, **{**options, "strategies": ["windows"]})] == ["windows"]


def test_without_a_backend_every_installed_one_is_tried_and_may_fail():
    import_torch()
    tried = sweep.variants(collection(), models=["m"], backends=[], strategies=[])
    assert "torch" in {one.backend for one in tried}
    assert "auto" not in {one.backend for one in tried}
    assert not any(one.required for one in tried)
    planned = sweep.plan(collection(), models=["m"], depths=(5,))
    assert len(planned.optional) == len(tried)
    named = sweep.plan(collection(), models=["m"], backends=["torch"], depths=(5,))
    assert named.optional == frozenset()


def test_pipelines_alone_leave_the_sweep_out(tmp_path):

    examples = REPOSITORY / "examples"
    planned = sweep.plan(collection(), pipelines=[examples / "pipeline.yaml"])
    assert all(name.startswith("pipeline/") for name in planned.names)
    assert planned.variants == ()
    both = sweep.plan(collection(), pipelines=[examples / "pipeline.yaml"], models=["m"], backends=["torch"])
    assert both.names[0] == "bm25"
    assert both.names[-1].startswith("pipeline/")


def test_a_run_takes_the_place_of_every_first_stage():
    run = GivenRun("run.mine", {"q": {"d0": 1.0}})
    planned = sweep.plan(collection(), models=["m"], backends=["torch"], depths=(5,), run=run)
    assert planned.names[0] == "run.mine"
    assert "bm25" not in planned.names
    with pytest.raises(ValueError, match="bi_encoder 'b' cannot find candidates"):
        sweep.plan(collection(), bi_encoder="b", run=run)


@pytest.mark.parametrize(
    ("name", "scores", "given_as", "stage"),
    [
        ("run.bm25", [12.5, 3.0], "bm25", "bm25"),
        ("run.mine", [12.5, 0.3], "first_stage", "bm25"),
        ("run.mine", [0.9, 0.3], "first_stage", "dense"),
        ("run.mine", [7.0, -0.3], "first_stage", "dense"),
    ],
)
def test_a_runs_scores_are_bm25s_only_if_they_can_be(name, scores, given_as, stage):
    run = GivenRun(name, {"q": {f"d{place}": score for place, score in enumerate(scores)}})
    planned = sweep.plan(collection(), models=["m"], backends=["torch"], depths=(5,), run=run)
    assert run.noted_as == planned.groups[1]._stage == stage
    assert planned.groups[1]._given_as == sweep.given_as_of(name) == given_as


def test_a_rerankers_key_changes_with_the_documents_behind_a_run():
    run = GivenRun("run.mine", {"q": {"d0": 1.0}})
    options = {"models": ["m"], "backends": ["torch"], "depths": (5,), "run": run}
    first, second = (sweep.plan(collection(words=words), **options).groups[1].key for words in (5, 6))
    assert first != second


def test_an_unknown_backend_is_refused_before_any_work():
    with pytest.raises(ValueError, match="backend must be one of 'torch'.* but got 'tensorflow'"):
        sweep.plan(collection(), backends=["tensorflow"])


@pytest.mark.parametrize("text", ["", "10,", "ten", "0", "-5", "1.5", "10;20"])
def test_depths_are_whole_numbers_parted_by_commas(text):
    with pytest.raises(ValueError, match="depth must be whole numbers > 0"):
        sweep.parse_depths(text)


def test_depths_are_sorted_and_each_counts_once():
    assert sweep.parse_depths("50, 10,20,10") == (10, 20, 50)


def test_the_default_model_is_the_installed_one_or_the_hubs(monkeypatch):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    assert sweep.default_model() == (sweep.HUB_MODEL, "torch")
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: object())
    assert sweep.default_model() == (sweep.OFFLINE_MODEL, "onnx")


def test_a_missing_embedder_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "haystack_integrations.components.embedders.sentence_transformers", None)
    with pytest.raises(ImportError, match="ce-ranker-haystack\\[embedders\\]"):
        sweep.plan(collection(), bi_encoder="b")


def test_two_models_also_make_a_cascade_of_the_first_and_then_the_second():
    planned = sweep.plan(collection(), models=["a/small", "a/big"], backends=["torch", "onnx"], depths=(10, 50))
    cascades = [group for group in planned.groups if group.names[0].startswith("cascade")]
    assert [group.names for group in cascades] == [
        ("cascade small torch then big torch@20",),
        ("cascade small onnx then big onnx@20",),
    ]
    assert [group.needs for group in cascades] == ["cross-encoder small torch@50", "cross-encoder small onnx@50"]
    assert len({group.key for group in planned.groups}) == len(planned.groups)
    assert planned.names.index("cross-encoder small torch@50") < planned.names.index(cascades[0].names[0])


@pytest.mark.parametrize(
    ("models", "depths"), [(["a/small"], (50,)), (["a/small", "a/big", "a/large"], (50,)), (["a", "b"], (10, 20))]
)
def test_one_model_three_models_or_small_depths_make_no_cascade(models, depths):
    planned = sweep.plan(collection(), models=models, backends=["torch"], depths=depths)
    assert not [name for name in planned.names if name.startswith("cascade")]


def test_a_cascade_over_each_first_stage_says_over_which():
    import_embedders()
    planned = sweep.plan(
        collection(), models=["s", "t"], backends=["torch"], depths=(30,), bi_encoder="some/bi-encoder"
    )
    assert [name for name in planned.names if name.startswith("cascade")] == [
        "cascade after bm25 s then t@20",
        "cascade after bi-encoder s then t@20",
    ]
