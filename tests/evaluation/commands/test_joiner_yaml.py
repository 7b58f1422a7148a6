"""A setting as YAML: it comes back as it was, and in a file nothing else changes."""

import sys
from pathlib import Path

import pytest
import yaml

from fakes import REPOSITORY
from haystack_ce_ranker.evaluation.commands.joiner_yaml import fragment, write_into
from haystack_ce_ranker.evaluation.commands.tune_joiner import setting_of
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.fusion.adaptive import Adaptation
from haystack_ce_ranker.fusion.judged import Frame, Setting
from haystack_ce_ranker.fusion.normalizers import Normalization, parse_normalizations
from haystack_ce_ranker.fusion.plain import parameters_of
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner

pytest.importorskip("ruamel.yaml", reason="ruamel.yaml is not installed (extra `evaluate`)")

AUTOMATIC = parse_normalizations(None, ["a", "b"])
CE, BM25 = INPUTS = ("cross_encoder", "bm25")


@pytest.mark.parametrize(
    "setting",
    [
        Setting(Frame("none", {}), {"a": 0.25, "b": 0.75}),
        Setting(Frame("default", parse_normalizations(None, ["a", "b"])), {"a": 0.5, "b": 0.5}),
        Setting(Frame("min_max", parse_normalizations("min_max", ["a", "b"]), "impute"), {"a": 0.5, "b": 0.5}),
        Setting(
            Frame(
                "logistic",
                {name: Normalization("logistic", {"slope": 0.123456789, "intercept": -2e-7}) for name in "ab"},
            ),
            {"a": 1 / 3, "b": 2 / 3},
        ),
        Setting(Frame("reciprocal_rank", {}, method="reciprocal_rank", rank_constant=20.0), {"a": 0.1, "b": 0.9}),
        Setting(Frame("adaptive", AUTOMATIC, adaptation=Adaptation()), {"a": 0.5, "b": 0.5}),
        Setting(Frame("adaptive", AUTOMATIC, adaptation=Adaptation("a", 0.5, -2.0)), {"a": 0.5, "b": 0.5}),
    ],
)
def test_a_setting_goes_into_yaml_and_comes_back(setting: Setting) -> None:
    joiner = HybridScoreJoiner(**yaml.safe_load(fragment("j", setting))["components"]["j"]["init_parameters"])
    back = setting_of(joiner)
    assert back.weights == pytest.approx(setting.weights, abs=1e-6)
    assert (back.frame.missing, back.frame.method) == (setting.frame.missing, setting.frame.method)
    assert back.frame.rank_constant == setting.frame.rank_constant
    assert back.frame.adaptation == setting.frame.adaptation
    for name, normalization in setting.frame.normalizations.items():
        assert back.frame.normalizations[name].name == normalization.name
        assert back.frame.normalizations[name].params == pytest.approx(normalization.params, rel=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        "      weights: {a: 0.5, b: 0.5}\n      normalize: min_max # why\n",
        "      top_k: 3\n      weights:\n        a: 0.5\n        b: 0.5",
        (
            "      normalize:\n        a: min_max\n        # of b\n        b:\n          name: rank\n          k: 3\n"
            "      # weights\n      weights:\n          a: 1\n          b: 2\n      missing: 'zero'\n"
        ),
    ],
)
@pytest.mark.parametrize("position", ["last", "first"])
def test_writing_keeps_everything_else(parameters: str, position: str, tmp_path: Path) -> None:
    head = "# head\nconnections: []\ncomponents:\n"
    joiner = f"  j: # the joiner\n    type: x\n    init_parameters:\n{parameters}"
    other = "  o:\n    type: y\n    init_parameters: {k: 1} # o\n"
    text = head + other + joiner if position == "last" else f"{head}{joiner.rstrip()}\n{other}max_runs: 3\n"
    path = tmp_path / "p.yaml"
    path.write_text(text)
    setting = Setting(Frame("z_score", parse_normalizations("z_score", ["a", "b"]), "min"), {"a": 0.9, "b": 0.1})
    write_into(path, "j", setting)
    expected = yaml.safe_load(text)
    changes = {
        key: value for key, value in parameters_of(setting).items() if key != "adapt_weights"
    }  # nor had the file
    expected["components"]["j"]["init_parameters"] |= changes
    assert yaml.safe_load(path.read_text()) == expected
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line and "of b" not in line]
    assert [comment for comment in comments if f"#{comment}" not in path.read_text()] == []  # but in what is replaced
    assert [file.name for file in tmp_path.iterdir()] == ["p.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "components:\n  other:\n    type: x\n",
        "components:\n  j:\n    init_parameters: &p\n      weights: {a: 2}\n  k:\n    init_parameters: *p\n",
        "components:\n  j:\n    init_parameters: *p\n  k: &p\n    weights: {a: 2}\n",
        "- no\n- mapping\n",
    ],
)
def test_a_file_of_unusual_form_is_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError, match="by hand"):
        write_into(path, "j", Setting(Frame("none", {}), {"a": 1.0}))
    assert path.read_text() == text


BEFORE = """\
---
# A pipeline as people write them.
x-shared: &store
    type: "my.Store"   # quoted, and three spaces
    init_parameters: {}
components:
    'first':
        type: my.Retriever
        init_parameters:
            document_store: *store
            fields: [ "title",'text' ]
            prompt: |
                keep: this
                  as it is\x20\x20
            note: a text that goes on
              in another line
    j:
        type: my.Joiner
        init_parameters:
            # how much each counts
            weights:
                a: 0.5 # the good one
                b: 0.50

            # what a list lacks
            missing: "impute" # for now
            normalize: {a: min_max, b: 'none'} # in one line
            method: 'weighted_sum'
            top_k: 010

            # the end of the joiner
    last:
        <<: *store
connections:
- sender: first.documents   # dashes without indentation
  receiver: j.a
-   {sender: first.documents, receiver: j.b}
metadata: {on: yes, float: 1e3}
# the end
"""

AFTER = (
    BEFORE.replace("a: 0.5 #", "a: 0.9 #")
    .replace("b: 0.50", "b: 0.1")
    .replace('missing: "impute" #', 'missing: "min"    #')
    .replace("normalize: {a: min_max, b: 'none'} #", f"normalize: z_score{' ' * 17}#")
)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_only_the_lines_that_change_do(ends: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(BEFORE.replace("\n", ends).encode())
    setting = Setting(Frame("z_score", parse_normalizations("z_score", ["a", "b"]), "min"), {"a": 0.9, "b": 0.1})
    write_into(path, "j", setting)
    assert path.read_bytes().decode() == AFTER.replace("\n", ends)
    write_into(path, "j", setting)
    assert path.read_bytes().decode() == AFTER.replace("\n", ends)


@pytest.mark.parametrize("name", ["pipeline.yaml", "with_gate.yaml"])
def test_an_example_and_what_haystack_writes_change_in_one_line(name: str, tmp_path: Path) -> None:
    example = (REPOSITORY / "examples" / name).read_text(encoding="utf-8")
    for text in (example, yaml.safe_dump(yaml.safe_load(example))):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        setting = Setting(Frame("default", parse_normalizations("none", INPUTS)), {CE: 0.75, BM25: 0.25})
        write_into(path, "joiner", setting)
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if line in text.splitlines()]
        lost = [line.strip() for line in text.splitlines() if line not in kept]
        assert lost == [line for line in lost if line.startswith(INPUTS)]
        assert len(lost) == 2


def test_a_block_mapping_and_a_flow_mapping_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    params = {"slope": 0.5, "intercept": -2e-7}
    setting = Setting(Frame("logistic", {"a": Normalization("logistic", params)}), {"a": 1.0})
    path.write_text("components: {j: {type: x, init_parameters: {weights: {a: 0.4}, top_k: 3}}} # all in one\n")
    write_into(path, "j", setting)
    changed = path.read_text()
    assert changed.endswith("} # all in one\n")
    assert len(changed.splitlines()) == 1
    assert yaml.safe_load(changed)["components"]["j"]["init_parameters"]["normalize"]["a"]["intercept"] == -2e-7
    path.write_text(
        "components:\n  j:\n    init_parameters:\n      normalize: none # why\n      # of a\n      weights: {a: 2}\n"
    )
    write_into(path, "j", setting)
    changed = path.read_text()
    assert all(words in changed for words in ("# why\n      # of a\n      weights: {a: 1.0}\n", "slope: 0.5\n"))


def test_weights_that_no_longer_follow_the_query_are_switched_off_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("components:\n  j:\n    init_parameters:\n      weights: {a: 1, b: 2}\n      adapt_weights: true\n")
    write_into(path, "j", Setting(Frame("none", {}), {"a": 0.5, "b": 0.5}))
    found = yaml.safe_load(path.read_text())["components"]["j"]["init_parameters"]
    assert found["adapt_weights"] is False
    write_into(path, "j", Setting(Frame("adaptive", AUTOMATIC, adaptation=Adaptation()), {"a": 0.5, "b": 0.5}))
    found = yaml.safe_load(path.read_text())["components"]["j"]["init_parameters"]
    assert (found["adapt_weights"], found["normalize"]) == (True, "auto")


def test_without_ruamel_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    path = tmp_path / "p.yaml"
    path.write_text("components:\n  j:\n    init_parameters:\n      weights: {a: 2}\n")
    with pytest.raises(ImportError, match=r"needs ruamel.yaml: pip install \"ce-ranker-haystack\[evaluate\]\""):
        write_into(path, "j", Setting(Frame("none", {}), {"a": 1.0}))
