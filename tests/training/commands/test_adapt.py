"""Adapting as a whole, with tiny models: from a folder without labels to a model, a refusal, or an error."""

import io
import json
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.adapting import TEACHERS_ORDER, Adapting, given_queries
from haystack_ce_ranker.training.commands import adapt
from haystack_ce_ranker.training.commands.adapt import RECIPE, AdaptRun, run_adapting
from haystack_ce_ranker.training.fitting import Evaluation, Fitted, Interrupted
from haystack_ce_ranker.training.origins import ORIGINS
from haystack_ce_ranker.training.resources import Resources

pytest.importorskip("datasets")
pytest.importorskip("codecarbon")

WORDS = ["hut", "snow", "car", "brake", "city", "berlin", "paris", "france", "germany"]


@pytest.fixture
def folder(tmp_path):
    """A collection without queries and judgments."""
    drawn = random.Random(0)
    path = tmp_path / "corpus" / "corpus.jsonl"
    path.parent.mkdir()
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            sentences = [f"{' '.join(drawn.choices(WORDS, k=4))} {number}." for _ in range(3)]
            file.write(json.dumps({"_id": f"d{number}", "text": " ".join(sentences)}) + "\n")
    return path.parent


def judged(folder, queries=12):
    """Give the folder queries with judgments: the documents that hold both words of a query are relevant."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(1)
    asked = {f"q{number}": drawn.sample(WORDS, 2) for number in range(queries)}
    lines = [json.dumps({"_id": name, "text": " ".join(words)}) for name, words in asked.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "qrels").mkdir()
    found = [
        f"{name}\t{row['_id']}\t1"
        for name, words in asked.items()
        for row in rows
        if set(words) <= set(row["text"].split())
    ]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(found), encoding="utf-8")
    return asked


def run_of(folder, base, **changes):
    recipe = replace(RECIPE, epochs=3, learning_rate=3e-3, evaluations=1)
    plain = AdaptRun(
        folder,
        folder.parent / "output",
        ModelOptions(base, device="cpu"),
        queries=80,
        settings=Adapting(depth=12, candidates=6),
        recipe=recipe,
        threads=1,
    )
    return replace(plain, **changes)


def adapted(run):
    """Run it, and return what it found and what it said."""
    told = io.StringIO()
    return run_adapting(run, Console(file=told, width=250)), told.getvalue()


class Killed(BaseException):
    """Stands for a kill: nothing after it is reached."""


@pytest.fixture
def fits(monkeypatch):
    """What `fit` was called with; in place of training, the base is taken as it is."""
    calls = []

    def take_the_base(base, groups, dev, folder, recipe, **given):
        calls.append({"groups": groups, "dev": dev, "recipe": recipe, **given})
        shutil.copytree(base.model, folder / "model", dirs_exist_ok=True)
        return Fitted(
            model=folder / "model",
            before=0.5,
            evaluations=(Evaluation(1, 0.5),),
            best=Evaluation(1, 0.5),
            written=0.5,
            queries=len(groups),
            pairs=2 * len(groups),
            unused_queries=0,
            steps=1,
            fresh_head=False,
            max_length=128,
            seconds=1.0,
            joules=1.0,
            energy="estimated",
            expected_memory_mb=1.0,
            peak_memory_mb=None,
            used=Resources("cpu", False, 1),
        )

    monkeypatch.setattr(adapt, "fit", take_the_base)
    return calls


def test_a_model_learns_its_teachers_order_where_nothing_is_judged(folder, learner, tiny_bert):
    run = run_of(
        folder, learner, teachers=(ModelOptions(tiny_bert),), settings=Adapting(depth=12, candidates=6, blend=None)
    )
    found, told = adapted(run)
    assert found.judged_by == TEACHERS_ORDER
    assert found.decision.met
    assert TEACHERS_ORDER in found.decision.reason
    held = {path.name for path in run.output.iterdir()}
    assert {"model.safetensors", "README.md", "training.json", "tokenizer.json"} <= held
    assert not {"work", "report.json"} & held
    facts = json.loads((run.output / "training.json").read_text(encoding="utf-8"))
    assert facts["data"]["teachers"] == ["tiny-bert"]
    assert TEACHERS_ORDER in (run.output / "README.md").read_text(encoding="utf-8")
    assert "queries made of 60 documents" in told


def test_there_is_no_part_of_the_way_for_a_new_head_and_it_is_told_before_anything_is_read(tmp_path, encoder, learner):
    recipe, teachers = replace(RECIPE, interpolate=0.5), (ModelOptions(learner),)
    with pytest.raises(ValueError, match=r"interpolate must be 1 .*, but got 0\.5"):
        adapted(run_of(tmp_path / "nowhere", encoder, recipe=recipe, teachers=teachers))


def contrastive(**changes):
    return replace(RECIPE, loss="contrastive", learns="labels", batch=48, **changes)


@pytest.fixture
def titled(tmp_path):
    """A collection in which documents of the car have titles, and others hold the same words and have none."""
    rows = []
    for number in range(120):
        words = f"k{number} z{number * 7 + 3}"
        rows.append({"_id": f"d{number}", "title": words, "text": f"{words} in the city. The car."})
        rows += [{"_id": f"d{number}-{n}", "text": f"{words} in Paris. The city {n}."} for n in range(3)]
    path = tmp_path / "titled" / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path.parent


def test_a_model_learns_what_each_query_was_made_of_and_nothing_else_judges_it(titled, learner):
    run = run_of(titled, learner, recipe=contrastive(epochs=6, learning_rate=3e-3, evaluations=1), mix=("title",))
    found, told = adapted(replace(run, queries=120, settings=Adapting(depth=12, candidates=6, blend=None)))
    assert found.judged_by == ORIGINS
    assert found.means["trained"]["nDCG@10"] > found.means["untouched base"]["nDCG@10"] + 0.2
    assert ORIGINS in (run.output / "README.md").read_text(encoding="utf-8")
    facts = json.loads((run.output / "training.json").read_text(encoding="utf-8"))
    assert (facts["settings"]["loss"], facts["settings"]["learns"]) == ("contrastive", "labels")
    assert facts["data"]["right_document"] == "the one that the query was made of"
    assert "by contrastive, 4 of each row drawn from other queries" in told
    assert "scores no lower" not in told  # the base alone cannot tell


def test_what_another_teacher_takes_for_right_is_not_learnt_as_wrong_and_counted(titled, learner, tiny_bert, fits):
    run = run_of(titled, learner, teachers=(ModelOptions(tiny_bert),), recipe=contrastive(), mix=("title",))
    _, told = adapted(replace(run, queries=120, settings=Adapting(depth=12, candidates=6, blend=None)))
    [call] = fits
    for group in call["groups"]:
        right = next(one.teacher for one in group.candidates if one.label == 1)
        assert all((one.label is None) == (one.teacher >= right) for one in group.candidates if one.label != 1)
    assert "documents that the teacher scores no lower than the one that the query was made of" in told
    assert "queries of which the teacher scores no document lower" in told


def test_the_document_that_a_query_was_made_of_is_always_there_and_is_right(folder, learner, fits):
    judged(folder)
    adapted(run_of(folder, learner, recipe=contrastive(), settings=Adapting(depth=4, candidates=3)))
    [call] = fits
    assert call["recipe"].learns == "labels"
    for group in call["groups"]:
        [right] = [one.document_id for one in group.candidates if one.label == 1]
        assert group.query_id.endswith(f"-{right}")
        assert [one.label for one in group.candidates].count(0.0) >= 1
    for name, grades in call["dev"].judgments.items():
        assert [one for one, grade in grades.items() if grade] == [name.rpartition("-")[2]]


def test_a_base_alone_may_learn_by_contrast_without_a_blend_and_drops_nothing(folder, learner, fits):
    judged(folder)
    found, told = adapted(
        run_of(folder, learner, recipe=contrastive(), settings=Adapting(depth=12, candidates=6, blend=None))
    )
    [call] = fits
    assert found.judged_by == "labels"
    assert all(len(group.candidates) == 6 for group in call["groups"])
    assert sum(one.label is None for group in call["groups"] for one in group.candidates) == 0
    assert "scores no lower" not in told


def test_a_killed_contrastive_run_ends_with_the_same_weights(folder, learner, monkeypatch):
    from haystack_ce_ranker.training.trainer import RankingTrainer

    judged(folder)
    recipe = contrastive(epochs=2, learning_rate=1e-3, evaluations=2)
    outputs = [folder.parent / name for name in ("whole", "cut")]
    whole, cut = (run_of(folder, learner, recipe=recipe, output=one, save="always") for one in outputs)
    adapted(whole)
    learn = RankingTrainer.training_step

    def kill(self, *given, **named):
        if self.state.global_step == 11:
            raise Killed
        return learn(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(RankingTrainer, "training_step", kill)
        with pytest.raises(Killed):
            adapted(cut)
    _, told = adapted(cut)
    assert "going on from checkpoint-" in told
    first, second = ((output / "model.safetensors").read_bytes() for output in outputs)
    assert first == second


@pytest.mark.parametrize("name", ["bert, two labels", "qwen3, chat"])
def test_a_base_that_cannot_be_trained_is_told_before_anything_is_made(name, folder, tmp_path):
    from zoo import ZOO

    base = ZOO[name].save(tmp_path / "base")
    if name == "qwen3, chat":
        [config] = (tmp_path / "base").glob("*LogitScore/config.json")
        saved = json.loads(config.read_text())
        config.write_text(json.dumps({**saved, "false_token_id": saved["true_token_id"]}))
    told = io.StringIO()
    with pytest.raises(ValueError, match="has 2 labels|one token for both"):
        run_adapting(run_of(folder, base), Console(file=told))
    assert told.getvalue() == ""


def test_labels_decide_where_there_are_some_and_nothing_that_they_ask_is_learnt(folder, learner, fits):
    asked = judged(folder)
    log = folder.parent / "log.txt"
    log.write_text("\n".join([*(" ".join(words) for words in asked.values()), "hut berlin snow paris city"]))
    found, told = adapted(run_of(folder, learner, log=log))
    assert (found.judged_by, found.queries) == ("labels", 12)
    [call] = fits
    learnt = {group.query for group in call["groups"]} | set(call["dev"].queries.values())
    assert "hut berlin snow paris city" in learnt
    assert not {" ".join(words) for words in asked.values()} & learnt
    assert "13 queries of" in told
    assert "near-equal to a query of the test" in told


def test_a_model_that_is_no_better_is_not_written_and_the_message_says_why(folder, learner, fits):
    judged(folder)
    run = run_of(folder, learner)
    found, told = adapted(run)
    assert not found.decision.met
    assert [path.name for path in run.output.iterdir()] == ["report.json"]
    report = json.loads((run.output / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["blend_dense"] == 2.0
    assert report["data"]["teachers"] == "learner itself"
    assert report["data"]["evidence"] == ["bm25"]
    assert "No model is written: the trained model is not better by at least 0.005" in told
    assert f"Mind: {found.queries} queries tell little" in told


def test_a_model_can_be_written_in_any_case(folder, learner, fits):
    judged(folder)
    run = run_of(folder, learner, save="always")
    found, told = adapted(run)
    assert not found.decision.met
    assert (run.output / "model.safetensors").is_file()
    assert f"wrote {run.output}, as was asked for: the trained model is not better" in told


def test_whatever_the_loss_it_gets_all_candidates_of_a_query(folder, learner, fits):
    judged(folder)
    for loss in ("margin_mse", "ranknet"):
        run = run_of(folder, learner, recipe=replace(RECIPE, loss=loss), output=folder.parent / loss)
        adapted(run)
    margins, lists = fits
    assert [one["recipe"].loss for one in fits] == ["margin_mse", "ranknet"]
    assert {len(group.candidates) for group in lists["groups"]} >= {6}
    assert (margins["groups"], margins["dev"]) == (lists["groups"], lists["dev"])


def test_one_seed_gives_the_same_lessons_and_another_gives_others(folder, learner, fits):
    judged(folder)
    for number, seed in enumerate((0, 0, 1)):
        settings = Adapting(depth=12, candidates=6, seed=seed)
        adapted(run_of(folder, learner, settings=settings, output=folder.parent / f"out{number}"))
    first, again, other = ([call["groups"], call["dev"]] for call in fits)
    assert first == again
    assert first != other


def test_a_killed_run_does_not_ask_the_teacher_again(folder, learner, fits, monkeypatch):
    judged(folder)
    run = run_of(folder, learner)
    asked = []
    noting = adapt.lessons

    def lessons(asked_for, judge, settings, **how):
        found = noting(asked_for, judge, settings, **how)
        asked.append((judge.asked, judge.kept))
        return found

    def kill(*_, **__):
        raise Killed

    monkeypatch.setattr(adapt, "lessons", lessons)
    with monkeypatch.context() as patched:
        patched.setattr(adapt, "fit", kill)
        with pytest.raises(Killed):
            adapted(run)
    assert not list(run.output.glob("*.safetensors"))
    adapted(run)
    [(first, none), (nothing, kept)] = asked
    assert first == kept > 100
    assert none == nothing == 0


def test_several_teachers_and_a_bi_encoder_are_named(folder, learner, tiny_bert, fits, monkeypatch):
    import torch

    class Letters:
        max_seq_length = 4
        similarity = staticmethod(lambda one, other: one @ other.T)

        def tokenizer(self, texts, **_):
            return {"input_ids": [text.split() for text in texts]}

        def encode_document(self, texts, **_):
            return torch.tensor([[float(text.count(letter)) for letter in "aehst"] for text in texts])

        encode_query = encode_document

    monkeypatch.setattr(adapt.BiEncoder, "load", lambda model: adapt.BiEncoder(Letters()))
    run = run_of(folder, learner, teachers=(ModelOptions(learner), ModelOptions(tiny_bert)), bi_encoder="letters")
    _, told = adapted(run)
    assert f"judged by {learner}, {tiny_bert}, moved by bm25 and dense" in told
    assert "the bi-encoder reads only the beginning of" in told


@pytest.mark.parametrize(
    ("ends", "says"), [(Interrupted("stopped after step 3"), "after step 3"), (KeyboardInterrupt(), "goes on")]
)
def test_an_interruption_is_told_and_keeps_what_was_done(folder, learner, monkeypatch, ends, says):
    def stop(*_, **__):
        raise ends

    monkeypatch.setattr(adapt, "fit", stop)
    run = run_of(folder, learner)
    found, told = adapted(run)
    assert found is None
    assert says in told
    assert (run.output / "work" / "teachers" / "progress.jsonl").is_file()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": Adapting(blend=None)}, "learns nothing from its own logits"),
        ({"recipe": replace(RECIPE, learns="labels")}, "must learn from the teacher"),
        ({"queries": 0}, "queries must be"),
        ({"base": ModelOptions("a", device="gpu")}, "device must be one that torch can use here, but got 'gpu'"),
        ({"bi_encoder": "b", "settings": Adapting(blend=None)}, "bi_encoder is evidence for a blend, .* got 'b'"),
        ({"save": "never"}, "save must be"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(folder, learner, changes, says):
    with pytest.raises(ValueError, match=says):
        replace(run_of(folder, learner), **changes)


def narrow(model, folder, tokens=40):
    """A copy of a model that reads less."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": tokens}))
    return str(folder)


def test_a_base_that_reads_less_than_its_teacher_learns_what_it_can_read(folder, learner, tiny_bert, fits, tmp_path):
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    long = "".join(json.dumps({**row, "text": f"{row['text']} {row['text']} " * 9}) + "\n" for row in rows)
    (folder / "corpus.jsonl").write_text(long, encoding="utf-8")
    adapted(run_of(folder, narrow(learner, tmp_path / "narrow"), teachers=(ModelOptions(tiny_bert),)))
    texts = [one.text for group in fits[0]["groups"] for one in group.candidates]
    lengths = [len(text.replace(".", " .").split()) for text in texts]
    assert len(lengths) > 50
    assert 20 < max(lengths) < 40


@pytest.mark.parametrize("what", ["base", "teachers", "bi_encoder"])
def test_nothing_is_written_into_the_folder_of_a_model_that_is_read(folder, learner, what, tmp_path):
    model = str(shutil.copytree(learner, tmp_path / "model"))
    models = {"base": ModelOptions(model), "teachers": (ModelOptions(model),), "bi_encoder": model}
    run = replace(run_of(folder, learner), output=tmp_path / "model" / "new", **{what: models[what]})
    with pytest.raises(ValueError, match="output must lie outside the folder of model"):
        run_adapting(run, Console(quiet=True))
    assert not run.output.exists()


def test_a_corpus_that_gives_no_queries_is_told(folder, learner):
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": ""}\n{"_id": "b", "text": "hut"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="there is nothing to learn from"):
        adapted(run_of(folder, learner))


def test_queries_that_find_too_little_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "find_documents", lambda queries, *_given, **_named: queries[1:])
    run = AdaptRun(tmp_path, tmp_path / "output", ModelOptions("model"))
    queries, console = given_queries({"1": "hut", "2": "snow", "3": "car"}), Console(record=True, width=100)
    assert adapt.gather_asked(run, SimpleNamespace(documents={}), None, queries, console) == queries[1:]
    assert "left out: 1 queries that find fewer than two documents" in console.export_text()
