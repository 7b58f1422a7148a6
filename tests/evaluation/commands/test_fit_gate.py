"""A gate for each ranker of an evaluation: from runs to queries, shown and saved."""

import json
import math

import pytest
import yaml
from rich.console import Console

from fakes import telling_gate_queries, untelling_gate_queries
from haystack_ce_ranker import RerankGate
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.evaluation.commands.fit_gate import gate_queries, save, show
from haystack_ce_ranker.gating.fitting import fit_gate
from haystack_ce_ranker.gating.plain import as_plain, fragment


def test_what_was_found_can_be_saved_shown_and_used():
    advice = fit_gate(telling_gate_queries())
    plain = json.loads(json.dumps(as_plain(advice), allow_nan=False))
    assert (plain["recommended"], plain["reason"]) == (True, advice.reason)
    assert (plain["predictor"], plain["threshold"]) == (advice.predictor, advice.threshold)
    assert (plain["saved"], plain["lost"]) == (advice.saved, advice.lost)
    described = yaml.safe_load(fragment(advice))["gate"]
    gate = RerankGate.from_dict(described)
    assert (gate.predictor, gate.threshold) == (advice.predictor, advice.threshold)
    none = fit_gate(untelling_gate_queries(), predictors=["nqc"], tolerance=0.0)
    assert as_plain(none)["threshold"] is None
    assert yaml.safe_load(fragment(none))["gate"]["init_parameters"]["threshold"] == math.inf
    narrow = Console(record=True, width=40)
    show(advice, narrow)
    assert fragment(advice) in narrow.export_text(), "a YAML whose lines are broken is another one"
    console = Console(record=True, width=400)
    show(advice, console)
    printed = console.export_text()
    assert advice.reason in printed
    assert fragment(advice) in printed
    show(none, console)
    assert none.reason in (printed := console.export_text())
    assert "init_parameters" not in printed


def test_what_is_written_is_the_verdict_and_a_gate_that_loads(tmp_path):
    advice = fit_gate(telling_gate_queries())
    found, component = save(advice, tmp_path / "out")
    assert json.loads(found.read_text(encoding="utf-8")) == as_plain(advice)
    text = component.read_text(encoding="utf-8")
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert comment == advice.reason
    assert RerankGate.from_dict(yaml.safe_load(text)["gate"]).threshold == advice.threshold
    none = fit_gate(untelling_gate_queries())
    text = save(none, tmp_path / "out")[1].read_text(encoding="utf-8")
    assert yaml.safe_load(text) is None
    assert "No gate" in text


def test_runs_become_queries_measured_by_ir_measures():
    pytest.importorskip("ir_measures", reason="needs the extra 'evaluate'")
    judgments = {"a": {"d1": 1}, "b": {"d9": 1}, "c": {"d1": 1}}
    first = {"a": {"d2": 3.0, "d1": 2.0}, "b": {"d1": 1.0}}
    after = {"a": {"d1": 3.0, "d2": 2.0}, "b": {"d1": 1.0}}
    collection = Collection("c", {}, {"a": "two words", "b": "one", "c": ""}, judgments)
    found = gate_queries(first, after, collection)
    assert [(query.id, list(query.scores)) for query in found] == [("a", [3.0, 2.0]), ("b", [1.0]), ("c", [])]
    assert found[0].kept == pytest.approx(1 / math.log2(3))
    assert [query.reranked for query in found] == [1.0, 0.0, 0.0]
