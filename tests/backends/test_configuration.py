"""What lies beside weights: the limits that a configuration names, and a configuration that is not there."""

from pathlib import Path

from haystack_ce_ranker.backends.configuration import load_config, position_limit
from haystack_ce_ranker.backends.model_files import ModelOptions


def test_positions_that_start_behind_the_padding_id_are_not_counted():
    from transformers import BertConfig, RobertaConfig

    assert position_limit(BertConfig()) == 512
    assert position_limit(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert position_limit(None) is None


def test_a_folder_without_a_configuration_has_none(tmp_path, tiny_bert):
    assert load_config(tmp_path, ModelOptions(str(tmp_path))) is None
    (tmp_path / "config.json").write_text(
        (Path(tiny_bert) / "config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert load_config(tmp_path, ModelOptions(str(tmp_path))).max_position_embeddings == 128
