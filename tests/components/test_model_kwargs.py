"""What users give in `model_kwargs` for torch works, and is saved and read again; what cannot count is refused."""

import pytest
import torch
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice

from haystack_ce_ranker.backends import auto
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

DOCUMENTS = [Document(content="the hut in the snow"), Document(content="a car")]
CPU = ComponentDevice.from_str("cpu")


def reread(ranker):
    """The same ranker out of a pipeline's YAML."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    described = pipeline.dumps()
    again = Pipeline.loads(described)
    assert again.dumps() == described
    return again.get_component("ranker")


def scores(found):
    return [document.score for document in found["documents"]]


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.float16, "float16", "torch.float16"])
def test_a_dtype_is_taken_as_torch_has_it_and_as_a_text(tiny_bert, key, value):
    made = CrossEncoderRanker(model=tiny_bert, device=CPU, backend="torch", model_kwargs={key: value})
    again = reread(made)
    assert made.model_kwargs == {key: value}
    assert CrossEncoderRanker.from_dict(made.to_dict()).to_dict() == made.to_dict() == again.to_dict()
    found = made.run("the hut", DOCUMENTS)
    assert found["report"]["dtype"] == "float16"
    assert scores(again.run("the hut", DOCUMENTS)) == scores(found)


@pytest.mark.parametrize("value", ["torch.float16", "float16"])
def test_a_dtype_written_in_yaml_is_taken(tiny_bert, value):
    written = Pipeline()
    written.add_component("ranker", CrossEncoderRanker(model=tiny_bert, device=CPU, backend="torch"))
    described = written.dumps().replace("model_kwargs: null", f"model_kwargs: {{torch_dtype: {value}}}")
    ranker = Pipeline.loads(described).get_component("ranker")
    assert ranker.run("the hut", DOCUMENTS)["report"]["dtype"] == "float16"


def test_an_attention_is_taken_saved_and_read_again(tiny_bert):
    found = {}
    for attention in ("eager", "sdpa"):
        kwargs = {"attn_implementation": attention}
        ranker = reread(CrossEncoderRanker(model=tiny_bert, device=CPU, backend="torch", model_kwargs=kwargs))
        assert ranker.model_kwargs == kwargs
        found[attention] = scores(ranker.run("the hut", DOCUMENTS))
        assert ranker._scorer.backend.cross_encoder.model.config._attn_implementation == attention
    assert found["eager"] == pytest.approx(found["sdpa"], abs=1e-5)
    with pytest.raises(ValueError, match="nonsense.* is not supported"):
        CrossEncoderRanker(
            model=tiny_bert, device=CPU, backend="torch", model_kwargs={"attn_implementation": "nonsense"}
        ).warm_up()


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_is_taken_saved_and_read_again(tiny_bert, monkeypatch, device_map):
    pytest.importorskip("accelerate")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kwargs = {"device_map": device_map}
    ranker = reread(CrossEncoderRanker(model=tiny_bert, backend="torch", model_kwargs=kwargs))
    assert ranker.model_kwargs == kwargs
    plain = CrossEncoderRanker(model=tiny_bert, backend="torch", device=CPU)
    assert scores(ranker.run("the hut", DOCUMENTS)) == pytest.approx(scores(plain.run("the hut", DOCUMENTS)), abs=1e-5)
    assert auto.choose(ModelOptions(tiny_bert, model_kwargs=kwargs)).backend == "torch"


@pytest.mark.parametrize(
    ("backend", "device", "device_map", "message"),
    [
        ("torch", CPU, "auto", r"device='cpu' and model_kwargs\['device_map'\]='auto' both say where"),
        (
            "torch",
            None,
            "cuda:0",
            r"model_kwargs\['device_map'\] must be one that torch can use here, .* 'cuda:0'",
        ),
        ("openvino", None, "cpu", r"model_kwargs\['device_map'\] would have no effect: backend='openvino' computes on"),
    ],
)
def test_a_device_map_that_cannot_count_is_refused(tiny_bert, monkeypatch, backend, device, device_map, message):
    pytest.importorskip(backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ranker = CrossEncoderRanker(
        model=tiny_bert, backend=backend, device=device, model_kwargs={"device_map": device_map}
    )
    with pytest.raises(ValueError, match=message):
        ranker.warm_up()


def test_a_map_of_modules_is_kept_in_yaml_and_the_callers_dictionary_is_not_changed(tiny_bert):
    kwargs = {"device_map": {"bert.encoder": 0, "classifier": "cpu"}, "torch_dtype": torch.float16}
    before = dict(kwargs)
    ranker = reread(CrossEncoderRanker(model=tiny_bert, backend="torch", model_kwargs=kwargs))
    assert ranker.model_kwargs == kwargs == before
