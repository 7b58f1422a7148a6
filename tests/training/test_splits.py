"""Splits: near-equal queries stay together, every query is in one part, the seed decides, and shares are kept."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.training.splits import near_groups, near_to, split_queries

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}
FAR = {f"q{number}": f"w{number}a w{number}b" for number in range(100)}

queries = st.dictionaries(
    st.integers(0, 99).map(str),
    st.lists(st.sampled_from(["brake", "hut", "snow", "car", "paris", "b", "i", "the"]), max_size=6).map(" ".join),
    min_size=1,
)


def leaks(texts, parts, near):
    """Pairs of near-equal queries that stand in different parts, by looking at every pair."""
    part_of = {query_id: name for name, ids in parts.items() for query_id in ids}
    terms = {}
    for query_id, text in texts.items():
        found = Analysis().query_terms(text.lower())
        terms[query_id] = {term for term in found if Analysis().is_counted(term)} or set(found)
    return [
        (one, other)
        for one, other in combinations(texts, 2)
        if part_of[one] != part_of[other]
        and (
            (terms[one] and len(terms[one] & terms[other]) >= near * len(terms[one] | terms[other]))
            or texts[one].lower() == texts[other].lower()
        )
    ]


def test_every_query_is_in_one_part_and_keeps_its_order():
    parts = split_queries(FAR, SHARES, seed=3)
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 80, "dev": 10, "test": 10}
    assert sorted(one for ids in parts.values() for one in ids) == sorted(FAR)
    assert all(ids == [one for one in FAR if one in ids] for ids in parts.values())


def test_the_seed_decides():
    assert split_queries(FAR, SHARES, seed=3) == split_queries(FAR, SHARES, seed=3)
    assert split_queries(FAR, SHARES, seed=3) != split_queries(FAR, SHARES, seed=4)


def test_only_the_proportions_of_the_shares_count():
    halves = split_queries(FAR, {"one": 3, "other": 3}, seed=0)
    assert halves == split_queries(FAR, {"one": 0.5, "other": 0.5}, seed=0)
    assert [len(ids) for ids in halves.values()] == [50, 50]


@pytest.mark.parametrize(
    "twin",
    [
        "How do I RESET my pass-word?",
        "how do i reset my password",
        "resetting passwords: how do I?",
        "how can I reset the password",
        "resetting the password",
    ],
)
def test_equal_and_near_equal_queries_are_one_group(twin):
    texts = {"q1": "How do I reset my password", "q2": "where is the hut", "q3": twin}
    joined = near_groups(texts)
    expected = [["q1"], ["q2"], ["q3"]] if "-" in twin else [["q1", "q3"], ["q2"]]
    assert joined == expected


def test_queries_that_differ_in_punctuation_alone_are_equal():
    texts = {"q1": "What is a U.S. visa?", "q2": "what is a U S visa", "q3": "what is a visa of the UK"}
    assert near_groups(texts) == [["q1", "q2"], ["q3"]]


def test_queries_without_word_stems_are_alike_only_if_they_are_equal():
    texts = {"q1": "who are you", "q2": "Who are you?!", "q3": "what is it", "q4": "???", "q5": "!"}
    assert near_groups(texts) == [["q1", "q2"], ["q3"], ["q4", "q5"]]


def test_a_chain_of_near_equal_queries_is_one_group():
    texts = {"q1": "a1 b1 c1 d1", "q2": "a1 b1 c1 d1 e1", "q3": "b1 c1 d1 e1", "q4": "b1 c1 d1 e1 f1"}
    assert near_groups(texts) == [["q1", "q2", "q3", "q4"]]
    assert near_groups(texts, near=0.81) == [[one] for one in texts]


@given(texts=queries, near=st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.8, 1.0]), seed=st.integers(0, 5))
def test_no_near_equal_query_is_in_another_part(texts, near, seed):
    if len(near_groups(texts, near=near)) < 2:
        return
    parts = split_queries(texts, {"train": 0.6, "test": 0.4}, seed=seed, near=near)
    assert all(parts.values())
    assert leaks(texts, parts, near) == []


def test_large_groups_come_whole_and_no_part_is_empty():
    texts = {**{f"t{number}": "the same query" for number in range(50)}, "q1": "brake", "q2": "hut"}
    for seed in range(5):
        parts = split_queries(texts, SHARES, seed=seed)
        assert sorted(map(len, parts.values())) == [1, 1, 50]


def test_fewer_groups_than_parts_is_an_error():
    texts = {"q1": "the same query", "q2": "same query", "q3": "another one"}
    with pytest.raises(ValueError, match="3 queries cannot be parted into train, dev, test: .* leaves 2 to part"):
        split_queries(texts, SHARES, seed=0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"shares": {}}, "shares must name at least one part"),
        ({"shares": {"train": 1.0, "test": 0.0}}, r"shares\['test'\] must be a finite number > 0, but got 0.0"),
        ({"near": 0}, "near must be a finite number > 0 and <= 1, but got 0"),
        ({"near": 1.1}, "near must be"),
        ({"seed": -1}, "seed must be a whole number >= 0, but got -1"),
    ],
)
def test_values_out_of_range_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        split_queries(FAR, **{"shares": SHARES, "seed": 0, **values})


def test_the_words_of_other_languages_have_stems_of_their_own():
    texts = {"q1": "Wo ist die Hütte", "q2": "wo sind die Hütten"}
    assert near_groups(texts) == [["q1"], ["q2"]]
    assert near_groups(texts, analysis=Analysis("german")) == [["q1", "q2"]]


def test_a_collection_of_paraphrases_has_no_leak(data_dir):
    texts = load_collection(data_dir / "stackfaq").queries
    parts = split_queries(texts, {"train": 0.4, "dev": 0.1, "test": 0.5}, seed=0)
    assert sum(map(len, parts.values())) == len(texts)
    assert len(parts["test"]) == pytest.approx(len(texts) / 2, abs=2)
    assert any(len(group) > 1 for group in near_groups(texts))
    assert leaks(texts, parts, 0.8) == []


def test_queries_near_to_a_held_out_one_are_found_whatever_their_names():
    queries = {"held 0": "snow train", "0": "Beds of the HUT", "a": "where is berlin"}
    assert near_to(queries, ["beds of the hut?", "paris"]) == {"0"}
    assert near_to(queries, []) == set()
