"""Packing equals each tokenizer's own pair encoding, for every pair format, and so does what each model reads."""

import pytest
import torch
import transformers

from fakes import FORMATS, TEXTS, bert_tokenizer, deberta, modernbert, roberta, xlm_roberta
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("query", ["hut", TEXTS[0], TEXTS[1]])
@pytest.mark.parametrize("document", ["snow", TEXTS[1]])
def test_packing_equals_the_tokenizers_own_pair_encoding(make, query, document):
    tokenizer = make()
    pairs = PairTokenizer(tokenizer)
    first, second = pairs.encode([query, document])
    packed = pairs.format.pack(first.ids, second.ids[:2], second.ids[2:])
    own = tokenizer(query, document)
    assert packed.ids.tolist() == own["input_ids"]
    if pairs.uses_token_types:
        assert packed.types.tolist() == own["token_type_ids"]
    assert pairs.format.special_tokens == len(packed.ids) - len(first.ids) - len(second.ids)


# Positions of RoBERTa and its kin start behind the padding id (1), so that 66 of them are 64 tokens.
ARCHITECTURES = {
    "Bert": (bert_tokenizer, {"max_position_embeddings": 64}),
    "Roberta": (roberta, {"max_position_embeddings": 66, "type_vocab_size": 1}),
    "XLMRoberta": (xlm_roberta, {"max_position_embeddings": 66, "type_vocab_size": 1}),
    "DebertaV2": (deberta, {"max_position_embeddings": 64, "type_vocab_size": 2, "relative_attention": True}),
    "ModernBert": (modernbert, {"max_position_embeddings": 64, "global_attn_every_n_layers": 1}),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request, tmp_path_factory):
    """A tiny model of each pair format: its folder, itself, its tokenizer."""
    make, options = ARCHITECTURES[request.param]
    tokenizer = make()
    tokenizer.model_max_length = 512
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        num_labels=1,
        initializer_range=0.4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        **options,
    )
    model = getattr(transformers, f"{request.param}ForSequenceClassification")(config).eval()
    folder = tmp_path_factory.mktemp("pairs") / request.param
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model, tokenizer


def own_logit(model, tokenizer, query, document, **how):
    with torch.inference_mode():
        return float(model(**tokenizer([query], [document], return_tensors="pt", **how)).logits[0, 0])


def test_a_model_of_each_format_scores_what_its_own_tokenizer_would_feed_it(architecture):
    folder, model, tokenizer = architecture
    backend = loading.load("torch", ModelOptions(folder, dtype="float32", threads=1))
    assert backend.max_length == 64
    scorer = CrossEncoderScorer(backend, ReadingPolicy(long_documents="head"))
    documents = ["snow", TEXTS[1], ".", "the hut. " * 60]
    query = "where is the hut"
    scores, _ = scorer.score(query, documents)
    expected = [own_logit(model, tokenizer, query, text, truncation="only_second", max_length=64) for text in documents]
    assert [document.logit for document in scores.documents] == pytest.approx(expected, abs=1e-4)
    long = scores.documents[-1]
    assert 0 < long.tokens_read < long.tokens
    assert long.tokens_read + long.query_tokens + backend.tokenizer.format.special_tokens == 64


def test_offsets_count_characters():
    (tokens,) = PairTokenizer(bert_tokenizer()).encode(["the hut."])
    assert [("the hut."[a:b]) for a, b in zip(tokens.starts, tokens.ends, strict=True)] == ["the", "hut", "."]


def test_half_a_surrogate_pair_is_read_and_does_not_shift_offsets():
    (tokens,) = PairTokenizer(bert_tokenizer()).encode(["a \ud83d hut"])
    assert (int(tokens.starts[-1]), int(tokens.ends[-1])) == (4, 7)


def test_our_copy_is_free_of_truncation_that_others_switch_on():
    tokenizer = bert_tokenizer()
    pairs = PairTokenizer(tokenizer)
    tokenizer("a", truncation=True, max_length=3)
    assert len(pairs.encode(["the hut is in the snow"])[0].ids) == 6


def test_a_tokenizer_without_a_fast_form_is_an_error():
    with pytest.raises(ValueError, match="fast form"):
        PairTokenizer(object())


def test_a_tokenizer_without_a_padding_token_fills_with_a_token_that_the_mask_hides():
    tokenizer = bert_tokenizer()
    tokenizer.pad_token = None
    assert PairTokenizer(tokenizer).pad_id == 0
