"""Fixtures that tests share: tiny models built in memory, and where the real weights and collections are."""

import os
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).parent.parent


def bert_tokenizer():
    """A WordPiece tokenizer with BERT's pair format over a small vocabulary; every other word is read by letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [
        "the",
        "a",
        "is",
        "of",
        "in",
        "brake",
        "hut",
        "snow",
        "car",
        "berlin",
        "paris",
        "city",
        "germany",
        "france",
    ]
    parts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *".,?!", *letters, *(f"##{letter}" for letter in letters), *words]
    tokens = list(dict.fromkeys(parts))  # "a" is a letter and a word
    tokenizer = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save_bert(folder: Path, *, labels: int = 1) -> str:
    """Save a tiny BERT cross-encoder with random weights that are always the same."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.4,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """The folder of a tiny cross-encoder that reads 128 tokens."""
    return save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def two_label_bert(tmp_path_factory) -> str:
    """The folder of a tiny model with two output labels."""
    return save_bert(tmp_path_factory.mktemp("models") / "two-labels", labels=2)


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where the real weights are; skips without them."""
    return _there("CE_RANKER_MODELS", REPOSITORY / ".models")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real collections are; skips without them."""
    return _there("CE_RANKER_DATA", REPOSITORY.parent / "shared" / "data")


def _there(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    folder = folder if folder.is_absolute() else REPOSITORY / folder
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable}")
    return folder
