"""Texts to tokens: word by word the same as the tokenizer's own encoding, only faster."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer

from conftest import bert_tokenizer
from haystack_ce_ranker import tokens as tokens_module
from haystack_ce_ranker.evaluation.collections import load_collection
from haystack_ce_ranker.pairs import PairTokenizer
from haystack_ce_ranker.tokens import TextEncoder, reads_word_by_word
from test_pairs import FORMATS
from test_passages import LEARNT, SCRIPTS

NATIVE = {
    "letters": bert_tokenizer().backend_tokenizer,
    "scripts": LEARNT["wordpiece"],
    "cased": Tokenizer.from_str(LEARNT["wordpiece"].to_str()),
}
NATIVE["cased"].normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
ENCODERS = {name: TextEncoder(tokenizer) for name, tokenizer in NATIVE.items()}

texts = st.lists(
    st.one_of(
        st.text(),
        st.text(alphabet="ab .,-\t\n\r\x00\x1c\x85\u00a0\u3000\u0301é山🙂\u200d[SEP]"),
        st.sampled_from([*SCRIPTS.values(), "", " ", "\n\n"]),
    ),
    max_size=5,
)


@pytest.mark.parametrize("name", NATIVE)
@settings(max_examples=150, deadline=None)
@given(given_texts=texts)
@example(given_texts=["[SEP] a[SEP]b [UNK]", "İ ǆ ﬁ e\u0301 \u0301e", "x" * 101, "a\u2028b\u2029c\x0bd"])
def test_word_by_word_gives_what_the_tokenizer_itself_gives(name, given_texts):
    assert reads_word_by_word(NATIVE[name])
    own = NATIVE[name].encode_batch(given_texts, add_special_tokens=False)
    found = ENCODERS[name].encode(given_texts)
    assert [one.ids.tolist() for one in found] == [encoding.ids for encoding in own]
    offsets = [list(zip(one.starts.tolist(), one.ends.tolist(), strict=True)) for one in found]
    assert offsets == [encoding.offsets for encoding in own]


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_other_tokenizers_read_texts_as_a_whole(make):
    tokenizer = make().backend_tokenizer
    assert reads_word_by_word(tokenizer) == (make is bert_tokenizer)
    own = tokenizer.encode_batch(list(SCRIPTS.values()), add_special_tokens=False)
    assert [one.ids.tolist() for one in TextEncoder(tokenizer).encode(list(SCRIPTS.values()))] == [e.ids for e in own]


@pytest.mark.parametrize(
    "token", [AddedToken("in paris"), AddedToken("hut", lstrip=True), AddedToken("car", single_word=True)]
)
def test_an_added_token_that_looks_across_a_space_rules_word_by_word_out(token):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken("snowcar")])
    assert reads_word_by_word(tokenizer)
    tokenizer.add_tokens([token])
    assert not reads_word_by_word(tokenizer)
    text = "a car hut in paris"
    assert TextEncoder(tokenizer).encode([text])[0].ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_word_is_read_once(monkeypatch):
    read = []
    encode_all = tokens_module._encode_all
    monkeypatch.setattr(tokens_module, "_encode_all", lambda t, texts: read.extend(texts) or encode_all(t, texts))
    encoder = TextEncoder(NATIVE["letters"])
    encoder.encode(["the hut the hut\nthe hut", "the car"])
    assert sorted(" ".join(read).split()) == ["car", "hut", "the"]
    read.clear()
    encoder.encode(["the car hut"])
    assert read == []


def test_texts_without_spaces_are_not_kept_as_words():
    encoder = TextEncoder(NATIVE["scripts"])
    text = SCRIPTS["chinese"] * 9
    own = NATIVE["scripts"].encode(text, add_special_tokens=False).ids
    assert encoder.encode([text])[0].ids.tolist() == own
    assert encoder._words._characters == 0
    encoder.encode(["山上 有一个 小屋"])
    assert encoder._words._characters == 7


def test_the_table_of_words_is_bounded(monkeypatch):
    monkeypatch.setattr(tokens_module, "MAX_CHARACTERS", 20)
    encoder = TextEncoder(NATIVE["letters"])
    for number in range(50):
        text = f"word {number} hut"
        assert encoder.encode([text])[0].ids.tolist() == NATIVE["letters"].encode(text, add_special_tokens=False).ids
        assert encoder._words._characters <= 20
    long = "abc " * 3 + "d" * 30
    assert len(encoder.encode([long])[0].ids) == 39


def test_several_threads_may_encode_at_once(monkeypatch):
    monkeypatch.setattr(tokens_module, "MAX_CHARACTERS", 300)
    encoder = TextEncoder(NATIVE["letters"])
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for round_ in range(40):
            text = " ".join(f"w{number * round_ % 37}x{word}" for word in range(20))
            (found,) = encoder.encode([text])
            assert found.ids.tolist() == NATIVE["letters"].encode(text, add_special_tokens=False).ids
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.integration
@pytest.mark.parametrize("collection", ["covidqa", "dl19"])
def test_real_documents_are_read_as_the_real_tokenizer_reads_them(models_dir, data_dir, collection):
    tokenizer = PairTokenizer(AutoTokenizer.from_pretrained(str(models_dir / "ce-minilm-l12")))
    contents = [document.content for document in load_collection(data_dir / collection).documents.values()][:3000]
    own = tokenizer._tokenizer.encode_batch(contents, add_special_tokens=False)
    for found, expected in zip(tokenizer.encode(contents), own, strict=True):
        assert found.ids.tolist() == expected.ids
        assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == expected.offsets
