"""Texts to tokens: word by word the same as the tokenizer's own encoding, only faster, and loaded when it pays."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer

from fakes import FORMATS, LEARNT, SCRIPTS, bert_tokenizer
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.tokenizing import word_table
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.text_encoder import LONG_TEXT, MANY_ADDED, TextEncoder

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


def by_table(tokenizer):
    """An encoder that has its table of words already, so that it reads short texts by it, too."""
    encoder = TextEncoder(tokenizer)
    encoder.load_table()
    return encoder


ENCODERS = {name: by_table(tokenizer) for name, tokenizer in NATIVE.items()}

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
    assert ENCODERS[name]._table is not None
    assert_read_as_the_tokenizer_does(ENCODERS[name], NATIVE[name], given_texts)


@pytest.mark.parametrize("make", [TextEncoder, by_table])
def test_half_of_a_surrogate_pair_is_read_as_a_replacement_character(make):
    found = make(NATIVE["letters"]).encode(["a \ud83d hut", "a car"])
    own = make(NATIVE["letters"]).encode(["a \ufffd hut", "a car"])
    for ours, expected in zip(found, own, strict=True):
        assert [array.tolist() for array in ours] == [array.tolist() for array in expected]


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_other_tokenizers_read_texts_as_a_whole(make):
    tokenizer = make().backend_tokenizer
    assert TextEncoder(tokenizer).by_words == (make is bert_tokenizer)
    own = tokenizer.encode_batch(list(SCRIPTS.values()), add_special_tokens=False)
    assert [one.ids.tolist() for one in TextEncoder(tokenizer).encode(list(SCRIPTS.values()))] == [e.ids for e in own]


@pytest.mark.parametrize(
    "token", [AddedToken("in paris"), AddedToken("hut", lstrip=True), AddedToken("car", single_word=True)]
)
def test_an_added_token_that_looks_across_a_space_rules_word_by_word_out(token):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken("snowcar")])
    assert TextEncoder(tokenizer).by_words
    tokenizer.add_tokens([token])
    assert not TextEncoder(tokenizer).by_words
    assert_read_as_the_tokenizer_does(TextEncoder(tokenizer), tokenizer, ["a car hut in paris"])


@pytest.mark.parametrize("content", ["Snow-Car", "xxbos", "-", "#"])
@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_are_found_where_the_tokenizer_finds_them(content, normalized):
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken(content, normalized=normalized)])
    assert TextEncoder(tokenizer).by_words
    texts = ["a Snow-Car here", "a snow-car, here", "a snow car here", "Snow- Car", "xSnow-Carx", "snow-cár"]
    texts += ["XXBOS here", "xxbos", "aXXBOSb", "axxbosb", "xx bos", "c#", "#", "a-b", "Σ#"]
    assert_read_as_the_tokenizer_does(by_table(tokenizer), tokenizer, texts)


def assert_read_as_the_tokenizer_does(encoder, tokenizer, texts):
    own = tokenizer.encode_batch(texts, add_special_tokens=False)
    found = encoder.encode(texts)
    assert [one.ids.tolist() for one in found] == [encoding.ids for encoding in own]
    offsets = [list(zip(one.starts.tolist(), one.ends.tolist(), strict=True)) for one in found]
    assert offsets == [encoding.offsets for encoding in own]


def words_known(encoder):
    return len(encoder._table._token_firsts) - 1


@pytest.fixture
def read(monkeypatch):
    """The texts that went through the tokenizer."""
    texts = []
    read_whole = word_table.read_whole
    monkeypatch.setattr(word_table, "read_whole", lambda t, given: texts.extend(given) or read_whole(t, given))
    return texts


def test_a_word_is_read_once_whatever_its_case_and_its_marks(read):
    encoder = by_table(NATIVE["letters"])
    encoder.encode(["xyzzy plugh xyzzy\nXyzzy, (plugh)", "Xyzzy's"])
    assert sorted(" ".join(read).split()) == ["'", "(", ")", "plugh", "xyzzy"]
    read.clear()
    encoder.encode(["PLUGH! (xyzzy)"])
    assert read == []


def test_case_counts_where_the_tokenizer_keeps_it(read):
    by_table(NATIVE["cased"]).encode(["Xyzzy xyzzy XYZZY"])
    assert sorted(" ".join(read).split()) == ["XYZZY", "Xyzzy", "xyzzy"]


@pytest.mark.parametrize("name", NATIVE)
def test_words_of_the_vocabulary_are_never_read_and_are_what_the_tokenizer_reads(name, read):
    vocabulary = NATIVE[name].get_vocab(with_added_tokens=False)
    keeps_case = name in ("cased", "plain")
    words = [word for word in vocabulary if word.isascii() and word.isalnum() and (keeps_case or word == word.lower())]
    assert len(words) > 20
    for found, word in zip(by_table(NATIVE[name]).encode(words), words, strict=True):
        own = NATIVE[name].encode(word, add_special_tokens=False)
        assert (found.ids.tolist(), found.starts.tolist(), found.ends.tolist()) == (own.ids, [0], [len(word)])
    assert read == []


def test_a_word_too_long_for_wordpiece_is_not_taken_from_the_vocabulary():
    described = json.loads(NATIVE["letters"].to_str())
    described["model"]["max_input_chars_per_word"] = 2
    tokenizer = Tokenizer.from_str(json.dumps(described))
    assert_read_as_the_tokenizer_does(by_table(tokenizer), tokenizer, ["the hut", "a car in the snow"])


def test_texts_without_spaces_are_read_as_a_whole_and_not_kept(read):
    encoder = by_table(NATIVE["scripts"])
    known = words_known(encoder)
    chinese, mixed = SCRIPTS["chinese"] * 9, "xyzzy plugh"
    assert_read_as_the_tokenizer_does(encoder, NATIVE["scripts"], [mixed, chinese, mixed])
    assert chinese in read
    assert words_known(encoder) == known + 2


def test_a_tokenizer_may_have_no_added_tokens(read):
    described = json.loads(NATIVE["letters"].to_str())
    described["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(described))
    assert_read_as_the_tokenizer_does(by_table(tokenizer), tokenizer, ["a [SEP] hut", "xyzzy"])
    assert "".join(read).split() == ["[", "sep", "]", "xyzzy"]


def test_many_added_tokens_are_not_searched_for_in_each_text():
    tokenizer = Tokenizer.from_str(NATIVE["letters"].to_str())
    tokenizer.add_tokens([AddedToken(f"unused{number}", normalized=False) for number in range(MANY_ADDED + 1)])
    assert not TextEncoder(tokenizer).by_words


def test_a_text_with_a_special_token_is_read_as_a_whole(read):
    by_table(NATIVE["letters"]).encode(["xyzzy [SEP] plugh", "xyzzy (SEP)"])
    assert "xyzzy [SEP] plugh" in read
    assert "xyzzy (SEP)" not in read


def test_the_words_of_the_table_are_bounded(monkeypatch, read):
    monkeypatch.setattr(word_table, "MAX_WORDS", 128)
    encoder = by_table(NATIVE["letters"])
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
    encoder = by_table(NATIVE["letters"])
    for size in range(1, 16):
        text = " ".join("abcdefghijklmno"[first : first + size] for first in range(8))
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])
        assert encoder._table._letter_firsts[words_known(encoder)] <= 200
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
        encoder = by_table(tokenizer)
        text = f"a {'a' * size}"
        assert_read_as_the_tokenizer_does(encoder, tokenizer, [text])
        assert (read == [text]) == whole


@pytest.mark.parametrize(("words", "characters"), [(20, 2000), (2000, 60), (1, 2000), (2000, 1)])
def test_a_table_that_is_too_small_for_the_vocabulary_holds_some_of_it(monkeypatch, words, characters):
    monkeypatch.setattr(word_table, "MAX_WORDS", words)
    monkeypatch.setattr(word_table, "MAX_CHARACTERS", characters)
    encoder = by_table(NATIVE["letters"])
    assert len(encoder._table._seed_tokens.ids) <= words // 2
    assert len(encoder._table._seeds) <= characters // 2
    for text in ("a hut", "xyzzy", "the city of paris, xyzzy", "a"):
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])


def test_words_with_one_hash_are_told_apart():
    encoder = by_table(NATIVE["letters"])
    encoder._table._key = np.uint64(0)  # makes every hash 0
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["xyzzy xyzzx yxzzy the hut zyx xyzz", "ab ba"])
    assert set(encoder._table._hashes[: words_known(encoder)].tolist()) == {0}


@pytest.mark.parametrize("where", ["read_whole", "pairwise"])
def test_words_whose_reading_failed_are_read_the_next_time(monkeypatch, where):
    def fail(*_):
        raise MemoryError("no more")

    encoder = by_table(NATIVE["letters"])
    encoder.encode(["plugh"])
    with monkeypatch.context() as patched:
        patched.setattr(word_table, where, fail)
        with pytest.raises(MemoryError):
            encoder.encode(["xyzzy"])
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["the hut xyzzy", "plugh"])


def test_a_table_whose_clearing_failed_is_cleared_the_next_time(monkeypatch):
    monkeypatch.setattr(word_table, "MAX_WORDS", 128)
    encoder = by_table(NATIVE["letters"])
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["plugh the hut"])
    kept, encoder._table._seed_firsts = encoder._table._seed_firsts, None
    with pytest.raises(TypeError):
        encoder.encode([" ".join(f"word{number}" for number in range(120))])
    encoder._table._seed_firsts = kept
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["the hut", "berlin xyzzy"])


def test_several_threads_may_encode_at_once(monkeypatch):
    monkeypatch.setattr(word_table, "MAX_WORDS", 100)
    encoder = by_table(NATIVE["letters"])
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for round_ in range(40):
            text = " ".join(f"w{number * round_ % 37}x{word}" for word in range(20))
            assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [text])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


LONG = "the hut in the snow, a car of the city. xyzzy " * (LONG_TEXT // 40)


def test_only_a_long_text_loads_the_table():
    encoder = TextEncoder(NATIVE["letters"])
    just_short = LONG[: LONG_TEXT - 1]
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [just_short] * 100)
    assert encoder._table is None
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["a hut", LONG[:LONG_TEXT], "xyzzy"])
    assert encoder._table is encoder.load_table() is not None
    known = words_known(encoder)
    assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], ["short texts are read by it, too: plugh"])
    assert words_known(encoder) > known


def test_a_long_text_without_spaces_does_not_load_the_table():
    encoder = TextEncoder(NATIVE["scripts"])
    long = SCRIPTS["chinese"] * (LONG_TEXT // 100)
    assert len(long) > LONG_TEXT
    assert_read_as_the_tokenizer_does(encoder, NATIVE["scripts"], [long])
    assert encoder._table is None


@pytest.mark.parametrize("kind", ["bytes", "unigrams"])
def test_a_long_text_loads_no_table_where_words_are_not_read_alone(kind):
    encoder = TextEncoder(LEARNT[kind])
    assert_read_as_the_tokenizer_does(encoder, LEARNT[kind], [LONG])
    assert encoder._table is None
    with pytest.raises(ValueError, match="does not read word by word"):
        encoder.load_table()


def test_threads_that_reach_the_first_long_text_together_load_one_table(monkeypatch):
    encoder, made, second = TextEncoder(NATIVE["letters"]), [], threading.Event()

    class Watched(word_table.WordTable):
        def __init__(self, *args):
            made.append(self)
            if len(made) > 1:
                second.set()
            second.wait(0.5)  # time enough for another thread to make one, were it allowed to
            super().__init__(*args)

    monkeypatch.setattr(word_table, "WordTable", Watched)
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        assert_read_as_the_tokenizer_does(encoder, NATIVE["letters"], [LONG])
        return encoder._table

    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(work, range(4)))
    assert made == [tables[0]]
    assert all(table is tables[0] for table in tables)


def in_a_new_process(code, *arguments):
    """Run code in a process of its own, and return what it printed; what hangs is an error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


RANKING = """
import sys
from haystack import Document
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import ModelOptions

short, long = "the hut in the snow, near berlin. " * 10, "the hut in the snow, xyzzy of berlin. " * 200
ranker = CrossEncoderRanker(model=sys.argv[1])
for texts in ([short, "a car"] * 50, [long, short]):
    ranker.run("the hut", [Document(id=str(nth), content=text) for nth, text in enumerate(texts)])
    print("numba" in sys.modules)
tokenizer = load("torch", ModelOptions(sys.argv[1], device="cpu")).tokenizer
expected = tokenizer._tokenizer.encode_batch([long, short], add_special_tokens=False)
for found, own in zip(tokenizer.encode([long, short]), expected, strict=True):
    print(found.ids.tolist() == own.ids, list(zip(found.starts.tolist(), found.ends.tolist())) == own.offsets)
print(tokenizer._encoder._table is not None)
"""


def test_ranking_short_texts_never_imports_numba(tiny_bert):
    assert in_a_new_process(RANKING, tiny_bert) == ["False", "True", *["True"] * 5]


FORKING = """
import os, signal, sys, threading, time
from tokenizers import Tokenizer
from haystack_ce_ranker.tokenizing.text_encoder import TextEncoder

tokenizer = Tokenizer.from_file(sys.argv[1])
encoder = TextEncoder(tokenizer)
texts = ["the hut in the snow, xyzzy. " * 200]
expected = tokenizer.encode(texts[0], add_special_tokens=False).ids
{before}
child = os.fork()
if child == 0:
    signal.alarm(120)  # ends a child that waits for ever
    os._exit(0 if encoder.encode(texts)[0].ids.tolist() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)  # whatever the other thread waits for
"""

BEFORE_THE_FORK = {
    "the table is not there": "",
    "another thread loads the table": """
threading.Thread(target=encoder.encode, args=(texts,)).start()
while "numba" not in sys.modules:
    time.sleep(0.001)
""",
    "another thread holds the table": """
from haystack_ce_ranker.tokenizing import word_table
holds, read_whole, main = threading.Event(), word_table.read_whole, threading.current_thread()

def blocked(*args):
    if threading.current_thread() is not main:
        holds.set()
        threading.Event().wait()
    return read_whole(*args)

word_table.read_whole = blocked
threading.Thread(target=encoder.encode, args=(texts,), daemon=True).start()
holds.wait()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("when", BEFORE_THE_FORK)
def test_a_child_reads_long_texts_whenever_it_was_forked(tiny_bert, when):
    code = FORKING.format(before=BEFORE_THE_FORK[when])
    assert in_a_new_process(code, f"{tiny_bert}/tokenizer.json") == ["0"]


@pytest.mark.integration
@pytest.mark.parametrize("collection", ["covidqa", "dl19"])
def test_real_documents_are_read_as_the_real_tokenizer_reads_them(models_dir, data_dir, collection):
    tokenizer = PairTokenizer(AutoTokenizer.from_pretrained(str(models_dir / "ce-minilm-l12")))
    tokenizer._encoder.load_table()
    contents = [document.content for document in load_collection(data_dir / collection).documents.values()][:3000]
    own = tokenizer._tokenizer.encode_batch(contents, add_special_tokens=False)
    for found, expected in zip(tokenizer.encode(contents), own, strict=True):
        assert found.ids.tolist() == expected.ids
        assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == expected.offsets
