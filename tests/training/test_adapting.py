"""Lessons without labels: which documents are learnt from, what they are shown as, and what their targets are."""

import numpy as np
import pytest

from fakes import import_torch
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import Text
from haystack_ce_ranker.training.adapting import (
    TEACHERS_ORDER,
    Adapting,
    Asked,
    find_documents,
    given_queries,
    learnt_documents,
    lessons,
    moved,
    taught_order,
    unlike,
)
from haystack_ce_ranker.training.blending import BM25, DENSE, Blend, standardised
from haystack_ce_ranker.training.candidates import BiEncoder
from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.made_queries import MadeQuery
from haystack_ce_ranker.training.passages import Shown

DOCUMENTS = {
    name: Text(name, "", text)
    for name, text in {
        "hut": "Beds in the hut. The warden heats the stove.",
        "train": "The train to the hut is slow. Beds are booked there.",
        "stove": "A stove warms the warden and the beds of the hut.",
        "snow": "Snow covers the train.",
        "copy": "Beds in the hut.",
        "blank": "",
    }.items()
}
INDEX = BM25Index.build([one.content for one in DOCUMENTS.values()])
COPIED = MadeQuery("made-title-hut", "Beds in the hut.", "title", "hut", copied="Beds in the hut.")
[ASKED_FOR] = given_queries({"7": "beds of the hut"})


def by_length(requests):
    """A teacher that scores a text by its length, less 100, and cannot read the one about snow."""
    return [[Shown(text, None if "Snow" in text else len(text) - 100.0) for text in texts] for _, texts in requests]


class ByLetters:
    """A bi-encoder that embeds a text as how often some letters stand in it."""

    def __init__(self):
        self.embedded = []

    def encode_document(self, texts, **_):
        import torch

        self.embedded += texts
        return torch.tensor([[float(text.count(letter)) for letter in "aehst"] for text in texts])

    encode_query = encode_document

    @staticmethod
    def similarity(one, other):
        return one @ other.T


def found_for(*queries, bi_encoder=None, searches=False, **settings):
    return find_documents(queries, DOCUMENTS, INDEX, Adapting(**settings), bi_encoder, searches=searches)


def test_documents_are_shown_without_what_the_query_copies_and_left_out_if_that_is_all():
    [asked] = found_for(COPIED)
    shown = dict(zip(asked.document_ids, asked.texts, strict=True))
    assert shown == {
        "hut": "The warden heats the stove.",
        "stove": DOCUMENTS["stove"].text,
        "train": DOCUMENTS["train"].text,
    }


def test_a_query_of_a_log_sees_documents_as_they_are():
    [asked] = found_for(ASKED_FOR)
    assert set(asked.document_ids) == {"hut", "train", "stove", "copy"}
    assert all(text == DOCUMENTS[name].content for name, text in zip(asked.document_ids, asked.texts, strict=True))
    assert (asked.query.id, asked.query.recipe) == ("given-7", "given")


def test_the_evidence_of_bm25_is_that_of_the_index_for_whole_documents():
    [asked] = found_for(ASKED_FOR)
    hits = INDEX.search("beds of the hut", 10)
    assert asked.evidence[BM25] == pytest.approx(hits.scores.astype(float))


def test_a_document_without_the_copied_words_has_the_evidence_of_what_is_left():
    [asked] = found_for(COPIED)
    scores = dict(zip(asked.document_ids, asked.evidence[BM25], strict=True))
    assert scores["hut"] == 0.0
    assert scores["stove"] > 0.3


def test_bm25_and_a_bi_encoder_find_documents_in_turns():
    bi_encoder = BiEncoder(ByLetters())
    [by_words] = found_for(ASKED_FOR, depth=3)
    [by_both] = found_for(ASKED_FOR, depth=3, bi_encoder=bi_encoder, searches=True)
    texts = [document.content for document in DOCUMENTS.values()]
    [similar] = bi_encoder.search([ASKED_FOR.text], texts, 3)
    dense = [list(DOCUMENTS)[place] for place, _ in similar]
    assert dense != list(by_words.document_ids)
    turns = [name for pair in zip(by_words.document_ids, dense, strict=True) for name in pair]
    assert list(by_both.document_ids) == list(dict.fromkeys(turns))[:3]
    assert by_both.texts == tuple(DOCUMENTS[name].content for name in by_both.document_ids)
    for asked, source in ((by_words, "bm25"), (by_both, "both")):
        [group] = lessons([asked], by_length, Adapting(candidates=2))
        assert {one.source for one in group.candidates} == {source}
    with pytest.raises(ValueError, match="searches needs a bi-encoder"):
        found_for(ASKED_FOR, searches=True)


def test_a_teachers_ranking_is_moved_as_its_logits_are_in_lessons():
    [asked] = found_for(ASKED_FOR, bi_encoder=BiEncoder(ByLetters()))
    logits = {name: -float(place) for place, name in enumerate(asked.document_ids)}
    found = moved({asked.query.id: logits}, [asked], Blend())
    targets = Blend()(np.array(list(logits.values())), asked.evidence)
    assert found[asked.query.id] == pytest.approx(dict(zip(asked.document_ids, targets, strict=True)))
    ranked = list(found[asked.query.id].values())
    assert ranked == sorted(ranked, reverse=True)
    assert list(found[asked.query.id]) != list(asked.document_ids)


def test_the_bi_encoder_reads_each_shown_text_once():
    import_torch()
    model = ByLetters()
    bi_encoder = BiEncoder(model)
    first, second = found_for(COPIED, ASKED_FOR, bi_encoder=bi_encoder)
    texts = model.embedded[:-2]  # the last two are the queries
    assert sorted(texts) == sorted({*first.texts, *second.texts})
    for asked in (first, second):
        own = model.encode_document([asked.query.text])
        expected = [float(model.similarity(own, model.encode_document([text]))[0, 0]) for text in asked.texts]
        assert asked.evidence[DENSE] == pytest.approx(expected)
    model.embedded.clear()
    found_for(COPIED, depth=10, bi_encoder=bi_encoder, searches=True)
    whole = {document.content for document in DOCUMENTS.values()}
    assert sorted(model.embedded) == sorted([*(whole - set(texts)), COPIED.text, COPIED.text])


def test_queries_that_find_fewer_than_two_documents_are_left_out():
    assert found_for(MadeQuery("a", "snow", "given", ""), MadeQuery("b", "nothing known", "given", "")) == []


def test_targets_are_the_teachers_logits_moved_by_the_evidence():
    asked = found_for(COPIED, ASKED_FOR)
    plain, moved = (lessons(asked, by_length, Adapting(blend=blend)) for blend in (None, Blend(bm25_alone=3.0)))
    for one, group, blended in zip(asked, plain, moved, strict=True):
        logits = [len(text) - 100.0 for text in one.texts]
        assert [candidate.teacher for candidate in group.candidates] == logits
        expected = np.array(logits) + 3.0 * standardised(one.evidence[BM25])
        assert [candidate.teacher for candidate in blended.candidates] == pytest.approx(expected.tolist())
        assert [candidate.document_id for candidate in group.candidates] == list(one.document_ids)
        assert {(candidate.label, candidate.source) for candidate in group.candidates} == {(None, BM25)}


class InSentences:
    """A reader of which each sentence is a window, the last one first."""

    def shown(self, _query, documents):
        return [[f"{one.strip()}." for one in reversed(text.rstrip(".").split("."))] for text in documents]


def test_with_a_reader_each_window_is_a_candidate_and_a_document_that_fits_is_itself():
    asked = found_for(ASKED_FOR, blend=None)
    [group] = lessons(asked, by_length, Adapting(blend=None), reader=InSentences())
    candidates = {one.document_id: (one.text, one.teacher) for one in group.candidates}
    windows = {"hut": ["The warden heats the stove.", "Beds in the hut."], "copy": ["Beds in the hut."]}
    windows["train"] = ["Beds are booked there.", "The train to the hut is slow."]
    windows["stove"] = [DOCUMENTS["stove"].text]
    expected = {
        name if len(texts) == 1 else f"{name}#{number}": (text, len(text) - 100.0)
        for name, texts in windows.items()
        for number, text in enumerate(texts)
    }
    assert candidates == expected


def test_the_id_of_a_window_is_no_other_documents():
    names = ("hut", "hut#1", "hut##0", "train")
    texts = ("Beds. A stove.", "Snow.", "A hut.", "A train. A hut.")
    asked = Asked(ASKED_FOR, names, texts, {})
    judge = lambda requests: [[Shown(text, 1.0) for text in texts] for _, texts in requests]  # noqa: E731
    [group] = lessons([asked], judge, Adapting(blend=None), reader=InSentences())
    ids = [one.document_id for one in group.candidates]
    assert len(ids) == len(set(ids)) == 6
    assert {"hut#1", "hut##0"} < set(ids)
    assert learnt_documents(asked, Adapting(candidates=2, depth=4)).keys() < set(names)


def test_all_windows_of_a_document_are_moved_by_its_evidence():
    asked = found_for(ASKED_FOR)
    [group] = lessons(asked, by_length, Adapting(blend=Blend(bm25_alone=3.0)), reader=InSentences())
    moved = {one.document_id: one.teacher - (len(one.text) - 100.0) for one in group.candidates}
    assert moved["hut#0"] == pytest.approx(moved["hut#1"])
    assert moved["hut#0"] != pytest.approx(moved["copy"])


def test_evidence_is_looked_for_only_where_targets_are_blended():
    assert found_for(ASKED_FOR, bi_encoder=BiEncoder(None), blend=None)[0].evidence == {}


def test_what_the_teacher_cannot_read_is_left_out():
    snow = MadeQuery("s", "snow train", "given", "")
    [asked] = found_for(snow)
    assert set(asked.document_ids) == {"snow", "train"}
    assert lessons([asked], by_length, Adapting()) == []
    [group] = lessons(found_for(MadeQuery("s", "snow train beds", "given", "")), by_length, Adapting(blend=None))
    assert "snow" not in {candidate.document_id for candidate in group.candidates}


def test_half_of_the_candidates_are_the_first_and_the_others_are_drawn():
    documents = {f"d{n}": Text(f"d{n}", "", f"hut {'snow ' * n}") for n in range(40)}
    index = BM25Index.build([one.content for one in documents.values()])
    queries = [MadeQuery(f"q{n}", "hut", "given", "") for n in range(3)]
    asked = find_documents(queries, documents, index, Adapting(depth=20))
    groups = lessons(asked, by_length, Adapting(depth=20, candidates=7, blend=None, seed=1))
    drawn = [[asked[0].document_ids.index(one.document_id) for one in group.candidates] for group in groups]
    assert all(places[:4] == [0, 1, 2, 3] and len(set(places)) == 7 and max(places) < 20 for places in drawn)
    assert drawn == [sorted(places) for places in drawn]
    assert len({tuple(places) for places in drawn}) > 1
    assert groups == lessons(asked, by_length, Adapting(depth=20, candidates=7, blend=None, seed=1))
    assert groups != lessons(asked, by_length, Adapting(depth=20, candidates=7, blend=None, seed=2))


def test_a_drawn_candidate_is_moved_by_its_own_evidence():
    documents = {f"d{n}": Text(f"d{n}", "", f"hut {'snow ' * n}") for n in range(40)}
    index = BM25Index.build([one.content for one in documents.values()])
    settings = Adapting(depth=20, candidates=6, blend=Blend(bm25_alone=3.0))
    [asked] = find_documents([MadeQuery("q", "hut", "given", "")], documents, index, settings)
    [group] = lessons([asked], by_length, settings)
    moved = dict(zip(asked.document_ids, 3.0 * standardised(asked.evidence[BM25]), strict=True))
    logits = dict(zip(asked.document_ids, (len(text) - 100.0 for text in asked.texts), strict=True))
    doubt = settings.blend.doubt(np.array([logits[one.document_id] for one in group.candidates]))
    assert doubt > 0
    for one in group.candidates:
        assert one.teacher == pytest.approx(logits[one.document_id] + doubt * moved[one.document_id])


def group_of(*targets, name="q"):
    return Group(name, "hut", tuple(Candidate(f"d{n}", f"text {n}", teacher=one) for n, one in enumerate(targets)))


def test_the_teachers_order_is_the_judgment_where_there_is_no_other():
    held = taught_order([group_of(-3.0, 5.0, 0.0, -9.0)])
    assert held.judgments == {"q": {"d1": 3, "d2": 2, "d0": 1, "d3": 0}}
    assert held.documents == {"q": {f"d{n}": f"text {n}" for n in range(4)}}
    assert held.judged_by == TEACHERS_ORDER
    assert "no judgments" in TEACHERS_ORDER


def test_queries_near_to_those_of_the_test_are_left_out():
    kept = unlike(
        [COPIED, ASKED_FOR, MadeQuery("s", "snow train", "given", "")], {"t": "Beds of the HUT?", "made": "z"}
    )
    assert [query.id for query in kept] == ["s"]
    assert unlike([COPIED], {}) == [COPIED]


@pytest.mark.parametrize(("name", "value"), [("depth", 1), ("candidates", 1), ("candidates", True), ("seed", -1)])
def test_wrong_values_are_told(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Adapting(**{name: value})


def test_the_document_that_a_query_was_made_of_joins_in_where_it_is_asked_for():
    query = MadeQuery("made-rare_terms-snow", "beds warden stove", "rare_terms", "snow")
    [without] = found_for(query)
    [asked] = find_documents([query], DOCUMENTS, INDEX, Adapting(), origins=True)
    assert "snow" not in without.document_ids
    assert asked.document_ids == (*without.document_ids, "snow")
    assert asked.evidence[BM25][-1] == 0
    settings = Adapting(candidates=2, blend=None)

    def judge(requests):
        return [[Shown(text, 1.0) for text in texts] for _, texts in requests]

    [group] = lessons([asked], judge, settings, origins=True)
    assert [one.document_id for one in group.candidates] == [asked.document_ids[0], "snow"]
    [group] = lessons([asked], judge, Adapting(candidates=3, blend=None, seed=1))
    assert len(group.candidates) == 3
    [given] = find_documents([ASKED_FOR], DOCUMENTS, INDEX, Adapting(), origins=True)
    assert given.document_ids == found_for(ASKED_FOR)[0].document_ids
