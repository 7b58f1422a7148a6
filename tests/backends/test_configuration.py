"""What lies beside weights: the limits that a configuration names, and a configuration that is not there."""

from pathlib import Path

import pytest
import torch
import transformers

from haystack_ce_ranker.backends.configuration import load_config, position_limit
from haystack_ce_ranker.backends.model_files import ModelOptions


def test_positions_that_start_behind_the_padding_id_are_not_counted():
    from transformers import BertConfig, RobertaConfig

    assert position_limit(BertConfig()) == 512
    assert position_limit(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert position_limit(None) is None


BEHIND = {
    "Roberta": {},
    "RobertaPreLayerNorm": {},
    "XLMRoberta": {},
    "XLMRobertaXL": {},
    "Camembert": {},
    "MPNet": {},
    "Data2VecText": {},
    "IBert": {},
    "Luke": {"entity_vocab_size": 10, "entity_emb_size": 32},
    "Esm": {"mask_token_id": 3, "position_embedding_type": "absolute"},
}
"""Families whose positions start behind the padding id, with what else their configurations need."""


@pytest.mark.parametrize("family", BEHIND)
def test_a_model_reads_as_many_tokens_as_its_limit_says_and_not_one_more(family):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=60, max_position_embeddings=40, pad_token_id=1, **sizes, **BEHIND[family]
    )
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    limit = position_limit(config)
    assert limit == 38
    with torch.inference_mode():
        model(torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, limit + 1), 5))


def test_a_folder_without_a_configuration_has_none(tmp_path, tiny_bert):
    assert load_config(tmp_path, ModelOptions(str(tmp_path))) is None
    (tmp_path / "config.json").write_text(
        (Path(tiny_bert) / "config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert load_config(tmp_path, ModelOptions(str(tmp_path))).max_position_embeddings == 128
