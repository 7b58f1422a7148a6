"""Weight files that another program changes, cuts off or removes: before they are read, and while the model is used."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from haystack import Document

from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, UnreadableWeightsError
from onnx_models import import_onnx, save_changed, spread

KINDS = {
    "torch": ("torch", "*.safetensors"),
    "onnx": ("onnx", "model.onnx"),
    "onnx int8": ("onnx", "model.onnx"),
    "onnx in two files": ("onnx", "model.onnx_data"),
    "openvino": ("openvino", "openvino_model.bin"),
    "openvino, onnx in two files": ("openvino", "model.onnx_data"),
}

DOCUMENTS = [Document(id=str(number), content="the hut in the snow " * number) for number in range(1, 9)]


@pytest.fixture
def model(request, tmp_path, tiny_bert):
    """Make a copy of the tiny model in one of these forms, and return its folder."""

    def made(kind):
        backend = KINDS[kind][0]
        pytest.importorskip(loading.BACKENDS[backend].package)
        if "two files" in kind:
            import_onnx()
            return spread(request.getfixturevalue("float_onnx"), tmp_path / kind)
        fixture = {"torch": "tiny_bert", "onnx": "float_onnx", "onnx int8": "int8_onnx", "openvino": "ir"}[kind]
        shutil.copytree(request.getfixturevalue(fixture), tmp_path / kind)
        return str(tmp_path / kind)

    return made


def scores(ranker):
    queries = ("the hut", "where is berlin", "a car")
    return [{one.id: one.score for one in ranker.run(query, DOCUMENTS)["documents"]} for query in queries]


def first_change(folder, backend, pattern):
    """Damage a model's file in three ways while it is used, and return the number of the first that changes a score."""
    ranker = CrossEncoderRanker(model=folder, backend=backend)
    [file] = Path(folder).glob(pattern)
    kept = file.read_bytes()
    expected = scores(ranker)
    damages = (
        lambda: file.open("r+b").write(bytes(reversed(kept))),
        lambda: os.truncate(file, 0),
        file.unlink,
    )
    for number, damage in enumerate(damages, start=1):
        damage()
        if scores(ranker) != expected:
            return number
    return 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_scores_the_same_whatever_happens_to_its_file(model, kind):
    folder = model(kind)
    child = os.fork()  # the system ends a process that reads beyond the end of a mapped file
    if not child:
        try:
            signal.alarm(100)
            os._exit(first_change(folder, *KINDS[kind]))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, emptied, Path.unlink], ids=["cut", "emptied", "removed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_and_loaded_by_the_next_run_once_it_is_whole(model, kind, damage):
    backend, pattern = KINDS[kind]
    folder = Path(model(kind))
    [file] = folder.glob(pattern)
    kept = file.read_bytes()
    ranker = CrossEncoderRanker(model=folder, backend=backend)
    damage(file)
    expected = ModelNotFoundError if damage is Path.unlink else (UnreadableWeightsError, ValueError)
    with pytest.raises(expected) as raised:
        ranker.run("the hut", [Document(content="a hut")])
    named = folder if damage is Path.unlink else file
    assert str(named) in str(raised.value)
    assert "pointers exist" not in str(raised.value)
    file.write_bytes(kept)
    assert ranker.run("the hut", [Document(content="a hut")])["documents"][0].score > 0


def with_weights_that_are_no_numbers(model):
    onnx = import_onnx()
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), weight.name))
    return model


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_weights_that_are_no_numbers_are_not_kept_so_that_the_next_run_loads_a_better_copy(
    float_onnx, tmp_path, backend
):
    pytest.importorskip(loading.BACKENDS[backend].package)
    folder = save_changed(float_onnx, tmp_path / "model", with_weights_that_are_no_numbers)
    ranker = CrossEncoderRanker(model=folder, backend=backend)
    with pytest.raises(UnreadableWeightsError, match="weights are damaged"):
        ranker.run("the hut", [Document(content="a hut")])
    shutil.copy(Path(float_onnx) / "model.onnx", folder)
    assert ranker.run("the hut", [Document(content="a hut")])["documents"][0].score > 0
