"""Loaded models are shared: one load for all rankers that name a model alike, released with the last of them."""

import copy
import gc
import json
import os
import shutil
import weakref

import pytest
from haystack import Document
from haystack.utils import Secret
from tokenizers import AddedToken

from fakes import FakeBackend, in_a_child, save_bert
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.scoring import sharing
from haystack_ce_ranker.scoring.sharing import shared_runner

DOCUMENTS = [Document(content=text) for text in ("the hut in the snow", "a car", "paris is a city")]


@pytest.fixture
def loads(monkeypatch):
    """The options of all models that were loaded."""
    found, load = [], loading.load

    def counted(name, options):
        found.append(options)
        return load(name, options)

    monkeypatch.setattr(loading, "load", counted)
    return found


def ranking(ranker):
    return ranker.run("the hut", DOCUMENTS)["documents"]


def test_rankers_of_one_model_load_it_once_and_share_what_runs_it(tiny_bert, loads):
    first, second = (CrossEncoderRanker(model=tiny_bert, model_kwargs={}, top_k=top_k) for top_k in (2, 3))
    small = CrossEncoderRanker(model=tiny_bert, batch_size=1)
    assert ranking(first) == ranking(second)[:2]
    assert [one.id for one in ranking(small)] == [one.id for one in ranking(second)]
    assert len(loads) == 1
    assert first._scorer.runner is second._scorer.runner
    assert small._scorer.runner is not first._scorer.runner  # its batches have another limit
    assert small._scorer.backend is first._scorer.backend


OTHERS = [
    {"dtype": "bfloat16"},
    {"threads": 1},
    {"prompt": "find it: "},
    {"label": 0},
    {"token": Secret.from_token("another")},
    {"revision": "main"},
    {"tokenizer_kwargs": {"model_max_length": 64}},
    {"config_kwargs": {"hidden_dropout_prob": 0.2}},
    {"model_kwargs": {"attn_implementation": "eager"}},
    {"trust_remote_code": True},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_other_options_are_another_model(tiny_bert, loads, other):
    plain, special = CrossEncoderRanker(model=tiny_bert), CrossEncoderRanker(model=tiny_bert, **other)
    plain.warm_up()
    special.warm_up()
    assert len(loads) == 2
    assert plain._scorer.backend is not special._scorer.backend


def test_options_are_alike_by_value_and_objects_by_identity():
    def key(**kwargs):
        return sharing._key(ModelOptions("a", model_kwargs=kwargs))

    mark = AddedToken("<a>")
    assert key(a=[1, {"b": 2.5}], c="d") == key(c="d", a=[1, {"b": 2.5}])
    assert key(a=mark) == key(a=mark) != key(a=AddedToken("<a>"))
    assert len({key(a=1), key(a=True), key(a=1.0), key(a="1"), key(a=None), key()}) == 6


def test_a_model_is_released_with_the_last_ranker_that_uses_it(tiny_bert, loads):
    first, second = CrossEncoderRanker(model=tiny_bert), CrossEncoderRanker(model=tiny_bert)
    ranking(first)
    ranking(second)
    third = copy.deepcopy(second)
    loaded = weakref.ref(first._scorer.backend)
    first.close()
    gc.collect()
    ranking(first)  # takes it again
    assert len(loads) == 1
    first.close()
    del second
    gc.collect()
    assert loaded() is third._scorer.backend
    third.close()
    gc.collect()
    assert loaded() is None
    ranking(third)
    assert len(loads) == 2


def replace_weights(folder, spread):
    other = folder.with_name("other")
    save_bert(other, spread=spread)
    new, old = other / "model.safetensors", folder / "model.safetensors"
    kept = old.stat()
    os.utime(new, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    new.replace(old)
    return kept, old.stat()


def test_a_file_that_was_replaced_is_loaded_by_the_next_ranker(tiny_bert, tmp_path, loads):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    before = CrossEncoderRanker(model=folder, scale_score=False)
    old = [one.score for one in ranking(before)]
    kept, now = replace_weights(folder, 0.3)
    assert (kept.st_size, kept.st_mtime_ns) == (now.st_size, now.st_mtime_ns)  # looks the same
    after = CrossEncoderRanker(model=folder, scale_score=False)
    assert [one.score for one in ranking(after)] != old
    assert [one.score for one in ranking(before)] == old  # has what it loaded
    assert len(loads) == 2


def test_a_replaced_model_below_an_adapter_is_another_model(tmp_path):
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    adapter.mkdir()
    base.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = sharing._files(ModelOptions(str(adapter)))
    assert sharing._files(ModelOptions(str(adapter))) == before
    (base / "model.safetensors").write_text("weights")
    assert sharing._files(ModelOptions(str(adapter))) != before
    (adapter / "adapter_config.json").write_text("[]")
    assert sharing._files(ModelOptions(str(adapter)))[1] == ()


def test_a_model_that_does_not_load_is_tried_again(tmp_path, tiny_bert):
    folder = tmp_path / "late"
    for _ in range(2):
        with pytest.raises(OSError, match="was not found"):
            shared_runner("torch", ModelOptions(str(folder)))
    shutil.copytree(tiny_bert, folder)
    assert shared_runner("torch", ModelOptions(str(folder))).backend.name == "torch"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_models_of_its_own(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_: FakeBackend())
    options = ModelOptions("a/model")
    runner = shared_runner("torch", options)

    def has_its_own():
        own = shared_runner("torch", options)  # of a GPU, it could not use the parent's
        return own is not runner and own is shared_runner("torch", options)

    assert in_a_child(has_its_own) == 0
    assert shared_runner("torch", options) is runner


def test_an_adapter_s_base_is_looked_at_only_if_it_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/"}', encoding="utf-8")
    assert sharing._changed_by_adapter(tmp_path) is None  # or all files of the disk would be asked for their state
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}", encoding="utf-8")
    told = json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    (tmp_path / "adapter_config.json").write_text(told, encoding="utf-8")
    assert sharing._changed_by_adapter(tmp_path) == tmp_path / "base"
    for broken in ("[" * 100_000, "[]", '{"base_model_name_or_path": 5}'):
        (tmp_path / "adapter_config.json").write_text(broken, encoding="utf-8")
        assert sharing._changed_by_adapter(tmp_path) is None
