"""The remote backend against local servers that speak each documented form, and that fail in every way."""

import asyncio
import email.utils
import gc
import logging
import os
import pickle
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice, Secret
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_servers import GUARD, batch_of, changed, cut_off, expected, hang, logit_of, status
from fakes import FakeBackend
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.backends.protocol import OutOfTimeError
from haystack_ce_ranker.backends.rerank_servers import FORMS
from haystack_ce_ranker.backends.server_client import ServerError, TooLargeError
from haystack_ce_ranker.scoring.runner import PairRunner
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.scoring.visits import Visit

KEY = "key-of-the-server"


PAIRS = [("a hut", f"snow {number}") for number in range(11)] + [
    ("a car", "the hut"),
    ("a hut", ""),
    ("a car", "漢字 🙂"),
]


@pytest.mark.parametrize("api", FORMS)
def test_each_form_gives_the_logits_in_order(connect, server, api):
    backend = connect(api, served_model="the model", max_texts=5)
    assert backend.logits(batch_of(PAIRS)).tolist() == expected(PAIRS)
    posts = [(path, body) for path, _, body in server.asked if body is not None]
    assert {path for path, _ in posts} == {FORMS[api].path}
    assert {body["model"] for _, body in posts} == {"the model"}
    assert sorted(server.texts[0]) == sorted(text for _, text in PAIRS)
    assert sorted(server.texts[1]) == [2, 2, 5, 5]  # one query a request


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.sampled_from(["q", "é", ""]), st.text(max_size=6)), min_size=1, max_size=20),
    max_texts=st.integers(1, 9),
    concurrency=st.integers(1, 5),
    api=st.sampled_from(["tei", "vllm_score", "jina"]),
)
def test_the_scores_do_not_depend_on_how_texts_are_sent(connect, pairs, max_texts, concurrency, api):
    pairs = [(query, text.encode("utf-8", "replace").decode()) for query, text in pairs]
    backend = connect(api, max_texts=max_texts, concurrency=concurrency)
    assert backend.logits(batch_of(pairs)).tolist() == expected(pairs)


def test_probabilities_of_0_and_1_become_finite_logits(connect, server):
    server.speak("cohere").always = lambda handler, _: handler.send(
        200, {"results": [{"index": place, "relevance_score": score} for place, score in enumerate([0.0, 0.5, 1.0])]}
    )
    low, middle, high = connect("cohere").logits(batch_of(PAIRS[:3])).tolist()
    assert -50 < low < -10 < middle == 0.0 < 10 < high < 50
    assert connect("cohere", scores="logits").logits(batch_of(PAIRS[:3])).tolist() == [0.0, 0.5, 1.0]
    server.always = changed(lambda rows: rows[0].update(relevance_score=1.5))
    with pytest.raises(ServerError, match=r"a score is not between 0 and 1; .* model_kwargs\['scores'\]='logits'"):
        connect("cohere").logits(batch_of(PAIRS[:3]))


def test_probabilities_where_logits_were_asked_for_are_named_once(connect, server, caplog):
    server.speak("infinity").probabilities = True
    backend = connect("infinity")
    for _ in range(3):
        backend.logits(batch_of(PAIRS[:6]))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "model_kwargs['scores']='probabilities'" in record.getMessage()
    caplog.clear()
    assert connect("infinity", scores="probabilities").logits(batch_of(PAIRS)).tolist() == expected(PAIRS)
    connect("infinity", scores="logits").logits(batch_of(PAIRS))
    server.probabilities = False
    connect("infinity").logits(batch_of(PAIRS))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_no_more_requests_run_at_once_than_allowed_whatever_threads_ask(connect, server):
    backend = connect(max_texts=1, concurrency=3)
    crowd = threading.Barrier(4)
    crowded = []

    def count(handler, _):
        try:
            crowd.wait(0.3)  # if a fourth request comes while three wait, there are too many
            crowded.append(1)
        except threading.BrokenBarrierError:
            pass

    server.always = count
    threads = [threading.Thread(target=backend.logits, args=[batch_of(PAIRS[:6])]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert len(server.asked) == 12
    assert not crowded


def test_requests_do_run_at_once(connect, server):
    backend = connect(max_texts=1, concurrency=3)
    together = threading.Barrier(3)

    def meet(handler, _):
        together.wait(GUARD)

    server.always = meet
    assert backend.logits(batch_of(PAIRS[:3])).tolist() == expected(PAIRS[:3])


@pytest.mark.parametrize("fault", [status(429), status(502), status(503), status(504), status(500), cut_off])
def test_what_may_pass_is_tried_again(connect, server, sleeps, fault):
    server.faults = [fault]
    assert connect().logits(batch_of(PAIRS[:3])).tolist() == expected(PAIRS[:3])
    assert len(server.asked) == 2
    assert len(sleeps) == 1


@pytest.mark.parametrize(("fault", "attempts"), [(status(503), 3), (cut_off, 3), (status(500), 2)])
def test_after_the_last_attempt_the_error_says_what_was_seen(connect, server, sleeps, fault, attempts):
    server.always = fault
    with pytest.raises(ServerError, match=rf"{server.url}/rerank gave no scores: .*, after {attempts} attempt"):
        connect().logits(batch_of(PAIRS[:3]))
    assert len(server.asked) == attempts
    assert len(sleeps) == attempts - 1


def test_waits_double_with_a_random_share_and_end_at_a_limit(connect, server, sleeps):
    server.always = status(503)
    with pytest.raises(ServerError):
        connect(retries=8).logits(batch_of(PAIRS[:1]))
    limits = [min(0.25 * 2**number, 8.0) for number in range(8)]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(sleeps, limits, strict=True))
    assert len({wait / limit for wait, limit in zip(sleeps, limits, strict=True)}) == 8


def test_a_server_that_does_not_answer_is_given_up_and_tried_again(connect, server, sleeps):
    server.always = hang
    with pytest.raises(ServerError, match=r"no answer within 0\.05 s, after 3 attempt.*raise .*'timeout'"):
        connect(timeout=0.05).logits(batch_of(PAIRS[:1]))
    assert len(sleeps) == 2


def test_an_answer_that_never_ends_is_given_up(connect, server, sleeps):
    def trickle(handler, _):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not handler.server.released.wait(0.01):
            handler.wfile.write(b" ")
        return True

    server.always = trickle
    with pytest.raises(ServerError, match=r"no (whole )?answer within 0\.1 s, after 2 attempt"):
        connect(timeout=0.1, retries=1).logits(batch_of(PAIRS[:1]))


def test_nobody_at_the_address_is_an_error(connect, server, sleeps):
    backend = connect()
    server.released.set()
    server.shutdown()
    server.server_close()
    with pytest.raises(ServerError, match="no connection .*Check that the server runs"):
        backend.logits(batch_of(PAIRS[:1]))
    assert len(sleeps) == 2


@pytest.mark.parametrize("asked", ["7", lambda: email.utils.formatdate(time.time() + 7, usegmt=True)])
def test_what_a_server_asks_to_wait_is_waited(connect, server, sleeps, asked):
    server.faults = [status(429, Retry_After=asked if isinstance(asked, str) else asked())]
    assert connect().logits(batch_of(PAIRS[:3])).tolist() == expected(PAIRS[:3])
    (waited,) = sleeps
    assert waited == 7 if isinstance(asked, str) else 0 <= waited <= 7


@pytest.mark.parametrize("asked", ["0", "Thu, 01 Jan 2015 00:00:00 GMT", "soon", "-1"])
def test_a_wait_that_is_over_or_no_time_does_not_stop_it(connect, server, sleeps, asked):
    server.faults = [status(503, Retry_After=asked)]
    assert connect().logits(batch_of(PAIRS[:3])).tolist() == expected(PAIRS[:3])
    assert len(sleeps) == 1
    assert sleeps[0] < 1


def test_without_a_deadline_nobody_waits_for_an_hour(connect, server, sleeps):
    server.faults = [status(429, Retry_After="3600")]
    with pytest.raises(ServerError, match="asks to wait 3600 s"):
        connect().logits(batch_of(PAIRS[:3]))
    assert sleeps == []


ADVICE = {
    400: "api",
    401: "Set api_key",
    403: "api_key",
    404: "address",
    422: "lower max_length",
    307: "leads to",
    418: "log",
}


@pytest.mark.parametrize("code", ADVICE)
def test_what_will_not_pass_is_an_error_at_once_without_a_word_of_the_texts(connect, server, caplog, code):
    caplog.set_level(logging.DEBUG)

    def echo(handler, body):
        return handler.send(code, {"detail": [body]}, Location=f"{server.url}/elsewhere")

    server.always = echo
    with pytest.raises(ServerError, match=rf"/rerank gave no scores: status {code}.*{ADVICE[code]}") as caught:
        connect(key=KEY).logits(batch_of([("secretquery", "secrettext")]))
    assert len(server.asked) == 1
    assert caught.value.__cause__ is caught.value.__context__ is None
    for shown in (str(caught.value), caplog.text):
        assert not any(word in shown for word in ("secretquery", "secrettext", KEY))


def test_words_in_a_broken_answer_are_not_shown(connect, server, sleeps):
    def garbled(handler, body):
        handler.wfile.write(f"secrettext {body}\r\n\r\n".encode())
        handler.close_connection = True
        return True

    server.always = garbled
    with pytest.raises(ServerError, match="the connection broke") as caught:
        connect().logits(batch_of([("secretquery", "secrettext")]))
    assert "secret" not in str(caught.value)


WRONG = {
    "a score too few": (changed(lambda rows: rows.pop()), "holds 2 scores for 3 texts"),
    "a score too many": (changed(lambda rows: rows.append(rows[0])), "holds 4 scores for 3 texts"),
    "an index twice": (changed(lambda rows: rows[0].update(index=rows[1]["index"])), "two scores for index"),
    "an index out of range": (changed(lambda rows: rows[0].update(index=3)), "no index from 0 to 2"),
    "an index below 0": (changed(lambda rows: rows[0].update(index=-1)), "no index from 0 to 2"),
    "no index": (changed(lambda rows: rows[0].pop("index")), "no index from 0 to 2"),
    "a boolean index": (changed(lambda rows: rows[0].update(index=True)), "no index from 0 to 2"),
    "no row": (changed(lambda rows: rows.__setitem__(0, "row")), "no index from 0 to 2"),
    "NaN": (changed(lambda rows: rows[0].update(relevance_score=float("nan"))), "is no finite number"),
    "infinity": (changed(lambda rows: rows[0].update(relevance_score=float("inf"))), "is no finite number"),
    "more than float32": (changed(lambda rows: rows[0].update(relevance_score=1e300)), "is no finite number"),
    "a huge integer": (changed(lambda rows: rows[0].update(relevance_score=10**400)), "is no finite number"),
    "a text as score": (changed(lambda rows: rows[0].update(relevance_score="0.5")), "is no finite number"),
    "null as score": (changed(lambda rows: rows[0].update(relevance_score=None)), "is no finite number"),
    "another form": (status(200, b'{"data": []}'), "no list of scores"),
    "a list": (status(200, b"[]"), "no list of scores"),
    "a page": (status(200, b"<html>secrettext</html>"), "not JSON"),
    "nothing": (status(200, b""), "not JSON"),
    "no text": (status(200, b"\xff\xfe\x00"), "not JSON"),
    "too deep": (status(200, b"[" * 200_000), "not JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_an_error_and_not_asked_for_again(connect, server, sleeps, kind):
    server.always, told = WRONG[kind]
    gc.collect()  # or what other tests left may be finalised at the end of a stack that "too deep" has used up
    texts = [("secretquery", text) for text in ("secrettext", "snow", "hut")]
    with pytest.raises(ServerError, match=told) as caught:
        connect().logits(batch_of(texts))
    assert "secret" not in str(caught.value)
    assert sleeps == []
    assert caught.value.__cause__ is caught.value.__context__ is None


TOO_LARGE = [
    status(413),
    status(422, b'{"error": "batch size 9 > maximum allowed batch size 4", "error_type": "Validation"}'),
    status(400, b'{"detail": "Batch size must be at most 4"}'),
]


@pytest.mark.parametrize("refusal", TOO_LARGE)
def test_a_request_that_is_too_large_is_halved_until_it_fits(connect, server, refusal):
    server.always = lambda handler, body: len(body["documents"]) > 4 and refusal(handler, body)
    runner = PairRunner(connect(), batch_tokens=100)
    texts = [("a hut", f"snow {number}") for number in range(20)]
    found = runner.run(batch_of(texts).pairs, ScoringCost())
    assert found.tolist() == expected(texts)
    assert runner.affordable_batch_tokens < 16
    server.always = refusal
    with pytest.raises(MemoryError, match="single pair"):
        runner.run(batch_of(texts[:1]).pairs, ScoringCost())
    with pytest.raises(TooLargeError, match=r"Lower model_kwargs\['max_texts'\]"):
        runner.backend.logits(batch_of(texts[:1]))


def test_a_deadline_ends_a_call_that_hangs(connect, server):
    server.always = hang
    with pytest.raises(OutOfTimeError):
        connect(timeout=GUARD).logits(batch_of(PAIRS, deadline=time.monotonic() + 0.05))


def test_a_deadline_ends_a_call_that_waits_for_its_turn(connect, server):
    server.always = hang
    backend = connect(timeout=GUARD, concurrency=1)
    deadline = time.monotonic() + 0.2
    waiting = [backend.client.connection.threads.submit(server.released.wait, GUARD)]
    with pytest.raises(OutOfTimeError):
        backend.logits(batch_of(PAIRS, deadline=deadline))
    server.released.set()
    assert waiting[0].result(GUARD)
    assert server.asked == []


def test_what_a_withdrawn_request_has_not_sent_is_not_sent(connect, server):
    visit, found = Visit(), []
    backend = connect(max_texts=1, concurrency=1)
    runner = PairRunner(backend)
    runner._seconds_per_token = 1e-9

    def withdraw(handler, body):
        found.append(body)
        visit.withdraw()

    server.always = withdraw
    with pytest.raises(CancelledError):
        runner.run(batch_of(PAIRS).pairs, ScoringCost(), visit=visit)
    assert len(found) == 1
    assert runner._seconds_per_token == 1e-9
    server.always = None
    assert backend.logits(batch_of(PAIRS)).tolist() == expected(PAIRS)


@pytest.mark.parametrize("deadline", [float("inf"), None])
def test_a_deadline_far_away_changes_nothing(connect, deadline):
    assert connect().logits(batch_of(PAIRS, deadline=deadline)).tolist() == expected(PAIRS)


def too_late_for(text):
    """Ask for more time than a deadline leaves, if a request holds a text."""
    return lambda handler, body: text in body["documents"] and handler.send(429, {}, Retry_After="5000")


def test_what_was_answered_before_the_deadline_counts_and_the_rest_has_no_score(connect, server, sleeps):
    server.always = too_late_for("snow 4")
    deadline = time.monotonic() + 1000
    with pytest.raises(OutOfTimeError) as caught:
        connect(max_texts=2).logits(batch_of(PAIRS[:6], deadline=deadline))
    known = caught.value.logits.tolist()
    assert known[:4] == expected(PAIRS[:4])
    assert np.isnan(known[4:]).all()
    assert sleeps == []
    runner = PairRunner(connect(max_texts=2), batch_tokens=100)
    runner._seconds_per_token = 1e-9  # as after a first call
    found = runner.run(batch_of(PAIRS[:6]).pairs, ScoringCost(), owners=[0, 0, 1, 2, 2, 2], deadline=deadline)
    assert found[:3].tolist() == expected(PAIRS[:3])
    assert np.isnan(found[3:]).all()  # of the last document one pair was answered: all or none


def test_what_came_late_in_the_batch_but_in_time_counts_too(connect, server, monkeypatch):
    backend = connect(max_texts=2)
    threads, futures = backend.client.connection.threads, []
    submit = threads.submit
    monkeypatch.setattr(threads, "submit", lambda *given: futures.append(submit(*given)) or futures[-1])

    def after_the_second(handler, body):
        if "snow 0" not in body["documents"]:
            return False
        futures[1].result(GUARD)
        return handler.send(429, {}, Retry_After="5000")

    server.always = after_the_second
    with pytest.raises(OutOfTimeError) as caught:
        backend.logits(batch_of(PAIRS[:4], deadline=time.monotonic() + 1000))
    assert np.isnan(caught.value.logits[:2]).all()
    assert caught.value.logits[2:].tolist() == expected(PAIRS[2:4])


def test_the_ranker_keeps_what_it_has_when_the_deadline_passes(server, tiny_bert, sleeps):
    ranker = ranker_of(server, tiny_bert, model_kwargs={"max_texts": 1}, deadline_ms=1e6)
    documents = [Document(id=str(number), content=f"snow {number}") for number in range(4)]
    server.always = too_late_for("snow 0")
    report = ranker.run("the hut", documents)["report"]
    assert report["deadline_reached"] is True
    assert report["scored"] == {}
    server.always = too_late_for("snow 2")
    result = ranker.run("the hut", documents)
    assert result["report"]["deadline_reached"] is True
    assert set(result["report"]["scored"]) >= {"0"}
    assert "2" in result["report"]["unscored"]
    server.always = None
    assert ranker.run("the hut", documents)["report"]["unscored"] == []


def test_without_a_deadline_a_server_that_is_gone_is_an_error_of_the_run(server, tiny_bert, sleeps):
    ranker = ranker_of(server, tiny_bert)
    server.always = status(503)
    with pytest.raises(ServerError, match="status 503"):
        ranker.run("the hut", [Document(content="snow")])


# Through the ranker


class SameTexts(FakeBackend):
    """Scores as the servers do, from the texts of each pair."""

    def logits(self, batch):
        return np.array([logit_of(*pair.texts()) for pair in batch.pairs], dtype=np.float32)


def ranker_of(server, tokenizer, *, api="vllm", model_kwargs=None, **given):
    if server.api != api:
        server.speak(api)
    kwargs = {"api": api, "tokenizer": tokenizer, **(model_kwargs or {})}
    return CrossEncoderRanker(
        **{"model": server.url, "backend": "remote", "max_length": 64, "model_kwargs": kwargs, **given}
    )


LONG = {
    "long": "The hut is in the snow. " * 30 + "A car of the city — Émile 漢字 🙂. " + "The brake is  of a car.\n" * 30,
    "short": "  the hut ",
}


def test_long_documents_are_sent_as_exact_windows_and_scored_as_here(server, tiny_bert):
    documents = [Document(id=name, content=text) for name, text in LONG.items()]
    ranker = ranker_of(server, tiny_bert, model_kwargs={"max_texts": 2})
    result = ranker.run("is the hut in the snow", documents)
    sent, sizes = server.texts
    assert max(sizes) == 2
    assert len(sent) == result["report"]["pairs"] > 3
    here, _ = CrossEncoderScorer(SameTexts(), ranker._policy).score("is the hut in the snow", list(LONG.values()))
    scored = result["report"]["scored"]
    assert [scored[name] for name in LONG] == [pytest.approx(one.logit, abs=1e-5) for one in here.documents]
    by_id = {document.id: document.meta["ce_ranker"]["cross_encoder"]["read"] for document in result["documents"]}
    windows = [LONG[name][part["start"] : part["end"]] for name, read in by_id.items() for part in read]
    assert sorted(windows) == sorted(sent)
    assert {result["report"][key] for key in ("backend", "device", "dtype")} == {"remote", "server"}


def test_a_prompt_and_what_is_embedded_are_sent(server, tiny_bert):
    ranker = ranker_of(server, tiny_bert, prompt="find: ", document_prefix="text: ", meta_fields_to_embed=["title"])
    report = ranker.run("the hut", [Document(content="the snow", meta={"title": "a car"})])["report"]
    (asked,) = [body for _, _, body in server.asked]
    assert (asked["query"], asked["documents"]) == ("find: the hut", ["text: a car\nthe snow"])
    assert report["prompt"] == "find: "


def test_a_yaml_keeps_the_ranker_and_only_the_name_of_its_key(server, tiny_bert, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ranker = ranker_of(
        server, tiny_bert, api="cohere", model_kwargs={"served_model": "m"}, api_key=Secret.from_env_var("A_KEY")
    )
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    described = pipeline.dumps()
    assert KEY not in described
    assert "A_KEY" in described
    again = Pipeline.loads(described).get_component("ranker")
    documents = [Document(content="snow"), Document(content="a hut")]
    found = asyncio.run(again.run_async("the hut", documents))
    assert [one.id for one in found["documents"]] == [one.id for one in ranker.run("the hut", documents)["documents"]]
    headers = [headers for _, headers, _ in server.asked]
    assert {one["Authorization"] for one in headers} == {f"Bearer {KEY}"}
    assert "hf_secret" not in str(server.asked)


def test_no_key_is_sent_if_there_is_none_and_the_token_of_the_hub_never(server, tiny_bert, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ranker_of(server, tiny_bert, api="tei").run("the hut", [Document(content="snow")])
    assert len(server.asked) == 2  # what the server is, and the scores
    assert not any("Authorization" in headers for _, headers, _ in server.asked)
    assert "hf_secret" not in str(server.asked)


def test_nothing_of_texts_or_keys_is_logged_or_shown(connect, caplog):
    caplog.set_level(logging.DEBUG)
    backend = connect(key=KEY)
    backend.logits(batch_of([("secretquery", "secrettext")]))
    options = ModelOptions("https://host", api_key=KEY)
    for shown in (caplog.text, repr(backend.client), repr(vars(backend)), repr(options)):
        assert not any(word in shown for word in ("secretquery", "secrettext", KEY))


def test_a_ranker_can_be_pickled_and_closed(server, tiny_bert):
    ranker = pickle.loads(pickle.dumps(ranker_of(server, tiny_bert)))
    documents = [Document(content="snow")]
    first = ranker.run("the hut", documents)["report"]["scored"]
    client = ranker._scorer.backend.client.connection.client
    ranker.close()
    gc.collect()
    assert client.is_closed
    assert ranker.run("the hut", documents)["report"]["scored"] == first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_connections_of_its_own_and_leaves_the_parents_alone(connect):
    backend = connect(max_texts=2)
    assert backend.logits(batch_of(PAIRS)).tolist() == expected(PAIRS)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if backend.logits(batch_of(PAIRS)).tolist() == expected(PAIRS) else 1)
        finally:
            os._exit(2)
    ends = time.monotonic() + GUARD
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ends:
        time.sleep(0.01)
    assert done == (child, 0)
    assert backend.logits(batch_of(PAIRS)).tolist() == expected(PAIRS)


# Loading


def load(model="https://host", **given):
    kwargs = {"api": "vllm", "tokenizer": "t", **given.pop("model_kwargs", {})}
    return loading.load("remote", ModelOptions(model, model_kwargs=kwargs, **given))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"model_kwargs": {"file_name": "a"}},
            r"model_kwargs\['file_name'\] would have no effect.*takes api, ",
        ),
        (
            {"model_kwargs": {"api": "openai"}},
            r"model_kwargs\['api'\] must be one of 'tei', .* got 'openai'",
        ),
        ({"model_kwargs": {"api": None}}, r"model_kwargs\['api'\] must be one of"),
        ({"model_kwargs": {"api": "jina"}}, r"model_kwargs\['served_model'\] must name the model with api='jina'"),
        ({"model_kwargs": {"max_texts": 0}}, r"model_kwargs\['max_texts'\] must be a whole number >= 1"),
        ({"model_kwargs": {"concurrency": "4"}}, r"model_kwargs\['concurrency'\] must be a whole number >= 1"),
        ({"model_kwargs": {"timeout": 0}}, r"model_kwargs\['timeout'\] must be a finite number > 0"),
        ({"model_kwargs": {"retries": -1}}, r"model_kwargs\['retries'\] must be a whole number >= 0"),
        ({"model_kwargs": {"scores": "raw"}}, r"model_kwargs\['scores'\] must be one of 'logits', 'probabilities'"),
        ({"model_kwargs": {"tokenizer": None}}, r"model_kwargs\['tokenizer'\] must be the hub id or the folder"),
        ({"dtype": "float32"}, "dtype would have no effect with backend='remote'"),
        ({"model_kwargs": {"dtype": "float16"}}, "dtype would have no effect with backend='remote'"),
        ({"device": "cpu"}, "device would have no effect"),
        ({"threads": 2}, "threads .*would have no effect"),
        ({"config_kwargs": {"a": 1}}, "config_kwargs would have no effect"),
        ({"label": 1}, "label would have no effect"),
        ({"model": "cross-encoder/some-model"}, "model must be the address of a server .*but got 'cross-encoder/some"),
        ({"model": "ftp://host"}, "model must be the address"),
        ({"model": "http://host:port"}, "model must be the address"),
        ({"model": "http://[::1"}, "model must be the address"),
        ({"model": "https://host/?a=b"}, "model must be the address"),
        ({"model": "https://me:password@host"}, "without a user and a password"),
        ({"model": "http://host", "api_key": KEY}, "api_key is not sent to 'host' over http"),
        ({"model": "http://10.0.0.1", "api_key": KEY}, "api_key is not sent to '10.0.0.1' over http"),
        ({"api_key": f"{KEY}\n"}, "api_key must be printable ASCII"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_sent(given, told):
    with pytest.raises(ValueError, match=told) as caught:
        load(**given)
    assert not any(secret in str(caught.value) for secret in (KEY, "password@"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_key_is_sent_over_http_to_this_machine(tiny_bert, host):
    backend = load(f"http://{host}:9", api_key=KEY, model_kwargs={"tokenizer": tiny_bert})
    assert backend.client.url == f"http://{host}:9"


@pytest.mark.parametrize("behind", ["", "/", "/base", "/rerank", "/base/rerank/"])
def test_an_address_may_have_a_base_or_name_the_path_itself(connect, server, tiny_bert, behind):
    backend = load(server.url + behind, model_kwargs={"tokenizer": tiny_bert})
    assert backend.client.url == server.url + behind.rstrip("/").removesuffix("/rerank")


def test_a_key_for_a_backend_that_asks_no_server_is_an_error():
    for backend in ("torch", "onnx", "openvino", "auto"):
        with pytest.raises(ValueError, match=f"api_key has no effect with backend='{backend}'"):
            CrossEncoderRanker(backend=backend, api_key=Secret.from_token(KEY))


def test_a_device_is_refused_by_the_ranker_too(server, tiny_bert):
    ranker = ranker_of(server, tiny_bert, device=ComponentDevice.from_str("cpu"))
    with pytest.raises(ValueError, match="device would have no effect"):
        ranker.warm_up()


def test_tei_says_what_fits_and_which_tokenizer_it_has(connect, server, tiny_bert, monkeypatch):
    backend = connect("tei")
    assert (backend.max_length, backend.scoring.max_texts) == (100, 4)
    assert connect("tei", max_texts=7).scoring.max_texts == 7
    options = {"model": server.url, "model_kwargs": {"api": "tei"}}
    asked = []
    monkeypatch.setattr("haystack_ce_ranker.backends.remote.locate", lambda name: asked.append(name) or tiny_bert)
    loading.load("remote", ModelOptions(**options))
    assert asked == ["some/model"]
    for named in ("/data/model", "model", "../tests/x", 5, None):
        server.info["model_id"] = named
        with pytest.raises(ValueError, match=rf"model_kwargs\['tokenizer'\] must be .* the server names {named!r}"):
            loading.load("remote", ModelOptions(**options))
    server.info["model_id"] = "some/model"
    with pytest.raises(ValueError, match=r"model_kwargs\['tokenizer'\] must be"):  # no code that a server names
        loading.load("remote", ModelOptions(**options, trust_remote_code=True))


def test_a_gateway_without_info_is_enough_if_the_tokenizer_is_given(connect, server):
    server.speak("tei").info = None
    assert connect("tei").logits(batch_of(PAIRS)).tolist() == expected(PAIRS)
    with pytest.raises(ServerError, match="/info gave no scores: status 404"):
        loading.load("remote", ModelOptions(server.url, model_kwargs={"api": "tei"}))


def test_a_tokenizer_that_is_nowhere_is_named():
    with pytest.raises(ModelNotFoundError, match="no/such-tokenizer"):
        load(model_kwargs={"tokenizer": "no/such-tokenizer"})


def test_telemetry_has_no_address():
    ranker = CrossEncoderRanker(model="https://internal.example", backend="remote")
    assert "internal" not in str(ranker._get_telemetry_data())


def test_a_server_shows_no_embeddings_so_windows_are_chosen_by_the_querys_own_tokens(server, tiny_bert, caplog):
    ranker = ranker_of(server, tiny_bert, passage_matches="soft")
    report = ranker.run("the hut", [Document(content="snow")])["report"]
    assert report["passage_matches"] == "exact"
    assert "passage_matches='soft'" in caplog.text
