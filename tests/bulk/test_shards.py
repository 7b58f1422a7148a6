"""Shards: each pair in one of them, and the same scores whoever scores them, and in whatever order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeBackend
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bulk.replica import Model, Replica, from_row, row_of
from haystack_ce_ranker.bulk.shards import Asked, ShardScores, shards_of
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

WORDS = ["hut", "snow", "car", "berlin", "paris", "city", "brake"]
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def asked(counts):
    return [
        Asked(
            f"q{query}",
            f"the {WORDS[query % 7]}",
            tuple(f"d{place}" for place in range(count)),
            tuple(f"{WORDS[place % 7]} of {WORDS[(place + query) % 5]} " * (1 + place) for place in range(count)),
            tuple(float(-place) for place in range(count)),
        )
        for query, count in enumerate(counts)
    ]


def pairs(some):
    return [
        (one.query_id, *pair) for one in some for pair in zip(one.document_ids, one.texts, one.first_stage, strict=True)
    ]


@given(COUNTS, st.integers(1, 15), st.booleans())
def test_every_pair_is_in_one_shard_in_the_order_of_the_run(counts, size, whole):
    todo = asked(counts)
    shards = shards_of(todo, size, whole=whole)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert pairs(one for shard in shards for one in shard.asked) == pairs(todo)
    assert all(len(shard) <= size or (whole and len(shard.asked) == 1) for shard in shards)
    assert all(one.texts for shard in shards for one in shard.asked)
    if whole:
        assert sum(len(shard.asked) for shard in shards) == len(counts)


class Uneven(FakeBackend):
    """A backend whose logits depend on what else is in the batch, far more than float32 does."""

    def logits(self, batch):
        return super().logits(batch) + len(batch.pairs) + sum(len(pair.ids) for pair in batch.pairs) / 1000


def uneven(_model):
    return CrossEncoderScorer(Uneven())


@settings(max_examples=20)
@given(COUNTS, st.integers(1, 15), st.randoms(use_true_random=False), st.integers(1, 3))
def test_scores_depend_neither_on_who_scores_a_shard_nor_on_when_nor_on_what_else(counts, size, random, replicas):
    model = Model(ModelOptions("none"), load=uneven)
    shards = shards_of(asked(counts), size, whole=False)
    first = Replica(model)
    expected = {shard.number: first.score(shard).logits for shard in shards}
    several = [Replica(model) for _ in range(replicas)]
    mixed = random.sample(shards, len(shards)) + random.choices(shards, k=3)
    for shard in mixed:
        assert random.choice(several).score(shard).logits == expected[shard.number]
        assert random.choice(several).score(from_row(row_of(shard))).logits == expected[shard.number]
    together, _ = first._scorer.score_many([request for shard in shards for request in shard.requests])
    one_call = [document.logit for query in together for document in query.documents]
    if len(shards) > 1:
        apart = [logit for of_shard in expected.values() for logit in of_shard]
        assert one_call != apart  # so the test can fail


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_plain_values_give_back_every_bit(logits):
    ones = [1] * len(logits)
    scores = ShardScores(
        [*logits, None], [*ones, 0], [*ones, 0], [*ones, 0], {len(logits): "no_text"}, 1, "a", 0.1, 0.2
    )
    again = ShardScores.from_plain(scores.plain(), len(logits) + 1)
    assert again == scores
    assert np.array(again.logits[:-1]).tobytes() == np.array(logits).tobytes()


def test_shards_of_other_texts_have_other_keys():
    todo = asked([2, 2])
    keys = {
        shard.key
        for some in (todo, todo[:1], todo[1:], [todo[0]._replace(texts=("a", "b"))], [todo[0]._replace(query="a")])
        for shard in shards_of(some, 10, whole=False)
    }
    assert len(keys) == 5
    [shard] = shards_of(todo, 10, whole=False)
    assert from_row(row_of(shard)).key == shard.key
