"""How much each list counts for a query: by the cross-encoder's doubt, by agreement, and when the weights are kept."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.fusion.adaptive import Adaptation, Decision, parse_adaptation
from haystack_ce_ranker.fusion.fuse import Fused, ScoredList, fuse
from haystack_ce_ranker.fusion.normalizers import AUTO, sigmoid

SURE = np.array([9.0, 8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0, 4.5, 4.0])
LOST = SURE - 11.0
COSINES = np.array([0.7, 0.72, 0.66, 0.6, 0.64, 0.58, 0.6, 0.52, 0.5, 0.51])
WEIGHTS = {"ce": 0.8, "bm25": 0.1, "dense": 0.1}


def listed(scores: object, scale: str | None = None) -> ScoredList:
    values = np.asarray(scores, dtype=np.float64)
    return ScoredList([f"d{place}" for place in range(values.size)], values, scale=scale)


def adapted(adaptation: Adaptation | None = None, weights: dict[str, float] | None = None, **lists: object) -> Fused:
    given = {name: one if isinstance(one, ScoredList) else listed(one) for name, one in lists.items()}
    used = WEIGHTS if weights is None else weights
    auto = dict.fromkeys(given, AUTO)
    return fuse(given, used, normalizations=auto, adaptation=Adaptation() if adaptation is None else adaptation)


def decided(found: Fused) -> Decision:
    assert found.decision is not None
    return found.decision


def test_the_doubt_is_the_mean_probability_of_the_best_twenty() -> None:
    logits = np.linspace(8.0, -8.0, 50)
    found = adapted(ce=listed(logits, "logits"), bm25=listed(np.linspace(9.0, 1.0, 50), "bm25"))
    assert decided(found).by == "ce"
    assert decided(found).doubt == pytest.approx(float(sigmoid(-logits[:20]).mean()))


def test_where_the_cross_encoder_is_sure_it_ranks_alone_and_where_it_is_not_the_others_count() -> None:
    lists = {"bm25": listed(20 * COSINES, "bm25"), "dense": COSINES}
    sure = adapted(ce=listed(SURE + 6.0, "logits"), **lists)
    lost = adapted(ce=listed(LOST, "logits"), **lists)
    assert sure.weights["ce"] > 0.99
    assert sure.ids == [f"d{place}" for place in range(10)]
    assert lost.weights["ce"] < 0.3
    assert lost.ids != sure.ids
    for found in (sure, lost):
        assert sum(found.weights.values()) == pytest.approx(1.0)


def test_a_deviation_is_worth_the_constant_times_doubt_times_correlation_squared() -> None:
    found = adapted(ce=listed(LOST, "logits"), bm25=listed(20 * COSINES, "bm25"), dense=COSINES)
    decision = decided(found)
    assert decision is not None
    correlation = float(np.corrcoef(LOST, COSINES)[0, 1])
    assert decision.agreement["dense"].correlation == pytest.approx(correlation)
    assert found.weights["dense"] / found.weights["ce"] == pytest.approx(16.0 * decision.doubt * correlation**2)
    assert found.weights["bm25"] / found.weights["ce"] == pytest.approx(8.0 * decision.doubt * correlation**2)
    alone = adapted(ce=listed(LOST, "logits"), dense=COSINES)
    assert alone.weights["dense"] / alone.weights["ce"] == pytest.approx(8.0 * decision.doubt * correlation**2)
    assert [one.normalization.name for one in found.assumed.values()] == ["z_score", "none", "z_score"]


def test_bm25_alone_counts_the_more_the_less_the_first_pages_have_in_common() -> None:
    same = adapted(ce=listed(LOST, "logits"), bm25=listed(np.arange(20.0, 10.0, -1.0), "bm25"))
    assert same.weights == {"bm25": 0.0, "ce": 1.0}
    other = adapted(ce=listed(LOST, "logits"), bm25=listed(np.arange(10.0, 20.0), "bm25"))
    assert decided(other).agreement["bm25"].overlap == pytest.approx(4 / 7)  # of ten documents two sevens share four
    assert other.weights["bm25"] / other.weights["ce"] == pytest.approx((3 / 7) ** 2)


def test_a_list_of_equal_scores_has_no_correlation_and_no_first_page_of_its_own() -> None:
    flat = adapted(ce=listed(LOST, "logits"), bm25=listed(np.full(10, 5.0), "bm25"))
    assert decided(flat).agreement["bm25"] == (0.0, pytest.approx(0.7))
    assert flat.ids == [f"d{place}" for place in range(10)]


def test_a_list_that_contradicts_the_logits_counts_for_nothing_beside_another_but_its_documents_stay() -> None:
    dense = ScoredList([*(f"d{place}" for place in range(10)), "new"], [*(-COSINES), -0.3])
    found = adapted(ce=listed(LOST, "logits"), bm25=listed(20 * COSINES, "bm25"), dense=dense)
    assert found.weights["dense"] == 0.0
    assert "new" in found.ids


def test_more_than_two_others_share_what_two_have() -> None:
    weights = WEIGHTS | {"sparse": 0.1, "image": 0.1}
    many = adapted(ce=listed(LOST, "logits"), dense=COSINES, sparse=COSINES, image=COSINES, weights=weights)
    two = adapted(ce=listed(LOST, "logits"), dense=COSINES, sparse=COSINES, weights=weights)
    assert many.weights["ce"] == pytest.approx(two.weights["ce"])
    assert many.weights["dense"] == pytest.approx(many.weights["image"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-9, 9), st.floats(0, 1), st.floats(0, 30)]), min_size=3, max_size=40),
    st.floats(0.1, 5.0),
    st.floats(-10.0, 10.0),
)
def test_a_model_whose_logits_are_scaled_and_shifted_ranks_the_same_once_that_is_known(rows, factor, shift) -> None:
    logits, cosines, bm25 = np.round(np.array(rows), 3).T
    assume(np.ptp(logits) > 0.0)
    others = {"dense": listed(cosines, "own"), "bm25": listed(bm25, "bm25")}
    plain = adapted(ce=listed(logits, "logits"), **others)
    moved = adapted(
        Adaptation(slope=1.0 / factor, intercept=-shift / factor),
        ce=listed(factor * logits + shift, "logits"),
        **others,
    )
    assert decided(moved).doubt == pytest.approx(decided(plain).doubt, abs=1e-9)

    def in_log_odds(found: Fused, slope: float) -> dict[str, float]:
        scores = np.array(found.scores) / found.weights["ce"] * slope
        return dict(zip(found.ids, (scores - scores.mean()).tolist(), strict=True))

    expected, scored = in_log_odds(plain, 1.0), in_log_odds(moved, 1.0 / factor)
    assert {name: scored[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_probabilities_are_taken_back_to_logits_and_decide_the_same() -> None:
    logits = np.linspace(6.0, -8.0, 30)
    others = {
        "bm25": listed(np.linspace(30.0, 5.0, 30) % 7 + 1, "bm25"),
        "dense": listed(np.cos(np.arange(30)) / 9 + 0.5),
    }
    plain = adapted(ce=listed(logits, "logits"), **others)
    likely = adapted(ce=listed(sigmoid(logits).astype(np.float32)), **others)
    assert decided(likely).by == "ce"
    assert likely.assumed["ce"].scale == "probabilities"
    assert likely.ids == plain.ids
    assert decided(likely).doubt == pytest.approx(decided(plain).doubt, abs=1e-4)
    for name, weight in plain.weights.items():
        assert likely.weights[name] == pytest.approx(weight, abs=1e-3)


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"bm25": listed(20 * COSINES, "bm25"), "dense": COSINES}, "no input has logits"),
        ({"ce": listed(LOST, "logits")}, "nothing but ce has scores"),
        (
            {"ce": LOST, "dense": SURE, "bm25": listed(20 * COSINES, "bm25")},
            "more than one input has logits (ce, dense)",
        ),
    ],
)
def test_where_nothing_can_be_decided_the_weights_are_kept_and_the_reason_is_told(lists, reason) -> None:
    found = adapted(**lists)
    given = {name: one if isinstance(one, ScoredList) else listed(one) for name, one in lists.items()}
    kept = fuse(given, WEIGHTS, normalizations=dict.fromkeys(given, AUTO))
    assert (found.ids, found.scores, found.weights, found.assumed) == (
        kept.ids,
        kept.scores,
        kept.weights,
        kept.assumed,
    )
    assert (decided(found).by, decided(found).doubt) == (None, None)
    assert (decided(found).kept_because or "").startswith(reason)


def test_of_two_lists_of_logits_the_named_one_decides_and_else_the_one_with_a_record() -> None:
    lists = {"ce": LOST, "dense": SURE}
    named = adapted(Adaptation(by="dense"), **lists)
    assert decided(named).by == "dense"
    recorded = adapted(ce=listed(LOST, "logits"), dense=SURE)
    assert decided(recorded).by == "ce"
    absent = adapted(Adaptation(by="bm25"), **lists)
    assert decided(absent).kept_because == "bm25 has no scores"


def test_a_named_list_whose_scores_hardly_differ_is_counted_in_logits() -> None:
    found = adapted(Adaptation(by="ce"), ce=[0.5, 0.9, -0.3, 0.1], dense=[0.7, 0.6, 0.5, 0.4])
    assert decided(found).by == "ce"
    assert (found.assumed["ce"].scale, found.assumed["ce"].normalization.name) == ("logits", "none")


@pytest.mark.parametrize(
    "ce", [listed([0.0] * 6, "logits"), listed([3.0, -2.0], "logits"), listed([1.0], "logits")], ids=["flat", "2", "1"]
)
def test_a_list_that_says_next_to_nothing_decides_nothing(ce) -> None:
    found = adapted(ce=ce, dense=COSINES)
    decision = found.decision
    assert decision is not None
    assert (decision.by, decision.doubt) == (None, None)
    assert decision.kept_because is not None
    total = WEIGHTS["ce"] + WEIGHTS["dense"]
    assert found.weights == pytest.approx({name: WEIGHTS[name] / total for name in ("ce", "dense")})


@pytest.mark.parametrize("score", [0.0, 1.0, 0.5, 7.0])
def test_equal_scores_are_no_probabilities_and_decide_nothing(score: float) -> None:
    found = adapted(graph=listed([score] * 5), dense=COSINES, weights={"graph": 1.0, "dense": 1.0})
    assert found.weights == {"graph": 0.5, "dense": 0.5}
    assert found.assumed["graph"].scale == "own"


def test_the_lowest_logit_of_a_cut_list_is_not_one_of_the_best() -> None:
    whole = ScoredList(list("abc"), [3.0, 2.0, 1.0], scale="logits")
    cut = ScoredList(list("abc"), [3.0, 2.0, 1.0], floor=-11.0, scale="logits")
    dense = ScoredList(list("abcd"), [0.9, 0.7, 0.8, 0.1])
    assert decided(adapted(ce=cut, dense=dense)).doubt == decided(adapted(ce=whole, dense=dense)).doubt


def test_lists_that_share_nothing_with_the_cross_encoder_do_not_count() -> None:
    dense = ScoredList(["x", "y", "z"], [0.9, 0.8, 0.7])
    found = adapted(ce=listed(LOST, "logits"), dense=dense)
    assert decided(found).agreement["dense"] == (None, None)
    assert found.weights == {"ce": 1.0, "dense": 0.0}
    two = adapted(ce=listed(LOST, "logits"), dense=ScoredList(["d0", "d1", "z"], [0.9, 0.8, 0.7]))
    assert decided(two).agreement["dense"].correlation is None


def test_an_input_of_weight_0_takes_no_part() -> None:
    found = adapted(
        ce=listed(LOST, "logits"), bm25=listed(20 * COSINES, "bm25"), dense=COSINES, weights=WEIGHTS | {"dense": 0.0}
    )
    assert found.names == ("bm25", "ce")
    assert set(decided(found).agreement) == {"bm25"}


def test_a_list_without_a_score_keeps_its_share_of_0() -> None:
    silent = ScoredList(["d0", "d1", "only"], [None, None, None])
    found = adapted(ce=listed(LOST, "logits"), bm25=listed(20 * COSINES, "bm25"), dense=silent)
    assert found.weights["dense"] == 0.0
    assert "only" in found.ids


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-9, 9), st.floats(0, 1), st.floats(0, 30)]), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_order_in_which_documents_come_does_not_change_what_is_decided(rows, random) -> None:
    columns = np.round(np.array(rows), 2).T
    order = list(range(len(rows)))
    random.shuffle(order)
    decisions = []
    for places in (list(range(len(rows))), order):
        lists = {
            name: ScoredList([f"d{place}" for place in places], values[places], scale=scale)
            for name, values, scale in zip(("ce", "dense", "bm25"), columns, ("logits", "own", "bm25"), strict=True)
        }
        found = fuse(lists, WEIGHTS, normalizations=dict.fromkeys(lists, AUTO), adaptation=Adaptation())
        decisions.append((found.weights, (decided(found).doubt, decided(found).agreement)))
    assert decisions[0] == decisions[1]


@pytest.mark.parametrize("given", [True, False, np.True_, {"by": "ce"}, {"slope": 2, "intercept": -1.5}, {}])
def test_what_is_checked_is_written_as_plain_values_and_read_again(given) -> None:
    made = parse_adaptation(given, ["ce", "bm25"])
    plain = False if made is None else made.spec()
    assert type(plain) in (bool, dict)
    assert parse_adaptation(plain, ["ce", "bm25"]) == made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("true", "adapt_weights must be True or False, but got 'true', a text. Or {'by': input"),
        (1, "adapt_weights must be True or False"),
        (None, "adapt_weights must be True or False"),
        ({"by": "x"}, "adapt_weights: by must be one of 'ce', 'bm25', but got 'x'"),
        ({"slope": 0}, "adapt_weights: slope must be a finite number > 0, but got 0"),
        ({"intercept": float("nan")}, "adapt_weights: intercept must be a finite number"),
        ({"threshold": 1}, "adapt_weights has no key 'threshold'; its keys: by, slope, intercept"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_value(given, said) -> None:
    with pytest.raises(ValueError) as caught:
        parse_adaptation(given, ["ce", "bm25"])
    assert said in str(caught.value)
