"""The score cache: bounded, each score computed once, failures not kept, and equal to what is scored without it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeBackend
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

WAIT = 30  # seconds after which a test that would hang fails instead


class Counting(FakeBackend):
    """Counts the pairs it scored."""

    def __init__(self):
        super().__init__()
        self.pairs = 0

    def logits(self, batch):
        self.pairs += len(batch.pairs)
        return super().logits(batch)


def scorer(backend=None, *, cache=None, name="model", identity=(), **policy):
    policy = {"passage_tokens": 16, "passage_stride": 8, **policy}
    backend = backend if backend is not None else Counting()
    return CrossEncoderScorer(backend, ReadingPolicy(**policy), model_name=name, scores=cache, identity=identity)


def squares(keys, seen):
    def compute(places):
        seen.append([keys[place] for place in places])
        return [keys[place] ** 2 for place in places]

    return compute


@given(st.lists(st.lists(st.integers(0, 8), max_size=6, unique=True), max_size=12), st.integers(1, 5))
def test_values_are_right_whatever_was_asked_before_and_never_more_are_kept_than_allowed(requests, size):
    cache, ever = ScoreCache(size), set()
    for keys in requests:
        seen = []
        assert cache.get(keys, squares(keys, seen)) == [key**2 for key in keys]
        computed = [key for call in seen for key in call]
        assert len(computed) == len(set(computed)) <= len(keys)
        assert set(keys) - ever <= set(computed)  # what was never asked for cannot be kept
        ever |= set(keys)
        assert len(seen) <= 1
        assert len(cache) <= size


def test_the_value_that_was_not_asked_for_longest_goes_first():
    cache, seen = ScoreCache(2), []
    for keys in ([1], [2], [1], [3], [1], [2]):
        cache.get(keys, squares(keys, seen))
    assert seen == [[1], [2], [3], [2]]


def test_simultaneous_requests_compute_each_value_once():
    cache, lock, computed = ScoreCache(100), threading.Lock(), []
    started = threading.Barrier(8)

    def request(number):
        keys = [(number + step) % 10 for step in range(5)]

        def compute(places):
            with lock:
                computed.extend(keys[place] for place in places)
            return [keys[place] ** 2 for place in places]

        started.wait(WAIT)
        return cache.get(keys, compute) == [key**2 for key in keys]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(request, range(8), timeout=WAIT))
    assert sorted(computed) == list(range(10))


def test_a_request_waits_for_another_ones_value_and_computes_itself_if_that_failed():
    cache, computing, go_on = ScoreCache(10), threading.Event(), threading.Event()

    def broken(places):
        computing.set()
        assert go_on.wait(WAIT)
        raise RuntimeError("broken")

    def slow(places):
        computing.set()
        assert go_on.wait(WAIT)
        return ["slow"]

    for compute, expected in ((broken, ["own"]), (slow, ["slow"])):
        computing.clear()
        go_on.clear()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(cache.get, [compute], compute)
            assert computing.wait(WAIT)
            second = pool.submit(cache.get, [compute], lambda places: ["own"])
            with pytest.raises(TimeoutError):
                second.result(0.05)
            go_on.set()
            found = second.result(WAIT)
        assert found == expected
    with pytest.raises(RuntimeError, match="broken"):
        cache.get(["new"], broken)
    assert cache.get(["new"], lambda places: [7]) == [7]  # a failure is not kept


words = st.text(alphabet="abc ", max_size=200)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(words, max_size=4)), max_size=4))
def test_a_scorer_with_a_cache_scores_and_reads_the_same(requests):
    cached, plain = scorer(cache=ScoreCache(5)), scorer()
    for query, documents in requests:
        found, expected = cached.score(query, documents)[0], plain.score(query, documents)[0]
        for ours, theirs in zip(found.documents, expected.documents, strict=True):
            assert ours.logit == pytest.approx(theirs.logit)
            assert [(part.start, part.end) for part in ours.read] == [(part.start, part.end) for part in theirs.read]
            assert (ours.tokens, ours.tokens_read, ours.pairs) == (theirs.tokens, theirs.tokens_read, theirs.pairs)
        assert (found.query_tokens, found.query_tokens_read) == (expected.query_tokens, expected.query_tokens_read)


def test_only_what_is_new_is_scored():
    backend = Counting()
    made = scorer(backend, cache=ScoreCache(10))
    first, _ = made.score("a", ["abc", "cab", "abc"])
    assert (backend.pairs, first.pairs, first.cached) == (2, 2, 1)
    second, stats = made.score("a", ["cab", "bca"])
    assert (backend.pairs, second.pairs, second.cached, stats.pairs) == (3, 1, 1, 1)
    assert second.documents[0] == first.documents[1]
    third, stats = made.score("a", ["cab"])
    assert (third.pairs, third.tokens, third.cached, stats.batches) == (0, 0, 1, 0)
    made.score("b", ["cab"])
    assert backend.pairs == 4


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"identity": ["revision 2"]},
        {"long_documents": "head"},
        {"passage_evidence": 0.5},
        {"passage_matches": "soft"},
        {"max_length": 32},
        {"max_query_tokens": 8},
        {"aggregate": "mean_top2"},
    ],
)
def test_a_score_of_other_settings_is_not_taken(change):
    cache = ScoreCache(10)
    scorer(cache=cache).score("a", ["abc"])
    same, other = scorer(cache=cache), scorer(cache=cache, **change)
    assert same.score("a", ["abc"])[0].cached == 1
    assert other.score("a", ["abc"])[0].cached == 0


@pytest.mark.parametrize("attribute", ["name", "dtype", "device"])
def test_a_score_of_another_runtime_is_not_taken(attribute):
    cache, backend = ScoreCache(10), Counting()
    scorer(cache=cache).score("a", ["abc"])
    setattr(backend, attribute, "other")
    assert scorer(backend, cache=cache).score("a", ["abc"])[0].cached == 0


def test_what_is_embedded_around_a_text_belongs_to_the_key():
    made = scorer(cache=ScoreCache(10))
    made.score("a", [DocumentText("b c")])
    split = (DocumentText("c", header="b "), DocumentText("b", footer=" c"), DocumentText("c", prefix="b "))
    for text in (*split, DocumentText("b c", header="b ")):
        assert made.score("a", [text])[0].cached == 0
    assert made.score("a", [DocumentText("b c")])[0].cached == 1


def test_where_scores_depend_on_neighbours_or_on_time_nothing_is_kept():
    cache = ScoreCache(10)
    shared = scorer(cache=cache, max_tokens_per_query=100)
    for _ in range(2):
        assert shared.score("a", ["abc", "cab"])[0].cached == 0
    made = scorer(cache=cache)
    for _ in range(2):
        assert made.score("a", ["abc"], deadline=float("inf"))[0].cached == 0
    assert len(cache) == 0


def test_an_error_names_the_documents_place_among_all():
    made = scorer(cache=ScoreCache(10))
    made.score("a", ["abc", "cab"])
    with pytest.raises(ValueError, match="document_prefix and document_suffix take .* document 2"):
        made.score("a", ["abc", "cab", DocumentText("abc", prefix="abc " * 60)])


def test_the_ranker_reports_what_it_did_not_have_to_score(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, cache_size=10, meta_fields_to_embed=["title"])
    given = [Document(id=str(n), content=text, meta={"title": "hut"}) for n, text in enumerate(["a car", "snow", "a"])]
    first = made.run("the hut", given)
    again = made.run("the hut", given[::-1])
    assert (first["report"]["cached"], again["report"]["cached"]) == (0, 3)
    assert again["report"]["pairs"] == again["report"]["tokens"] == again["report"]["batches"] == 0
    assert [d.meta for d in again["documents"]] == [d.meta for d in first["documents"]]
    assert made.to_dict()["init_parameters"]["cache_size"] == 10
    changed = [Document(id=d.id, content=d.content, meta={"title": "city"}) for d in given]
    assert made.run("the hut", changed)["report"]["cached"] == 0
    plain = CrossEncoderRanker(model=tiny_bert)
    for _ in range(2):
        assert plain.run("the hut", given)["report"]["cached"] == 0


@pytest.mark.parametrize("size", [-1, True, 1.5])
def test_a_cache_size_out_of_range_is_an_error(size):
    with pytest.raises(ValueError, match="cache_size must be a whole number >= 0"):
        CrossEncoderRanker(cache_size=size)
    with pytest.raises(ValueError, match="cache_size must be a whole number >= 1"):
        ScoreCache(0)
