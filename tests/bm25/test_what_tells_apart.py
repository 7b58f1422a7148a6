"""Nothing of a query is lost that is all that tells documents apart: letters, digits, signs, stop words, spellings."""

import json

import pytest
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker import BM25Retriever
from haystack_ce_ranker.bm25.analysis import Analysis, languages, stop_words
from haystack_ce_ranker.bm25.index import BM25Index


def found(query, texts, **parameters):
    """The texts that a retriever finds, best first."""
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=f"{i:03}", content=text) for i, text in enumerate(texts)])
    return [document.content for document in BM25Retriever(store, **parameters).run(query)["documents"]]


@pytest.mark.parametrize(
    ("query", "wanted", "others"),
    [
        ("hepatitis B", "Hepatitis B case report number 7, with remarks", "Hepatitis A case report number {}"),
        ("hepatitis a", "Hepatitis A case report number 7, with remarks", "Hepatitis B case report number {}"),
        ("vitamin c", "Vitamin C deficiency in sailors, study 7", "Vitamin E deficiency in study {}"),
        ("vitamin d", "Vitamin D deficiency in sailors, study 7", "Vitamin E deficiency in study {}"),
        ("Vitamin B 12", "Vitamin B 12 in the blood of vegans", "Vitamin B 6, study {}"),
        ("type 2 diabetes", "Type 2 diabetes in adults, study 70", "Type 1 diabetes in study {}"),
        ("type i error", "An error of type I that was not expected", "An error of type II, {}"),
        ("order code C-9", "Order code C-9 is a hinge that is not in stock", "Order code D-{0}{0}, a hinge"),
        ("R language", "The R language for statistics and its history", "The S language, manual {}"),
        ("SARS-CoV-2", "SARS-CoV-2 infection in hospital, part 1 of 7", "SARS-CoV infection {0}{0}"),
        ("T cells", "T cells and what they do in the body", "B cells, part {}"),
        ("S waves", "S waves after the earthquake of that year", "P waves, earthquake {}"),
        ("C++", "C++ for beginners, with many exercises", "C for beginners {}"),
        ("C", "C for beginners, with many exercises", "C++ for beginners {}"),
        ("c# tutorial", "A tutorial of C# for those who know other languages", "A tutorial of C {}"),
        ("F# notes", "Notes on F# for those who know other languages", "Notes on F {}"),
        ("IT support", "IT support is open at noon and in the evening", "HR support {}"),
        ("I.T. support", "IT support is open at noon and in the evening", "HR support {}"),
        ("WHO guidelines", "Guidelines of the WHO for all of the countries", "CDC guidelines {}"),
        ("U.S. elections", "Elections in the US and what came of them", "Elections in the UK {}"),
    ],
)
def test_what_tells_one_document_from_the_rest_puts_it_first(query, wanted, others):
    numbers = [number for number in range(10, 66) if number != 12]
    assert found(query, [*(others.format(number) for number in numbers), wanted])[0] == wanted


@pytest.mark.parametrize("letter", [*"abcdefghijklmnopqrstuvwxyz", *"0123456789"])
def test_a_letter_or_digit_alone_finds_its_documents(letter):
    others = [f"part {other}" for other in "abcdefghijklmnopqrstuvwxyz0123456789" if other != letter]
    assert found(letter.upper(), [*others, f"part {letter.upper()}"]) == [f"part {letter.upper()}"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("french", "vitamine d"),
        ("french", "vitamine c"),
        ("italian", "vitamina c"),
        ("spanish", "vitamina a"),
        ("german", "Vitamin C"),
        ("russian", "витамин с"),
    ],
)
def test_letters_count_in_languages_whose_lists_hold_them(language, text):
    others = [f"{text[:-1]}k {number}" for number in range(10, 65)]
    assert found(text, [*others, f"{text} - 7 8 9 10 11"], language=language)[0] == f"{text} - 7 8 9 10 11"


@pytest.mark.parametrize(
    "query", ["the who", "to be or not to be", "IT", "it", "AM", "what is this", "The Who?", "don't"]
)
def test_a_query_of_stop_words_alone_finds_the_documents_that_have_them(query):
    text = f"{query} came to mind"
    assert found(query, ["snow", "brakes", text, "hut"]) == [text]


@pytest.mark.parametrize("language", [language for language in languages() if stop_words(language)])
def test_every_stop_word_of_every_language_finds_its_documents(language):
    words = sorted(stop_words(language))
    index = BM25Index.build(["12345", *words], analysis=Analysis(language))
    for position, word in enumerate(words, start=1):
        assert position in index.search(word, len(words)).positions, word


@pytest.mark.parametrize("language", [None, *languages()])
def test_every_letter_of_every_script_finds_its_documents(language):
    """Some stemmers leave nothing of some words."""
    letters = [chr(code) for code in [*range(0x21, 0x100), *range(0x100, 0x1400, 7)] if chr(code).isalnum()]
    twice = [letter * 2 for letter in letters] + ["का", "की", "के"]
    index = BM25Index.build(["12345", *letters, *twice], analysis=Analysis(language))
    for position, word in enumerate([*letters, *twice], start=1):
        assert position in index.search(word, len(index)).positions, word


def test_stop_words_beside_other_words_find_nothing_and_change_no_score_nor_length():
    index = BM25Index.build(["the hut", "the brake of the car", "what is that", "it is a hut"])
    plain, wordy = index.search("hut"), index.search("What is that, the hut of it?")
    assert (plain.positions.tolist(), plain.scores.tolist()) == (wordy.positions.tolist(), wordy.scores.tolist())
    assert index.average_length == (1 + 2 + 0 + 1) / 4  # no letter counts


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("vitamin C (e.g. for type 2)", ["vitamin", "c", "type", "2"]),
        ("C 2 the", ["c", "2"]),
        ("北京 北 C C", ["北", "京", "北", "c", "c"]),
        ("J. Davis, J. Kahan, J. Davis", ["j", "davi", "j", "kahan", "j", "davi"]),
        ("IT SUPPORT", ["support"]),  # all is in capitals: nothing stands out
        ("cats AND dogs OR NOT mice", ["cat", "dog", "mice"]),
        ("I don't know what I'd do, e.g. i.e. O'Brien's", ["i", "know", "brien"]),
        ("", []),
        ("?! 🙂 §", []),
    ],
)
def test_what_a_search_looks_for(query, terms):
    assert Analysis().query_terms(query) == terms


def test_without_a_language_there_are_no_stop_words_and_every_word_makes_a_document_longer():
    assert BM25Index.build(["a the C 2"], analysis=Analysis(None)).average_length == 4
    for query in ("a a the the", "C 2 the", "e.g. C++"):
        assert Analysis(None).query_terms(query) == Analysis(None).terms(query)


def test_an_index_of_other_rules_is_built_again(tmp_path, caplog):
    store = InMemoryDocumentStore()
    store.write_documents([Document(id="b", content="Hepatitis B"), Document(id="the", content="the who")])
    BM25Retriever(store, index_path=str(tmp_path)).warm_up()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    fingerprint = manifest["values"]["analysis"]
    for rules in ({}, {"rules": fingerprint["rules"] - 1}, {"rules": fingerprint["rules"] + 1}):
        index = BM25Index.open(tmp_path)
        analysis = {name: value for name, value in fingerprint.items() if name != "rules"} | rules
        object.__setattr__(index.analysis, "fingerprint", lambda analysis=analysis: analysis)
        index.save(tmp_path, extra=index.extra, labels=index.labels)
        caplog.clear()
        retriever = BM25Retriever(store, index_path=str(tmp_path))
        assert [document.id for document in retriever.run("the who")["documents"]] == ["the"]
        assert "is built again: it was made with the analysis" in caplog.text
        assert BM25Index.open(tmp_path).analysis == Analysis()
