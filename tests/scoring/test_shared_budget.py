"""One token budget for all documents: never exceeded, fair at first, then spent on the best."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.reading.passages import Piece, Span
from haystack_ce_ranker.scoring.shared_budget import MIN_SHARED_WINDOW, dearest, first_pieces, further_pieces

OVERHEAD = 7


def plan(*tokens):
    """A document whose pieces have so many tokens."""
    pieces = tuple(Piece((Span(0, count),)) for count in tokens)
    return SimpleNamespace(pieces=pieces, cost=lambda piece: OVERHEAD + piece.tokens)


def spent(plans, chosen):
    return sum(plans[one.place].cost(one.piece) for one in chosen)


@given(st.lists(st.integers(0, 80), max_size=12), st.integers(0, 900))
def test_the_first_pieces_stay_within_the_budget_and_in_order(lengths, budget):
    plans = [plan(length) for length in lengths]
    chosen = first_pieces(plans, budget)
    assert spent(plans, chosen) <= budget
    assert [one.place for one in chosen] == list(range(len(chosen)))
    for one in chosen:
        whole = plans[one.place].pieces[0].tokens
        assert min(MIN_SHARED_WINDOW, whole) <= one.piece.tokens <= whole
    if budget >= sum(OVERHEAD + length for length in lengths):
        assert [one.piece.tokens for one in chosen] == lengths


@given(st.lists(st.integers(0, 80), min_size=1, max_size=12), st.integers(0, 900), st.integers(1, 4), st.data())
def test_in_steps_all_that_fits_at_once_is_read_whole(lengths, budget, step, data):
    """The later ones of each step are the dearest that may come, as where it is not known which ones will."""
    others = data.draw(st.lists(st.integers(0, max(lengths)), max_size=5))
    plans, never = [plan(length) for length in lengths], [plan(length) for length in others]
    left, read = budget, []
    for start in range(0, len(plans), step):
        named, later = plans[start : start + step], plans[start + step :]
        chosen = first_pieces([*named, *dearest([*later, *never], len(later))], left)
        chosen = [one for one in chosen if one.place < len(named)]
        left -= spent(named, chosen)
        read += [one.piece.tokens for one in chosen]
    assert left >= 0
    if budget >= sum(OVERHEAD + max(lengths) for _ in lengths):
        assert read == lengths
    if not others and budget >= sum(OVERHEAD + length for length in lengths):
        assert read == lengths


def test_the_dearest_are_those_whose_first_pieces_cost_most():
    plans = [plan(5), plan(), plan(60), plan(20, 90), plan(60, 1)]
    assert dearest(plans, 3) == [plans[2], plans[4], plans[3]]
    assert dearest(plans, 9) == [plans[2], plans[4], plans[3], plans[0], plans[1]]
    assert dearest([], 2) == []


def test_documents_are_cut_to_equal_shares_and_short_ones_stay_whole():
    plans = [plan(60), plan(20), plan(60)]
    budget = 3 * OVERHEAD + 100
    assert [one.piece.tokens for one in first_pieces(plans, budget)] == [40, 20, 40]


def test_what_is_left_goes_to_the_documents_that_can_reach_the_top():
    plans = [plan(10, 10, 10) for _ in range(6)]
    logits = [0.0, 5.0, 1.0, 4.0, None, 3.0]
    chosen = further_pieces(plans, logits, 3 * (OVERHEAD + 10), top_k=1)
    assert [one.place for one in chosen] == [1, 3, 5]
    generous = further_pieces(plans, logits, 10_000, top_k=1)
    assert [one.place for one in generous] == [1, 3, 5, 2, 0] * 2


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(-9, 9)), max_size=8), st.integers(0, 400), st.integers(1, 4))
def test_further_pieces_stay_within_what_is_left(documents, budget, top_k):
    plans = [plan(tokens, tokens, tokens) for tokens, _ in documents]
    chosen = further_pieces(plans, [logit for _, logit in documents], budget, top_k=top_k)
    assert spent(plans, chosen) <= budget
