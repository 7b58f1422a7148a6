"""Mining: who becomes a positive, a negative or nothing, with a teacher that is a table, without any model."""

import pytest

from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.training import mining
from haystack_ce_ranker.training.candidates import Found
from haystack_ce_ranker.training.groups import Candidate
from haystack_ce_ranker.training.mining import Mining, mine
from haystack_ce_ranker.training.passages import Shown

KEPT = Mining(negatives=3, sampling="top", false_negatives="keep")
DROPPED = Mining(negatives=3, sampling="top", reference="lowest")


def collection(documents, judgments, queries=None):
    texts = {query_id: f"{query_id} of its own" for query_id in judgments}
    corpus = {key: Text(key, "", text) for key, text in documents.items()}
    return Collection("small", corpus, {**texts, **({} if queries is None else queries)}, judgments)


def numbered(count):
    return {f"d{number}": f"text {number}" for number in range(count)}


def listed(*ids, source="bm25"):
    return [Found(one, 10.0 - rank, source) for rank, one in enumerate(ids)]


def judge_of(logits, asked=None):
    """A teacher that knows a logit of each text, and reads nothing of others."""

    def judge(requests):
        if asked is not None:
            asked.append([list(texts) for _, texts in requests])
        return [[Shown(f"{text}!", logits.get(text)) for text in texts] for _, texts in requests]

    return judge


def shape(group):
    return [(one.document_id, one.label, one.source) for one in group.candidates]


def test_positives_come_first_by_grade_then_negatives_by_rank():
    known = collection(numbered(8), {"q1": {"d1": 1, "d2": 2, "d3": 0, "d4": -1}, "q2": {"d0": 4}})
    found = {"q1": listed("d5", "d3", "d1", "d6", "d4", "d7"), "q2": listed("d7")}
    mined = mine(known, found, Mining(negatives=9, sampling="random"))
    assert shape(mined.groups[0]) == [
        ("d2", 0.5, "judged"),
        ("d1", 0.25, "judged"),
        ("d5", 0.0, "bm25"),
        ("d3", 0.0, "judged"),
        ("d6", 0.0, "bm25"),
        ("d4", 0.0, "judged"),
        ("d7", 0.0, "bm25"),
    ]
    assert shape(mined.groups[1]) == [("d0", 1.0, "judged"), ("d7", 0.0, "bm25")]
    assert mined.groups[0].candidates[0] == Candidate("d2", "text 2", 0.5)
    assert (mined.left_out, mined.false_negatives, mined.above) == ({}, 0, [])


def test_negatives_come_from_the_ranks_that_were_asked_for():
    known = collection(numbered(20), {"q1": {"d19": 1}})
    found = {"q1": listed(*(f"d{number}" for number in range(19)))}
    [group] = mine(known, found, Mining(negatives=3, first_rank=5, last_rank=9, sampling="top")).groups
    assert [one.document_id for one in group.candidates[1:]] == ["d4", "d5", "d6"]
    [group] = mine(known, found, Mining(negatives=30, first_rank=5, last_rank=9)).groups
    assert [one.document_id for one in group.candidates[1:]] == ["d4", "d5", "d6", "d7", "d8"]


def test_the_seed_draws_and_other_queries_do_not_matter():
    known = collection(numbered(50), {"q1": {"d49": 1}, "q2": {"d49": 1}})
    ranks = listed(*(f"d{number}" for number in range(49)))
    found = {"q1": ranks, "q2": ranks}
    first, second = mine(known, found, Mining(seed=1)).groups
    assert mine(known, found, Mining(seed=1)).groups == [first, second]
    assert mine(known, found, Mining(seed=2)).groups != [first, second]
    assert mine(known.only({"q2"}), found, Mining(seed=1)).groups == [second]
    assert [one.document_id for one in first.candidates] != [one.document_id for one in second.candidates]


def test_what_the_teacher_scores_like_a_positive_is_dropped_and_replaced():
    known = collection(numbered(9), {"q1": {"d0": 1, "d1": 1}})
    found = {"q1": listed("d2", "d3", "d4", "d5", "d6", "d7")}
    logits = dict(zip(numbered(9).values(), [5.0, 3.0, 4.0, 1.0, 3.0, 2.5, 0.0, -1.0, 9.0], strict=True))
    asked = []
    mined = mine(known, found, DROPPED, judge_of(logits, asked))
    assert [one.document_id for one in mined.groups[0].candidates] == ["d0", "d1", "d3", "d5", "d6"]
    assert [one.teacher for one in mined.groups[0].candidates] == [5.0, 3.0, 1.0, 2.5, 0.0]
    assert mined.groups[0].candidates[2].text == "text 3!"
    assert mined.false_negatives == 2
    assert mined.groups[0].also_relevant == ("d2", "d4")
    assert asked == [[["text 0", "text 1", "text 2", "text 3", "text 4"]], [["text 5", "text 6"]]]
    assert mined.above == pytest.approx([1.0, -2.0, 0.0])


@pytest.mark.parametrize(
    ("margin", "reference", "lowest_dropped", "kept"),
    [
        (0.0, "lowest", 3.0, ["d4", "d5", "d6"]),
        (1.0, "lowest", 2.0, ["d6", "d7"]),
        (-0.5, "lowest", 3.5, ["d3", "d4", "d5"]),
        (0.0, "mean", 4.0, ["d3", "d4", "d5"]),
        (0.0, "highest", 5.0, ["d2", "d3", "d4"]),
        (2.5, "highest", 2.5, ["d5", "d6", "d7"]),
    ],
)
def test_margin_and_reference_decide(margin, reference, lowest_dropped, kept):
    known = collection(numbered(8), {"q1": {"d0": 1, "d1": 1}})
    logits = dict(zip(numbered(8).values(), [5.0, 3.0, 4.0, 3.0, 2.5, 2.0, 0.0, -1.0], strict=True))
    found = {"q1": listed("d2", "d3", "d4", "d5", "d6", "d7")}
    settings = Mining(negatives=3, sampling="top", margin=margin, reference=reference)
    [group] = mine(known, found, settings, judge_of(logits)).groups
    assert [one.document_id for one in group.candidates[2:]] == kept
    assert all(one.teacher < lowest_dropped for one in group.candidates[2:])


def test_a_false_negative_can_be_relabelled_like_the_positive_next_to_it():
    known = collection(numbered(9), {"q1": {"d0": 4, "d1": 1}})
    found = {"q1": listed("d2", "d3", "d4", "d5", "d6", "d7")}
    logits = dict(zip(numbered(9).values(), [5.0, 3.0, 4.5, 1.0, 3.5, 2.5, 0.0, -1.0, 9.0], strict=True))
    settings = Mining(negatives=3, sampling="top", reference="lowest", false_negatives="relabel")
    mined = mine(known, found, settings, judge_of(logits))
    assert shape(mined.groups[0]) == [
        ("d0", 1.0, "judged"),
        ("d1", 0.25, "judged"),
        ("d2", 1.0, "bm25"),
        ("d4", 0.25, "bm25"),
        ("d3", 0.0, "bm25"),
        ("d5", 0.0, "bm25"),
        ("d6", 0.0, "bm25"),
    ]
    assert mined.false_negatives == 2
    dropped = mine(known, found, DROPPED, judge_of(logits))
    assert [one for one in mined.groups[0].candidates if one.document_id not in ("d2", "d4")] == list(
        dropped.groups[0].candidates
    )


def test_false_negatives_can_be_kept_and_are_still_measured():
    known = collection(numbered(4), {"q1": {"d0": 1}})
    mined = mine(known, {"q1": listed("d1", "d2")}, KEPT, judge_of(dict.fromkeys(numbered(4).values(), 1.0)))
    assert [one.document_id for one in mined.groups[0].candidates] == ["d0", "d1", "d2"]
    assert (mined.false_negatives, mined.above) == (0, [0.0, 0.0])


def test_a_document_that_people_judged_is_no_false_negative():
    known = collection(numbered(4), {"q1": {"d0": 1, "d1": 0}})
    logits = {"text 0": 1.0, "text 1": 9.0, "text 2": 9.0}
    mined = mine(known, {"q1": listed("d1", "d2")}, DROPPED, judge_of(logits))
    assert shape(mined.groups[0]) == [("d0", 1.0, "judged"), ("d1", 0.0, "judged")]
    assert mined.above == [8.0]


def test_texts_of_a_relevant_document_under_another_id_are_no_negatives():
    texts = {"d0": "The hut", "d1": "the  HUT\n", "d2": "snow", "d3": "Snow", "d4": " ", "d5": "car", "d6": "the hut"}
    known = collection(texts, {"q1": {"d0": 1, "d6": 1, "d1": 0}})
    mined = mine(known, {"q1": listed("d1", "d2", "d3", "d4", "d5", "d6")}, KEPT)
    assert [one.document_id for one in mined.groups[0].candidates] == ["d0", "d2", "d5"]
    assert mined.left_out == {
        mining.SAME_POSITIVE: 1,
        mining.SAME_AS_POSITIVE: 1,
        mining.SAME_CANDIDATE: 1,
        mining.BLANK_CANDIDATE: 1,
    }


def test_what_is_relevant_for_an_equal_or_near_equal_query_is_no_negative():
    judgments = {"q1": {"d0": 1}, "q2": {"d1": 1, "d2": 0}, "q3": {"d2": 1}, "q4": {"d3": 1}}
    queries = {"q1": "Where is the hut?", "q2": "where is the hut", "q3": "the huts: where", "q4": "snow"}
    known = collection(numbered(5), judgments, queries)
    mined = mine(known, {"q1": listed("d1", "d2", "d3"), "q2": listed("d0", "d2", "d3")}, KEPT)
    assert [[one.document_id for one in group.candidates] for group in mined.groups] == [
        ["d0", "d3"],
        ["d1", "d2", "d3"],
    ]
    assert [group.also_relevant for group in mined.groups] == [("d1", "d2"), ("d0",)]
    assert mined.left_out == {mining.OF_NEAR_QUERY: 3, mining.NO_CONTRAST: 2}


def test_near_equal_queries_go_by_the_language():
    known = collection(numbered(4), {"q1": {"d0": 1}, "q2": {"d1": 1}}, {"q1": "die Hütte", "q2": "Hütten"})
    found = {"q1": listed("d1", "d2"), "q2": listed("d0", "d2")}
    assert mine(known, found, KEPT).left_out == {}
    assert mine(known, found, KEPT, analysis=Analysis("german")).left_out == {mining.OF_NEAR_QUERY: 2}


def test_relevant_documents_that_cannot_be_learned_from_are_counted():
    documents = {"d0": "text", "d1": "\u200b", "d9": "other"}
    judgments = {"q1": {"gone": 1, "d0": 1, "d1": 2}, "q2": {"gone": 1}, "q3": {"d0": 0}, "q4": {"d0": 1, "d9": 1}}
    known = collection(documents, judgments)
    mined = mine(known, {"q1": listed("d9"), "q4": listed("d0", "d9")}, KEPT)
    assert [group.query_id for group in mined.groups] == ["q1"]
    assert mined.left_out == {
        mining.MISSING: 2,
        mining.BLANK: 1,
        mining.NO_POSITIVE: 2,
        mining.NO_CONTRAST: 1,
    }


def test_a_collection_where_all_is_judged_teaches_by_its_grades():
    known = collection(numbered(4), {"q1": {"d0": 2, "d1": 1, "d2": 0}, "q2": {"d0": 2, "d1": 1}})
    found = {query_id: listed("d0", "d1", "d2") for query_id in known.queries}
    logits = dict.fromkeys(numbered(4).values(), 1.0)
    mined = mine(known.only({"q1", "q2"}), {**found, "q2": listed("d0", "d1")}, DROPPED, judge_of(logits))
    assert [shape(group) for group in mined.groups] == [
        [("d0", 1.0, "judged"), ("d1", 0.5, "judged"), ("d2", 0.0, "judged")],
        [("d0", 1.0, "judged"), ("d1", 0.5, "judged")],
    ]


def test_at_most_so_many_positives_the_highest_grades_first():
    known = collection(numbered(9), {"q1": {"d0": 1, "d1": 2, "d2": 1, "d3": 1}})
    settings = [Mining(positives=2, seed=seed) for seed in range(20)]
    drawn = [mine(known, {"q1": listed("d5")}, one) for one in settings]
    seconds = {mined.groups[0].candidates[1].document_id for mined in drawn}
    assert {mined.groups[0].candidates[0].document_id for mined in drawn} == {"d1"}
    assert seconds == {"d0", "d2", "d3"}
    assert all(mined.left_out == {mining.TOO_MANY: 2} for mined in drawn)
    assert len(mine(known, {"q1": listed("d5")}, Mining(positives=4)).groups[0].candidates) == 5


def test_a_positive_that_was_not_drawn_is_no_negative():
    known = collection({"d0": "one", "d1": "two", "d2": "Two", "d3": "three"}, {"q1": {"d0": 2, "d1": 1}})
    mined = mine(known, {"q1": listed("d1", "d2", "d3")}, Mining(positives=1))
    assert [one.document_id for one in mined.groups[0].candidates] == ["d0", "d3"]
    assert mined.groups[0].also_relevant == ("d1", "d2")


def test_copies_of_what_is_relevant_or_may_be_are_spared_wherever_they_stand():
    documents = {"d0": "zero", "d1": "one", "d2": "same text", "d3": "Same  TEXT", "d4": "four", "d9": "Zero"}
    known = collection(documents, {"q1": {"d0": 1}, "q2": {"d3": 1}, "q3": {"d9": 1}})
    logits = {"zero": 1.0, "Zero": 1.0, "one": -3.0, "same text": 5.0, "Same  TEXT": 5.0, "four": -4.0}
    found = {"q1": listed("d2", "d3", "d1"), "q2": listed("d4"), "q3": listed("d4")}
    mined = mine(known, found, DROPPED, judge_of(logits))
    assert [group.also_relevant for group in mined.groups] == [("d2", "d3", "d9"), ("d2",), ("d0",)]


def test_what_the_teacher_cannot_read_is_left_out_and_replaced():
    known = collection(numbered(9), {"q1": {"d0": 1, "d1": 1}, "q2": {"d8": 1}})
    logits = {text: 1.0 - place for place, text in enumerate(numbered(9).values()) if text not in ("text 1", "text 8")}
    del logits["text 3"]
    found = {"q1": listed("d2", "d3", "d4", "d5"), "q2": listed("d2")}
    mined = mine(known, found, DROPPED, judge_of(logits))
    assert [one.document_id for one in mined.groups[0].candidates] == ["d0", "d2", "d4", "d5"]
    assert len(mined.groups) == 1
    assert mined.left_out == {mining.UNREAD: 3, mining.NO_POSITIVE: 1}


def test_a_query_whose_candidates_are_all_dropped_is_left_out():
    known = collection(numbered(30), {"q1": {"d0": 1}})
    rounds = []
    mined = mine(
        known,
        {"q1": listed(*(f"d{number}" for number in range(1, 30)))},
        Mining(negatives=8),
        judge_of(dict.fromkeys(numbered(30).values(), 2.0)),
        rounds=lambda number, documents: rounds.append((number, documents)),
    )
    assert mined.groups == []
    assert mined.left_out == {mining.NO_CONTRAST: 1}
    assert mined.false_negatives == 29
    assert rounds == [(1, 9), (2, 8), (3, 8), (4, 5)]
    assert len(mined.above) == 8


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"negatives": 0}, "negatives must be a whole number >= 1, but got 0"),
        ({"positives": 0}, "positives must be a whole number >= 1 or None, but got 0"),
        ({"first_rank": 0}, "first_rank must be"),
        ({"first_rank": 9, "last_rank": 8}, r"last_rank must be at least first_rank \(9\), but got 8"),
        ({"sampling": "all"}, "sampling must be one of 'random', 'top', but got 'all'"),
        ({"false_negatives": "flip"}, "false_negatives must be one of 'drop', 'relabel', 'keep'"),
        ({"margin": float("nan")}, "margin must be a finite number"),
        ({"reference": "first"}, "reference must be one of 'lowest', 'mean', 'highest'"),
        ({"seed": 1.5}, "seed must be a whole number >= 0, but got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        Mining(**values)
