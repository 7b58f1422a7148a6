"""A tiny bi-encoder learns to rank as a teacher does, ends with the same weights each time, and loads as any other."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from fakes import save_bi_encoder
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
from haystack_ce_ranker.training.bi_encoders import BiEncoderRecipe, load_bi_encoder, rank_by_similarity, teach
from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.run_folder import CHECKPOINTS, OtherSettingsError
from haystack_ce_ranker.training.trainer import TeachingTrainer

PLACES = ("hut", "berlin", "paris", "france")
RECIPE = BiEncoderRecipe(epochs=4, learning_rate=1e-2, batch=24, ways=3, evaluations=1, patience=9)


@pytest.fixture(scope="module")
def lesson():
    """A teacher's logit is high where the place that is asked for stands in the document."""
    draw = random.Random(0)

    def made(name):
        asked = draw.choice(PLACES)
        texts = {}
        for number in range(6):
            words = draw.choices(["the", "is", "of", "snow", "car"], k=draw.randint(2, 6))
            words.insert(draw.randrange(len(words)), asked if number == 2 else draw.choice([*PLACES, "city"]))
            texts[f"{name}-{number}"] = " ".join(words)
        logits = {key: 7.5 if asked in text.split() else -4.0 - len(text) / 50 for key, text in texts.items()}
        return f"the {asked}", texts, logits

    groups = []
    for number in range(40):
        query, texts, logits = made(f"q{number}")
        candidates = [Candidate(key, text, None, logits[key]) for key, text in texts.items()]
        groups.append(Group(f"q{number}", query, tuple(candidates)))
    queries, held, grades = {}, {}, {}
    for name in (f"h{number}" for number in range(12)):
        query, texts, logits = made(name)
        queries[name], held[name] = query, texts
        grades[name] = {key: int(logit > 0) for key, logit in logits.items()}
    return groups, HeldOut(queries, held, grades)


@pytest.fixture(scope="module")
def taught(tiny_bi_encoder, lesson, tmp_path_factory):
    return teach(tiny_bi_encoder, *lesson, tmp_path_factory.mktemp("runs") / "run", RECIPE, threads=1)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_to_rank_as_its_teacher_does(taught, tiny_bi_encoder, lesson):
    _, dev = lesson
    before = mean(ndcg_at_10(rank_by_similarity(load_bi_encoder(ModelOptions(tiny_bi_encoder)), dev), dev.grades))
    after = mean(ndcg_at_10(rank_by_similarity(load_bi_encoder(ModelOptions(str(taught.model))), dev), dev.grades))
    assert taught.before == pytest.approx(before)
    assert taught.written == pytest.approx(after)
    assert after > before + 0.1
    assert (taught.queries, taught.pairs) == (40, 120 * 3)


def test_the_result_is_an_ordinary_bi_encoder(taught, tiny_bi_encoder):
    model, before = (
        SentenceTransformer(str(taught.model), device="cpu"),
        SentenceTransformer(tiny_bi_encoder, device="cpu"),
    )
    vectors = model.encode(["the hut", "berlin"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert not np.allclose(vectors, before.encode(["the hut", "berlin"]), atol=0.01)
    assert model.max_seq_length == before.max_seq_length == taught.max_length
    assert not [file for pattern in ("*.bin", "*.pt") for file in taught.model.rglob(pattern)]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(taught, tiny_bi_encoder, lesson, tmp_path):
    again = teach(tiny_bi_encoder, *lesson, tmp_path / "again", RECIPE, threads=1)
    ours, theirs = weights(taught.model), weights(again.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    other = BiEncoderRecipe(**{**vars(RECIPE), "seed": 1})
    others = weights(teach(tiny_bi_encoder, *lesson, tmp_path / "other", other, threads=1).model)
    assert not all(torch.equal(ours[name], others[name]) for name in ours)


def test_a_run_that_was_killed_goes_on_to_the_same_weights(taught, tiny_bi_encoder, lesson, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    steps, step = [], TeachingTrainer.training_step

    def killed(self, *given, **more):
        steps.append(1)
        if len(steps) == 40:
            raise Killed
        return step(self, *given, **more)

    monkeypatch.setattr(TeachingTrainer, "training_step", killed)
    with pytest.raises(Killed):
        teach(tiny_bi_encoder, *lesson, tmp_path / "run", RECIPE, threads=1)
    assert list((tmp_path / "run" / CHECKPOINTS).iterdir())
    steps.append(1)
    went_on = teach(tiny_bi_encoder, *lesson, tmp_path / "run", RECIPE, threads=1)
    assert len(steps) < 2 * taught.steps  # it did not begin anew
    ours, theirs = weights(taught.model), weights(went_on.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_not_done_again_and_other_settings_do_not_go_on(taught, tiny_bi_encoder, lesson, monkeypatch):
    def not_again(*_):
        raise AssertionError("it was loaded")

    folder = taught.model.parent
    with monkeypatch.context() as patched:
        patched.setattr("haystack_ce_ranker.training.bi_encoders.load_bi_encoder", not_again)
        assert teach(tiny_bi_encoder, *lesson, folder, RECIPE, threads=1) == taught
    with pytest.raises(OtherSettingsError, match="another base, other data or other settings"):
        teach(tiny_bi_encoder, *lesson, folder, BiEncoderRecipe(), threads=1)


def test_the_documents_are_read_as_in_serving_with_the_models_own_prompt(lesson, tmp_path, monkeypatch):
    """A prompt that the model was saved with stands before each text in serving, so it does in training."""
    folder = save_bi_encoder(tmp_path / "prompted", prompts={"find": "a car: "}, default_prompt_name="find")
    read, preprocess = [], SentenceTransformer.preprocess

    def noted(self, texts, prompt=None, **more):
        read.extend((prompt, text) for text in texts)
        return preprocess(self, texts, prompt=prompt, **more)

    monkeypatch.setattr(SentenceTransformer, "preprocess", noted)
    groups, dev = lesson
    recipe = BiEncoderRecipe(epochs=1, ways=3, evaluations=1)
    teach(folder, groups, dev, tmp_path / "run", recipe, threads=1)
    assert {prompt for prompt, _ in read} == {"a car: "}
    assert {text for _, text in read} >= {one.text for group in groups for one in group.candidates}


def test_a_cross_encoder_is_no_bi_encoder(tiny_bert, lesson, tmp_path):
    with pytest.raises(ValueError, match="is a cross-encoder, which gives no embeddings"):
        teach(tiny_bert, *lesson, tmp_path / "run", RECIPE, threads=1)


def test_a_model_that_is_nowhere_is_named(lesson, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no/such"):
        teach("no/such-model", *lesson, tmp_path / "run", RECIPE, threads=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("contrast", "none"), ("weight", -1), ("temperature", 0), ("ways", 1), ("batch", 0), ("warmup", 2)],
)
def test_settings_that_make_no_sense_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        BiEncoderRecipe(**{setting: value})


def test_equal_similarities_keep_the_order_of_the_first_stage(tiny_bi_encoder):
    dev = HeldOut({"q": "the hut"}, {"q": {"b": "a car", "a": "a car", "c": "a car"}}, {"q": {"a": 1}})
    assert list(rank_by_similarity(load_bi_encoder(ModelOptions(tiny_bi_encoder)), dev)["q"]) == ["b", "a", "c"]
