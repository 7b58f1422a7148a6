"""Sparing what nobody reads of the last layer: the same logits for every architecture, and the model left as it was."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sentence_transformers import CrossEncoder

from fakes import CASES, batch_of, padded_logits, tiny_model
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.first_token import (
    ARCHITECTURES,
    first_tokens_only,
    part_behind_the_last_attention,
)
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

DOCUMENTS = ["the hut in the snow", "a city", "a car", "berlin is a city of germany. " * 2]


def test_every_architecture_in_the_table_is_tested():
    assert set(CASES) > ARCHITECTURES


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_whole_last_layer(case):
    family, values = CASES[case]
    model = tiny_model(family, **values)
    token_types = family in ("Bert", "Electra")
    batch = batch_of([100, 64, 33, 20, 20, 5, 3], pad_id=model.config.pad_token_id)
    whole = padded_logits(model, batch, token_types=token_types)
    module = part_behind_the_last_attention(model)
    assert (module is not None) == (case in ARCHITECTURES)
    with first_tokens_only(module):
        assert padded_logits(model, batch, token_types=token_types).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    assert padded_logits(model, batch, token_types=token_types).tolist() == whole.tolist()


def test_the_last_layer_of_a_padded_batch_goes_on_with_first_tokens_only_and_a_packed_one_is_whole(tiny_bert):
    expected = CrossEncoder(tiny_bert).predict(
        [("the hut", document) for document in DOCUMENTS], activation_fn=torch.nn.Identity()
    )
    seen = {}
    for attention in ("sdpa", "packed"):
        options = ModelOptions(tiny_bert, device="cpu", model_kwargs={"attn_implementation": attention})
        backend = loading.load("torch", options)
        last = backend.cross_encoder.model.bert.encoder.layer[-1].intermediate
        last.register_forward_pre_hook(lambda _, given, name=attention: seen.update({name: given[0].shape[1]}))
        found, _ = CrossEncoderScorer(backend).score("the hut", DOCUMENTS)
        assert [document.logit for document in found.documents] == pytest.approx(expected.tolist(), abs=1e-4)
    assert seen["sdpa"] == 1
    assert seen["packed"] > 1


def test_a_model_with_code_of_its_own_is_left_alone():
    class Custom(type(tiny_model("Bert"))):
        pass

    model = tiny_model("Bert")
    model.__class__ = Custom
    assert part_behind_the_last_attention(model) is None
    with first_tokens_only(None):
        pass


def test_the_model_is_as_before_after_an_error_and_meanwhile_in_other_threads():
    module = part_behind_the_last_attention(tiny_model("Bert"))
    tokens = torch.ones(2, 5, 32)

    def read():
        return module(tokens, tokens).shape[1]

    def fail():
        with first_tokens_only(module), ThreadPoolExecutor(1) as another:
            assert (read(), another.submit(read).result()) == (1, 5)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert read() == 5
    assert len(module._forward_pre_hooks) == 1
