"""A bi-encoder learns the teacher's raw logits, from texts as it reads them in serving."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses

from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.taught import Scales, TaughtLoss, as_served, require_logits, scales, taught_rows

DOCUMENTS = {f"d{number}": f"document {number}, all of it" for number in range(9)}
LOGITS = [-3.0, 9.5, 1.25, -11.0, 0.5, 4.0, -0.5, 2.0, -7.0]


def group(logits, name="q", documents=DOCUMENTS):
    texts = [Candidate(f"d{number}", documents[f"d{number}"], None, logit) for number, logit in enumerate(logits)]
    return Group(name, f"the query {name}", tuple(texts))


def sigmoid(value):
    return float(1 / (1 + np.exp(-value)))


class Embedding(torch.nn.Module):
    """A student whose embeddings are the tokens that it is given."""

    similarity_fn_name = "cosine"

    def forward(self, features):
        return {"sentence_embedding": features["tokens"]}

    def encode(self, texts, **_):
        return torch.tensor([[1.0, float(len(text) % 7)] for text in texts])

    @staticmethod
    def similarity(first, second):
        return torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T

    @staticmethod
    def similarity_pairwise(first, second):
        return torch.nn.functional.cosine_similarity(first, second)


def test_the_labels_are_the_teachers_logits_as_they_are():
    rows = taught_rows([group(LOGITS)], ways=3, seed=0).rows
    by_text = {DOCUMENTS[f"d{number}"]: logit for number, logit in enumerate(LOGITS)}
    assert len(rows) == 4
    for row in rows:
        texts = [row[f"text_{place}"] for place in range(3)]
        assert row["label"] == [by_text[text] for text in texts]
        assert row["label"][0] == max(LOGITS)
    assert sorted(logit for row in rows for logit in row["label"][1:]) == sorted(LOGITS)[:-1]


@pytest.mark.parametrize("ways", range(2, 10))
def test_every_document_is_learnt_from_and_no_row_is_short(ways):
    rows = taught_rows([group(LOGITS)], ways=ways, seed=0).rows
    assert {logit for row in rows for logit in row["label"]} == set(LOGITS)
    assert all(len(set(row["label"])) == ways for row in rows)
    assert len(rows) == -(-(len(LOGITS) - 1) // (ways - 1))


def test_the_texts_are_those_of_serving_and_not_the_teachers_windows():
    read = group(LOGITS, documents={name: f"a window of {name}" for name in DOCUMENTS})
    served = as_served([read], {"q": DOCUMENTS})
    assert [one.text for one in served[0].candidates] == list(DOCUMENTS.values())
    assert [one.teacher for one in served[0].candidates] == LOGITS
    assert read.candidates[0].text == "a window of d0"
    rows = taught_rows(served, ways=4, seed=0).rows
    assert {text for row in rows for key, text in row.items() if key.startswith("text")} == set(DOCUMENTS.values())


def test_rows_depend_on_seed_and_query_alone():
    first, second = group(LOGITS, "a"), group(LOGITS, "b")
    alone = taught_rows([second], ways=3, seed=1).rows
    assert taught_rows([first, second], ways=3, seed=1).rows[-len(alone) :] == alone
    assert taught_rows([second], ways=3, seed=2).rows != alone


def test_a_query_with_too_few_logits_is_left_out_and_counted():
    few = Group("few", "few", (Candidate("d0", "x", None, 3.0), Candidate("d1", "x", 1.0), Candidate("d2", "x")))
    found = taught_rows([few, group(LOGITS)], ways=3, seed=0)
    assert (found.queries, found.unused) == (1, 1)
    with pytest.raises(ValueError, match="at least 3 documents that the teacher scored, but none of the 1"):
        taught_rows([few], ways=3, seed=0)


def test_probabilities_are_refused():
    squashed = group([sigmoid(logit) for logit in LOGITS])
    with pytest.raises(ValueError, match="must be raw logits, but all 9 of them lie between 0 and 1"):
        taught_rows([squashed], ways=3, seed=0)
    require_logits([group(LOGITS)])
    require_logits([group([0.25, 0.5])])  # too few to tell
    require_logits([group([*(sigmoid(logit) for logit in LOGITS[:8]), 1.5])])


def test_similarities_are_stretched_to_spread_as_the_logits_do():
    rows = taught_rows([group(LOGITS, documents=DOCUMENTS | {"d1": "longer than the others"})], ways=9, seed=0).rows
    found = scales(Embedding(), rows)
    assert found.teacher == pytest.approx(np.std(LOGITS))
    vectors = Embedding().encode([rows[0]["query"], *(rows[0][f"text_{place}"] for place in range(9))])
    similarities = Embedding.similarity(vectors[:1], vectors[1:])[0].numpy()
    assert found.student == pytest.approx(np.std(similarities), rel=1e-5)
    assert np.std(similarities * found.stretch) == pytest.approx(np.std(LOGITS), rel=1e-5)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_whoever_scores_all_texts_alike_is_refused(who):
    logits = [2.0] * 9 if who == "teacher" else LOGITS
    documents = dict.fromkeys(DOCUMENTS, "one text") if who == "student" else DOCUMENTS
    rows = taught_rows([group(logits, documents=documents)], ways=9, seed=0).rows
    rows = tuple({**row, "text_0": "longer"} for row in rows) if who == "teacher" else rows
    with pytest.raises(ValueError, match=f"the {who} must tell the texts of a query apart"):
        scales(Embedding(), rows)


def features(seed=0, columns=4):
    draw = torch.Generator().manual_seed(seed)
    return [{"tokens": torch.randn(5, 8, generator=draw)} for _ in range(columns)]


LABELS = torch.tensor([[9.5, -3.0, 1.0], [4.0, 3.0, -2.0], [0.0, -1.0, -9.0], [2.0, 1.0, 0.0], [7.0, 6.0, -8.0]])


def taught_loss(**changed):
    settings = {"contrast": "teacher", "weight": 1.0, "temperature": 0.5} | changed
    return TaughtLoss(Embedding(), Scales(4.0, 0.2), **settings)


def test_without_the_contrast_the_loss_is_margin_mse_in_variances_of_the_teacher():
    """Written out: the margins of the stretched similarities against those of the raw logits."""
    given = features()
    scores = torch.stack(
        [20 * Embedding.similarity_pairwise(given[0]["tokens"], one["tokens"]) for one in given[1:]], 1
    )
    margins, wanted = scores[:, :1] - scores[:, 1:], LABELS[:, :1] - LABELS[:, 1:]
    expected = ((margins - wanted) ** 2).mean() / 16
    assert taught_loss(weight=0.0)(given, LABELS) == pytest.approx(float(expected), rel=1e-5)


def test_the_teachers_contrast_is_the_divergence_of_two_softmaxes():
    given = features()
    scores = torch.stack(
        [20 * Embedding.similarity_pairwise(given[0]["tokens"], one["tokens"]) for one in given[1:]], 1
    )
    theirs, ours = torch.log_softmax(LABELS / 2, 1), torch.log_softmax(scores / 2, 1)
    divergence = float((theirs.exp() * (theirs - ours)).sum(1).mean())
    without = float(taught_loss(weight=0.0)(given, LABELS))
    assert float(taught_loss(weight=3.0)(given, LABELS)) == pytest.approx(without + 3 * divergence, rel=1e-4)


def test_the_contrast_in_the_batch_is_the_librarys():
    given = features()
    model = Embedding()
    theirs = losses.MultipleNegativesRankingLoss(model, similarity_fct=model.similarity)
    expected = theirs.compute_loss_from_embeddings([one["tokens"] for one in given], LABELS)
    without = float(taught_loss(weight=0.0)(given, LABELS))
    found = float(taught_loss(contrast="in_batch", weight=2.0)(given, LABELS))
    assert found == pytest.approx(without + 2 * float(expected), rel=1e-5)


def test_a_sigmoid_on_the_way_would_change_the_loss():
    """What the guard is for: squashed logits give another loss, which asks for hardly any margin."""
    given = features()
    assert abs(float(taught_loss()(given, LABELS)) - float(taught_loss()(given, torch.sigmoid(LABELS)))) > 1
