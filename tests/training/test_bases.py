from dataclasses import replace

import numpy as np
import pytest

from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.training.bases import load_base

pytest.importorskip("datasets")


def head_of(base):
    return base.cross_encoder.model.classifier.weight.detach().clone()


def test_a_trained_cross_encoder_is_loaded_as_it_is(learner):
    from sentence_transformers import CrossEncoder

    base = load_base(ModelOptions(learner, device="cpu"), seed=5)
    assert base.fresh_head == ()
    assert (head_of(base) == CrossEncoder(learner, local_files_only=True).model.classifier.weight).all()


def test_an_encoder_gets_a_head_with_one_label_that_its_seed_decides(encoder):
    first, again, other = (load_base(ModelOptions(encoder, device="cpu"), seed=seed) for seed in (1, 1, 2))
    assert first.fresh_head == ("classifier.weight", "classifier.bias")
    assert first.cross_encoder.num_labels == 1
    assert (head_of(first) == head_of(again)).all()
    assert not (head_of(first) == head_of(other)).all()


def test_a_bi_encoder_gets_a_head_too(encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(encoder, local_files_only=True).save_pretrained(str(tmp_path / "bi"))
    base = load_base(ModelOptions(str(tmp_path / "bi"), device="cpu"), seed=1)
    assert "classifier.weight" in base.fresh_head
    assert base.cross_encoder.num_labels == 1


def test_the_output_is_the_raw_logit(learner):
    import torch

    base = load_base(ModelOptions(learner, device="cpu"), seed=0)
    assert type(base.cross_encoder.activation_fn) is torch.nn.Identity
    pair = [("the hut", "in the snow")]
    features = base.cross_encoder.preprocess(pair)
    logit = base.cross_encoder.model.eval()(
        **{key: features[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    )
    assert base.cross_encoder.predict(pair)[0] == pytest.approx(logit.logits.item(), abs=1e-6)


def test_several_labels_are_refused(two_label_bert):
    with pytest.raises(ValueError, match="has 2 labels, and a ranker is trained on one"):
        load_base(ModelOptions(two_label_bert, device="cpu"), seed=0)


@pytest.mark.parametrize("name", ["bert, modular", "t5 encoder", "qwen3, chat", "qwen3, chat, tied"])
def test_a_stack_of_modules_is_loaded_as_it_is(name, tmp_path):
    from sentence_transformers import CrossEncoder

    from zoo import ZOO

    folder = ZOO[name].save(tmp_path / "model")
    base = load_base(ModelOptions(folder, device="cpu"), seed=0)
    assert base.fresh_head == ()
    plain, loaded = CrossEncoder(folder, device="cpu"), base.cross_encoder
    pairs = [("where is the hut?", "in the snow"), ("yes", "no, the train is slow")]
    plain.activation_fn = loaded.activation_fn
    assert loaded.predict(pairs).tolist() == pytest.approx(plain.predict(pairs).tolist(), abs=1e-6)
    assert len({round(float(score), 4) for score in loaded.predict(pairs)}) == 2


def test_a_sigmoid_at_the_end_of_a_stack_is_taken_away(tmp_path):
    import torch
    from sentence_transformers import CrossEncoder

    from zoo import ZOO

    plain = CrossEncoder(ZOO["bert, modular"].save(tmp_path / "plain"), device="cpu")
    plain[-1].activation_function = torch.nn.Sigmoid()
    plain.save_pretrained(str(tmp_path / "squashed"))
    base = load_base(ModelOptions(str(tmp_path / "squashed"), device="cpu"), seed=0)
    pair = [("where is the hut?", "in the snow")]
    found = base.cross_encoder.predict(pair)[0]
    squashed = plain.predict(pair, activation_fn=torch.nn.Identity())[0]
    assert 1 / (1 + np.exp(-found)) == pytest.approx(squashed, abs=1e-6)
    assert found != pytest.approx(squashed, abs=1e-3)


@pytest.mark.parametrize("name", ["qwen2, other padding token", "qwen2, left", "llama", "qwen2, modular, mean"])
def test_a_batch_of_a_decoder_is_filled_so_that_it_scores_as_each_pair_alone(name, tmp_path):
    from zoo import ZOO

    cross_encoder = load_base(ModelOptions(ZOO[name].save(tmp_path / "model"), device="cpu"), seed=0).cross_encoder
    pairs = [("where is the hut?", "it stands in the snow near Berlin"), ("yes", "no")]
    together, alone = (cross_encoder.predict(pairs, batch_size=size).tolist() for size in (2, 1))
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_stack_whose_tokenizer_names_no_padding_token_gets_one(tmp_path):
    from haystack_ce_ranker.training import bases
    from zoo import ZOO

    folder = ZOO["qwen2, modular, mean"].save(tmp_path / "model")
    cross_encoder = load_base(ModelOptions(folder, device="cpu"), seed=0).cross_encoder
    cross_encoder.tokenizer.pad_token = None
    bases._name_padding_token(cross_encoder, folder)
    assert cross_encoder.tokenizer.pad_token_id is not None
    pairs = [("where is the hut?", "it stands in the snow near Berlin"), ("yes", "no")]
    together, alone = (cross_encoder.predict(pairs, batch_size=size).tolist() for size in (2, 1))
    assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("name", ["qwen2, no padding token in its configuration", "llama, no padding token"])
def test_a_classifier_without_a_padding_token_is_refused(name, tmp_path):
    from zoo import ZOO

    with pytest.raises(ValueError, match="names None as the padding token.*Set pad_token_id"):
        load_base(ModelOptions(ZOO[name].save(tmp_path / "model"), device="cpu"), seed=0)


def test_an_adapter_is_refused(tmp_path):
    pytest.importorskip("peft")
    from zoo import ZOO

    with pytest.raises(ValueError, match="is an adapter on a base model: merge it"):
        load_base(ModelOptions(ZOO["bert, adapter"].save(tmp_path / "model"), device="cpu"), seed=0)


def test_a_stack_with_several_labels_is_refused(tmp_path):
    from zoo import ZOO

    folder = replace(ZOO["bert, modular"], labels=2).save(tmp_path / "model")
    with pytest.raises(ValueError, match="has 2 labels, and a ranker is trained on one"):
        load_base(ModelOptions(folder, device="cpu"), seed=0)


def test_a_causal_model_without_two_answers_is_refused(tmp_path):
    import json

    from zoo import ZOO

    folder = tmp_path / "model"
    ZOO["qwen3, chat"].save(folder)
    [config] = folder.glob("*LogitScore/config.json")
    saved = json.loads(config.read_text())
    config.write_text(json.dumps({**saved, "false_token_id": saved["true_token_id"]}))
    with pytest.raises(ValueError, match="its tokenizer has one token for both"):
        load_base(ModelOptions(str(folder), device="cpu"), seed=0)


@pytest.mark.parametrize(("asked", "read"), [(None, 128), (64, 64)])
def test_pairs_are_as_long_as_asked_or_as_the_model_can(learner, asked, read):
    assert load_base(ModelOptions(learner, device="cpu"), seed=0, max_length=asked).cross_encoder.max_seq_length == read


def test_longer_pairs_than_the_model_can_read_are_refused(learner):
    with pytest.raises(ValueError, match="max_length must be at most 128"):
        load_base(ModelOptions(learner, device="cpu"), seed=0, max_length=129)


def test_a_missing_model_and_pickled_weights_are_refused(learner, tmp_path):
    import shutil

    import torch

    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        load_base(ModelOptions(str(tmp_path / "nothing")), seed=0)
    shutil.copytree(learner, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="cannot be trained from"):
        load_base(ModelOptions(str(tmp_path / "pickled"), device="cpu"), seed=0)
