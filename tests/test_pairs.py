"""Packing equals each tokenizer's own pair encoding, for every pair format."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from conftest import bert_tokenizer
from haystack_ce_ranker.pairs import PairTokenizer

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


def test_a_tokenizer_without_padding_is_an_error():
    tokenizer = bert_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="padding token"):
        PairTokenizer(tokenizer)
