"""Files for other runtimes: exporting leaves the model as it was."""

import pytest

from fakes import scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.quantizing import writers

pytest.importorskip("onnx", reason="needs the extra 'onnx'")


def test_exporting_leaves_the_model_as_it_was(tiny_bert, tmp_path):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    before = scores_of(backend)
    writers.export(backend, tmp_path / "model.onnx")
    assert not backend.cross_encoder.model.training
    assert scores_of(backend) == pytest.approx(before, abs=1e-5)
