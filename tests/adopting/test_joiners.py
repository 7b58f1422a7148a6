"""A DocumentJoiner becomes ours only where both join alike, and each weight stays with its list."""

import itertools

import networkx
import pytest
from haystack import Document, Pipeline, component
from haystack.components.joiners import DocumentJoiner

from haystack_ce_ranker.adopting import adopt
from haystack_ce_ranker.adopting.converting import changes_of
from haystack_ce_ranker.adopting.edits import edited, edits_of
from haystack_ce_ranker.adopting.equivalences import DOCUMENT_JOINER, JOINER, RANKER, RETRIEVER
from haystack_ce_ranker.adopting.joiners import order_of_runs

LISTS = {"a": [("x", 0.9), ("y", 0.5)], "b": [("y", 4.0), ("z", 2.0)], "c": [("z", 7.0), ("x", 1.0), ("w", 0.25)]}


@component
class SomeRetriever:
    """Gives a fixed list, after another one if that is connected."""

    def __init__(self, name: str) -> None:
        self.name = name

    @component.output_types(documents=list[Document])
    def run(self, query: str, before: list[Document] | None = None) -> dict[str, list[Document]]:
        return {"documents": [Document(id=key, content=key, score=score) for key, score in LISTS[self.name]]}


def joined(names, after=(), **given):
    """A pipeline of some retrievers, connected to a joiner in this order; `after` are pairs of which one waits."""
    pipeline = Pipeline()
    for name in names:
        pipeline.add_component(name, SomeRetriever(name))
    pipeline.add_component("joiner", DocumentJoiner(**given))
    for name in names:
        pipeline.connect(f"{name}.documents", "joiner.documents")
    for first, second in after:
        pipeline.connect(f"{first}.documents", f"{second}.before")
    return pipeline


def found(pipeline, names):
    documents = pipeline.run({name: {"query": "q"} for name in names})["joiner"]["documents"]
    return {one.id: one.score for one in documents}


@pytest.mark.parametrize("names", [*itertools.permutations("abc"), ("b", "c")], ids="".join)
@pytest.mark.parametrize("after", [(), ("ab",), ("ba",), ("cb",)], ids=str)
@pytest.mark.parametrize(("mode", "times"), [("merge", 1.0), ("reciprocal_rank_fusion", 61.0)])
def test_the_weights_stay_with_their_lists(names, after, mode, times):
    after = [pair for pair in after if set(pair) <= set(names)]
    old = joined(names, after, join_mode=mode, weights=[0.6, 0.3, 0.1][: len(names)])
    new, changes = adopt(old)
    if any(first > second for first, second in after) or ("ab" in after and "c" in names):  # b runs after c, or before?
        assert ["its weights differ" in change.text for change in changes] == [True]
        return
    assert list(new.get_component("joiner").weights) == list(names)
    expected = found(old, names)
    assert found(new, names) == pytest.approx({key: score / times for key, score in expected.items()})


def test_the_order_of_runs_is_unsure_where_steps_and_names_disagree():
    graph = networkx.DiGraph([("q", "b"), ("q", "m"), ("m", "a"), ("a", "j"), ("b", "j")])
    assert order_of_runs(graph, ["a", "b"]) is None
    assert order_of_runs(networkx.DiGraph([("e", "b"), ("b", "j"), ("a", "j")]), ["b", "a"]) == ["a", "b"]
    assert order_of_runs(graph, ["a", "a"]) is None


def test_equal_weights_need_no_order():
    names = ("b", "a")
    old = joined(names, ["ba"], join_mode="merge", weights=[2.0, 2.0])
    assert found(adopt(old).pipeline, names) == pytest.approx(found(old, names))


def described(senders, *, mode="reciprocal_rank_fusion", connections=None, readers=(), **given):
    """A description of a joiner with senders of some types and readers."""
    joiner = {"type": DOCUMENT_JOINER.types[0], "init_parameters": {"join_mode": mode, **given}}
    components = {name: {"type": kind, "init_parameters": {}} for name, kind in {**senders, **dict(readers)}.items()}
    made = [{"sender": f"{name}.documents", "receiver": "joiner.documents"} for name in senders]
    made += [{"sender": "joiner.documents", "receiver": f"{name}.documents"} for name, _ in readers]
    return {"components": {**components, "joiner": joiner}, "connections": connections or made}


def outcome(given):
    changes = changes_of(given)
    after = edited(given, edits_of(changes))
    left = [change.text for change in changes if change.left]
    return after["components"]["joiner"], after["connections"], left


RETRIEVERS = {"a": "x.ARetriever", "b": "x.BRetriever"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (described(RETRIEVERS, sort_by_score=False), "sort_by_score: false"),
        (described(RETRIEVERS, weights=[0.0, 1.0]), "a weight of 0 keeps"),
        (described(RETRIEVERS, weights=[-1.0, -1.0]), "a weight of -1 keeps"),
        (described(RETRIEVERS, weights=[1.0]), "1 weights for 2 connections"),
        (described(RETRIEVERS, weights="${WEIGHTS}"), "weights must be a list of numbers"),
        (described(RETRIEVERS, mode="${MODE}"), "join_mode must be one of"),
        (described(RETRIEVERS, extra=1), "extra is no parameter of DocumentJoiner"),
        (described({}), "nothing is connected"),
        (described({"a": "x.ARetriever", "b": "x.LostInTheMiddle"}), "the list of b may come in another order"),
        (described(RETRIEVERS, mode="concatenate", readers=[("r", "x.PromptBuilder")]), "keeps the best score"),
        (described(RETRIEVERS, mode="concatenate", readers=[("r", RANKER)], top_k=5), "keeps the best score"),
        (described(RETRIEVERS, readers=[("a", "x.ARetriever")]), "part of a loop"),
        ({**described(RETRIEVERS), "inputs": {"more": ["joiner.documents"]}}, "an input of the pipeline leads"),
        ({**described(RETRIEVERS), "inputs": {"more": "joiner.other"}}, "its input other is used"),
    ],
)
def test_what_ours_would_join_otherwise_is_left(given, told):
    joiner, connections, left = outcome(given)
    assert (joiner, connections) == (given["components"]["joiner"], given["connections"])
    assert len(left) == 1
    assert told in left[0]


def test_behind_a_joiner_that_sorts_nothing_ranks_would_be_others():
    given = described({**RETRIEVERS, "c": "x.OurDocumentJoiner"})
    assert outcome(given)[0]["type"] == JOINER
    given["components"]["c"]["init_parameters"] = {"sort_by_score": False}
    joiner, _, (left,) = outcome(given)
    assert joiner["type"] == DOCUMENT_JOINER.types[0]
    assert "the list of c comes in the order of arrival" in left


def test_a_ranker_that_reads_only_some_candidates_minds_their_order():
    given = described(RETRIEVERS, mode="concatenate", readers=[("r", RANKER)])
    assert outcome(given)[0]["type"] == JOINER
    given["components"]["r"]["init_parameters"] = {"depth": 5}
    assert outcome(given)[0]["type"] == DOCUMENT_JOINER.types[0]
    given["components"]["r"]["init_parameters"] = {}
    given["outputs"] = {"documents": "joiner.documents"}
    assert outcome(given)[0]["type"] == DOCUMENT_JOINER.types[0]


def test_names_of_inputs_are_those_of_the_senders_as_far_as_they_can_be():
    kinds = dict.fromkeys(["my-bm25", "2nd", "weights", "class", "my_bm25", "a_report", "hybrid"], "x.SomeRetriever")
    joiner, connections, left = outcome(described(kinds))
    names = ["my_bm25", "list_2nd", "weights_list", "list_class", "my_bm25_2", "a_report_list", "hybrid_list"]
    assert left == []
    assert list(joiner["init_parameters"]["weights"]) == names
    assert [one["receiver"] for one in connections] == [f"joiner.{name}" for name in names]


def test_probabilities_that_our_stages_note_as_logits_are_joined_as_probabilities():
    given = described({"r": RANKER, "k": RETRIEVER}, mode="merge")
    given["components"]["k"]["init_parameters"] = {"scale_score": True}
    joiner, _, left = outcome(given)
    assert left == []
    assert joiner["init_parameters"]["normalize"] == {
        "r": {"name": "logistic", "slope": 1.0, "intercept": 0.0},
        "k": {"name": "logistic", "slope": 0.125, "intercept": 0.0},
    }
    given = described({"m": "x.MetaFieldRanker", "k": RETRIEVER}, mode="merge")
    given["components"]["r"] = {"type": RANKER}
    given["connections"].append({"sender": "r.documents", "receiver": "m.documents"})
    assert "hands on are probabilities" in outcome(given)[2][0]


def test_two_joiners_have_a_name_each():
    given = described(RETRIEVERS)
    given["components"]["other"] = {"type": JOINER, "init_parameters": {"weights": {"a": 1.0}}}
    assert outcome(given)[0]["init_parameters"]["name"] == "joiner"
