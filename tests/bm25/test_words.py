"""What counts as a word: the manual's table, the normal form, and languages with contractions of their own."""

import re
import subprocess
import sys
import textwrap
import unicodedata

import pytest
import Stemmer

from fakes import REPOSITORY
from haystack_ce_ranker.bm25 import words
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import BM25Index

PAGE = (REPOSITORY / "docs" / "components" / "bm25_retriever.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## What counts as a word")[1].split("\n## ")[0]
ROWS = [
    (cells[1].strip().strip("`"), re.findall("`([^`]+)`", cells[2]))
    for line in SECTION.splitlines()
    if line.startswith("|") and "`" in (cells := line.strip("|").split("|"))[1]
]


def test_the_table_has_what_people_search_for():
    assert len(ROWS) == 21
    for text in ("a_b_c.pdf", "CVE-2024-3094", "jane.doe@example.org", "AB-1234/5", "#haystack"):
        assert text in dict(ROWS)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of a process's time")
@pytest.mark.parametrize("text", ["'a.' * 500_000 + 'aa'", "'á.' * 500_000 + 'áá\\u0301'"])
def test_a_long_row_of_letters_with_dots_is_read_once(text):
    """From each letter anew, it would take hours."""
    code = f"""
        import resource
        from haystack_ce_ranker.bm25.analysis import Analysis
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        print(len(Analysis().words({text})))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "500001\n"


@pytest.mark.parametrize(("text", "expected"), ROWS, ids=[text for text, _ in ROWS])
def test_words_are_those_of_the_manual(text, expected):
    stem = Stemmer.Stemmer("english").stemWord
    assert Analysis().terms(text) == [stem(unicodedata.normalize("NFC", word)) for word in expected]
    index = BM25Index.build(["nothing of the kind", text], analysis=Analysis())
    for word in {text, *expected}:
        assert index.search(word).positions.tolist() == [1], word


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("english", "don't I'd I'm it's what's", []),
        ("english", "e.g. the i.e. (E.G.)", []),
        ("english", "the D's, a t 'd' 'quoted'", ["a", "t", "d", "quot"]),
        ("english", "rock 'n' roll", ["rock", "n", "roll"]),
        ("english", "it's.b.c 1a.b.c x_a.b.c a.bb.c.d", ["bc", "1a", "bc", "x", "abc", "a", "bb", "cd"]),
        ("english", "\u0130zmir I\u0307zmir i\u0307zmir", ["izmir"] * 3),
        (
            "turkish",
            "\u0130STANBUL Istanbul \u0131rmak IRMAK",
            ["istanbul", "\u0131stanbul", "\u0131rmak", "\u0131rmak"],
        ),
        ("english", "a.b.cd x.y, U.S.A.: 3.a", ["a", "b", "cd", "xy", "usa", "3", "a"]),
        ("english", "i++ C+ +C #c 1# C#7 C++++", ["i++", "c", "c", "c", "1", "c#", "7", "c++"]),
        ("english", "Windows™ 2½ m² № 5", ["window", "2½", "m2", "5"]),
        ("french", "l'eau, d’eau, j'ai, vitamine D", ["eau", "eau", "vitamin", "d"]),
        ("italian", "l'acqua dell'acqua", ["acqua", "acqua"]),
        ("german", "z.B. Peter's Haus, d.h. u.a.", ["pet", "haus"]),
        ("hindi", "लड़की's C++", ["लड़क", "c++"]),
    ],
)
def test_a_language_reads_contractions_abbreviations_and_signs(language, text, terms):
    assert Analysis(language).terms(text) == terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ﬁsh", "fish"),
        ("ＡＢＣ１２", "abc12"),
        ("CO₂", "co2"),
        ("𝐱𝐲", "xy"),
        ("ſun", "sun"),
        ("ﻛﺘﺎﺏ", "كتاب"),
        ("ｶﾅ", "カナ"),
    ],
)
def test_letters_that_are_only_drawn_otherwise_are_the_same(one, other):
    assert words.fold(one) == other
    assert Analysis().terms(one) == Analysis().terms(other) != []
    assert Analysis(None).terms(one) != Analysis(None).terms(other)  # Haystack tells them apart


def test_a_text_is_read_alike_with_and_without_what_needs_care():
    """Four patterns serve four kinds of texts. A word must not depend on what else is in the text."""
    plain = "Vitamin C in the year 2024 of Smith"
    for sign in ("don't", "C++", "a_b", "C#", "U.S."):
        for care in ("é", "北", "लड़की", "’", ""):
            text = f"{plain} {sign} {care}"
            apart = [term for part in (plain, sign, care) for term in Analysis().terms(part)]
            assert Analysis().terms(text) == apart


def test_the_rules_have_a_new_number_if_words_or_terms_change():
    """If this fails because you changed what a word is, raise `words.RULES` and write down the terms anew."""
    text = "Don’t e.g. I’d C++ C# a_b U.S. ﬁt CO₂ in\xaddex 北京 लड़की 3.11 O'Neill WHO café the"
    assert (words.RULES, " ".join(Analysis().terms(text))) == (
        3,
        "c++ c# a b us fit co2 index 北 京 लड़की 3 11 neill café",
    )
