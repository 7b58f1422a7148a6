"""
What becomes of a `DocumentJoiner`: its one input, which takes any number of lists, becomes an input for each sender.

Whether that is safe depends on the senders and on the readers, so this looks at the pipeline, not only at parameters.
"""

import keyword
from collections.abc import Mapping
from typing import Any

import networkx

from haystack_ce_ranker.adopting.edits import Add, Change, Edit, Remove, Replace
from haystack_ce_ranker.adopting.equivalences import DOCUMENT_JOINER, JOINER, RANKER, RETRIEVER
from haystack_ce_ranker.adopting.parameters import CannotMove, is_open, needs
from haystack_ce_ranker.adopting.scopes import Connection, Scope
from haystack_ce_ranker.checks import is_number
from haystack_ce_ranker.provenance import BM25_SCALING

_BEST_OF = ("concatenate", "distribution_based_rank_fusion")
_RESERVED = ("weights", "top_k", "score_threshold", "self", "hybrid")
_PARTLY = ("depth", "deadline_ms", "max_tokens_per_query")  # with these, the order of candidates counts


def joiner_changes(scope: Scope, name: str, after: Mapping[str, Any], *, several: bool) -> list[Change]:
    """
    Return the changes that make a `DocumentJoiner` ours.

    :param after: The components of the scope as they are after the rankers and retrievers were moved.
    :param several: Whether other joiners become ours, too, so that this one needs a name for its record.
    :raises CannotMove: If it must stay as it is.
    """
    given = scope.components[name].get("init_parameters") or {}
    unknown = [one for one in given if DOCUMENT_JOINER.parameter(one) is None]
    if unknown:
        raise CannotMove(f"{', '.join(map(str, unknown))} is no parameter of DocumentJoiner that is known here")
    joined = [one for one in scope.into(name) if one.receiver.socket in ("", "documents")]
    if not joined:
        raise CannotMove("nothing is connected to its documents, so its inputs cannot be named")
    if any(scope.graph.has_edge(one, name) for one in (name, *networkx.descendants(scope.graph, name))):
        raise CannotMove("it is part of a loop, where its one input takes what comes at different times")
    if given.get("sort_by_score", True) is not True:
        raise CannotMove("sort_by_score: false keeps the order of arrival; ours always sorts")
    mode = given.get("join_mode", "concatenate")
    inputs = _names_of(joined, taken=name if several else "hybrid")
    weights = _weights(scope, joined, inputs, given.get("weights") if mode not in _BEST_OF else None)
    values: dict[str, Any] = {"weights": weights, **_method(scope, name, mode, joined, inputs, after, given)}
    if several:
        values["name"] = name
    return _changes(scope, name, given, values, joined, inputs)


def _changes(
    scope: Scope,
    name: str,
    given: Mapping[str, Any],
    values: dict[str, Any],
    joined: list[Connection],
    inputs: list[str],
) -> list[Change]:
    label, place = scope.label(name), scope.place(name)
    inner = (*place, "init_parameters")
    mode = given.get("join_mode", "concatenate")
    told = f"DocumentJoiner becomes HybridScoreJoiner. {DOCUMENT_JOINER.changes}"
    changes = [Change(label, told, (Replace((*place, "type"), JOINER),))]
    edits: list[Edit] = [Remove((*inner, "weights"))] if "weights" in given else []
    if scope.components[name].get("init_parameters") is not None:
        edits += [Add((*inner, key), value) for key, value in values.items()]
    else:
        has = "init_parameters" in scope.components[name]
        edits.append(Replace(inner, values) if has else Add(inner, values))
    edits += [Remove((*inner, key)) for key in ("join_mode", "sort_by_score") if key in given]
    written = ", ".join(f"{key}: {value!r}" for key, value in values.items())
    changes.append(Change(label, f"join_mode: {mode} becomes {written}", tuple(edits)))
    for one, own in zip(joined, inputs, strict=True):
        changes.append(
            Change(
                label,
                f"the list of {one.sender.component} arrives at {name}.{own}",
                (Replace(one.receiver.path, f"{name}.{own}"),),
            )
        )
    return changes


def _names_of(joined: list[Connection], taken: str) -> list[str]:
    """Return a name for each input: its sender's, as far as a name may be so."""
    found: list[str] = []
    for one in joined:
        base = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in one.sender.component)
        if not base[0].isalpha() or keyword.iskeyword(base):
            base = f"list_{base}"
        if base in (*_RESERVED, taken) or base.endswith("_report"):
            base = f"{base}_list"
        name, number = base, 2
        while name in found:
            name, number = f"{base}_{number}", number + 1
        found.append(name)
    return found


def _weights(scope: Scope, joined: list[Connection], inputs: list[str], given: Any) -> dict[str, float]:
    """
    Return the weights by input, in the order of the connections.

    Haystack binds them to the senders in the order in which these have run.
    """
    if not given:
        return dict.fromkeys(inputs, 1.0)
    if not isinstance(given, list) or is_open(given) or not all(map(is_number, given)):
        raise needs("a list of numbers", given, "weights")
    if min(given) <= 0:
        raise CannotMove(f"a weight of {min(given):g} keeps a list's documents there, and leaves them out in ours")
    if len(given) != len(inputs):
        raise CannotMove(f"it has {len(given)} weights for {len(inputs)} connections: each run is an error today")
    if len(set(given)) == 1:
        return dict(zip(inputs, map(float, given), strict=True))
    senders = [one.sender.component for one in joined]
    order = order_of_runs(scope.graph, senders)
    if order is None:
        raise CannotMove(
            "its weights differ, and which list has which weight depends on the order in which Haystack runs the "
            "senders, which is not sure here: name the inputs by hand"
        )
    return {own: float(given[order.index(sender)]) for own, sender in zip(inputs, senders, strict=True)}


def order_of_runs(graph: "networkx.DiGraph[str]", senders: list[str]) -> list[str] | None:
    """
    Return the order in which a pipeline runs some components; None if it is not sure.

    Of the components that are ready, Haystack runs those first whose names come first. Where that order is also the one
    of how many steps lead to each, nothing can change it.
    """
    if len(set(senders)) != len(senders) or not networkx.is_directed_acyclic_graph(graph):
        return None
    levels = {name: level for level, names in enumerate(networkx.topological_generations(graph)) for name in names}
    by_level = sorted(senders, key=lambda name: (levels[name], name))
    return by_level if by_level == sorted(senders) else None


def _method(
    scope: Scope,
    name: str,
    mode: Any,
    joined: list[Connection],
    inputs: list[str],
    after: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how the lists are joined; raises `CannotMove` if ours would give other documents or another order."""
    if mode == "merge":
        normalize = {own: _scaling(scope, one.sender.component, after) for own, one in zip(inputs, joined, strict=True)}
        used = {own: spec for own, spec in normalize.items() if spec is not None}
        return {"normalize": used or "none", "missing": "zero"}
    if mode == "reciprocal_rank_fusion":
        for one in joined:
            _check_sorted(one.sender.component, after)
        return {"method": "reciprocal_rank"}
    if mode not in _BEST_OF:
        raise needs(f"one of {', '.join(('merge', 'reciprocal_rank_fusion', *_BEST_OF))}", mode, "join_mode")
    readers = [one.receiver.component for one in scope.out_of(name)]
    read_elsewhere = any(one.component == name for one in scope.named_outputs)
    if given.get("top_k") is None and readers and not read_elsewhere and all(_reads_all(one, after) for one in readers):
        return {"method": "reciprocal_rank"}
    raise CannotMove(
        f"join_mode: {mode} keeps the best score of each document, though the lists' scores may not compare; ours adds "
        "them up. It can be moved where only rankers read all its documents; elsewhere choose reciprocal_rank_fusion"
    )


def _kind(name: str, after: Mapping[str, Any]) -> str:
    return str(after[name].get("type", "")) if isinstance(after.get(name), Mapping) else ""


def _reads_all(name: str, after: Mapping[str, Any]) -> bool:
    """Tell whether a component is a ranker of ours that scores all that it gets, so that their order does not count."""
    given = after[name].get("init_parameters") or {} if name in after else {}
    return _kind(name, after) == RANKER and not any(given.get(one) for one in _PARTLY)


def _check_sorted(sender: str, after: Mapping[str, Any]) -> None:
    """Check that a list comes in the order of its scores: by these, ours ranks it."""
    kind = _kind(sender, after)
    given = after[sender].get("init_parameters") or {} if isinstance(after.get(sender), Mapping) else {}
    if kind.endswith("DocumentJoiner") and given.get("sort_by_score", True) is not True:
        raise CannotMove(f"the list of {sender} comes in the order of arrival; ours ranks it by its scores")
    if kind in (RANKER, RETRIEVER, JOINER) or kind.endswith(("Retriever", "SimilarityRanker", "DocumentJoiner")):
        return
    raise CannotMove(f"the list of {sender} may come in another order than that of its scores, by which ours ranks it")


def _scaling(scope: Scope, sender: str, after: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Return the normalizer that makes the shown scores of the raw ones that our stages note; None if they are the same.

    :raises CannotMove: If the scaled scores come through another component.
    """
    slopes = {name: _slope(name, after) for name in {sender, *networkx.ancestors(scope.graph, sender)}}
    own = slopes.pop(sender)
    kind = _kind(sender, after)
    if own is not None:
        return {"name": "logistic", "slope": own, "intercept": 0.0}
    if kind not in (RANKER, RETRIEVER, JOINER) and any(slope is not None for slope in slopes.values()):
        raise CannotMove(f"the scores that {sender} hands on are probabilities, for which ours takes the logits")
    return None


def _slope(name: str, after: Mapping[str, Any]) -> float | None:
    """Return the slope of the sigmoid through which one of our components shows its scores; None without one."""
    given = after[name].get("init_parameters") or {} if isinstance(after.get(name), Mapping) else {}
    kind = _kind(name, after)
    if kind == RANKER and given.get("scale_score", True) is True:
        return 1.0
    return 1.0 / BM25_SCALING if kind == RETRIEVER and given.get("scale_score", False) is True else None
