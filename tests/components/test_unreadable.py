"""A ranker says when its model cannot read the texts that it is given."""

import pytest
from haystack import Document

from haystack_ce_ranker import CrossEncoderRanker

THAI, LONG_THAI = "กระท่อมอยู่ในหิมะ", "ก" * 3100
ENGLISH = ["the hut is in the snow", "a car of the city", "2,500.75 and 3"]


@pytest.fixture
def ranker(tiny_bert):
    return CrossEncoderRanker(model=tiny_bert, top_k=20)


def ranked(ranker, texts):
    documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
    return ranker.run(query="the hut", documents=documents)


def test_documents_that_the_vocabulary_does_not_know_are_counted(ranker):
    assert ranked(ranker, [*ENGLISH, THAI, "小屋在雪中"])["report"]["unreadable"] == {"documents": 2, "share": 1.0}
    assert ranked(ranker, ENGLISH)["report"]["unreadable"] == {"documents": 0, "share": 0.0}


def test_what_became_unknown_tokens_was_not_read(ranker):
    found = ranked(ranker, [*ENGLISH, LONG_THAI, "the hut " + "x" * 300])
    coverage = {one.id: one.meta["ce_ranker"]["cross_encoder"]["coverage"] for one in found["documents"]}
    assert coverage["0"] == 1.0
    assert coverage["3"] == 0.0
    assert coverage["4"] == pytest.approx(6 / 306)
    assert set(found["report"]["coverage"]) == {"3", "4"}


def test_a_warning_names_it_once(ranker, caplog):
    for _ in range(2):
        ranked(ranker, [*ENGLISH, THAI])
    said = [one.getMessage() for one in caplog.records if "does not know the language" in one.getMessage()]
    assert len(said) == 1
    assert "1 of 4 documents: 100%" in said[0]
    assert THAI not in said[0]


def test_an_unscored_document_is_not_counted(ranker):
    ranker.depth = 1
    assert ranked(ranker, [ENGLISH[0], THAI])["report"]["unreadable"]["documents"] == 0
