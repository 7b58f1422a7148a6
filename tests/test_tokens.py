"""Texts to tokens: word by word the same as the tokenizer's own encoding, only faster."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer

from conftest import bert_tokenizer
from haystack_ce_ranker import word_table
from haystack_ce_ranker.evaluation.collections import load_collection
from haystack_ce_ranker.pairs import PairTokenizer
from haystack_ce_ranker.text_encoder import TextEncoder
from haystack_ce_ranker.word_table import reads_word_by_word
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
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["a car hut in paris"])


@pytest.mark.parametrize("token", [AddedToken("Snow-Car"), AddedToken("Snow-Car", normalized=False)])
def test_added_tokens_with_punctuation_and_capitals_stay_whole(token):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([token])
    assert reads_word_by_word(tokenizer)
    texts = ["a Snow-Car here", "a snow-car, here", "a snow car here", "Snow- Car", "xSnow-Carx", "snow-cár"]
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, texts)


def assert_read_as_the_tokenizer_does(encoder, tokenizer, texts):
    own = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert [one.ids.tolist() for one in encoder.encode(texts)] == [encoding.ids for encoding in own]


def words_known(encoder):
    return len(encoder._words._token_firsts) - 1


@pytest.fixture
def read(monkeypatch):
    """The texts that went through the tokenizer."""
    texts = []
    read_whole = word_table.read_whole
    monkeypatch.setattr(word_table, "read_whole", lambda t, given: texts.extend(given) or read_whole(t, given))
    return texts


def test_a_word_is_read_once_whatever_its_case_and_its_marks(read):
    encoder = TextEncoder(NATIVE["letters"])
    encoder.encode(["xyzzy plugh xyzzy\nXyzzy, (plugh)", "Xyzzy's"])
    assert sorted(" ".join(read).split()) == ["'", "(", ")", "plugh", "xyzzy"]
    read.clear()
    encoder.encode(["PLUGH! (xyzzy)"])
    assert read == []


def test_case_counts_where_the_tokenizer_keeps_it(read):
    TextEncoder(NATIVE["cased"]).encode(["Xyzzy xyzzy XYZZY"])
    assert sorted(" ".join(read).split()) == ["XYZZY", "Xyzzy", "xyzzy"]


@pytest.mark.parametrize("name", NATIVE)
def test_words_of_the_vocabulary_are_never_read_and_are_what_the_tokenizer_reads(name, read):
    vocabulary = NATIVE[name].get_vocab(with_added_tokens=False)
    words = [
        word for word in vocabulary if word.isascii() and word.isalnum() and (name == "cased" or word == word.lower())
    ]
    assert len(words) > 20
    for found, word in zip(TextEncoder(NATIVE[name]).encode(words), words, strict=True):
        own = NATIVE[name].encode(word, add_special_tokens=False)
        assert (found.ids.tolist(), found.starts.tolist(), found.ends.tolist()) == (own.ids, [0], [len(word)])
    assert read == []


def test_a_word_too_long_for_wordpiece_is_not_taken_from_the_vocabulary():
    described = json.loads(NATIVE["letters"].to_str())
    described["model"]["max_input_chars_per_word"] = 2
    tokenizer = Tokenizer.from_str(json.dumps(described))
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["the hut", "a car in the snow"])


def test_texts_without_spaces_are_read_as_a_whole_and_not_kept(read):
    encoder = TextEncoder(NATIVE["scripts"])
    known = words_known(encoder)
    chinese, mixed = SCRIPTS["chinese"] * 9, "xyzzy plugh"
    assert_read_as_the_tokenizer_does(encoder, NATIVE["scripts"], [mixed, chinese, mixed])
    assert chinese in read
    assert words_known(encoder) == known + 2


def test_a_tokenizer_may_have_no_added_tokens():
    described = json.loads(NATIVE["letters"].to_str())
    described["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(described))
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["a [SEP] hut", "xyzzy"])


def test_a_text_with_a_special_token_is_read_as_a_whole(read):
    TextEncoder(NATIVE["letters"]).encode(["xyzzy [SEP] plugh", "xyzzy [sep]"])
    assert "xyzzy [SEP] plugh" in read
    assert "xyzzy [sep]" not in read


def test_the_words_of_the_table_are_bounded(monkeypatch, read):
    monkeypatch.setattr(word_table, "MAX_WORDS", 128)
    encoder = TextEncoder(NATIVE["letters"])
    for number in range(100):
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [f"word{number} hut"])
        assert words_known(encoder) <= 128
    too_many = " ".join(f"word{number}" for number in range(160))
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [too_many])
    assert read[-1] == too_many
    read.clear()
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["a word0 hut a"])
    assert read[-1].split() == ["word0"]


def test_the_characters_of_the_table_are_bounded(monkeypatch, read):
    monkeypatch.setattr(word_table, "MAX_CHARACTERS", 200)
    encoder = TextEncoder(NATIVE["letters"])
    for size in range(1, 16):
        text = " ".join("abcdefghijklmno"[first : first + size] for first in range(8))
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])
        assert encoder._words._letter_firsts[words_known(encoder)] <= 200
    too_many = " ".join(f"abcdef{number}" for number in range(40))
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [too_many])
    assert read[-1] == too_many


def test_words_whose_reading_failed_are_read_the_next_time(monkeypatch):
    def fail(*_):
        raise MemoryError("no more")

    encoder = TextEncoder(NATIVE["letters"])
    with monkeypatch.context() as patched:
        patched.setattr(word_table, "read_whole", fail)
        with pytest.raises(MemoryError):
            encoder.encode(["xyzzy"])
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["xyzzy"])


def test_several_threads_may_encode_at_once(monkeypatch):
    monkeypatch.setattr(word_table, "MAX_WORDS", 100)
    encoder = TextEncoder(NATIVE["letters"])
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for round_ in range(40):
            text = " ".join(f"w{number * round_ % 37}x{word}" for word in range(20))
            assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])
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
