"""What tests share: tiny tokenizers and models built in memory, a backend that is a function, texts in many scripts."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import JudgedQuery
from haystack_ce_ranker.gating.fitting import GateQuery
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.pairs import PackedPair

REPOSITORY = Path(__file__).parent.parent


def import_torch():
    """torch, with which tiny models are built; skips without it."""
    return pytest.importorskip("torch", reason="needs torch")


def import_embedders():
    """Haystack's embedders that run a bi-encoder; skips without them."""
    name = "haystack_integrations.components.embedders.sentence_transformers"
    return pytest.importorskip(name, reason="needs the extra 'embedders'")


def random_texts(size, seed=0, words=200):
    """Texts with a few frequent and many rare words, of lengths from 0 on."""
    random = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, words + 1)
    lengths = random.integers(0, 40, size)
    return [" ".join(f"w{word}" for word in random.choice(words, n, p=share / share.sum())) for n in lengths]


def with_time_enough(call, came_far_enough):
    """
    What a call gives under a deadline that ends its waiting, however slow the machine: with twice as much time again
    and again, until it came as far as it should before the deadline passed.

    :param call: Takes the seconds until its deadline.
    """
    for doublings in range(11):
        found = call(0.05 * 2**doublings)
        if came_far_enough(found):
            return found
    raise AssertionError("the call did not come so far in 51 seconds")


def assert_finds_alike(index, texts, queries=("a", "b c", "c d e f", "abcdef", "ff")):
    """Assert that a BM25 index finds the same, with the same scores, as one that is built from the texts."""
    from haystack_ce_ranker.bm25.index import BM25Index

    rebuilt = BM25Index.build(texts, analysis=index.analysis, scoring=index.scoring)
    assert len(index) == len(texts)
    assert index.average_length == rebuilt.average_length
    for query in queries:
        mine, theirs = index.search(query, 10), rebuilt.search(query, 10)
        assert mine.positions.tolist() == theirs.positions.tolist()
        assert mine.scores.tolist() == theirs.scores.tolist()


def in_a_new_process(code, *arguments, **environment):
    """Run code in a process of its own, and return what it printed; what hangs is an error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def in_a_child(work):
    """Fork, and return the exit code of a child that does `work`: 0 if that returns True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() is True else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def calls(function, *args, **parameters):
    """What a function returns, and how many functions were called for it in this thread."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        return function(*args, **parameters), counted
    finally:
        sys.setprofile(None)


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


def save_bert(folder: Path, *, labels: int = 1, head: bool = True, spread: float = 0.4) -> str:
    """
    Save a tiny BERT with random weights that are always the same: a cross-encoder, or without `head` an encoder.

    With weights of a small `spread` it can be learnt from.
    """
    torch = import_torch()
    from transformers import BertConfig, BertForSequenceClassification, BertModel

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
        initializer_range=spread,
        pad_token_id=0,
    )
    (BertForSequenceClassification if head else BertModel)(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_bi_encoder(folder: Path, **saved) -> str:
    """Save a tiny bi-encoder with random weights that are always the same."""
    torch = import_torch()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    body = folder.with_name(f"{folder.name}-body")
    transformers.BertModel(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    modules = [Transformer(str(body), max_seq_length=48), Pooling(16, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **saved).save_pretrained(str(folder), create_model_card=False)
    return str(folder)


def save_causal(folder: Path) -> str:
    """Save a tiny causal language model, which is no sequence-classification cross-encoder."""
    import_torch()
    tokenizer = bert_tokenizer()
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class FakeBackend:
    """A backend whose logit is a fixed function of the tokens, and that can run out of memory."""

    name, dtype, device, pads, mixes_lengths, prompt, query_prompt = "fake", "float32", "cpu", True, True, "", ""

    def __init__(self, *, room_for=10**9):
        self.tokenizer = PairTokenizer(bert_tokenizer())
        self.max_length = 64
        self.batch_tokens = 512
        self.room_for = room_for
        self.longest = 0
        self.read = 0
        self.freed = 0
        self.fed = []

    def logits(self, batch):
        slots = max(len(pair.ids) for pair in batch.pairs) * len(batch.pairs)
        if slots > self.room_for:
            raise MemoryError("too large")
        self.longest = max(self.longest, *(len(pair.ids) for pair in batch.pairs))
        self.read += sum(len(pair.ids) for pair in batch.pairs)
        self.fed += [pair.ids.tolist() for pair in batch.pairs]
        return np.array(
            [np.sin(pair.ids.astype(float) * np.arange(1, len(pair.ids) + 1)).sum() for pair in batch.pairs]
        )

    def is_out_of_memory(self, error):
        return isinstance(error, MemoryError)

    def free_memory(self):
        self.freed += 1


def logits(scores):
    return [document.logit for document in scores.documents]


DOCUMENTS = ["the hut in the snow", "a city", "a car", "berlin is a city of germany. " * 2, "paris", "a brake " * 30]


def scores_of(backend, documents=DOCUMENTS, query="the hut"):
    """The logits of documents, read as a ranker reads them by default."""
    found, _ = CrossEncoderScorer(backend).score(query, documents)
    return logits(found)


TEXTS = ["where is the hut", "the hut is in the snow, near berlin. and a longer text with é 漢字 🙂"]


def trained(model, trainer, pre, special, template):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = template(ids)
    return tokenizer


def roberta():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = trained(
        models.BPE(), trainer, pre, special, lambda ids: processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )


def xlm_roberta():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    template = lambda ids: processors.TemplateProcessing(  # noqa: E731
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    tokenizer = trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), special, template)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )


def deberta():
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="[UNK]")
    template = lambda ids: processors.TemplateProcessing(  # noqa: E731
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer = trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), special, template)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names)


def modernbert():
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    template = lambda ids: processors.TemplateProcessing(  # noqa: E731
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = trained(models.BPE(), trainer, pre, special, template)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"]
    )


FORMATS = {f.__name__: f for f in (bert_tokenizer, roberta, xlm_roberta, deberta, modernbert)}


SCRIPTS = {
    "latin": "the hut is in the snow. a car of the city. " * 9,
    "accents": "Émile à côté de l'été naïf. " * 12,
    "chinese": "山上有一个小屋。铁路在雪中。" * 12,
    "arabic": "الكوخ في الثلج. القطار بطيء. " * 12,
    "emoji": "hut 👩‍👩‍👧 snow 👍🏽 car 🇨🇭. " * 12,
    "nfd": unicodedata.normalize("NFD", "Émile à côté de l'été. ") * 12,
}


def learnt(kind):
    """A tokenizer that knows every character of `SCRIPTS`, by WordPiece, by bytes, or by unigrams."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = sorted({character for text in SCRIPTS.values() for character in text})
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=6,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", max_piece_length=4)
    tokenizer.train_from_iterator(SCRIPTS.values(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


LEARNT = {kind: learnt(kind) for kind in ("wordpiece", "bytes", "unigrams")}


COMMON = {
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 140,
    "num_labels": 1,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}


ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1}


MODERN = {"local_attention": 16, "global_attn_every_n_layers": 2} | dict.fromkeys(
    ["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"], 2
)


CASES = {
    "bert": ("Bert", {}),
    "electra": ("Electra", {"embedding_size": 16}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "camembert": ("Camembert", ROBERTA),
    "modernbert": ("ModernBert", {**MODERN, "classifier_pooling": "cls"}),
    "modernbert, mean": ("ModernBert", {**MODERN, "classifier_pooling": "mean"}),
}


def tiny_model(family, **values):
    torch = import_torch()
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **values})
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


def batch_of(lengths, *, pad_id):
    """Pairs of random tokens; the longest has the padding token in its midst, as a text that spells it out would."""
    rng = np.random.default_rng(0)
    pairs = [
        PackedPair(rng.integers(3, 80, n).astype(np.int32), (np.arange(n) > n // 3).astype(np.int32)) for n in lengths
    ]
    pairs[0].ids[5] = pad_id
    return Batch(pairs, pad_id)


def padded_logits(model, batch, *, token_types):
    torch, arrays = import_torch(), batch.padded()
    if not token_types:
        del arrays["token_type_ids"]
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits[:, 0]


def judged_queries(count: int, *, bm25: float, ce: float, seed: int = 0, cut: int | None = None) -> list[JudgedQuery]:
    """Judged queries whose lists know relevance as strongly as the numbers say; `cut` shortens the cross-encoder's."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ids = [f"d{i}" for i in range(20)]
        relevant = dict.fromkeys(random.choice(ids, 3, replace=False), 1)
        truth = np.array([relevant.get(identifier, 0) for identifier in ids])
        first = ScoredList(ids, random.normal(bm25 * truth, 1.0))
        second = ScoredList(ids, random.normal(ce * truth, 1.0))
        if cut is not None:
            best = np.argsort(-np.asarray(second.scores))[:cut]
            second = ScoredList([ids[i] for i in best], np.asarray(second.scores)[best])
        made.append(JudgedQuery(f"q{number}", {"bm25": first, "ce": second}, relevant))
    return made


SHOP = Collection(
    "shop",
    {
        "d1": Text("d1", "Returns", "Goods can be sent back.", {"kind": "note"}),
        "d2": Text("d2", "", "Parcels leave the warehouse at noon."),
        "d3": Text("d3", "", "Invoices are sent by mail."),
    },
    {"q1": "parcels warehouse"},
    {"q1": {"d2": 1}},
)
"""A collection of three documents and one query."""


def telling_gate_queries(count=120, *, seed=0, gain=0.3):
    """Queries whose best score tells: from 15 on re-ranking changes nothing, below it gains."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        best = float(random.uniform(10, 20))
        gained = 0.0 if best >= 15 else gain * float(random.uniform(0.5, 1.5))
        found.append(GateQuery(f"q{number}", [best, 10.0, 1.0], 0.5, 0.5 + gained))
    return found


def untelling_gate_queries(count=120, *, gain=0.3, seed=0):
    random = np.random.default_rng(seed)
    return [
        GateQuery(f"q{n}", random.uniform(1, 9, size=8).tolist(), 0.4, 0.4 + gain * float(random.uniform(0, 2)))
        for n in range(count)
    ]
