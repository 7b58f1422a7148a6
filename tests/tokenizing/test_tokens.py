"""Texts to tokens: word by word the same as the tokenizer's own encoding, only faster."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer

from fakes import FORMATS, LEARNT, SCRIPTS, bert_tokenizer
from haystack_ce_ranker.evaluation.data.collections import load_collection
from haystack_ce_ranker.tokenizing import word_table
from haystack_ce_ranker.tokenizing.pairs import PairTokenizer
from haystack_ce_ranker.tokenizing.text_encoder import MANY_ADDED, TextEncoder

NATIVE = {
    "letters": bert_tokenizer().backend_tokenizer,
    "scripts": LEARNT["wordpiece"],
    "cased": Tokenizer.from_str(LEARNT["wordpiece"].to_str()),
}
NATIVE["cased"].normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
NATIVE["plain"] = Tokenizer.from_str(LEARNT["wordpiece"].to_str())
NATIVE["plain"].normalizer = None
NATIVE["as they come"] = Tokenizer.from_str(LEARNT["wordpiece"].to_str())
NATIVE["as they come"].normalizer = normalizers.BertNormalizer(
    clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=True
)
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
    assert ENCODERS[name]._words is not None
    assert_read_as_the_tokenizer_does(ENCODERS[name], NATIVE[name], given_texts)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_other_tokenizers_read_texts_as_a_whole(make):
    tokenizer = make().backend_tokenizer
    assert (TextEncoder(tokenizer)._words is not None) == (make is bert_tokenizer)
    own = tokenizer.encode_batch(list(SCRIPTS.values()), add_special_tokens=False)
    assert [one.ids.tolist() for one in TextEncoder(tokenizer).encode(list(SCRIPTS.values()))] == [e.ids for e in own]


@pytest.mark.parametrize(
    "token", [AddedToken("in paris"), AddedToken("hut", lstrip=True), AddedToken("car", single_word=True)]
)
def test_an_added_token_that_looks_across_a_space_rules_word_by_word_out(token):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken("snowcar")])
    assert TextEncoder(tokenizer)._words is not None
    tokenizer.add_tokens([token])
    assert TextEncoder(tokenizer)._words is None
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["a car hut in paris"])


@pytest.mark.parametrize("content", ["Snow-Car", "xxbos", "-", "#"])
@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_are_found_where_the_tokenizer_finds_them(content, normalized):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken(content, normalized=normalized)])
    assert TextEncoder(tokenizer)._words is not None
    texts = ["a Snow-Car here", "a snow-car, here", "a snow car here", "Snow- Car", "xSnow-Carx", "snow-cár"]
    texts += ["XXBOS here", "xxbos", "aXXBOSb", "axxbosb", "xx bos", "c#", "#", "a-b", "Σ#"]
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, texts)


def assert_read_as_the_tokenizer_does(encoder, tokenizer, texts):
    own = tokenizer.encode_batch(texts, add_special_tokens=False)
    found = encoder.encode(texts)
    assert [one.ids.tolist() for one in found] == [encoding.ids for encoding in own]
    offsets = [list(zip(one.starts.tolist(), one.ends.tolist(), strict=True)) for one in found]
    assert offsets == [encoding.offsets for encoding in own]


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
    keeps_case = name in ("cased", "plain")
    words = [word for word in vocabulary if word.isascii() and word.isalnum() and (keeps_case or word == word.lower())]
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


def test_a_tokenizer_may_have_no_added_tokens(read):
    described = json.loads(NATIVE["letters"].to_str())
    described["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(described))
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["a [SEP] hut", "xyzzy"])
    assert "".join(read).split() == ["[", "sep", "]", "xyzzy"]


def test_many_added_tokens_are_not_searched_for_in_each_text():
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken(f"unused{number}", normalized=False) for number in range(MANY_ADDED + 1)])
    assert TextEncoder(tokenizer)._words is None


def test_a_text_with_a_special_token_is_read_as_a_whole(read):
    TextEncoder(NATIVE["letters"]).encode(["xyzzy [SEP] plugh", "xyzzy (SEP)"])
    assert "xyzzy [SEP] plugh" in read
    assert "xyzzy (SEP)" not in read


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


def test_a_word_may_fill_the_table_to_the_last_character(monkeypatch, read):
    described = json.loads(NATIVE["letters"].to_str())
    described["model"]["vocab"] = {"[UNK]": 0, "a": 1, "##a": 2, "b": 3}
    described["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(described))
    monkeypatch.setattr(word_table, "MAX_CHARACTERS", 20)  # four of them for "a" and "b"
    for size, whole in ((15, False), (16, True)):
        read.clear()
        encoder = TextEncoder(tokenizer)
        text = f"a {'a' * size}"
        assert_read_as_the_tokenizer_does(encoder, tokenizer, [text])
        assert (read == [text]) == whole


@pytest.mark.parametrize(("words", "characters"), [(20, 2000), (2000, 60), (1, 2000), (2000, 1)])
def test_a_table_that_is_too_small_for_the_vocabulary_holds_some_of_it(monkeypatch, words, characters):
    monkeypatch.setattr(word_table, "MAX_WORDS", words)
    monkeypatch.setattr(word_table, "MAX_CHARACTERS", characters)
    encoder = TextEncoder(NATIVE["letters"])
    assert len(encoder._words._seed_tokens.ids) <= words // 2
    assert len(encoder._words._seeds) <= characters // 2
    for text in ("a hut", "xyzzy", "the city of paris, xyzzy", "a"):
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])


def test_words_with_one_hash_are_told_apart():
    encoder = TextEncoder(NATIVE["letters"])
    encoder._words._key = np.uint64(0)  # makes every hash 0
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["xyzzy xyzzx yxzzy the hut zyx xyzz", "ab ba"])
    assert set(encoder._words._hashes[: words_known(encoder)].tolist()) == {0}


@pytest.mark.parametrize("where", ["read_whole", "pairwise"])
def test_words_whose_reading_failed_are_read_the_next_time(monkeypatch, where):
    def fail(*_):
        raise MemoryError("no more")

    encoder = TextEncoder(NATIVE["letters"])
    encoder.encode(["plugh"])
    with monkeypatch.context() as patched:
        patched.setattr(word_table, where, fail)
        with pytest.raises(MemoryError):
            encoder.encode(["xyzzy"])
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["the hut xyzzy", "plugh"])


def test_a_table_whose_clearing_failed_is_cleared_the_next_time(monkeypatch):
    monkeypatch.setattr(word_table, "MAX_WORDS", 128)
    encoder = TextEncoder(NATIVE["letters"])
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["plugh the hut"])
    kept, encoder._words._seed_firsts = encoder._words._seed_firsts, None
    with pytest.raises(TypeError):
        encoder.encode([" ".join(f"word{number}" for number in range(120))])
    encoder._words._seed_firsts = kept
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["the hut", "berlin xyzzy"])


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
