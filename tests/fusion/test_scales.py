"""What `auto` takes a list for by its scores, its name and what it is joined with, and how it then counts it."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.fusion.fuse import ScoredList, fuse
from haystack_ce_ranker.fusion.normalizers import AUTO, Normalization, parse_normalizations, sigmoid
from haystack_ce_ranker.fusion.scales import Scale, scale_of

LOGITS = np.array([8.1, 5.0, 2.2, -0.4, -3.0, -6.5, -9.1, -10.2, -10.9, -11.2])
COSINES = np.array([0.71, 0.66, 0.61, 0.6, 0.58, 0.55, 0.54, 0.52, 0.51, 0.5])


def listed(scores: object, scale: Scale | None = None) -> ScoredList:
    values = np.asarray(scores, dtype=np.float64)
    return ScoredList([f"d{place}" for place in range(values.size)], values, scale=scale)


def joined(normalize: object = None, **lists: ScoredList) -> dict[str, tuple[str | None, Normalization, list[float]]]:
    """Per input: what it was taken for, how it was counted, and the counted values in the order of the ids."""
    found = fuse(lists, dict.fromkeys(lists, 1.0), normalizations=parse_normalizations(normalize, list(lists)))
    order = np.argsort([int(identifier[1:]) for identifier in found.ids])
    return {
        name: (found.assumed[name].scale, found.assumed[name].normalization, found.normalized[row, order].tolist())
        for row, name in enumerate(found.names)
    }


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (LOGITS, "logits"),
        (LOGITS[:3], "logits"),
        (np.array([11.0, 10.5, 9.0, 7.0, 6.0, 3.0]), "logits"),  # of an easy query, cut by the ranker's top_k
        (np.array([18.0, 7.0, -4.0, -15.0]), "logits"),  # wider than most, but on both sides of 0
        (sigmoid(LOGITS), "probabilities"),
        (sigmoid(LOGITS).astype(np.float32), "probabilities"),
        (sigmoid(3 * LOGITS).astype(np.float32), "probabilities"),  # some exactly 1
        (sigmoid(LOGITS).astype(np.float16), "probabilities"),
        (np.array([0.98, *[1e-5] * 9]), "probabilities"),  # one hit; the rest does not differ
        (COSINES, "own"),
        ((1 + COSINES) / 2, "own"),
        (0.7 + 0.3 * COSINES, "own"),
        (np.array([1.0, 1.0, *COSINES, *COSINES]), "own"),  # two duplicates of the query
        (np.array([0.3, 0.1, -0.05, -0.1, -0.2]), "own"),
        (90 * COSINES, "own"),  # dot products
        (1 / (60 + np.arange(1, 51)), "own"),  # reciprocal ranks
        (np.array([31.0, 22.0, 17.0, 14.0]), "own"),  # BM25 at an input of another name
        (-90 * COSINES, "own"),  # distances
        (np.array([0.7]), "own"),
        (np.array([0.7, 0.69]), "own"),
        (np.full(8, 0.7), "own"),
        (np.full(8, 3.0), "own"),
    ],
)
def test_a_list_is_taken_for_what_it_looks_like(scores: np.ndarray, expected: str) -> None:
    assert scale_of("x", np.asarray(scores, dtype=np.float64)) == expected


def test_what_is_known_counts_and_the_name_bm25_is_taken_at_its_word() -> None:
    assert scale_of("x", COSINES, "logits") == "logits"
    assert scale_of("bm25", 20 * COSINES) == "bm25"
    assert scale_of("bm25", sigmoid(20 * COSINES / 8)) == "own"  # scaled by its retriever
    assert scale_of("bm25", sigmoid(LOGITS), "bm25") == "bm25"


def test_beside_logits_bm25_counts_by_its_logarithm_and_a_cosine_by_its_deviation() -> None:
    found = joined(ce=listed(LOGITS), bm25=listed(20 * COSINES), dense=listed(COSINES))
    assert found["ce"] == ("logits", Normalization("none", {}), LOGITS.tolist())
    assert found["bm25"][2] == pytest.approx((5 * np.log1p(20 * COSINES)).tolist())
    assert found["dense"][2] == pytest.approx(((COSINES - COSINES.mean()) / COSINES.std()).tolist())
    assert [found[name][0] for name in ("bm25", "dense")] == ["bm25", "own"]


def test_without_logits_bm25_is_counted_like_the_other_lists() -> None:
    found = joined(bm25=listed(20 * COSINES), dense=listed(COSINES[::-1]))
    assert [found[name][1].name for name in ("bm25", "dense")] == ["z_score", "z_score"]
    assert np.std(found["bm25"][2]) == pytest.approx(np.std(found["dense"][2]))


def test_a_cross_encoder_and_bm25_are_joined_exactly_as_logits_and_logarithm() -> None:
    """What `benchmarks/fusion.md` promises of this join rests on it."""
    random = np.random.default_rng(0)
    for _ in range(50):
        logits, bm25 = random.normal(0, random.choice([0.1, 4.0]), 20), random.uniform(0, 30, 12)
        lists = {"ce": listed(logits, "logits"), "bm25": listed(bm25, "bm25")}
        weights = {"ce": 0.8, "bm25": 0.2}
        default = fuse(lists, weights, normalizations=dict.fromkeys(lists, AUTO))
        spelled = fuse(lists, weights, normalizations=parse_normalizations({"bm25": "log"}, list(lists)))
        assert (default.ids, default.scores) == (spelled.ids, spelled.scores)


def test_a_list_that_is_alone_is_not_brought_to_a_scale() -> None:
    assert joined(dense=listed(COSINES))["dense"][2] == COSINES.tolist()
    assert joined(bm25=listed([3.0, 1.0]))["bm25"][1].name == "log"
    silent = joined(dense=listed(COSINES), bm25=listed([math.nan, math.nan]))
    assert silent["dense"][2] == COSINES.tolist()
    assert silent["bm25"][0] is None


@settings(max_examples=60)
@given(st.lists(st.floats(-16, 16), min_size=5, max_size=40), st.floats(0.1, 0.9))
def test_logits_and_their_probabilities_are_joined_alike(logits: list[float], share: float) -> None:
    probabilities = sigmoid(np.array(logits))
    kinds = {scale_of("x", np.array(logits)), scale_of("x", probabilities)}
    if "own" in kinds:
        return  # near the limit, either way is right
    weights = {"x": share, "bm25": 1 - share}
    bm25 = listed(np.linspace(20, 1, 7), "bm25")
    specs = dict.fromkeys(weights, AUTO)
    ours, theirs = (
        fuse({"x": listed(x), "bm25": bm25}, weights, normalizations=specs) for x in (logits, probabilities)
    )
    by_id = dict(zip(theirs.ids, theirs.scores, strict=True))
    assert [by_id[identifier] for identifier in ours.ids] == pytest.approx(ours.scores, abs=1e-3)


@pytest.mark.parametrize("form", [np.float16, np.float32, np.float64])
def test_saturated_probabilities_stay_above_all_others_and_equal(form: type) -> None:
    given = sigmoid(np.array([40.0, 39.0, 7.0, 2.0, -2.0, -9.0, -800.0])).astype(form)
    assert given[0] == 1.0
    scale, counted, values = joined(x=listed(given), bm25=listed([1.0]))["x"]
    assert (scale, counted.name) == ("probabilities", "logit")
    assert values[0] == values[1]
    assert all(higher > lower for higher, lower in pairwise(values[1:]))
    assert values[0] - values[2] < 3  # and not the 9 that the least margin would give


def test_what_is_given_is_not_assumed() -> None:
    found = joined({"dense": "none", "bm25": "auto"}, dense=listed(COSINES), bm25=listed(20 * COSINES))
    assert found["dense"] == (None, Normalization("none", {}), COSINES.tolist())
    assert found["bm25"][1].name == "z_score"
    beside = joined({"ce": "none", "bm25": "auto"}, ce=listed(LOGITS), bm25=listed(20 * COSINES))
    assert beside["bm25"][1].name == "log"
    undone = joined({"ce": "logit", "bm25": "auto"}, ce=listed(sigmoid(LOGITS)), bm25=listed(20 * COSINES))
    assert undone["bm25"][1].name == "log"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.4], [0.0]), ([0.4, 0.4], [0.0, 0.0]), ([0.41, 0.4], [1.0, -1.0]), ([0.4, 0.4 + 1e-8, 0.4 - 1e-8], [0.0] * 3)],
)
def test_short_and_constant_lists_have_a_stated_deviation(scores: list[float], expected: list[float]) -> None:
    found = joined(dense=listed(scores), bm25=listed([9.0, 3.0, 1.0][: len(scores)]))
    assert found["dense"][2] == pytest.approx(expected)
