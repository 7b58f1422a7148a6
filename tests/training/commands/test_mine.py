"""The command `mine` with a tiny model: its file, what it says, and going on after it was stopped."""

import io
import json
import shutil

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fakes import import_torch
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.evaluation.running.journal import NAME
from haystack_ce_ranker.training import teachers
from haystack_ce_ranker.training.commands.mine import MiningRun, margins_table, run_mining
from haystack_ce_ranker.training.groups import read_groups, row_of
from haystack_ce_ranker.training.mining import Mining
from haystack_ce_ranker.training.passages import PassageReader

WORDS = ("brake", "hut", "snow", "car", "berlin", "paris", "city", "germany", "france")
DOCUMENTS = {
    f"d{number}": f"{WORDS[number % 9]} {WORDS[number % 7]} {WORDS[number % 5]} number {number}" for number in range(40)
}
DOCUMENTS["long"] = "a car of berlin. " * 40 + "the hut is in the snow. " * 3 + "paris is a city. " * 40
QUERIES = {f"q{number}": f"{WORDS[number]} and {WORDS[number - 1]}" for number in range(9)}
JUDGMENTS = {f"q{number}": {f"d{number}": 2, f"d{number + 9}": 1} for number in range(8)}
JUDGMENTS["q1"]["long"] = 1
JUDGMENTS["q8"] = {"gone": 1}


@pytest.fixture
def collection(write_collection):
    return write_collection(DOCUMENTS, QUERIES, JUDGMENTS)


@pytest.fixture
def mined(collection, tiny_bert, tmp_path):
    """A function that mines into a file and returns what the terminal said."""

    def run(name="mined.jsonl", *, teacher=True, **values):
        console = Console(file=io.StringIO(), width=200)
        own = {"teacher": ModelOptions(tiny_bert) if teacher else None, "settings": Mining(negatives=4), **values}
        found = run_mining(MiningRun(collection, tmp_path / name, **own), console)
        return found, console.file.getvalue()

    return run


def counted(monkeypatch, *, stop_after=None):
    """Count the texts that the teacher scores; stop it by Ctrl-C after some calls."""
    scored, best = [], PassageReader.best_of_many

    def read(self, requests, **options):
        if stop_after is not None and len(scored) == stop_after:
            raise KeyboardInterrupt
        scored.append(sum(len(texts) for _, texts in requests))
        return best(self, requests, **options)

    monkeypatch.setattr(PassageReader, "best_of_many", read)
    return scored


def test_the_file_holds_positives_negatives_and_logits_of_what_the_model_reads(mined, tiny_bert, tmp_path):
    _, told = mined(settings=Mining(negatives=4, reference="lowest"))
    groups = read_groups(tmp_path / "mined.jsonl")
    assert [group.query_id for group in groups] == [f"q{number}" for number in range(8)]
    reader = teachers.Teacher.load(ModelOptions(tiny_bert)).reader
    for group in groups:
        labels = [one.label for one in group.candidates]
        assert labels == sorted(labels, reverse=True)
        assert {0.5, 1.0} <= set(labels) <= {0.0, 0.5, 1.0}
        lowest = min(one.teacher for one in group.candidates if one.label)
        assert all(one.teacher < lowest for one in group.candidates if not one.label)
        [best] = reader.best(group.query, [group.candidates[0].text])
        assert group.candidates[0].teacher == pytest.approx(best.logit, abs=1e-4)
    assert {one.label for group in groups for one in group.candidates} == {0.0, 0.5, 1.0}
    long = [one.text for group in groups for one in group.candidates if one.document_id == "long"]
    assert long
    assert all(len(text) < 500 and text in DOCUMENTS["long"] for text in long)
    assert "left out: 1 relevant documents that are not in the corpus" in told
    assert "left out: 1 queries without a relevant document that can be read" in told
    assert "1 of 18 relevant documents are not in the corpus" in told
    assert "documents scored, 0 taken from" in told
    assert "unjudged documents dropped that have at least the lowest logit" in told
    assert f"wrote {tmp_path / 'mined.jsonl'}: 8 queries, 17 relevant documents, " in told


@pytest.mark.parametrize(("name", "form"), [("mined.jsonl", "json"), ("mined.parquet", "parquet")])
def test_the_file_is_read_by_datasets(mined, tmp_path, monkeypatch, name, form):
    datasets = pytest.importorskip("datasets", reason="needs the extra 'train'")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    found, _ = mined(name)
    rows = datasets.load_dataset(form, data_files=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.to_list() == [row_of(group) for group in found.groups]


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(mined, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(teachers, "PART", 12)
    with monkeypatch.context() as patch:
        unbroken = counted(patch)
        mined("whole.jsonl")
    with monkeypatch.context() as patch:
        before = counted(patch, stop_after=stop_after)
        found, told = mined("mined.jsonl")
        assert found is None
        assert "Interrupted" in told
        assert not (tmp_path / "mined.jsonl").exists()
    with monkeypatch.context() as patch:
        later = counted(patch)
        found, told = mined("mined.jsonl")
    assert len(before) == stop_after
    assert before + later == unbroken
    assert f"{sum(later)} documents scored" in told
    assert (tmp_path / "mined.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_twice_with_one_seed_gives_the_same_bytes_and_another_seed_does_not(mined, tmp_path):
    for name, seed in (("one.jsonl", 3), ("two.jsonl", 3), ("three.jsonl", 4)):
        mined(name, settings=Mining(negatives=4, seed=seed))
    one, two, three = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_other_settings_take_the_logits_that_are_kept(mined, monkeypatch):
    mined("mined.jsonl")
    again = counted(monkeypatch)
    _, told = mined("mined.parquet", settings=Mining(negatives=4, false_negatives="keep"))
    assert again == []
    assert "teacher: 0 documents scored, " in told


def test_without_a_teacher_documents_stand_whole(mined, tmp_path):
    _, told = mined(teacher=False)
    groups = read_groups(tmp_path / "mined.jsonl")
    assert {one.teacher for group in groups for one in group.candidates} == {None}
    assert DOCUMENTS["long"] in {one.text for group in groups for one in group.candidates}
    assert "without a teacher no false negative is found, and documents stand whole" in told
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["small"]


def test_a_file_that_is_there_is_replaced_only_if_asked(mined, tmp_path):
    (tmp_path / "mined.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mined\.jsonl' is there already: name another file, or use --overwrite"):
        mined()
    assert (tmp_path / "mined.jsonl").read_text(encoding="utf-8") == "mine"
    mined(overwrite=True)
    assert len(read_groups(tmp_path / "mined.jsonl")) == 8


def test_another_suffix_is_refused_before_anything_is_done(mined):
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.parquet"):
        mined("mined.csv")


def test_a_sample_of_the_queries_is_drawn_by_the_seed(mined):
    own = {"teacher": False, "queries": 3, "overwrite": True}
    drawn = [mined(settings=Mining(seed=seed), **own)[0] for seed in (0, 0, 1, 2)]
    ids = [[group.query_id for group in found.groups] for found in drawn]
    assert ids[0] == ids[1]
    assert len(set(map(tuple, ids))) > 1
    assert all(len(one) <= 3 for one in ids)


def test_few_negatives_are_said(mined):
    _, told = mined(teacher=False, settings=Mining(negatives=1000))
    assert "note: 8 of 8 queries have fewer than 1000 negatives" in told


def test_the_language_decides_on_the_words_of_bm25(write_collection, tmp_path):
    documents = {"d1": "die Hütten", "d2": "alle Hütten", "d3": "der Schnee"}
    folder = write_collection(documents, {"q1": "Hütte"}, {"q1": {"d1": 1}}, name="german")
    for language, code in (("german", 0), ("none", 2)):
        arguments = ["mine", str(folder), str(tmp_path / f"{language}.jsonl"), "--language", language]
        assert CliRunner().invoke(app, arguments).exit_code == code
    [group] = read_groups(tmp_path / "german.jsonl")
    assert [one.document_id for one in group.candidates] == ["d1", "d2"]


def test_nothing_to_learn_from_is_an_error_that_says_why(write_collection, tmp_path):
    folder = write_collection({"d1": "the hut"}, {"q1": "a hut"}, {"q1": {"d1": 1}}, name="single")
    with pytest.raises(ValueError, match="nothing to learn from in .*single': 1 queries whose documents all have one"):
        run_mining(MiningRun(folder, tmp_path / "mined.jsonl"), Console(file=io.StringIO()))
    assert not (tmp_path / "mined.jsonl").exists()


def test_the_table_says_what_other_margins_would_do():
    table = margins_table([-3.0, -0.5, 0.0, 2.0], Mining(margin=0.5))
    margins, counts, shares = ([*column.cells] for column in table.columns)
    assert margins == ["-4", "-2", "-1", "0", "0.5 *", "1", "2", "4"]
    assert counts == ["0", "1", "1", "2", "3", "3", "3", "4"]
    assert shares[4] == "75.0%"


def test_the_command_takes_all_options(collection, tiny_bert, tmp_path):
    output = tmp_path / "mined.parquet"
    arguments = ["mine", str(collection), str(output), "--teacher", str(tiny_bert), "--negatives", "2"]
    arguments += ["--positives", "1", "--first-rank", "2", "--last-rank", "20", "--sampling", "top", "--margin", "1"]
    arguments += ["--false-negatives", "relabel", "--reference", "highest", "--queries", "8", "--seed", "5"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    groups = read_groups(output)
    assert all(sum(one.label == 0 for one in group.candidates) <= 2 for group in groups)
    assert "relabelled as relevant that have at least the highest logit" in " ".join(done.output.split())
    assert json.loads((tmp_path / "mined.progress" / NAME).read_text(encoding="utf-8").splitlines()[0])["key"]
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--margin", "nan"], "margin must be a finite number"),
        (["--language", "klingon"], "language must be None or one of"),
        (["--first-stage", "dense"], "the first stage 'dense' needs a bi-encoder"),
        (["--teacher", "./nowhere"], "model './nowhere' was not found"),
        (["--bi-encoder", "./nowhere"], "model './nowhere' was not found"),
        (["--split", "dev"], "dev"),
    ],
)
def test_what_cannot_be_done_is_one_line(collection, tmp_path, extra, told):
    if "./nowhere" in extra:
        import_torch()
    done = CliRunner().invoke(app, ["mine", str(collection), str(tmp_path / "mined.jsonl"), *extra])
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("option", ["--teacher", "--bi-encoder"])
def test_the_file_is_not_written_into_the_folder_of_a_model_that_is_read(option, collection, tiny_bert, tmp_path):
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    arguments = ["mine", str(collection), str(model / "mined.jsonl"), option, str(model)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "output must lie outside the folder of model" in " ".join(done.output.split())


def test_an_interrupted_command_exits_as_interrupted(collection, tiny_bert, tmp_path, monkeypatch):
    counted(monkeypatch, stop_after=0)
    done = CliRunner().invoke(
        app, ["mine", str(collection), str(tmp_path / "mined.jsonl"), "--teacher", str(tiny_bert)]
    )
    assert done.exit_code == 130
    assert "the same command goes on from there" in " ".join(done.output.split())
