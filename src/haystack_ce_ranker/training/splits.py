"""
Parts a collection's queries, so that equal and near-equal queries stand in one part.

A query whose twin was trained on is no test: the model has seen its answer.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from scipy.cluster.hierarchy import DisjointSet

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.checks import number, whole_number

_NO_LETTERS = re.compile(r"[\W_]+")
_TOLERANCE = 1e-9


def split_queries(
    queries: Mapping[str, str],
    shares: Mapping[str, float],
    *,
    seed: int,
    near: float = 0.8,
    analysis: Analysis | None = None,
) -> dict[str, list[str]]:
    """
    Part queries at random, equal and near-equal ones together; the same seed parts them alike.

    The parts have their shares as nearly as groups of near-equal queries allow. None is empty.

    :param queries: Texts by query id.
    :param shares: For each part, by its name, its share of the queries: `{"train": 0.8, "dev": 0.1, "test": 0.1}`.
        Only the proportions count.
    :param near: Queries belong together whose sets of word stems have at least this Jaccard similarity.
    :param analysis: What makes word stems; English if None.
    :returns: For each part its query ids, in the order of `queries`.
    :raises ValueError: If a share is not above 0, or there are fewer groups of near-equal queries than parts.
    """
    seed = whole_number("seed", seed, least=0)
    if not shares:
        raise ValueError("shares must name at least one part, but is empty.")
    weights = {name: number(f"shares[{name!r}]", share, above=0) for name, share in shares.items()}
    groups = near_groups(queries, near=near, analysis=analysis)
    if len(groups) < len(weights):
        raise ValueError(
            f"{len(queries)} queries cannot be parted into {', '.join(weights)}: equal and near-equal ones stay "
            f"together, which leaves {len(groups)} to part. Use a collection with more queries, or fewer parts."
        )
    random.Random(seed).shuffle(groups)
    lacking = {name: weight / sum(weights.values()) * len(queries) for name, weight in weights.items()}
    part_of: dict[str, str] = {}
    empty = list(weights)
    for place, group in enumerate(groups):
        open_parts = empty if len(groups) - place <= len(empty) else list(weights)
        name = max(open_parts, key=lambda one: lacking[one])
        lacking[name] -= len(group)
        empty = [one for one in empty if one != name]
        part_of.update(dict.fromkeys(group, name))
    return {name: [query_id for query_id in queries if part_of[query_id] == name] for name in weights}


def near_groups(queries: Mapping[str, str], *, near: float = 0.8, analysis: Analysis | None = None) -> list[list[str]]:
    """
    Return query ids in groups: those that are equal, or near-equal to another of the group.

    Queries are equal if they are after lower-casing and without punctuation. Stop words and single letters count only
    in queries that have no other words: "how do I reset it" is near "how to reset it".

    :param queries: Texts by query id.
    :param near: The Jaccard similarity of two sets of word stems from which queries are near-equal.
    :param analysis: What makes word stems; English if None.
    :returns: The groups in the order of their first queries, and so within a group.
    :raises ValueError: If `near` is not above 0 and at most 1.
    """
    near = number("near", near, above=0, most=1)
    analysis = Analysis() if analysis is None else analysis
    joined = DisjointSet(queries)
    equal: dict[str, str] = {}
    alike: dict[frozenset[str], str] = {}
    for query_id, query in queries.items():
        plain = query.casefold()
        joined.merge(query_id, equal.setdefault(_NO_LETTERS.sub(" ", plain).strip(), query_id))
        joined.merge(query_id, alike.setdefault(_stems(plain, analysis), query_id))
    sets = [terms for terms in alike if terms]
    for one, other in _near_pairs(sets, near):
        joined.merge(alike[sets[one]], alike[sets[other]])
    groups: dict[str, list[str]] = defaultdict(list)
    for query_id in queries:
        groups[joined[query_id]].append(query_id)
    return list(groups.values())


def _stems(query: str, analysis: Analysis) -> frozenset[str]:
    """Return the stems of the words that count: all but stop words, letters and digits, unless there are no others."""
    terms = analysis.query_terms(query)
    return frozenset(filter(analysis.is_counted, terms)) or frozenset(terms)


def near_to(queries: Mapping[str, str], held: Iterable[str], *, near: float = 0.8) -> set[str]:
    """
    Return the ids of the queries that are equal or near-equal to a held-out one, or to another query that is.

    :param queries: Texts by query id.
    :param held: The texts of held-out queries.
    """
    texts = {f"held {place}": text for place, text in enumerate(held)}
    texts |= {f"query {name}": text for name, text in queries.items()}
    found: set[str] = set()
    for alike in near_groups(texts, near=near):
        if any(name.startswith("held ") for name in alike):
            found.update(name.removeprefix("query ") for name in alike if name.startswith("query "))
    return found


def _near_pairs(sets: Sequence[frozenset[str]], near: float) -> Iterator[tuple[int, int]]:
    """
    Yield pairs of sets with at least that Jaccard similarity.

    Only sets that share one of their rarest terms are compared: two near sets always do, as Chaudhuri, Ganti and
    Kaushik, "A primitive operator for similarity joins in data cleaning" (ICDE 2006) show.
    """
    counts = Counter(term for terms in sets for term in terms)
    holding: dict[str, list[int]] = defaultdict(list)
    for place in sorted(range(len(sets)), key=lambda one: len(sets[one])):
        terms = sets[place]
        least = math.ceil(near * len(terms) - _TOLERANCE)  # so many of its terms a near set has, too
        rarest = sorted(terms, key=lambda term: (counts[term], term))[: len(terms) - least + 1]
        for other in {one for term in rarest for one in holding[term]}:
            common = len(terms & sets[other])
            if common >= near * (len(terms) + len(sets[other]) - common) - _TOLERANCE:
                yield place, other
        for term in rarest:
            holding[term].append(place)
