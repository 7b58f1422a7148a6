"""
Queries made from the documents themselves, by recipes that need neither labels nor a language model.

A query that was copied from a document finds its words there. Who learns from that learns to match words. So a made
query knows what it was copied from, and `MadeQuery.shown` is a document without it. What is learnt is then how a
teacher ranks documents for such a query, not where the query came from.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import number, whole_number
from haystack_ce_ranker.data.collections import Text
from haystack_ce_ranker.reading.documents import SENTENCE_END

LONGEST = 160
"""The most characters of a sentence as a query: some 25 words of English. A longer sentence gives its beginning."""

LONGEST_TITLE = 120
"""The most characters of a first line that is taken for the title of a document which names none."""

FEWEST_TERMS = 2
"""Different terms that a query must have, without stop words."""

KEPT = 0.1
"""
In what share of the queries from a sentence the documents keep that sentence.

So word matches still count. The share is that of Lee, Chang & Toutanova, "Latent Retrieval for Weakly Supervised Open
Domain Question Answering" (ACL 2019), whose inverse cloze task this is.
"""

RARE_TERMS = (2, 6)
"""The fewest and the most terms of a query of rare terms."""

NEIGHBOURS = 0.3
"""The chance that the word behind a rare term comes with it."""

PART = 1500
"""
How many characters of a long document a query is made of: some 240 words of English.

A document is drawn again for each further `PART` that it holds: people ask for its parts.
"""

COMMON_SHARE = 0.2
"""A term that more than this share of the documents have is not rare."""

LONGEST_OPENING = 4
"""The most words that a question is taken to open with, as in "how long does it"."""

ASKED_ALIKE = 3
"""How many of the collection's questions must open alike, so that other questions are made to open so."""

SHORTEST_OPENING = 2
"""The fewest words of it: "why" alone says little, and headings begin with single words as well."""

_QUESTION_MARKS = ("?", "？", "؟")
_CLOSING = "\"'“”’»」』)]）"
_BLANKS = re.compile(r"\s+")
_PIECE = re.compile(rf"\S(?:.{{0,{LONGEST - 1}}}(?!\S)|.{{0,{LONGEST - 1}}})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MadeQuery:
    """
    A query, and where it came from.

    :ivar id: `made-`, its recipe with the number of a further draw, and the id of its document; no two are alike.
    :ivar recipe: One of `RECIPES`.
    :ivar document_id: The document it was made from.
    :ivar copied: The piece of the document that it copies; empty if the documents are to be shown as they are.
    """

    id: str
    text: str
    recipe: str
    document_id: str
    copied: str = ""

    def shown(self, content: str) -> str:
        """Return the text of a document without what the query copies; without text if that is all it holds."""
        if not self.copied or self.copied not in content:
            return content
        return "\n".join(part for one in content.split(self.copied) if (part := one.strip()))


@dataclass(frozen=True)
class Made:
    """
    Queries, and what became of the documents without one.

    :ivar queries: In the order of the recipes, and within a recipe of its drawn documents.
    :ivar left_out: For each reason how many attempts gave no query.
    """

    queries: tuple[MadeQuery, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def by_recipe(self) -> dict[str, int]:
        """Return how many queries each recipe gave."""
        return dict(Counter(query.recipe for query in self.queries))


class _Draft(NamedTuple):
    """A query's text, and what it copies."""

    text: str
    copied: str = ""


@dataclass(frozen=True)
class _Corpus:
    """
    What a recipe may know of all documents.

    :ivar documents: By id.
    :ivar index: Of their contents, in their order.
    """

    documents: Mapping[str, Text]
    index: BM25Index

    @cached_property
    def openings(self) -> Sequence[str]:
        """
        How the collection's questions open, an entry for each question: "how much does" of "How much does it cost?".

        It is the longest beginning that `ASKED_ALIKE` of them share, and so depends on no language. Questions that open
        like no others have no entry. Titles are questions, too.
        """
        asked = (one for text in self.documents.values() for one in (*_questions(text), title_of(text)[0]))
        questions = dict.fromkeys(tuple(self.index.analysis.words(one)) for one in asked if _is_question(one))
        lengths = range(SHORTEST_OPENING, LONGEST_OPENING + 1)
        beginnings = {one: [one[:length] for length in lengths if length < len(one)] for one in questions}
        counts = Counter(one for of_question in beginnings.values() for one in of_question)
        shared = ([one for one in some if counts[one] >= ASKED_ALIKE] for some in beginnings.values())
        return [" ".join(some[-1]) for some in shared if some]


_Recipe = Callable[[Text, random.Random, _Corpus], _Draft | None]
"""Makes a query of a document; None if the document has nothing for it."""


def sentences(text: str) -> Iterator[str]:
    """
    Yield the sentences of a text, word for word. A line break ends one, too.

    Of a sentence, or a text without full stops, that has more than `LONGEST` characters, pieces of at most so many are
    yielded, cut between words where there are blanks.
    """
    for one in _whole_sentences(text):
        yield from _pieces(one)


def _whole_sentences(text: str) -> Iterator[str]:
    start = 0
    for end in (*(found.end() for found in SENTENCE_END.finditer(text)), len(text)):
        yield text[start:end].strip()
        start = end


def title_of(document: Text) -> tuple[str, str]:
    """
    Return a document's title and its text.

    If it names none, a short first line of one sentence is its title. It may then be all that there is.
    """
    if document.title.strip():
        return document.title.strip(), document.text
    first, _, rest = document.text.strip().partition("\n")
    first = first.strip()
    is_title = len(first) <= LONGEST_TITLE and len(list(sentences(first))) == 1
    return (first, rest) if is_title else ("", document.text)


def _title(document: Text, _draw: random.Random, _corpus: _Corpus) -> _Draft | None:
    title, _ = title_of(document)
    return _Draft(title, title) if title else None


def _first_sentence(document: Text, draw: random.Random, _corpus: _Corpus) -> _Draft | None:
    first = next(_asked(document), None)
    return None if first is None else _Draft(first, "" if draw.random() < KEPT else first)


def _inverse_cloze(document: Text, draw: random.Random, _corpus: _Corpus) -> _Draft | None:
    found = list(_asked(document))[1:]  # the first one is a recipe of its own
    if not found:
        return None
    drawn = draw.choice(found)
    return _Draft(drawn, "" if draw.random() < KEPT else drawn)


def _asked(document: Text) -> Iterator[str]:
    """Yield the sentences below the title that somebody could ask for: not those that are addresses of the web."""
    _, text = title_of(document)
    return filter(_can_be_asked, sentences(text))


def _can_be_asked(sentence: str) -> bool:
    return "://" not in sentence


def _question(document: Text, draw: random.Random, _corpus: _Corpus) -> _Draft | None:
    found = list(_questions(document))
    if not found:
        return None
    drawn = draw.choice(found)
    return _Draft(drawn, "" if draw.random() < KEPT else drawn)


def _questions(document: Text) -> Iterator[str]:
    """Yield the sentences below the title that end in a question mark, but not the ends of longer ones."""
    if not any(mark in document.text for mark in _QUESTION_MARKS):  # nearly all texts of most collections
        return
    _, text = title_of(document)
    for one in _whole_sentences(text):
        if len(one) <= LONGEST and _is_question(one) and _can_be_asked(one):
            yield one


def _is_question(sentence: str) -> bool:
    return sentence.rstrip(_CLOSING).endswith(_QUESTION_MARKS)


def _question_terms(document: Text, draw: random.Random, corpus: _Corpus) -> _Draft | None:
    """Put rare terms of a document behind the opening of one of the collection's questions."""
    terms = _rare_terms(document, draw, corpus) if corpus.openings else None
    return None if terms is None else _Draft(f"{draw.choice(corpus.openings)} {terms.text}")


def _rare_terms(document: Text, draw: random.Random, corpus: _Corpus) -> _Draft | None:
    """
    Draw terms that tell documents apart, by the squares of their weights in BM25, in the order of the text.

    A term that this document alone has finds nothing else, so none of them is drawn.
    """
    index, analysis = corpus.index, corpus.index.analysis
    words = analysis.words(_part(document.content, draw))
    term = analysis.term_function()
    places: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for place, word in enumerate(words):
        made = term(word)
        if made and analysis.is_counted(made):
            places.setdefault(made, place)
            counts[made] += 1
    weights = {one: _weight(one, counts[one], index) for one in places}
    rare = [one for one, weight in weights.items() if weight > 0]
    if len(rare) < FEWEST_TERMS:
        return None
    wanted = min(draw.randint(*RARE_TERMS), len(rare))
    # the largest of u ** (1 / weight) are a weighted draw without replacement (Efraimidis & Spirakis 2006)
    keyed = sorted(rare, key=lambda one: draw.random() ** (1.0 / weights[one]), reverse=True)
    chosen = {places[one] for one in keyed[:wanted]}
    chosen |= {place + 1 for place in sorted(chosen) if place + 1 < len(words) and draw.random() < NEIGHBOURS}
    return _Draft(" ".join(words[place] for place in sorted(chosen) if words[place]))


def _part(content: str, draw: random.Random) -> str:
    """Return a text, or as much of a long one as a query is made of."""
    if len(content) < 2 * PART:
        return content
    start = draw.randrange(len(content) - PART + 1)
    return content[start : start + PART]


def _weight(term: str, count: int, index: BM25Index) -> float:
    documents = index.document_count(term)
    if documents < 2 or documents > max(2.0, COMMON_SHARE * len(index)):
        return 0.0
    return (index.scoring.idf(documents, len(index)) * count / (count + index.scoring.k1)) ** 2


RECIPES: Mapping[str, _Recipe] = {
    "title": _title,
    "first_sentence": _first_sentence,
    "inverse_cloze": _inverse_cloze,
    "rare_terms": _rare_terms,
    "question": _question,
    "question_terms": _question_terms,
}
"""The recipes by name."""

DRAWN = ("inverse_cloze", "rare_terms", "question", "question_terms")
"""Those that make another query of a document when it is drawn again."""


def make_queries(
    documents: Mapping[str, Text],
    mix: Mapping[str, float] | Sequence[str],
    count: int,
    *,
    seed: int,
    index: BM25Index | None = None,
) -> Made:
    """
    Make queries of documents that are drawn at random. The same seed makes the same ones.

    Each document is drawn once for a recipe, and again for each further `PART` that it holds if the recipe draws
    (`DRAWN`). What one recipe lacks, because documents have no title or no second sentence, the others make up for. No
    two queries are equal after lower-casing and without punctuation.

    :param documents: By id.
    :param mix: The recipes, with the share that each has; only the proportions count. Names alone have equal shares.
    :param count: The most queries to make.
    :param index: Of the documents' contents, in their order; built here if None.
    :raises ValueError: If a recipe is unknown, or a value is not what its parameter takes.
    """
    shares = _shares(mix)
    count, seed = whole_number("count", count), whole_number("seed", seed, least=0)
    if index is None:
        index = BM25Index.build([document.content for document in documents.values()])
    met: set[str] = set()
    left_out: Counter[str] = Counter()
    corpus = _Corpus(documents, index)
    makers = {name: _made(name, corpus, seed, met, left_out) for name in shares}
    made: dict[str, list[MadeQuery]] = {name: [] for name in shares}
    while makers and sum(map(len, made.values())) < count:
        name = min(makers, key=lambda one: (len(made[one]) + 1) / shares[one])  # the one that lacks most
        query = next(makers[name], None)
        if query is None:
            del makers[name]
        else:
            made[name].append(query)
    return Made(tuple(query for of_recipe in made.values() for query in of_recipe), dict(left_out))


def _made(recipe: str, corpus: _Corpus, seed: int, met: set[str], left_out: Counter[str]) -> Iterator[MadeQuery]:
    """Yield queries of one recipe, document by document in a random order, and count what gives none."""
    analysis = corpus.index.analysis
    for nth, document_id in _draws(recipe, corpus.documents, seed):
        name = recipe if nth == 0 else f"{recipe}.{nth + 1}"
        draft = RECIPES[recipe](corpus.documents[document_id], random.Random(f"{seed} {name} {document_id}"), corpus)
        if draft is None:
            has_none = recipe == "question_terms" and not corpus.openings
            left_out[f"{recipe}: {'no questions that open alike' if has_none else 'documents without one'}"] += 1
            continue
        query = _BLANKS.sub(" ", draft.text).strip()
        terms = analysis.terms(query)
        if len(set(terms)) < FEWEST_TERMS:
            left_out[f"{recipe}: fewer than {FEWEST_TERMS} different words"] += 1
            continue
        plain = " ".join(analysis.words(query))
        if plain in met:
            left_out[f"{recipe}: the same as another query"] += 1
            continue
        met.add(plain)
        yield MadeQuery(f"made-{name}-{document_id}", query, recipe, document_id, draft.copied)


def _draws(recipe: str, documents: Mapping[str, Text], seed: int) -> Iterator[tuple[int, str]]:
    """Yield each document in a random order, then those that hold a further part in the same order, and so on."""
    ids = list(documents)
    random.Random(f"{seed} {recipe}").shuffle(ids)
    nth = 0
    while ids:
        yield from ((nth, one) for one in ids)
        nth += 1
        ids = [one for one in ids if recipe in DRAWN and len(documents[one].content) >= (nth + 1) * PART]


def _shares(mix: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    given = mix if isinstance(mix, Mapping) else dict.fromkeys(mix, 1.0)
    if not given:
        raise ValueError(f"mix must name at least one recipe of {', '.join(RECIPES)}, but is empty.")
    unknown = [name for name in given if name not in RECIPES]
    if unknown:
        raise ValueError(f"mix must name recipes of {', '.join(RECIPES)}, but got {unknown[0]!r}.")
    return {name: float(number(f"mix[{name!r}]", share, above=0)) for name, share in given.items()}


def _pieces(sentence: str) -> Iterator[str]:
    """Yield pieces of at most `LONGEST` characters, each as long as whole words allow."""
    return (found[0] for found in _PIECE.finditer(sentence))
