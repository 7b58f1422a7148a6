"""
The models that `long_context.py` measures: random ones of two shapes, saved as a hub would give them, and a real one.

The long-context model has the shape of Ettin-17m's re-rankers: ModernBERT with a hidden size of 256, 7 layers of which
every third reads all tokens and the others 128, a vocabulary of 50,368, and 7,999 positions; a stack of modules with a
mean over all tokens before its head. Random weights cost what trained ones do, and rank nothing.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from common import collection_folder, weights_folder
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.quantizing.quantize import quantize
from haystack_ce_ranker.quantizing.sample_texts import sample_requests
from haystack_ce_ranker.quantizing.writers import WRITERS
from kept import ScoreStore
from speed_systems import write_float32_onnx

LONG, L6, L12 = "ModernBERT 17m", "MiniLM-L6", "MiniLM-L12"
"""The two random models, and the real one."""

VOCABULARY = 50_368
POSITIONS = 7_999
MODERN_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": POSITIONS,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
}
MINILM_L6 = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def save_long(folder: Path, texts: Iterator[str]) -> None:
    """
    Save the long-context model.

    :param texts: English on which its byte pairs are learnt.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from transformers import ModernBertConfig, ModernBertModel

    torch.manual_seed(0)
    tokenizer = byte_pairs(texts)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"[{name.upper()}]") for name in ("cls", "sep", "pad")}
    config = ModernBertConfig(**MODERN_BERT, **ids, bos_token_id=ids["cls_token_id"], eos_token_id=ids["sep_token_id"])
    body = folder / "body"
    ModernBertModel(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    size = MODERN_BERT["hidden_size"]
    modules = [
        Transformer(str(body)),
        Pooling(size, pooling_mode="mean"),
        Dense(size, size, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(size),
        Dense(size, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder / "model"))


def byte_pairs(texts: Iterator[str]) -> Any:
    """Return a tokenizer of byte pairs in the form of ModernBERT's, learnt on some texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def save_minilm_l6(folder: Path, like: Path) -> None:
    """
    Save a random MiniLM of six layers.

    :param like: The folder of a MiniLM whose tokenizer it gets.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(like)
    config = BertConfig(**MINILM_L6, vocab_size=len(tokenizer), num_labels=1)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


TRAINING_TEXTS = ("dl19", "med", "cacm", "stackfaq", "vaswani")
"""Collections on which the byte pairs are learnt; covidqa, whose tokens are counted, is not among them."""


class Made(NamedTuple):
    """
    The folders of one model.

    :ivar torch: Its checkpoint.
    :ivar onnx: Its ONNX file in float32.
    :ivar int8: Its int8 files, by backend.
    """

    torch: Path
    onnx: Path
    int8: dict[str, Path]


def checkpoints(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the folders of all models. The random ones are made once, and kept in `--cache` while the code stays."""
    real = weights_folder(arguments, "ce-minilm-l12")
    collection_folder(arguments, TRAINING_TEXTS[0])
    place = _place(arguments)
    if not place.is_dir():
        arguments.cache.mkdir(parents=True, exist_ok=True)
        partly = Path(mkdtemp(dir=arguments.cache, prefix=".long-context-"))
        save_long(partly / "long", _texts(arguments.data))
        save_minilm_l6(partly / "l6", real)
        partly.rename(place)
    return {LONG: place / "long" / "model", L6: place / "l6", L12: real}


def forms(arguments: argparse.Namespace, *names: str) -> dict[str, Made]:
    """Return models with their exported files, which are kept as the checkpoints are; all models if none is named."""
    place, folders = _place(arguments), checkpoints(arguments)
    return {name: _forms(folders[name], place / f"{name} forms") for name in names or folders}


def _place(arguments: argparse.Namespace) -> Path:
    key = ScoreStore(None).key(Path(__file__).read_bytes()).hex()[:12]
    return Path(arguments.cache) / f"long-context-{key}"


def _texts(data: Path) -> Iterator[str]:
    for name in TRAINING_TEXTS:
        if (data / name).is_dir():
            for document in load_collection(data / name).documents.values():
                yield document.content


def _forms(checkpoint: Path, place: Path) -> Made:
    found = Made(checkpoint, place / "onnx", {backend: place / f"{backend}-int8" for backend in WRITERS})
    options = ModelOptions(str(checkpoint), device="cpu", dtype="float32")
    if not found.onnx.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        write_float32_onnx(options, found.onnx)
    for backend, folder in found.int8.items():
        if not folder.is_dir():  # random weights need not rank as they do in float32
            quantize(options, folder, sample_requests()[:1], backend=backend, min_correlation=-1, min_overlap=0)
    return found
