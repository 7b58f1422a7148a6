"""A vocabulary knows texts in the languages it was made of, and says of others that it does not."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from haystack_ce_ranker.reading.readability import READABLE, UNREADABLE_SHARE, Vocabulary, readability
from haystack_ce_ranker.tokenizing.tokens import Tokens, read_whole

KNOWN = {
    "English": "The narrow-gauge railway climbs to the hut every morning. In winter the brakes must be checked twice.",
    "German": "Die Schmalspurbahn fährt jeden Morgen zur Hütte. Im Winter müssen die Bremsen zweimal geprüft werden.",
    "French": "Le train monte chaque matin jusqu'au refuge. En hiver, il faut vérifier les freins deux fois.",
    "Polish": "Kolejka wąskotorowa co rano wjeżdża pod schronisko. Zimą hamulce trzeba sprawdzać dwa razy.",
    "Finnish": "Kapearaiteinen juna nousee joka aamu tuvalle. Talvella jarrut on tarkistettava kahdesti.",
    "Vietnamese": "Mỗi buổi sáng, chuyến tàu nhỏ leo lên căn lều trên núi. Mùa đông phải kiểm tra phanh hai lần.",
}
"""Languages that an English vocabulary spells in pieces of several letters."""

UNKNOWN = {
    "Russian": "Узкоколейный поезд каждое утро поднимается к хижине. Зимой тормоза нужно проверять дважды.",
    "Greek": "Το μικρό τρένο ανεβαίνει κάθε πρωί στο καταφύγιο. Τον χειμώνα τα φρένα ελέγχονται δύο φορές.",
    "Arabic": "يصعد القطار الصغير كل صباح إلى الكوخ. في الشتاء يجب فحص الفرامل مرتين لأن الثلج يغطي القضبان.",
    "Hindi": "छोटी रेलगाड़ी हर सुबह पहाड़ की झोपड़ी तक चढ़ती है। सर्दियों में ब्रेक की दो बार जाँच करनी पड़ती है।",
    "Chinese": "窄轨火车每天早晨开往山上的小屋。冬天铁轨上有积雪，所以刹车必须检查两次。",
    "Japanese": "狭軌の列車は毎朝、山小屋まで登ります。冬は線路に雪が積もるため、ブレーキを二度点検します。",
    "Korean": "협궤 열차는 매일 아침 산장까지 올라간다. 겨울에는 눈이 쌓이기 때문에 브레이크를 두 번 점검한다.",
    "Thai": "รถไฟรางแคบขึ้นไปยังกระท่อมทุกเช้า ในฤดูหนาวต้องตรวจเบรกสองครั้งเพราะมีหิมะบนราง",
}
"""Languages of whose words an English vocabulary knows nothing but letters."""


def trained(texts, kind):
    """A tokenizer that is made of some texts."""
    if kind == "words":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=["[UNK]"])
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, max_token_length=24)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_by(tokenizer, text):
    unknown = tokenizer.token_to_id("[UNK]")
    return readability(text, *read_whole(tokenizer, [text]), Vocabulary(tokenizer.get_vocab, unknown))


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("language", UNKNOWN)
def test_a_vocabulary_of_other_languages_does_not_know_a_text(kind, language):
    assert read_by(trained(KNOWN.values(), kind), UNKNOWN[language]).unreadable > 0.9


@pytest.mark.parametrize("language", sorted(set(UNKNOWN) - {"Thai"}))  # whose sentences would be words
def test_a_vocabulary_of_a_language_knows_it(language):
    texts = {**KNOWN, **UNKNOWN}
    found = read_by(trained(texts.values(), "bytes"), texts[language])
    assert found.unreadable < UNREADABLE_SHARE
    assert found.unknown == 0.0


@pytest.mark.parametrize("language", [*KNOWN, *UNKNOWN])
def test_the_threshold_parts_fourteen_languages_by_the_vocabulary_of_a_real_english_model(models_dir, language):
    tokenizer = Tokenizer.from_file(str(models_dir / "ce-minilm-l12" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    share = read_by(tokenizer, {**KNOWN, **UNKNOWN}[language]).unreadable
    assert share < 0.1 if language in KNOWN else share > 0.9


def test_ideographs_count_only_for_a_vocabulary_without_them():
    text = UNKNOWN["Chinese"]
    many = {chr(place): number for number, place in enumerate(range(0x4E00, 0x4E00 + 7000))}
    tokens = Tokens(*(np.arange(len(text), dtype=np.int32) + shift for shift in (100, 0, 1)))
    assert readability(text, tokens, Vocabulary(lambda: many, None)) == READABLE
    assert readability(text, tokens, Vocabulary(lambda: ["a", "the"], None)).unreadable == 1.0


def test_one_unknown_token_for_a_long_text_leaves_nothing_known():
    text = "ก" * 3100
    tokens = Tokens(np.array([7], np.int32), np.array([0], np.int32), np.array([3100], np.int32))
    assert readability(text, tokens, Vocabulary(list, 7)) == (1.0, 1.0)


def test_numbers_and_single_latin_letters_are_no_other_language():
    text = "a 1 b 2 c 3 . 7 x"
    places = np.arange(0, len(text), 2, dtype=np.int32)
    assert readability(text, Tokens(places, places, places + 1), Vocabulary(list, None)) == READABLE


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_shares_lie_between_0_and_1(text):
    found = read_by(ENGLISH, text)
    assert 0 <= found.unreadable <= 1
    assert 0 <= found.unknown <= 1


PARTS = ["the ", "hut ", "a ", "7", ".", "ж", "é", "山", "\u3000", "\ud800", "ก" * 9]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_the_shares_are_those_of_all_pieces_looked_at_one_by_one(parts):
    text = "".join(parts)
    (tokens,) = read_whole(ENGLISH, [text.replace("\ud800", "?")])
    pieces = [text[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    unknown = [piece for token, piece in zip(tokens.ids, pieces, strict=True) if token == UNKNOWN_ID]
    known = [piece for token, piece in zip(tokens.ids, pieces, strict=True) if token != UNKNOWN_ID]
    telling = [piece for piece in known if len(piece) > 1 or (piece and unicodedata.category(piece)[0] in "LM")]
    strange = [piece for piece in telling if len(piece) == 1 and not piece.isascii()]
    share = (len(unknown) + len(strange)) / max(len(unknown) + len(telling), 1)
    found = readability(text, tokens, Vocabulary(ENGLISH.get_vocab, UNKNOWN_ID))
    assert found.unreadable == pytest.approx(share) or max(found.unreadable, share) < UNREADABLE_SHARE
    characters = [character for character in text if not character.isspace()]
    assert found.unknown == pytest.approx(sum(map(len, unknown)) / max(len(characters), 1))


ENGLISH = trained(KNOWN.values(), "words")
UNKNOWN_ID = ENGLISH.token_to_id("[UNK]")
