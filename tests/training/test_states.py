"""A student's hidden states learn its teacher's, and nothing else of the teacher is touched."""

from dataclasses import replace

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import MSELoss

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training import fitting
from haystack_ce_ranker.training.cutting import cut
from haystack_ce_ranker.training.fitting import Recipe, fit
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.resources import Resources
from haystack_ce_ranker.training.runs import Lesson
from haystack_ce_ranker.training.states import AlsoStates
from zoo import ZOO, deeper

QUERIES, TEXTS = ["where is the hut?", "yes or no?"], ["snow", "the hut is in the snow near berlin, yes"]
LABELS = torch.tensor([0.0, 1.0])


@pytest.fixture
def teacher(tmp_path):
    return deeper("bert", tmp_path)


@pytest.fixture
def student(teacher, tmp_path):
    cut(ModelOptions(teacher), tmp_path / "student", layers=2)
    return CrossEncoder(str(tmp_path / "student"), device="cpu")


def loss_of(model, teacher, weight):
    return AlsoStates(MSELoss(model), model, ModelOptions(teacher, device="cpu", dtype="float32"), weight)


def states(folder_or_model):
    model = folder_or_model if isinstance(folder_or_model, CrossEncoder) else CrossEncoder(folder_or_model)
    features = model.preprocess(list(zip(QUERIES, TEXTS, strict=True)))
    with torch.no_grad():
        found = model.model(**{**features, "output_hidden_states": True}).hidden_states[1:]
    return found, features["attention_mask"].unsqueeze(-1)


def test_the_distance_is_that_of_evenly_spaced_layers_without_padding(student, teacher):
    student.eval()
    plain = MSELoss(student)([QUERIES, TEXTS], LABELS)
    whole = loss_of(student, teacher, 3.0)([QUERIES, TEXTS], LABELS)
    (first, last), mask = states(student)
    (_, second, _, fourth), _ = states(teacher)
    pairs = [(first, second), (last, fourth)]
    expected = sum((((a - b) * mask) ** 2).sum() / ((b * mask) ** 2).sum() for a, b in pairs) / 2
    assert float(mask.min()) == 0, "the batch must have padding"
    assert (whole - plain).item() == pytest.approx(3.0 * float(expected), rel=1e-4)


def test_who_is_the_teacher_is_no_distance_away(teacher):
    model = CrossEncoder(teacher, device="cpu").eval()
    assert loss_of(model, teacher, 100.0)([QUERIES, TEXTS], LABELS).item() == pytest.approx(
        MSELoss(model)([QUERIES, TEXTS], LABELS).item(), abs=1e-5
    )


def test_the_teacher_multiplies_in_bfloat16_if_asked_to(student, teacher):
    exact = loss_of(student.eval(), teacher, 1.0)
    rounded = AlsoStates(
        MSELoss(student), student, ModelOptions(teacher, device="cpu", dtype="float32"), 1.0, bf16=True
    )
    found, near = (one([QUERIES, TEXTS], LABELS).item() for one in (exact, rounded))
    assert found != near
    assert near == pytest.approx(found, rel=0.02)
    [read] = rounded._teacher
    assert {one.dtype for one in read.transformer.parameters()} == {torch.float32}


@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_multiplies_as_the_run_does(bf16, student, teacher):
    lesson = Lesson(student, None, None, MSELoss(student), None, [], 0, 0, 0)
    used = Resources("cpu", bf16=bf16, threads=1)
    assert fitting._with_states(lesson, ModelOptions(teacher), 1.0, used).loss._bf16 is bf16


def test_only_the_student_learns(student, teacher):
    loss = loss_of(student.eval(), teacher, 1.0)
    [read] = loss._teacher
    before = [one.clone() for one in read.transformer.parameters()]
    learns = list(loss.parameters())
    assert {id(one) for one in learns} == {id(one) for one in student.parameters()}
    optimiser, found = torch.optim.Adam(learns, lr=1e-3), []
    for _ in range(20):
        optimiser.zero_grad()
        found.append(loss([QUERIES, TEXTS], LABELS))
        found[-1].backward()
        optimiser.step()
    assert found[-1].item() < 0.8 * found[0].item()
    assert all(torch.equal(a, b) for a, b in zip(before, read.transformer.parameters(), strict=True))


def test_nothing_is_kept_of_a_step_or_of_other_passes(student, teacher):
    loss = loss_of(student, teacher, 1.0)
    loss([QUERIES, TEXTS], LABELS)
    student.predict([(QUERIES[0], TEXTS[0])])
    assert loss._student.found == loss._teacher[0].found == []


@pytest.mark.parametrize(
    "name", ["bert, modular", "modernbert, modular", "longformer", "t5 encoder", "fnet", "gte", "qwen2"]
)
def test_models_that_are_called_otherwise_pad_on_their_own_or_have_no_mask(name, tmp_path):
    folder = deeper(name, tmp_path)
    cut(ModelOptions(folder), tmp_path / "student", layers=2)
    model = CrossEncoder(str(tmp_path / "student"), device="cpu").eval()
    plain = MSELoss(model)([QUERIES, TEXTS], LABELS)
    whole = loss_of(model, folder, 1.0)([QUERIES, TEXTS], LABELS)
    whole.backward()
    assert whole.item() > plain.item()


def test_a_model_of_another_width_is_refused(teacher, tmp_path):
    config = ZOO["bert"].config
    narrow = replace(ZOO["bert"], config={**config, "hidden_size": 16, "num_attention_heads": 2})
    model = CrossEncoder(narrow.save(tmp_path / "narrow"), device="cpu")
    with pytest.raises(ValueError, match=r"its hidden_size is \d+, and the student's is 16.*--layers"):
        loss_of(model, teacher, 1.0)


def test_states_need_a_teacher(student, tmp_path):
    with pytest.raises(ValueError, match="teacher must be given where states"):
        fit(
            str(tmp_path / "student"),
            [],
            HeldOut({"q": "hut"}, {"q": {"d": "snow"}}, {"q": {"d": 1}}),
            tmp_path / "run",
            Recipe(states=1.0),
        )
