"""A student cut from a cross-encoder is the same model with fewer layers, in a folder that the ranker loads."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.cutting import KEEPS, chosen_layers, cut
from zoo import deeper

PAIRS = [("where is the hut?", "the hut is in the snow"), ("yes or no?", "no"), ("Berlin", "snow near the hut, yes")]

ENCODERS = (
    *("bert", "bert, modular", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta", "camembert", "deberta-v2"),
    *("deberta-v3", "modernbert", "modernbert, mean", "modernbert, modular", "nomic-bert", "gte", "big-bird"),
    *("longformer", "t5 encoder", "fnet", "convbert", "qwen2", "qwen2, modular, mean", "qwen3, chat"),
    *("qwen3, chat, prompt", "qwen3, chat, tied", "qwen3, turns", "qwen2, causal without template"),
)


def raw(folder):
    model = CrossEncoder(folder, device="cpu")
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.unk_token
    return np.array([float(model.predict([pair], activation_fn=torch.nn.Identity())[0]) for pair in PAIRS])


@pytest.mark.parametrize(
    ("keep", "layers", "kept"),
    [
        ("first", 3, (0, 1, 2)),
        ("last", 3, (9, 10, 11)),
        ("even", 3, (0, 6, 11)),
        ("even", 1, (0,)),
        ("even", 11, (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)),
        ("11, 0,5", 3, (0, 5, 11)),
    ],
)
def test_the_layers_that_are_kept(keep, layers, kept):
    assert chosen_layers(12, layers, keep) == kept


@pytest.mark.parametrize("keep", KEEPS)
def test_any_number_of_layers_is_kept_once_each_in_their_order(keep):
    for total in range(2, 30):
        for layers in range(1, total):
            kept = chosen_layers(total, layers, keep)
            assert len(set(kept)) == layers
            assert list(kept) == sorted(kept)
            assert set(kept) <= set(range(total))


@pytest.mark.parametrize("keep", ["0,1", "0,1,1", "0,1,12", "0,1,-2", "middle", "", "0,1,2,3"])
def test_other_choices_are_refused(keep):
    with pytest.raises(ValueError, match="keep must be first, last, even, or 3 different layers of 0 to 11"):
        chosen_layers(12, 3, keep)


@pytest.mark.parametrize("layers", [0, 12, 13])
def test_a_student_has_fewer_layers_than_its_teacher_and_at_least_one(layers):
    with pytest.raises(ValueError, match="layers must be"):
        chosen_layers(12, layers)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_student_is_an_ordinary_cross_encoder_with_fewer_layers(name, tmp_path):
    teacher, student = deeper(name, tmp_path), tmp_path / "student"
    found = cut(ModelOptions(teacher), student, layers=2)
    assert (found.kept, found.of) == ((0, 3), 4)
    assert found.parameters < found.teacher_parameters
    assert CrossEncoder(str(student), device="cpu").model.config.num_hidden_layers == 2
    assert np.ptp(raw(str(student))) > 0
    loaded = loading.load("torch", ModelOptions(str(student), device="cpu"))
    assert loaded.dtype == "float32"
    assert list(student.glob("*.bin")) == []


@pytest.mark.parametrize(("keep", "kept"), [("first", (0, 1)), ("last", (2, 3)), ("even", (0, 3)), ("1,2", (1, 2))])
def test_the_kept_layers_are_the_teachers_own_weights(keep, kept, tmp_path):
    teacher, student = deeper("bert", tmp_path), tmp_path / "student"
    cut(ModelOptions(teacher), student, layers=2, keep=keep)
    before, after = load_file(f"{teacher}/model.safetensors"), load_file(student / "model.safetensors")
    expected = {}
    for name, weights in before.items():
        head, mark, rest = name.partition("encoder.layer.")
        number, _, what = rest.partition(".")
        if not mark:
            expected[name] = weights
        elif int(number) in kept:
            expected[f"{head}{mark}{kept.index(int(number))}.{what}"] = weights
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert json.loads((student / "config.json").read_text())["num_hidden_layers"] == 2


def test_a_student_with_all_but_one_layer_still_differs_from_its_teacher(tmp_path):
    teacher, student = deeper("bert", tmp_path), tmp_path / "student"
    cut(ModelOptions(teacher), student, layers=3)
    assert not np.allclose(raw(teacher), raw(str(student)), atol=1e-3)


def test_what_a_configuration_lists_for_each_layer_is_cut_with_the_layers(tmp_path):
    teacher, student = deeper("longformer", tmp_path), tmp_path / "student"
    cut(ModelOptions(teacher), student, layers=2, keep="1,2")
    assert json.loads((student / "config.json").read_text())["attention_window"] == [8, 16]


def test_a_student_scores_with_raw_logits_whatever_its_teacher_did(tmp_path):
    """The library puts a sigmoid behind every model with one label: a student that kept it would teach nothing."""
    teacher = deeper("bert", tmp_path)
    assert isinstance(CrossEncoder(teacher, device="cpu").activation_fn, torch.nn.Sigmoid)
    cut(ModelOptions(teacher), tmp_path / "student", layers=2)
    student = CrossEncoder(str(tmp_path / "student"), device="cpu")
    assert isinstance(student.activation_fn, torch.nn.Identity)
    found = student.predict(PAIRS)
    assert np.allclose(found, raw(str(tmp_path / "student")), atol=1e-5)
    assert np.abs(found).max() > 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("albert", "no list of as many layers"),
        ("t5", "2 lists of as many layers"),
        ("bert, adapter", "is an adapter on a base model: merge it"),
    ],
)
def test_a_model_without_one_list_of_layers_is_refused_with_the_reason(name, problem, tmp_path):
    teacher = deeper(name, tmp_path)
    with pytest.raises(ValueError, match=problem):
        cut(ModelOptions(teacher), tmp_path / "student", layers=2)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("name", ["modernbert", "t5 encoder"])
def test_a_layer_that_all_others_need_must_stay(name, tmp_path):
    """ModernBERT's first layer lacks a norm that the others have; T5's holds the position bias of all."""
    teacher = deeper(name, tmp_path)
    with pytest.raises(ValueError, match="do not make a model of their own.*keep layer 0"):
        cut(ModelOptions(teacher), tmp_path / "student", layers=2, keep="last")
    assert list((tmp_path / "student").iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tiny_bert, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ValueError, match="not there yet, or empty"):
        cut(ModelOptions(tiny_bert), tmp_path, layers=1)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
