"""A torch model as a function of arrays: the same logits, and the model left in evaluation mode."""

from types import SimpleNamespace

import pytest
import torch

from fakes import CASES, batch_of, padded_logits, tiny_model
from haystack_ce_ranker.backends.export import input_names, traceable


class Stack(torch.nn.Module):
    """A model as sentence-transformers holds it."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("case", CASES)
def test_the_function_gives_the_logits_of_the_model(case):
    family, values = CASES[case]
    model = tiny_model(family, **values)
    token_types = family in ("Bert", "Electra")
    batch = batch_of([40, 33, 20, 5], pad_id=model.config.pad_token_id)
    expected = padded_logits(model, batch, token_types=token_types)
    exact = SimpleNamespace(
        cross_encoder=Stack(model.train()),
        tokenizer=SimpleNamespace(uses_token_types=token_types),
        call=lambda inputs: model(**inputs).logits,
        label=0,
    )
    module, example = traceable(exact)
    names = input_names(exact)
    assert ("token_type_ids" in names) == token_types
    assert len(example) == len(names)
    assert not module.training
    assert not model.training
    arrays = batch.padded()
    with torch.inference_mode():
        found = module(*(torch.from_numpy(arrays[name]) for name in names))[:, 0]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
