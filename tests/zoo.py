"""
A zoo of tiny random re-rankers, built in memory from their configurations: every form of model that users load.

`ZOO` names them. A specimen saves a folder as the library `sentence_transformers` does, so that what loads it sees what
a hub gives. Weights are random and always the same, and their heads are drawn wide, so that scores differ.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LIMIT = 192
"""Tokens of a pair that every specimen reads."""

EIGHT_SCRIPTS = (
    "where is the hut? The hut is in the snow, near Berlin; yes or no.",
    "Émile à côté de l'été naïf, où est la cabane?",
    "山上有一个小屋。铁路在雪中。",
    "الكوخ في الثلج. القطار بطيء.",
    "Хижина стоит в снегу. Поезд медленный.",
    "קטר איטי בשלג ליד הבקתה.",
    "झोपड़ी बर्फ में है। ट्रेन धीमी है।",
    "กระท่อมอยู่ในหิมะ รถไฟช้า",
)
"""Texts in eight scripts, which the tokenizers are trained on."""

CHAT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}<|im_start|>system\n{{ m['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}<|im_start|>user\n<Instruct>: judge the document\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""A chat template in the form of Qwen3-Reranker's."""

TURNS = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}<|start|>assistant\n"
"""A chat template in the form of zerank's: the query is one turn, the document another."""


@dataclass(frozen=True)
class Words:
    """
    How a specimen's tokenizer cuts text, and how it puts a pair together.

    :ivar kind: `wordpiece`, `bytes`, `unigram`, or `sentencepiece`.
    :ivar pair: The template of a pair, of the library `tokenizers`; empty: the texts follow each other.
    :ivar special: The special tokens, the padding token first.
    :ivar types: Whether the model takes token types.
    """

    kind: str
    pair: str
    special: tuple[str, ...]
    types: bool = False
    padding_side: str = "right"
    pad: bool = True
    template: str | None = None

    def build(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer, trained on `EIGHT_SCRIPTS`."""
        tokenizer, trainer = _KINDS[self.kind](self.special)
        tokenizer.train_from_iterator([*EIGHT_SCRIPTS * 3, *("yes", "no") * 99], trainer)
        if self.pair:
            ids = [(token, tokenizer.token_to_id(token)) for token in self.special]
            single = self.pair.split(" $B")[0]
            tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=self.pair, special_tokens=ids)
        names = ["input_ids", *(["token_type_ids"] if self.types else []), "attention_mask"]
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=LIMIT,
            padding_side=self.padding_side,
            model_input_names=names,
            **({"pad_token": self.special[0]} if self.pad else {}),
            eos_token=self.special[1],
            **({"unk_token": self.special[-1]} if self.kind != "bytes" else {}),
        )
        if self.template is not None:
            fast.chat_template = self.template
        return fast


def _wordpiece(special: tuple[str, ...]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(special))


def _bytes(special: tuple[str, ...]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(special), initial_alphabet=alphabet, max_token_length=8
    )


def _unigram(special: tuple[str, ...]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=list(special), unk_token=special[-1], max_piece_length=8
    )


def _sentencepiece(special: tuple[str, ...]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token=special[-1], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    return tokenizer, trainers.BpeTrainer(vocab_size=700, special_tokens=pieces, max_token_length=8)


_KINDS: Mapping[str, Callable[[tuple[str, ...]], tuple[Tokenizer, Any]]] = {
    "wordpiece": _wordpiece,
    "bytes": _bytes,
    "unigram": _unigram,
    "sentencepiece": _sentencepiece,
}

BERT = Words("wordpiece", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ("[PAD]", "[SEP]", "[CLS]", "[UNK]"), types=True)
BERT_UNTYPED = Words("wordpiece", "[CLS] $A [SEP] $B [SEP]", ("[PAD]", "[SEP]", "[CLS]", "[UNK]"))
MPNET = Words("wordpiece", "[CLS] $A [SEP] [SEP] $B [SEP]", ("[PAD]", "[SEP]", "[CLS]", "[UNK]"))
ROBERTA = Words("bytes", "<s> $A </s> </s> $B </s>", ("<pad>", "</s>", "<s>", "<unk>"))
XLM_ROBERTA = Words("unigram", "<s> $A </s> </s> $B </s>", ("<pad>", "</s>", "<s>", "<unk>"))
ALBERT = Words("unigram", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ("<pad>", "[SEP]", "[CLS]", "<unk>"), types=True)
DEBERTA = Words("unigram", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ("[PAD]", "[SEP]", "[CLS]", "[UNK]"), types=True)
MODERNBERT = Words("bytes", "[CLS] $A [SEP] $B [SEP]", ("[PAD]", "[SEP]", "[CLS]", "[UNK]"))
T5 = Words("unigram", "$A </s> $B </s>", ("<pad>", "</s>", "<unk>"))
LLAMA = Words("sentencepiece", "<s> $A <s> $B", ("<s>", "</s>", "<unk>"), pad=False)
LLAMA_PADDED = Words("sentencepiece", "<s> $A <s> $B", ("<pad>", "</s>", "<s>", "<unk>"))
GEMMA = Words("sentencepiece", "<s> $A <s> $B", ("<pad>", "</s>", "<s>", "<unk>"), padding_side="left")
QWEN = Words("bytes", "", ("<|endoftext|>", "<|im_end|>", "<|im_start|>"))
QWEN_LEFT = Words("bytes", "", ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), padding_side="left")
QWEN_CHAT = Words("bytes", "", ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), padding_side="left", template=CHAT)
QWEN_TURNS = Words("bytes", "", ("<|endoftext|>", "<|end|>", "<|start|>"), padding_side="left", template=TURNS)

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": LIMIT + 4,
    "initializer_range": 0.3,
}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16}


@dataclass(frozen=True)
class Specimen:
    """
    One model of the zoo.

    :ivar family: The prefix of its classes in transformers.
    :ivar form: `classifier`; `modular` (Transformer, Pooling, Dense, LayerNorm, Dense); `causal` (with LogitScore);
        `lora` (an adapter on a classifier).
    :ivar prompt: A prompt that it is saved with.
    :ivar adapted: The modules that an adapter changes, for the form `lora`.
    :ivar pooling: Which tokens the head of a stack reads: `cls`, `lasttoken` or `mean`.
    """

    family: str
    words: Words
    config: Mapping[str, Any] = field(default_factory=dict)
    form: str = "classifier"
    labels: int = 1
    prompt: str | None = None
    adapted: tuple[str, ...] = ()
    pooling: str = "cls"

    def save(self, folder: Path) -> str:
        """Save the model into a folder; returns the folder."""
        tokenizer = self.words.build()
        torch.manual_seed(0)
        pad = tokenizer.pad_token_id
        values = {"vocab_size": len(tokenizer), "pad_token_id": pad, "num_labels": self.labels, **self.config}
        for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            values.setdefault(name, 1)
        config = getattr(transformers, f"{self.family}Config")(**values)
        _SAVERS[self.form](self, config, tokenizer, folder)
        if self.prompt is not None:
            path = folder / "config_sentence_transformers.json"
            saved = json.loads(path.read_text()) if path.is_file() else {"model_type": "CrossEncoder"}
            path.write_text(json.dumps({**saved, "prompts": {"search": self.prompt}, "default_prompt_name": "search"}))
        return str(folder)


def _save_classifier(specimen: Specimen, config: Any, tokenizer: Any, folder: Path) -> None:
    model = getattr(transformers, f"{specimen.family}ForSequenceClassification")(config).eval()
    _widen(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_modular(specimen: Specimen, config: Any, tokenizer: Any, folder: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    body = folder.with_name(folder.name + "-body")
    name = "T5EncoderModel" if specimen.family == "T5" else f"{specimen.family}Model"
    getattr(transformers, name)(config).eval().save_pretrained(body)
    tokenizer.save_pretrained(body)
    size = config.hidden_size
    modules = [
        Transformer(str(body)),
        Pooling(size, pooling_mode=specimen.pooling),
        Dense(size, size, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(size),
        Dense(size, specimen.labels, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


def _save_causal(specimen: Specimen, config: Any, tokenizer: Any, folder: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore, Transformer

    body = folder.with_name(folder.name + "-body")
    getattr(transformers, f"{specimen.family}ForCausalLM")(config).eval().save_pretrained(body)
    tokenizer.save_pretrained(body)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    modules = [Transformer(str(body), transformer_task="text-generation"), LogitScore(yes, no)]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


def _save_lora(specimen: Specimen, config: Any, tokenizer: Any, folder: Path) -> None:
    """Save only an adapter with the head, beside its base, as the library saves a model that was trained so."""
    from peft import LoraConfig, TaskType
    from sentence_transformers import CrossEncoder

    base = folder.with_name(folder.name + "-base")
    _save_classifier(specimen, config, tokenizer, base)
    model = CrossEncoder(str(base), device="cpu")
    adapted = {"target_modules": specimen.adapted, "modules_to_save": [_HEADS[specimen.family]]}
    model.add_adapter(LoraConfig(task_type=TaskType.SEQ_CLS, r=4, init_lora_weights=False, **adapted))
    model.save_pretrained(str(folder))


_HEADS = {"Bert": "classifier", "Qwen2": "score"}


def _widen(model: Any) -> None:
    """Draw the head wide, so that its scores spread as a trained one's do."""
    for name, weights in model.named_parameters():
        if name.startswith(("classifier", "score", "classification_head")) and weights.ndim == 2:
            torch.nn.init.normal_(weights, std=0.5)


_SAVERS = {"classifier": _save_classifier, "modular": _save_modular, "causal": _save_causal, "lora": _save_lora}

_LAYERS_16 = {"local_attention": 16, "global_attn_every_n_layers": 2}

ZOO: dict[str, Specimen] = {
    "bert": Specimen("Bert", BERT, ENCODER),
    "bert, two labels": Specimen("Bert", BERT, ENCODER, labels=2),
    "bert, three labels": Specimen("Bert", BERT, ENCODER, labels=3),
    "bert, prompt": Specimen("Bert", BERT, ENCODER, prompt="find: "),
    "bert, modular": Specimen("Bert", BERT, ENCODER, form="modular"),
    "bert, adapter": Specimen("Bert", BERT, ENCODER, form="lora", adapted=("query", "value")),
    "distilbert": Specimen(
        "DistilBert", BERT_UNTYPED, {**ENCODER, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    ),
    "electra": Specimen("Electra", BERT, {**ENCODER, "embedding_size": 16}),
    "albert": Specimen("Albert", ALBERT, {**ENCODER, "embedding_size": 16}),
    "mpnet": Specimen("MPNet", MPNET, ENCODER),
    "roberta": Specimen("Roberta", ROBERTA, {**ENCODER, "type_vocab_size": 1}),
    "xlm-roberta": Specimen("XLMRoberta", XLM_ROBERTA, {**ENCODER, "type_vocab_size": 1}),
    "camembert": Specimen("Camembert", XLM_ROBERTA, {**ENCODER, "type_vocab_size": 1}),
    "deberta-v2": Specimen("DebertaV2", DEBERTA, {**ENCODER, "type_vocab_size": 0, "relative_attention": True}),
    "deberta-v3": Specimen(
        "DebertaV2",
        DEBERTA,
        {
            **ENCODER,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
    ),
    "modernbert": Specimen("ModernBert", MODERNBERT, {**ENCODER, **_LAYERS_16}),
    "modernbert, mean": Specimen("ModernBert", MODERNBERT, {**ENCODER, **_LAYERS_16, "classifier_pooling": "mean"}),
    "modernbert, modular": Specimen("ModernBert", MODERNBERT, {**ENCODER, **_LAYERS_16}, form="modular"),
    "nomic-bert": Specimen("NomicBert", BERT, ENCODER),
    "gte": Specimen("Gte", XLM_ROBERTA, ENCODER),
    "big-bird": Specimen("BigBird", XLM_ROBERTA, {**ENCODER, "attention_type": "original_full"}),
    "longformer": Specimen("Longformer", ROBERTA, {**ENCODER, "type_vocab_size": 1, "attention_window": [8, 8]}),
    "t5 encoder": Specimen(
        "T5", T5, {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}, form="modular"
    ),
    "t5": Specimen(
        "T5",
        T5,
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
    "qwen2": Specimen("Qwen2", QWEN, DECODER),
    "qwen2, left": Specimen("Qwen2", QWEN_LEFT, DECODER),
    "qwen2, other padding token": Specimen("Qwen2", QWEN, {**DECODER, "pad_token_id": 40}),
    "qwen2, no padding token in its configuration": Specimen("Qwen2", QWEN, {**DECODER, "pad_token_id": None}),
    "qwen2, adapter": Specimen("Qwen2", QWEN, DECODER, form="lora", adapted=("q_proj", "v_proj")),
    "qwen2, modular, mean": Specimen("Qwen2", QWEN_LEFT, DECODER, form="modular", pooling="mean"),
    "gpt2": Specimen("GPT2", QWEN, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LIMIT}),
    "qwen3": Specimen("Qwen3", QWEN, DECODER),
    "qwen3, chat": Specimen("Qwen3", QWEN_CHAT, DECODER, form="causal"),
    "qwen3, chat, prompt": Specimen("Qwen3", QWEN_CHAT, DECODER, form="causal", prompt="Find the hut."),
    "qwen3, chat, tied": Specimen("Qwen3", QWEN_CHAT, {**DECODER, "tie_word_embeddings": True}, form="causal"),
    "qwen3, turns": Specimen("Qwen3", QWEN_TURNS, DECODER, form="causal"),
    "qwen2, causal without template": Specimen("Qwen2", QWEN_LEFT, DECODER, form="causal"),
    "llama": Specimen("Llama", LLAMA_PADDED, DECODER),
    "llama, no padding token": Specimen("Llama", LLAMA, DECODER),
    "mistral": Specimen("Mistral", LLAMA_PADDED, DECODER),
    "gemma2": Specimen("Gemma2", GEMMA, {**DECODER, "query_pre_attn_scalar": 16}),
    "xlnet": Specimen("XLNet", XLM_ROBERTA, {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "fnet": Specimen("FNet", BERT, ENCODER),
    "convbert": Specimen("ConvBert", BERT, {**ENCODER, "embedding_size": 32, "conv_kernel_size": 5}),
}


def deeper(name: str, folder: Path, layers: int = 4) -> str:
    """Write a model of the zoo with more layers than the zoo's own has, and return its folder."""
    animal = ZOO[name]
    more = {key: layers for key in ("num_hidden_layers", "n_layers", "num_layers") if key in animal.config}
    if "attention_window" in animal.config:
        more["attention_window"] = [8, 8, 16, 16]
    return replace(animal, config={**animal.config, **more}).save(folder / "teacher")
