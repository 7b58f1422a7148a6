"""
The inner loops of the table of words, compiled by numba: texts to words, words to numbers, numbers to tokens.

Code points in, numbers and arrays out. The tokenizer says which tokens a word has (`word_table.py`). Importing
this module compiles the loops, or loads them from numba's cache on disk, as with `bm25/kernels.py`.
"""

import numpy as np
from numba import types

from haystack_ce_ranker.compiling import compiled, read_only

PART_OF_WORD, BETWEEN_WORDS, WORD_OF_ITS_OWN = 0, 1, 2
"""The role of a character below `ASCII`; every other character is part of a word."""

ASCII = 128

_CHARACTERS = read_only(types.uint32)
_KINDS = read_only(types.uint8)
_I32 = read_only(types.int32)
_I64 = read_only(types.int64)
_OUT_I32, _OUT_I64 = types.int32[::1], types.int64[::1]
_OUT_U32, _OUT_U64 = types.uint32[::1], types.uint64[::1]
_SHIFT = np.uint64(32)


@compiled(types.void(_CHARACTERS, _I64, _KINDS, _OUT_I64))
def count_words(characters, starts, kinds, counts):  # type: ignore[no-untyped-def]
    """Count the words of each text; text n has the characters from `starts[n]` to `starts[n + 1]`."""
    for text in range(len(counts)):
        words, before = 0, BETWEEN_WORDS
        for i in range(starts[text], starts[text + 1]):
            character = characters[i]
            kind = kinds[character] if character < ASCII else PART_OF_WORD
            words += (kind == WORD_OF_ITS_OWN) | ((kind == PART_OF_WORD) & (before != PART_OF_WORD))
            before = kind
        counts[text] = words


@compiled(types.boolean(_CHARACTERS, types.int64, types.int64, _CHARACTERS, _OUT_U32, types.int64))
def same_word(characters, begin, size, folded, letters, first):  # type: ignore[no-untyped-def]
    """Tell whether a word of a text is the one that begins at `first` in the letters of the table."""
    for place in range(size):
        character = characters[begin + place]
        if letters[first + place] != (folded[character] if character < ASCII else character):
            return False
    return True


@compiled(types.void(_CHARACTERS, types.int64, types.int64, _CHARACTERS, _OUT_U32, types.int64))
def keep_word(characters, begin, size, folded, letters, first):  # type: ignore[no-untyped-def]
    """Write a word of a text into the letters of the table at `first`, and a space behind it."""
    for place in range(size):
        character = characters[begin + place]
        letters[first + place] = folded[character] if character < ASCII else character
    letters[first + size] = np.uint32(32)


@compiled(
    types.UniTuple(types.int64, 2)(
        _CHARACTERS,
        _KINDS,
        _CHARACTERS,
        types.uint64,
        types.int64,
        _OUT_I32,
        _OUT_U64,
        _OUT_I32,
        _OUT_U32,
        _OUT_I32,
        _OUT_I32,
    )
)
def number_words(characters, kinds, folded, key, known, slots, hashes, firsts, letters, numbers, begins):  # type: ignore[no-untyped-def]
    """
    Number the words of a text by a hash table, and add the words that it does not know.

    :param folded: What the table keeps of each character below `ASCII`: its lower-case form where case does not matter.
    :param key: The start of every hash; odd, and secret, so that nobody can write a text whose words share a slot.
    :param known: How many words the table has.
    :param slots: The hash table, with open addressing: numbers of words plus one. Its size is a power of two.
    :param hashes: The hash of each word.
    :param firsts: Where each word begins in `letters`, and where the next one would.
    :param letters: The words as the table keeps them, each with a space behind it.
    :param numbers: Written: the number of each word of the text.
    :param begins: Written: where each word of the text begins.
    :returns: How many words of the text were numbered, and how many the table has now. The table may be full before
        the text ends; the words written until then stay valid.
    """
    mask = np.uint64(len(slots) - 1)
    found, i = 0, 0
    while i < len(characters):
        character = characters[i]
        kind = kinds[character] if character < ASCII else PART_OF_WORD
        if kind == BETWEEN_WORDS:
            i += 1
            continue
        begin, value = i, key
        while True:
            letter = folded[character] if character < ASCII else character
            value = (value ^ np.uint64(letter)) * key
            value ^= value >> _SHIFT
            i += 1
            if kind == WORD_OF_ITS_OWN or i == len(characters):
                break
            character = characters[i]
            if character < ASCII and kinds[character] != PART_OF_WORD:
                break
        size = i - begin
        slot = value & mask
        number = -1
        while slots[slot] != 0:
            other = slots[slot] - 1
            first = firsts[other]
            same_size = firsts[other + 1] - first - 1 == size
            if same_size and hashes[other] == value and same_word(characters, begin, size, folded, letters, first):
                number = other
                break
            slot = (slot + np.uint64(1)) & mask
        if number < 0:
            first = firsts[known]
            if known == len(hashes) or first + size + 1 > len(letters):
                return found, known
            keep_word(characters, begin, size, folded, letters, first)
            hashes[known] = value
            firsts[known + 1] = first + size + 1
            slots[slot] = known + 1
            number = known
            known += 1
        numbers[found] = number
        begins[found] = begin
        found += 1
    return found, known


@compiled(types.void(_I32, _I64, _I32, _OUT_I64))
def count_tokens(numbers, word_starts, firsts, token_starts):  # type: ignore[no-untyped-def]
    """
    Write where the tokens of each text start, and where the tokens of the last text end.

    :param word_starts: Text n has the words from `word_starts[n]` to `word_starts[n + 1]`.
    :param firsts: Word n has the tokens from `firsts[n]` to `firsts[n + 1]` of the table.
    """
    tokens = 0
    for text in range(len(word_starts) - 1):
        token_starts[text] = tokens
        for i in range(word_starts[text], word_starts[text + 1]):
            tokens += firsts[numbers[i] + 1] - firsts[numbers[i]]
    token_starts[len(word_starts) - 1] = tokens


@compiled(types.void(_I32, _I32, _I64, _I64, _I32, _I32, _I32, _I32, _OUT_I32, _OUT_I32, _OUT_I32))
def join_tokens(  # type: ignore[no-untyped-def]
    numbers, begins, word_starts, text_starts, firsts, ids, starts, ends, text_ids, text_begins, text_ends
):
    """
    Write the tokens of all texts, one text after the other.

    :param begins: Where each word begins, in the characters of all texts.
    :param text_starts: Where each text begins in those characters; the offsets of its tokens count from there.
    :param starts: Where each token of the table starts in its word; `ends` is where it ends.
    """
    found = 0
    for text in range(len(word_starts) - 1):
        for i in range(word_starts[text], word_starts[text + 1]):
            shift = begins[i] - text_starts[text]
            for token in range(firsts[numbers[i]], firsts[numbers[i] + 1]):
                text_ids[found] = ids[token]
                text_begins[found] = starts[token] + shift
                text_ends[found] = ends[token] + shift
                found += 1
