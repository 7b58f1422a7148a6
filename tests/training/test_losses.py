import math
from collections import Counter
from dataclasses import replace

import pytest

from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.losses import (
    LABEL_MARGIN,
    LOSSES,
    MOST_OTHERS,
    characters_of,
    pairs_of,
    rows_for,
    usual_batch,
    usual_loss,
)

pytest.importorskip("datasets")

GROUP = Group(
    "q",
    "the hut",
    (
        Candidate("d1", "hut", 1.0, 4.0),
        Candidate("d2", "snow", 0.5, -1.0),
        Candidate("d3", "train", 0.0, -6.0),
        Candidate("d4", "berlin"),
    ),
)


def test_pairs_have_the_label_or_the_sigmoid_of_the_teachers_logit():
    rows = rows_for("bce", [GROUP]).rows
    assert [tuple(row.values()) for row in rows] == [
        ("the hut", "hut", 1.0),
        ("the hut", "snow", 0.5),
        ("the hut", "train", 0.0),
    ]
    taught = rows_for("bce", [GROUP], learns="teacher").rows
    assert [row["label"] for row in taught] == pytest.approx(
        [1 / (1 + math.exp(-logit)) for logit in (4.0, -1.0, -6.0)]
    )


def test_triples_hold_by_how_many_logits_the_better_document_stands_above_the_worse():
    labels, logits = {"hut": 1.0, "snow": 0.5, "train": 0.0}, {"hut": 4.0, "snow": -1.0, "train": -6.0}
    for learns, of in (("labels", {text: LABEL_MARGIN * label for text, label in labels.items()}), ("teacher", logits)):
        rows = rows_for("margin_mse", [GROUP], learns=learns).rows
        assert rows
        for row in rows:  # raw logits: a sigmoid would make 0.7 of 5.0
            assert list(row) == ["query", "better", "worse", "label"]
            assert row["label"] == of[row["better"]] - of[row["worse"]] > 0


@pytest.mark.parametrize("grades", [(1, 0), (1, 1, 0, 0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 2, 2, 2, 2), tuple(range(9))])
@pytest.mark.parametrize("seed", range(3))
def test_each_document_is_told_apart_from_another_and_few_are_read_twice(grades, seed):
    group = labelled("a", *(grade / 8 for grade in grades))
    rows = rows_for("margin_mse", [group], seed=seed).rows
    read = Counter(row[side] for row in rows for side in ("better", "worse"))
    assert set(read) == {f"a{n}" for n in range(len(grades))}
    commonest = max(Counter(grades).values())
    assert len(rows) <= max(commonest, math.ceil(len(grades) / 2) + 1)
    most = math.ceil(commonest / (len(grades) - commonest))  # each of the others is read about as often
    assert max(read.values()) <= max(2, most)


def test_the_seed_draws_which_documents_are_told_apart():
    group = labelled("a", *(grade / 8 for grade in range(8)))
    found = [rows_for("margin_mse", [group], seed=seed).rows for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert [pairs_of(row) for row in found[0]] == [2] * 4


@pytest.mark.parametrize("loss", ["lambda", "ranknet"])
def test_lists_have_labels_or_the_teachers_order_as_gains(loss):
    [row] = rows_for(loss, [GROUP]).rows
    assert list(row) == ["query", "documents", "labels"]
    assert (row["documents"], row["labels"]) == (["hut", "snow", "train"], [1.0, 0.5, 0.0])
    [taught] = rows_for(loss, [GROUP], learns="teacher").rows
    assert taught["labels"] == [1.0, 0.5, 0.0]


def test_huge_logits_have_a_sigmoid():
    group = Group("q", "q", (Candidate("d1", "a", None, 1e4), Candidate("d2", "b", None, -1e4)))
    assert [row["label"] for row in rows_for("bce", [group], learns="teacher").rows] == [1.0, 0.0]


def test_what_nothing_is_learnt_from_is_counted():
    same = Group("same", "hut", (Candidate("d1", "a", 1.0), Candidate("d2", "b", 1.0)))
    empty = Group("empty", "hut", ())
    found = rows_for("bce", [GROUP, same, empty])
    assert (found.queries, found.unused_queries, found.unused_documents, found.pairs) == (1, 2, 1, 3)


def test_groups_without_targets_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"none of the 1 has two documents with different logits of the teacher"):
        rows_for("bce", [Group("q", "q", (Candidate("d1", "a", 1.0), Candidate("d2", "b", 0.0)))], learns="teacher")
    with pytest.raises(ValueError, match="loss must be one of 'bce', 'margin_mse', 'lambda', 'ranknet', 'contrastive'"):
        rows_for("hinge", [GROUP])


def test_a_row_knows_its_pairs_and_the_length_of_its_longest_pair():
    two = replace(GROUP, candidates=GROUP.candidates[:2])
    given = (("bce", GROUP), ("margin_mse", two), ("lambda", GROUP))
    pair, triple, several = (rows_for(loss, [group]).rows[0] for loss, group in given)
    assert [pairs_of(row) for row in (pair, triple, several)] == [1, 2, 3]
    assert [characters_of(row) for row in (pair, triple, several)] == [7 + 3, 7 + 4, 7 + 5]


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_the_librarys_and_sees_raw_logits(loss, learner):
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import losses

    made = LOSSES[loss].make(CrossEncoder(learner, local_files_only=True), at_once=4)
    assert type(made) is getattr(losses, LOSSES[loss].library_name)
    assert type(made.activation_fn) is torch.nn.Identity


def labelled(name, *labels):
    return Group(
        name, f"query {name}", tuple(Candidate(f"{name}{n}", f"{name}{n}", one) for n, one in enumerate(labels))
    )


def test_a_relevant_document_is_told_apart_from_all_that_are_not():
    found = rows_for("contrastive", [labelled("a", 1.0, 0.5, 0.0, None, 0.0), labelled("b", 0.0, 1.0)])
    assert [tuple(row.values()) for row in found.rows] == [
        ("query a", "a0", "a2", "a4"),
        ("query a", "a1", "a2", "a4"),
        ("query b", "b1", "b0", "b0"),  # the library wants columns: a short row repeats what it has
    ]
    drawn = LOSSES["contrastive"].in_batch
    assert (found.queries, found.pairs, found.pairs_per_row) == (2, 3 * (3 + drawn), 3 + drawn)
    assert [pairs_of(row) for row in found.rows] == [3, 3, 3]


def test_the_teachers_best_document_is_told_apart_from_its_others():
    found = rows_for("contrastive", [GROUP], learns="teacher")
    assert [tuple(row.values()) for row in found.rows] == [("the hut", "hut", "snow", "train")]


def test_many_other_documents_make_several_rows_and_each_is_in_one():
    found = rows_for("contrastive", [labelled("a", 1.0, *[0.0] * (MOST_OTHERS + 3))])
    assert [len(row) for row in found.rows] == [2 + MOST_OTHERS] * 2
    seen = {text for row in found.rows for key, text in row.items() if key not in ("query", "document")}
    assert seen == {f"a{n}" for n in range(1, MOST_OTHERS + 4)}


def test_what_is_or_may_be_relevant_for_a_query_must_not_come_into_its_batch():
    [one] = rows_for("contrastive", [labelled("a", 1.0, 0.0, None)]).apart
    assert (one.brought, one.spared) == ({"a0", "a1"}, {"a0", "a2"})
    [one] = rows_for("contrastive", [replace(labelled("a", 1.0, 0.0), also_relevant=("c", "a1"))]).apart
    assert (one.brought, one.spared) == ({"a0", "a1"}, {"a0", "c"})
    assert rows_for("bce", [labelled("a", 1.0, 0.0, None)]).apart == ()


def test_parts_of_one_query_are_counted_once():
    parts = [GROUP, GROUP, replace(GROUP, query_id="other")]
    found = rows_for("margin_mse", parts, learns="teacher")
    assert (found.queries, found.unused_queries) == (2, 0)
    level = replace(labelled("a", 1.0), candidates=labelled("a", 0.0, 0.0).candidates)
    found = rows_for("bce", [level, labelled("a", 0.0, 1.0), labelled("b", 1.0), labelled("b", 0.0)])
    assert (found.queries, found.unused_queries) == (1, 1)


def test_relevant_documents_alone_teach_no_contrast():
    with pytest.raises(ValueError, match="none of the 1 has two documents with different labels"):
        rows_for("contrastive", [labelled("a", 1.0, 0.5)])


def test_a_hundred_queries_are_no_longer_few():
    assert [usual_loss(queries) for queries in (1, 99, 100, 5000)] == ["lambda", "lambda", "bce", "bce"]


def test_the_usual_batch_is_that_of_a_recipe_and_larger_where_its_rows_are_told_apart():
    from haystack_ce_ranker.training.fitting import Recipe

    assert {usual_batch(loss) for loss in LOSSES if loss != "contrastive"} == {Recipe().batch}
    assert usual_batch("contrastive") >= 4 * (1 + MOST_OTHERS)
    with pytest.raises(ValueError, match="loss must be one of"):
        usual_batch("hinge")
