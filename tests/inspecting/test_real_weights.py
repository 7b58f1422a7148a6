"""What the manual says of a stock pipeline holds on real weights and long articles."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fakes import REPOSITORY, import_torch
from haystack_ce_ranker.adopting.files import adopt_text
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.inspecting.inspection import Inspection, run_inspection
from haystack_ce_ranker.proving.comparing import compare_texts
from pages import blocks

STOCK = (REPOSITORY / "examples" / "stock_pipeline.yaml").read_text(encoding="utf-8")
QUERIES = 2  # of 610: the claims are clear, and few queries take few seconds


def with_model(model):
    described = yaml.safe_load(STOCK)
    described["components"]["ranker"]["init_parameters"]["model"] = str(model)
    return yaml.safe_dump(described, sort_keys=False)


def test_the_stock_ranker_never_reads_most_of_long_articles_and_ours_ranks_them_better(models_dir, data_dir):
    pytest.importorskip("haystack_integrations.components.rankers.sentence_transformers")
    collection = load_collection(data_dir / "covidqa").sample(QUERIES)
    text = with_model(models_dir / "ce-minilm-l12")
    found = compare_texts(text, adopt_text(text).after, Path("stock_pipeline.yaml"), collection)
    before, after = found.results.systems
    assert before.read_share < 0.2
    assert after.versus.difference >= 0.1
    assert after.tokens_per_query < before.tokens_per_query


@pytest.fixture
def stand_in(models_dir, tmp_path):
    """A model without sense that reads as the real one does: what is cut depends on the tokenizer alone."""
    torch = import_torch()
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "ce-minilm-l12")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "stock_pipeline.yaml"
    path.write_text(with_model(tmp_path / "model"), encoding="utf-8")
    return path


def test_what_the_manual_shows_is_what_inspect_says(stand_in):
    pytest.importorskip("haystack_integrations.components.rankers.sentence_transformers")
    console = Console(record=True, width=200)
    run_inspection(Inspection(stand_in, collection=REPOSITORY / "examples" / "handbook"), console)
    said = console.export_text().lstrip().splitlines()[0]
    for page in ("README.md", "docs/inspecting.md"):
        assert said in [block.text.strip() for block in blocks(REPOSITORY / page, "text")], page
