"""Queries made of documents: what each recipe takes, what a made query hides, and what becomes of odd documents."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import Text
from haystack_ce_ranker.training.made_queries import (
    FEWEST_TERMS,
    LONGEST,
    PART,
    RARE_TERMS,
    RECIPES,
    MadeQuery,
    make_queries,
    sentences,
    title_of,
)

ALL = list(RECIPES)


def documents_of(*texts, titles=()):
    """Documents d0, d1, ..., the first ones with titles."""
    named = [*titles, *[""] * (len(texts) - len(titles))]
    return {f"d{n}": Text(f"d{n}", title, text) for n, (title, text) in enumerate(zip(named, texts, strict=True))}


HUTS = documents_of(
    "The brake of the railcar is released by hand. A lever stands beside the driver. Pull it towards the window.",
    "Parcels leave the valley at noon. The ropeway carries them to the upper hut. Snow stops the ropeway in winter.",
    "The upper hut has beds for forty guests. Guests pay by card. The warden keeps the lever of the stove.",
    "The driver of the railcar wears a radio. Snow covers the window in winter. Guests wait in the valley.",
    titles=("Brake release", "Material ropeway", "Sleeping in the hut"),
)


def made_of(documents, *recipes, count=100, seed=0):
    return make_queries(documents, recipes, count, seed=seed)


def texts_of(made):
    return {query.document_id: query.text for query in made.queries}


def test_titles_are_those_that_documents_name_or_short_first_lines():
    documents = documents_of("Pull the lever.", "Winter timetable\nTrains leave at noon.", "x" * 121 + "\nrest of it")
    documents["named"] = Text("named", "Brake release", "Pull the lever.")
    assert title_of(documents["named"]) == ("Brake release", "Pull the lever.")
    assert title_of(documents["d1"]) == ("Winter timetable", "Trains leave at noon.")
    assert title_of(documents["d2"]) == ("", documents["d2"].text)
    assert texts_of(made_of(documents, "title")) == {
        "named": "Brake release",
        "d0": "Pull the lever.",
        "d1": "Winter timetable",
    }


def test_the_first_sentence_is_that_below_the_title():
    found = texts_of(made_of(HUTS, "first_sentence"))
    assert found["d0"] == "The brake of the railcar is released by hand."
    assert found["d1"] == "Parcels leave the valley at noon."
    assert len(found) == len(HUTS)


def test_an_inverse_cloze_query_is_another_sentence_than_the_first():
    for seed in range(5):
        for query in made_of(HUTS, "inverse_cloze", seed=seed).queries:
            found = list(sentences(HUTS[query.document_id].text))
            assert query.text in found[1:]


def test_a_document_is_shown_without_what_the_query_copies():
    many = documents_of(
        *(f"Hut number{n} stands there. Trail number{n} leads down. Bridge number{n} is shut." for n in range(300))
    )
    for recipe in ("first_sentence", "inverse_cloze"):
        queries = made_of(many, recipe, count=300).queries
        kept = [
            query
            for query in queries
            if query.shown(many[query.document_id].content) == many[query.document_id].content
        ]
        assert 5 <= len(kept) <= 60  # about a tenth of the 300
        for query in queries:
            shown = query.shown(many[query.document_id].content)
            assert (query.text in shown) == (query in kept)
            assert len(shown) > 10


def test_every_document_that_holds_the_copied_text_is_shown_without_it():
    query = MadeQuery("made-title-d", "Closing an account", "title", "d", copied="Closing an account")
    assert query.shown("Closing an account\nOpen the settings. Closing an account takes a day.") == (
        "Open the settings.\ntakes a day."
    )
    assert query.shown("Closing an account") == ""
    assert query.shown("Opening one") == "Opening one"


def test_rare_terms_are_words_of_the_document_that_another_document_has_too():
    index = BM25Index.build([one.content for one in HUTS.values()])
    for seed in range(20):
        for query in make_queries(HUTS, ["rare_terms"], 100, seed=seed, index=index).queries:
            words = query.text.split()
            own = index.analysis.words(HUTS[query.document_id].content)
            assert Counter(words) <= Counter(own)
            places = [own.index(word) for word in words]
            assert FEWEST_TERMS <= len(words) <= 2 * RARE_TERMS[1]
            assert len(places) < 3 or places[0] <= max(places)
            shared = [term for term in index.analysis.terms(query.text) if index.document_count(term) > 1]
            assert len(shared) >= FEWEST_TERMS
            assert query.copied == ""


def test_rare_terms_are_those_that_few_documents_have_and_words_behind_them():
    few = documents_of(
        *(f"alpha beta gamma delta word{n % 5} term{n % 7} filler{n % 2} filling{n % 2}" for n in range(70))
    )
    counts = Counter(word for query in made_of(few, "rare_terms", count=70).queries for word in query.text.split())
    rare = sum(count for word, count in counts.items() if word.startswith(("word", "term")))
    assert not {"alpha", "beta", "gamma", "delta"} & set(counts)
    assert 0.7 * sum(counts.values()) < rare < sum(counts.values())


def test_one_seed_makes_the_same_queries_and_another_makes_others():
    first, again, other = (made_of(HUTS, *ALL, count=9, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.queries != other.queries


def test_queries_are_the_same_in_another_process():
    code = (
        "import json, sys; from haystack_ce_ranker.data.collections import Text;"
        "from haystack_ce_ranker.training.made_queries import RECIPES, make_queries;"
        "documents = {one[0]: Text(*one) for one in json.loads(sys.argv[1])};"
        "print(json.dumps([q.text for q in make_queries(documents, list(RECIPES), 9, seed=1).queries]))"
    )
    given_documents = json.dumps([[one.id, one.title, one.text] for one in HUTS.values()])
    done = subprocess.run([sys.executable, "-c", code, given_documents], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [query.text for query in made_of(HUTS, *ALL, count=9, seed=1).queries]


def test_the_mix_has_its_shares_and_others_make_up_for_what_one_lacks():
    many = documents_of(*(f"Hut number{n} stands there. Trail number{n} leads down." for n in range(50)))
    made = make_queries(many, {"first_sentence": 3, "inverse_cloze": 1}, 40, seed=0)
    assert made.by_recipe() == {"first_sentence": 30, "inverse_cloze": 10}
    untitled = made_of(
        documents_of(*("x " * 80 + f"hut{n} stands here, trail{n} leads. Bridge{n} is shut." for n in range(50))),
        "title",
        "inverse_cloze",
        count=20,
    )
    assert untitled.by_recipe() == {"inverse_cloze": 20}
    assert untitled.left_out["title: documents without one"] == 50


def test_equal_queries_are_made_once_and_counted():
    made = made_of(
        documents_of("Pull.", "Push.", "Turn.", titles=["Brake release", "brake  RELEASE!", "Stove"]), "title"
    )
    assert len(made.queries) == 1
    assert made.left_out == {"title: the same as another query": 1, "title: fewer than 2 different words": 1}


def test_blank_and_short_documents_give_no_query():
    made = made_of(documents_of("", "  \n ", "one", "the and of", "... !!! ???"), *ALL)
    assert made.queries == ()
    assert sum(made.left_out.values()) == 5 * len(ALL)


def test_addresses_of_the_web_are_no_queries():
    document = documents_of("Hut report\nhttps://example.org/hut/report/winter\nThe hut is shut. The trail leads down.")
    assert texts_of(made_of(document, "first_sentence")) == {"d0": "The hut is shut."}


def test_texts_without_full_stops_or_blanks_are_cut_to_the_length_of_a_query():
    words = " ".join(f"word{n}" for n in range(400))
    for text in (words, "山上有一个小屋铁路在雪中" * 100, "x" * 5000):
        pieces = list(sentences(text))
        assert max(map(len, pieces)) <= LONGEST
        assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(word in words.split() for piece in sentences(words) for word in piece.split())


def test_a_document_of_a_megabyte_gives_queries_of_the_usual_length():
    text = " ".join(f"Hut number{n} stands in valley{n % 50}." for n in range(30_000))
    assert len(text) > 1_000_000
    made = made_of(documents_of(text, text[:500_000]), *ALL)
    assert {query.recipe for query in made.queries} >= {"first_sentence", "inverse_cloze"}
    assert all(len(query.text) <= LONGEST for query in made.queries)


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(st.text(), st.text(max_size=400)), max_size=6),
    st.integers(0, 3),
)
def test_any_text_gives_queries_that_hold_words_and_come_from_their_document(given_texts, seed):
    documents = {name: Text(name, *texts) for name, texts in given_texts.items()}
    made = make_queries(documents, ALL, 20, seed=seed)
    index = BM25Index.build([document.content for document in documents.values()])
    assert len({query.id for query in made.queries}) == len(made.queries)
    for query in made.queries:
        content = documents[query.document_id].content
        assert query.copied in content
        assert not query.copied or query.copied not in query.shown(content)
        assert len(set(index.analysis.terms(query.text))) >= FEWEST_TERMS
        assert query.text == " ".join(query.text.split())


@pytest.mark.parametrize(
    ("mix", "count", "told"),
    [
        ([], 5, "mix must name at least one recipe of title, .* question_terms, but is empty"),
        (["titles"], 5, "mix must name recipes of title, .* but got 'titles'"),
        ({"title": 0}, 5, r"mix\['title'\] must be"),
        (["title"], 0, "count must be"),
    ],
)
def test_wrong_values_are_told(mix, count, told):
    with pytest.raises(ValueError, match=told):
        make_queries(HUTS, mix, count, seed=0)


def long_documents(count=6, sentences=90):
    """Documents of which each sentence has words that one other document has, too."""

    def sentence(place, n):
        return f"Hut{place} has " + " and ".join(f"{letter}{n}p{place // 2}" for letter in "wxyz") + "."

    return documents_of(*(" ".join(sentence(place, n) for n in range(sentences)) for place in range(count)))


@pytest.mark.parametrize("recipe", ["inverse_cloze", "rare_terms"])
def test_a_long_document_is_drawn_once_for_each_part_of_it(recipe):
    documents = long_documents()
    parts = len(documents["d0"].content) // PART
    assert parts >= 2
    made = made_of(documents, recipe, count=1000)
    drawn_twice = made.left_out.get(f"{recipe}: the same as another query", 0)
    assert drawn_twice <= 1, "the same sentence of a document may be drawn again"
    counts = Counter(query.document_id for query in made.queries)
    assert counts.keys() == documents.keys()
    assert max(counts.values()) == parts
    assert len({query.id for query in made.queries}) == len({query.text for query in made.queries})
    assert len(made.queries) == 6 * parts - drawn_twice
    few = made_of(documents, recipe, count=6)
    assert [query.document_id for query in few.queries] == list(dict.fromkeys(q.document_id for q in made.queries))


@pytest.mark.parametrize("recipe", ["title", "first_sentence"])
def test_a_long_document_has_one_title_and_one_first_sentence(recipe):
    assert len(made_of(long_documents(), recipe, count=1000).queries) <= 6


def test_rare_terms_of_a_long_document_are_those_of_one_part():
    documents = long_documents(sentences=300)
    for query in made_of(documents, "rare_terms", count=100).queries:
        content = documents[query.document_id].content
        places = [content.index(f" {word}") for word in query.text.split() if word[0] in "wxyz"]
        assert max(places, default=0) - min(places, default=0) <= PART


ASKING = documents_of(
    "How much does the hut cost? It costs ten francs. Guests pay by card.",
    'The ropeway is slow. How much does a ticket cost? Tickets are sold by the driver ("Who sells them?").',
    "How much does the driver earn? Nobody knows that. See https://huts.example/?",
    "Snow lies on the ropeway in winter. Guests pay by card. Where do the guests wait?",
)


def test_questions_are_the_sentences_that_end_in_a_question_mark():
    asked = {query.text for seed in range(20) for query in made_of(ASKING, "question", seed=seed).queries}
    assert asked == {
        "How much does the hut cost?",
        "How much does a ticket cost?",
        "How much does the driver earn?",
        "Where do the guests wait?",
    }
    other = documents_of(
        "冬の間は山に雪がありますか？山の上です。",
        "He asks “Is there a hut?” and waits.",
        "هل يوجد كوخ في الجبل؟ نعم.",
        "It snows. Er fragt nur: „Gibt es eine Hütte?“",
        "It snows. " + " ".join(f"word{n}" for n in range(60)) + "? Only the end of a longer sentence is short.",
        "It snows. Is there a hut at https://huts.example? Yes.",
        titles=("", "", "", "", "", "Where is the hut?"),
    )
    assert set(texts_of(made_of(other, "question")).values()) == {
        "冬の間は山に雪がありますか？",
        "He asks “Is there a hut?”",
        "هل يوجد كوخ في الجبل؟",
        "Er fragt nur: „Gibt es eine Hütte?“",
    }


def test_documents_are_shown_without_a_copied_question_in_nine_of_ten_queries():
    many = documents_of(*(f"Hut number{n} stands there. Who waits at bridge number{n}?" for n in range(300)))
    queries = made_of(many, "question", count=300).queries
    kept = [query for query in queries if query.text in query.shown(many[query.document_id].content)]
    assert len(queries) == 300
    assert 5 <= len(kept) <= 60


def test_terms_are_asked_for_as_the_collections_questions_open():
    for seed in range(10):
        for query in made_of(ASKING, "question_terms", seed=seed).queries:
            opening, terms = query.text[:13], query.text[14:].split()
            assert opening == "how much does"  # what three of them share; nothing opens as "where do" does
            assert set(terms) <= set(BM25Index.build([]).analysis.words(ASKING[query.document_id].content))
            assert query.copied == ""
    few = {name: ASKING[name] for name in ("d0", "d1", "d3")}
    assert made_of(few, "question_terms").queries == ()
    assert made_of(few, "question_terms").left_out == {"question_terms: no questions that open alike": 3}


def test_an_opening_has_two_words_to_four_and_may_be_that_of_titles():
    texts = [f"The hut number{n} has beds. Guests wait there." for n in range(3)]
    texts += [f"Text{n} stands here{n}." for n in range(20)]
    for titles, expected in (
        ([f"Why hut{n}?" for n in range(3)], set()),
        ([f"How long does it take to hut{n}?" for n in range(3)], {"how long does it"}),
        ([f"Who pays hut{n}?" for n in range(3)], {"who pays"}),
    ):
        made = made_of(documents_of(*texts, titles=titles), "question_terms", count=9)
        words = [query.text.split() for query in made.queries]
        assert all(any(" ".join(some).startswith(f"{one} ") for one in expected) for some in words)
        assert bool(words) == bool(expected)


@pytest.mark.parametrize("recipe", ["inverse_cloze", "rare_terms", "question", "question_terms"])
def test_what_is_drawn_is_drawn_again_of_a_document_with_further_parts(recipe):
    long = documents_of(*(" ".join(f"How much does hut {n} {m} cost in snow?" for m in range(140)) for n in range(2)))
    assert min(len(one.content) for one in long.values()) > 2 * PART
    assert max(Counter(query.document_id for query in made_of(long, recipe).queries).values()) > 1
