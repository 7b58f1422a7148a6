import json

import pytest
import yaml

from haystack_ce_ranker.machine.facts import machine
from haystack_ce_ranker.training import saving
from haystack_ce_ranker.training.card import model_name
from haystack_ce_ranker.training.saving import save_model, save_refusal, work_folder

VERSUS = {
    "difference": 0.05,
    "low": 0.01,
    "high": 0.09,
    "p": 0.01,
    "p_corrected": 0.02,
    "wins": 9,
    "ties": 1,
    "losses": 2,
}
FACTS = {
    "title": "learner on a collection",
    "base": "learner",
    "data": {"collection": "huts", "training_queries": 1024, "notes": ["one", "two"]},
    "settings": {"loss": "bce", "learning_rate": 2e-05, "max_length": None, "interpolate": 1.0},
    "fitted": {
        "fresh_head": True,
        "before": 0.5,
        "best": {"step": 24, "ndcg": 0.625},
        "written": 0.625,
        "seconds": 61.2,
        "joules": 244.4,
        "energy": "estimated: 4.0 W for each busy CPU",
        "expected_memory_mb": 600.0,
        "peak_memory_mb": 640.0,
        "used": {"device": "cpu", "threads": 2, "bf16": False},
    },
    "gate": {
        "queries": 12,
        "judged_by": "labels",
        "systems": {name: {"nDCG@10": 0.5, "MRR@10": 0.25} for name in ("first stage", "untouched base", "trained")},
        "versus": {"first stage": VERSUS, "untouched base": VERSUS},
        "decision": {"met": True, "reason": "the trained model is better"},
    },
}


@pytest.fixture
def model(tmp_path):
    folder = work_folder(tmp_path / "output") / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_stands_with_its_card_and_its_facts_and_without_the_work_folder(model, tmp_path):
    output = tmp_path / "output"
    save_model(output, model, FACTS)
    held = {file.name for file in output.iterdir()}
    assert held == {"model.safetensors", "config.json", "README.md", "training.json"}
    saved = json.loads((output / "training.json").read_text())
    assert {name: saved[name] for name in FACTS} == FACTS
    assert saved["machine"] == machine()


def test_a_folder_that_somebody_else_made_stays_as_it_is(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name / "work").mkdir(parents=True)
    (tmp_path / "a" / "work" / "thesis.txt").write_text("x")
    (tmp_path / "b" / "README.md").write_text("# my notes")
    work_folder(tmp_path / "d")
    (tmp_path / "d" / "notes.txt").write_text("x")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "work").symlink_to(tmp_path / "d" / "work")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for name in "abcde":
        for fresh in (False, True):
            with pytest.raises(ValueError, match="output must be a folder that is not there yet"):
                work_folder(tmp_path / name, fresh=fresh)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_kill_while_the_model_is_written_leaves_what_can_go_on(model, tmp_path, monkeypatch):
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text("{}")
    output = tmp_path / "output"

    def killed(file, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saving.shutil, "copy2", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(output, model, FACTS)
    assert not (output / "model.safetensors").exists()
    assert work_folder(output) == output / "work"
    save_model(output, model, FACTS)
    held = {file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file()}
    assert held == {"model.safetensors", "config.json", "README.md", "training.json", "1_Pooling/config.json"}
    assert (output / "model.safetensors").read_bytes() == b"weights"


def test_the_card_says_data_settings_measures_and_cost(model, tmp_path):
    save_model(tmp_path / "output", model, FACTS)
    text = (tmp_path / "output" / "README.md").read_text()
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header)["pipeline_tag"] == "text-ranking"
    for line in (
        "# learner on a collection",
        "trained from `learner`",
        "Its head was drawn at random before training.",
        "- training queries: 1,024",
        "- notes: one, two",
        "- learning rate: 2e-05",
        "| untouched base | 0.5000 | 0.2500 | +0.0500 | 0.020 |",
        "| trained | 0.5000 | 0.2500 |  |  |",
        "nDCG@10 was 0.5000 before the first step,",
        "and 0.6250 after step 24, whose weights these are.",
        "- training: 61 s, 244 J (estimated: 4.0 W for each busy CPU)",
        "- memory: 600 MB expected, 640 MB at most",
    ):
        assert line in body
    assert "max length" not in body  # None is left out


def test_the_card_says_where_the_weights_lie(model, tmp_path):
    settings, fitted = {**FACTS["settings"], "interpolate": 0.5}, {**FACTS["fitted"], "written": 0.75}
    save_model(tmp_path / "output", model, {**FACTS, "settings": settings, "fitted": fitted})
    text = (tmp_path / "output" / "README.md").read_text()
    assert (
        "and 0.6250 after step 24, and 0.7500 with these weights, which lie 0.5 of the way from the base's to those of "
        "that step."
    ) in text
    assert "- interpolate: 0.5" in text


def test_a_refusal_leaves_a_report_and_no_model(model, tmp_path):
    report = save_refusal(tmp_path / "output", FACTS)
    assert [file.name for file in (tmp_path / "output").rglob("*")] == ["report.json"]
    assert json.loads(report.read_text())["gate"] == FACTS["gate"]
    work_folder(tmp_path / "output")  # another try may begin there


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="output must be a folder that is not there yet"):
        work_folder(tmp_path)
    with pytest.raises(ValueError, match="output must be a folder that is not there yet"):
        work_folder(tmp_path / "notes.txt")


def test_a_run_goes_on_in_its_work_folder_or_begins_anew(tmp_path):
    work = work_folder(tmp_path / "output")
    (work / "left").touch()
    assert (work_folder(tmp_path / "output") / "left").is_file()
    assert not (work_folder(tmp_path / "output", fresh=True) / "left").exists()


def test_a_card_names_a_folder_by_its_end_whichever_way_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("models/small", "./models/small", str(tmp_path / "models" / "small")):
        assert model_name(name) == "small"
    for other in ("models/other", "x" * 5000, "a\0b", "\udcff"):
        assert model_name(other) == other
