"""Every parameter of every component, with values that it takes and values that it does not: a table, tried whole."""

import asyncio
import copy
import enum
import inspect
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import FilterPolicy
from haystack.utils import ComponentDevice, Secret
from tokenizers import AddedToken

from fakes import FakeBackend
from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner, RerankGate
from haystack_ce_ranker.backends.loading import BACKENDS
from haystack_ce_ranker.bm25.scoring import VARIANTS
from haystack_ce_ranker.fusion.fuse import METHODS, MISSING_RULES
from haystack_ce_ranker.fusion.normalizers import Normalization, parse_normalization
from haystack_ce_ranker.gating.decision import PREDICTORS
from haystack_ce_ranker.reading.passages import AGGREGATES, STRATEGIES
from haystack_ce_ranker.reading.policy import MATCHES
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer


class Number(enum.IntEnum):
    FIVE = 5


def name_of(choice):
    """A choice as a member of an enumeration, which passes for its text and breaks a YAML."""
    return enum.Enum("Choice", {"CHOICE": choice}, type=str).CHOICE


class Kind:
    """
    What a kind of parameter takes and does not take.

    :ivar good: Pairs of a value, and the plain value that is to be kept and saved.
    :ivar bad: Values that must be refused.
    """

    def __init__(self, good, bad, *, optional=False, none=None):
        self.good = [*good, *([(None, none)] if optional else [])]
        self.bad = [*bad, *([] if optional else [None])]


NAN, INF = math.nan, math.inf
NOTHING = [[], {}, object(), (1,), b"5", 1 + 2j]
NO_NUMBERS = ["", "5", "0.5", True, np.bool_(True), *NOTHING]
NO_TEXTS = [5, 5.0, NAN, INF, -1, 0, True, np.int64(5), *NOTHING]
WHOLE = [(5, 5), (np.int64(5), 5), (np.uint8(5), 5), (Number.FIVE, 5)]
NOT_WHOLE = [5.0, 0.5, np.float32(5), np.float32(0.5), NAN, INF, -INF, -1, np.int64(-1), *NO_NUMBERS]
NUMBERS = [(0.5, 0.5), (1, 1), (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.int64(1), 1)]


def count(*, optional=False, least=1):
    return Kind([*WHOLE, (np.int16(least), least)], [*NOT_WHOLE, least - 1], optional=optional)


def depth():
    rules = [({"risk": np.float32(0.5), "top": Number.FIVE}, {"risk": 0.5, "top": 5}), ("auto", "auto")]
    wrong = [{"risk": 0}, {"risk": "low"}, {"top": 0}, {"step": 1.5}, {"deep": 1}, {5: 1}, "deep"]
    return Kind([*WHOLE, *rules], [*NOT_WHOLE, 0, *wrong], optional=True)


def flag():
    values = [(True, True), (False, False), (np.bool_(True), True), (np.bool_(False), False)]
    return Kind(values, ["", "5", "false", 5, 5.0, NAN, -1, 0, 1, np.int64(1), *NOTHING])


def text(*, optional=False, empty=True):
    good = [("a: ", "a: "), (np.str_("a"), "a"), (name_of("a"), "a"), *([("", "")] if empty else [])]
    return Kind(good, [*NO_TEXTS, *([] if empty else ["", " "])], optional=optional)


def choice(names, *, optional=False):
    good = [pair for name in names for pair in ((name, name), (np.str_(name), name), (name_of(name), name))]
    return Kind(good, ["", "5", "no such", *NO_TEXTS], optional=optional)


def path(*, optional=True):
    good = [("a/b", "a/b"), (Path("a/b"), "a/b"), (np.str_("a"), "a")]
    return Kind(good, ["", " ", *NO_TEXTS], optional=optional)


def names(kept_for_none):
    good = [(["a", "b"], ["a", "b"]), (("a",), ["a"]), ([np.str_("a")], ["a"]), ([], [])]
    bad = ["", "a", 5, 5.0, NAN, -1, 0, True, ["a", 5], [None], [""], {"a": 1}, object()]
    return Kind(good, bad, optional=True, none=kept_for_none)


def options(*good):
    good = [
        *good,
        ({}, {}),
        ({"a": np.int64(5), "b": [np.float32(0.5)]}, {"a": 5, "b": [0.5]}),
        ({"a": {"b": (Path("x/y"), np.bool_(True))}}, {"a": {"b": ("x/y", True)}}),
        ({np.str_("a"): name_of("b")}, {"a": "b"}),
    ]
    return Kind(good, ["", "5", 5, 5.0, NAN, INF, -1, 0, True, [], [("a", 1)], {5: 1}, object()], optional=True)


def number(*, bad=(), optional=False, infinite=False, good=NUMBERS):
    bounds = [(INF, INF), (-INF, -INF), (np.float32(INF), INF)]
    return Kind(
        [*good, *(bounds if infinite else [])],
        [NAN, *([] if infinite else [INF]), *NO_NUMBERS, *bad],
        optional=optional,
    )


STORE = InMemoryDocumentStore()
DEVICE, TOKEN = ComponentDevice.from_str("cpu"), Secret.from_env_var("A_TOKEN", strict=False)
WEIGHTS = {"bm25": 0.2, "dense": 0.8}
LOG = parse_normalization({"name": "log", "scale": 3})

OF_RANKER = {
    "model": path(optional=False),
    "device": Kind([(DEVICE, DEVICE)], ["", "cpu", *NO_TEXTS], optional=True),
    "token": Kind([(TOKEN, TOKEN)], ["", "hf_secret", *NO_TEXTS], optional=True),
    "api_key": Kind([(TOKEN, TOKEN)], ["", "hf_secret", *NO_TEXTS], optional=True),
    "revision": text(optional=True, empty=False),
    "top_k": count(),
    "query_prefix": text(),
    "query_suffix": text(),
    "document_prefix": text(),
    "document_suffix": text(),
    "meta_fields_to_embed": names([]),
    "embedding_separator": text(),
    "scale_score": flag(),
    "score_threshold": number(optional=True, infinite=True),
    "trust_remote_code": flag(),
    "model_kwargs": options(({"dtype": torch.float16}, {"dtype": torch.float16})),
    "tokenizer_kwargs": options(),
    "config_kwargs": options(({"a": {"dtype": torch.bfloat16}}, {"a": {"dtype": torch.bfloat16}})),
    "label": Kind(
        [*WHOLE, (0, 0), ("yes", "yes")], [*(one for one in NOT_WHOLE if one != "5" and one != "0.5")], optional=True
    ),
    "prompt": text(optional=True),
    "backend": choice(BACKENDS),
    "dtype": choice(["auto", "float32", "float16", "bfloat16"], optional=True),
    "batch_size": count(optional=True),
    "batch_tokens": count(optional=True),
    "max_length": count(optional=True),
    "max_query_tokens": count(optional=True),
    "max_tokens_per_query": count(optional=True),
    "long_documents": choice(STRATEGIES),
    "passage_tokens": Kind([(np.int64(64), 64), (32, 32)], [*NOT_WHOLE, 0, 31]),
    "passage_stride": Kind(WHOLE, [*NOT_WHOLE, 0, 65]),
    "passages_per_document": count(),
    "passage_evidence": number(bad=[-0.1, 1.5, -1]),
    "passage_matches": choice(MATCHES),
    "aggregate": choice(AGGREGATES),
    "on_truncation": choice(["report", "warn", "error"]),
    "return_passages": flag(),
    "depth": depth(),
    "screen": flag(),
    "deadline_ms": number(bad=[0, -1, np.float32(0)], optional=True),
    "max_wait_ms": number(bad=[-1, np.float32(-0.5)]),
    "max_waiting": count(optional=True, least=0),
    "on_overload": choice(["keep", "error"]),
    "cache_size": count(least=0),
    "threads": count(optional=True),
    "speed_profile": path(),
    "name": text(empty=False),
}

OF_RETRIEVER = {
    "document_store": Kind([(STORE, STORE)], ["", "5", 5, 5.0, NAN, True, [], object()]),
    "filters": options(({"field": "meta.year", "operator": ">=", "value": np.int64(2020)},) * 2),
    "filter_policy": Kind(
        [(policy, policy) for policy in FilterPolicy]
        + [(policy.value, policy) for policy in FilterPolicy]
        + [(np.str_("merge"), FilterPolicy.MERGE)],
        ["", "5", *NO_TEXTS],
    ),
    "top_k": count(),
    "scale_score": flag(),
    "language": choice(["english", "german"], optional=True),
    "tokenization_regex": Kind([(r"\w+", r"\w+"), (np.str_("a"), "a")], ["", "[", "(a)(b)", *NO_TEXTS], optional=True),
    "method": choice(VARIANTS),
    "k1": number(bad=[-1, -0.5]),
    "b": number(bad=[-1, 1.5, 5]),
    "delta": number(bad=[-1], optional=True),
    "meta_fields_to_index": names(None),
    "index_path": path(),
    "refresh": choice(["auto", "every_run", "manual"]),
    "refresh_seconds": number(bad=[-1]),
    "engine": choice(["auto", "bm25s"]),
    "native_parameters": Kind([], ["", "5", 5, NAN, True, [], {5: 1}, object()], optional=True),
}

OF_JOINER = {
    "weights": Kind(
        [
            (WEIGHTS, WEIGHTS),
            ({"a": np.float32(0.5), np.str_("b"): np.int64(1)}, {"a": 0.5, "b": 1.0}),
            ({name_of("a"): 1}, {"a": 1.0}),
        ],
        [
            *("", "5", 5, 5.0, NAN, True, [], {}, {"a": "1"}, {"a": None}, {"a": True}, {"a": -1}, {"a": NAN}),
            *({"a": INF}, {"a": 0}, {5: 1}, {"a b": 1}, {"top_k": 1}, object()),
        ],
    ),
    "method": choice(METHODS),
    "normalize": Kind(
        [
            ("min_max", "min_max"),
            (np.str_("min_max"), "min_max"),
            ({"bm25": "log"}, {"bm25": "log"}),
            ({"name": "log", "scale": np.float32(0.5)}, {"name": "log", "scale": 0.5}),
            (LOG, {"name": "log", "scale": 3.0}),
            (parse_normalization("none"), "none"),
            ({"bm25": LOG, "dense": name_of("none")}, {"bm25": {"name": "log", "scale": 3.0}, "dense": "none"}),
            ({np.str_("bm25"): {"name": "rank", "k": np.int64(5)}}, {"bm25": {"name": "rank", "k": 5}}),
        ],
        [
            *("", "5", "no such", 5, 5.0, NAN, True, [], {"no such": "log"}, {"bm25": 5}, {"bm25": "no such"}),
            *({"name": "log", "scale": "5"}, {"name": "log", "scale": True}, Normalization("log", {"scale": "5"})),
            *(Normalization("no such", {}), object()),
        ],
        optional=True,
    ),
    "missing": choice(MISSING_RULES),
    "top_k": count(optional=True),
    "score_threshold": number(optional=True, infinite=True),
    "rank_constant": number(bad=[-1]),
    "name": text(empty=False),
    "adapt_weights": Kind(
        [
            *flag().good,
            ({}, True),
            ({"by": np.str_("bm25"), "slope": np.float32(0.5)}, {"by": "bm25", "slope": 0.5}),
            ({"intercept": np.int64(-2)}, {"intercept": -2}),
        ],
        [
            *(one for one in flag().bad if one != {}),
            *(
                {"by": "no such"},
                {"by": 5},
                {"slope": 0},
                {"slope": "1"},
                {"intercept": NAN},
                {"intercept": None},
                {5: 1},
            ),
        ],
    ),
}

OF_GATE = {
    "threshold": number(infinite=True),
    "predictor": choice(PREDICTORS),
    "stage": text(optional=True, empty=False),
    "name": text(empty=False),
}

COMPONENTS = {
    CrossEncoderRanker: (OF_RANKER, {}),
    BM25Retriever: (OF_RETRIEVER, {"document_store": STORE}),
    HybridScoreJoiner: (OF_JOINER, {"weights": WEIGHTS}),
    RerankGate: (OF_GATE, {"threshold": 0.5}),
}
BESIDE = {
    "api_key": {"backend": "remote"},
    "delta": {"method": "bm25plus"},
    "passage_tokens": {"passage_stride": 32},
    "screen": {"depth": "auto"},
}
"""What must be given beside a parameter."""

PARAMETERS = [(made, name) for made, (table, _) in COMPONENTS.items() for name in table]


def told(one):
    return one if isinstance(one, str) else one.__name__


def given(made, name, value):
    return {**COMPONENTS[made][1], **BESIDE.get(name, {}), name: value}


def saved(made):
    pipeline = Pipeline()
    pipeline.add_component("it", made)
    return pipeline.dumps()


def is_plain(value):
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    plain = (type(None), bool, int, float, str, torch.dtype, FilterPolicy, ComponentDevice, type(STORE), type(TOKEN))
    return type(value) in plain


def error_of(kind, call, told):
    """The error that a call raises; the test fails with `told` if there is none."""
    try:
        call()
    except kind as error:
        return error
    return pytest.fail(told)


def assert_names(error, name, value):
    """Assert that an error names the parameter and, unless it is secret, the value, and says nothing untrue."""
    message = str(error)
    assert re.search(rf"\b{name}\b", message), message
    got = re.split(r"\bbut\b", message)[-1]
    if name in ("token", "api_key"):
        assert "hf_secret" not in message
    elif isinstance(value, dict | Normalization):  # what is wrong is a part of it
        parts = [part for pair in dict(value).items() for part in pair] if isinstance(value, dict) else [*value]
        assert any(str(part) in message for part in parts) or f"{value!r}" in got, message
    else:
        assert f"{value!r}"[:60] in got or f"({value!r})" in message, message
    if isinstance(value, str):
        assert not re.search(r"must be [<>]", message), message  # a text is not too small, it is no number


@pytest.mark.parametrize("made", COMPONENTS, ids=lambda made: made.__name__)
def test_the_table_has_every_parameter(made):
    assert [name for name in inspect.signature(made.__init__).parameters if name != "self"] == list(COMPONENTS[made][0])


@pytest.mark.parametrize(("made", "name"), PARAMETERS, ids=told)
def test_what_a_parameter_takes_is_kept_plain_and_survives_a_yaml(made, name):
    for value, plain in COMPONENTS[made][0][name].good:
        before = repr(value)
        one = made(**given(made, name, value))
        again = Pipeline.loads(saved(one)).get_component("it")
        for component in (one, again):
            kept = getattr(component, name)
            assert is_plain(kept), (value, kept)
            if name != "document_store":
                assert kept == plain
                assert type(kept) is type(plain) or isinstance(kept, int | float), (value, kept)
        assert repr(value) == before


@pytest.mark.parametrize(("made", "name"), PARAMETERS, ids=told)
def test_what_a_parameter_does_not_take_is_named_with_its_value(made, name):
    for value in COMPONENTS[made][0][name].bad:
        create = partial(made, **given(made, name, value))
        assert_names(error_of(ValueError, create, f"{made.__name__} takes {name}={value!r}"), name, value)


DOCUMENTS = Kind([([], []), ([Document(content="a")],) * 2], ["", "a", 5, NAN, True, {}, object(), ["a"], [None]])
LISTS = Kind([([], []), ([Document(content="a")],) * 2], ["", "a", 5, NAN, True, object(), ["a"]], optional=True)
QUERY = Kind([("a", "a"), ("", ""), (np.str_("a"), "a")], NO_TEXTS)
RUNS = {
    CrossEncoderRanker: {
        "query": QUERY,
        "documents": DOCUMENTS,
        "top_k": count(optional=True),
        "scale_score": Kind(flag().good, flag().bad[:-1], optional=True),
        "score_threshold": number(optional=True, infinite=True),
    },
    BM25Retriever: {
        "query": QUERY,
        "filters": Kind([({}, {})], OF_RETRIEVER["filters"].bad, optional=True),
        "top_k": count(optional=True),
        "scale_score": Kind(flag().good, flag().bad[:-1], optional=True),
    },
    HybridScoreJoiner: {
        "weights": Kind(
            [(WEIGHTS, WEIGHTS), ({"bm25": np.int64(1), "dense": np.float32(0.5)},) * 2],
            [*OF_JOINER["weights"].bad[:-1], {"bm25": 1}],
            optional=True,
        ),
        "top_k": count(optional=True),
        "score_threshold": number(optional=True, infinite=True),
        "bm25": LISTS,
        "bm25_report": Kind([({"scored": {}},) * 2], ["", "a", 5, NAN, [], {}, {"scored": 5}], optional=True),
    },
    RerankGate: {"query": QUERY, "documents": DOCUMENTS, "threshold": number(optional=True, infinite=True)},
}
NEEDED = {
    CrossEncoderRanker: {"query": "a", "documents": []},
    BM25Retriever: {"query": "a"},
    HybridScoreJoiner: {},
    RerankGate: {"query": "a", "documents": []},
}
RUN_PARAMETERS = [(made, name) for made, table in RUNS.items() for name in table]


@pytest.fixture(scope="module")
def ready(tiny_bert):
    """The components, ready to run."""
    models = {CrossEncoderRanker: {"model": tiny_bert}}
    return {made: made(**{**beside, **models.get(made, {})}) for made, (_, beside) in COMPONENTS.items()}


def in_both_ways(component, arguments):
    yield lambda: component.run(**arguments)
    yield lambda: asyncio.run(component.run_async(**arguments))


@pytest.mark.parametrize("made", RUNS, ids=lambda made: made.__name__)
def test_the_table_of_runs_has_every_parameter(made):
    signature = inspect.signature(made.run).parameters
    assert set(signature) - {"self", "lists"} == set(RUNS[made]) - {"bm25", "bm25_report"}
    assert signature == inspect.signature(made.run_async).parameters


@pytest.mark.parametrize(
    ("made", "name"), RUN_PARAMETERS, ids=lambda one: one if isinstance(one, str) else one.__name__
)
def test_a_run_takes_what_the_component_takes_and_names_what_it_does_not(ready, made, name):
    kind = RUNS[made][name]
    kind_of_error = TypeError if name in ("documents", "bm25", "bm25_report") else ValueError
    for value, _ in kind.good:
        for run in in_both_ways(ready[made], {**NEEDED[made], name: value}):
            assert isinstance(run(), dict)
    for value in kind.bad:
        for run in in_both_ways(ready[made], {**NEEDED[made], name: value}):
            error = error_of(kind_of_error, run, f"{made.__name__}.run takes {name}={value!r}")
            assert re.search(rf"\b{name}\b", str(error))
            if not isinstance(value, dict | list):
                assert_names(error, name, value)


def test_a_query_is_checked_for_many_queries_too(ready):
    with pytest.raises(ValueError, match="filters must be a dictionary"):
        ready[BM25Retriever].run_batch(["a"], filters="year")


ENGINE = {
    "batch_tokens": (lambda value: scorer(batch_tokens=value), count(optional=True)),
    "batch_size": (lambda value: scorer(batch_size=value), count(optional=True)),
    "cache_tokens": (lambda value: scorer(cache_tokens=value), count(least=0)),
    "cache_size": (ScoreCache, count()),
    "top_k": (lambda value: scorer().score("a", ["b"], top_k=value), count(optional=True)),
    "depth": (lambda value: scorer().score("a", ["b"], depth=value), count(optional=True)),
    "deadline": (lambda value: scorer().score("a", ["b"], deadline=value), number(optional=True, infinite=True)),
    "query": (lambda value: scorer().score(value, ["b"]), QUERY),
    "documents[1]": (lambda value: scorer().score("a", ["b", value]), QUERY),
}


def scorer(**options):
    return CrossEncoderScorer(FakeBackend(), **options)


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_checks_by_the_same_rules(name):
    make, kind = ENGINE[name]
    for value, _ in kind.good:
        make(value)
    for value in kind.bad:
        error = error_of(ValueError, partial(make, value), f"the engine takes {name}={value!r}")
        assert_names(error, name.partition("[")[0], value)


UNWRITABLE = [
    ("tokenizer_kwargs", {"unk_token": AddedToken("[X]")}, r"tokenizer_kwargs\['unk_token'\] is AddedToken.*\[X\]"),
    ("config_kwargs", {"id2label": {0: "no"}}, r"config_kwargs\['id2label'\] has the key 0, .* use '0'"),
    ("model_kwargs", {"a": [torch.float16]}, r"model_kwargs\['a'\]\[0\] is torch.float16"),
    ("model_kwargs", {"a": {"b": print}}, r"model_kwargs\['a'\]\['b'\] is <built-in function print>"),
]


@pytest.mark.parametrize(("name", "value", "message"), UNWRITABLE)
def test_what_a_yaml_cannot_hold_is_taken_and_named_when_it_is_to_be_saved(name, value, message):
    made = CrossEncoderRanker(**{name: value})
    assert getattr(made, name) == value
    with pytest.raises(ValueError, match=f"{message}.*create the component in Python|{message}"):
        made.to_dict()


def test_what_is_given_and_what_is_saved_are_no_part_of_the_component():
    options = {"a": {"b": [1]}}
    made = CrossEncoderRanker(tokenizer_kwargs=options)
    filters = {"operator": "AND", "conditions": [{"field": "meta.a", "operator": "==", "value": 1}]}
    retriever = BM25Retriever(STORE, filters=filters)
    joiner = HybridScoreJoiner(weights=WEIGHTS, normalize={"bm25": {"name": "log", "scale": 3}})
    expected = [copy.deepcopy(one.to_dict()) for one in (made, retriever, joiner)]
    options["a"]["b"].append(2)
    filters["conditions"].clear()
    made.to_dict()["init_parameters"]["tokenizer_kwargs"]["a"]["b"].append(3)
    retriever.to_dict()["init_parameters"]["filters"]["conditions"].clear()
    joiner.to_dict()["init_parameters"]["normalize"]["bm25"].clear()
    assert [one.to_dict() for one in (made, retriever, joiner)] == expected


def test_a_yaml_with_numbers_as_texts_says_what_is_wrong():
    described = saved(CrossEncoderRanker(top_k=5)).replace("top_k: 5", "top_k: '5'")
    with pytest.raises(Exception, match="CrossEncoderRanker") as found:
        Pipeline.loads(described)
    said = f"{found.value} {found.value.__cause__}"  # before Haystack 3 only the cause has the message
    assert "top_k must be a whole number >= 1, but got '5', a text" in said
