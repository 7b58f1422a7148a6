"""What the runtimes of exported models share: checks of a file."""

import numpy as np
import pytest

from haystack_ce_ranker.backends.exported import require_classifier, stored_dtype
from onnx_models import save_operator


def test_what_is_no_cross_encoder_is_refused_as_far_as_its_file_tells():
    class Config:
        architectures = ("Qwen2ForCausalLM",)

    require_classifier([None, 1], None, "fine")
    require_classifier([None, None], None, "open")
    with pytest.raises(ValueError, match="'m' is not a sequence-classification cross-encoder but Qwen2ForCausalLM"):
        require_classifier([None, 1], Config(), "m")
    with pytest.raises(ValueError, match="an output of 3 dimensions"):
        require_classifier([None, None, 50], None, "m")


@pytest.mark.parametrize(
    ("operator", "number", "expected"),
    [
        ("MatMul", np.float32, "float32"),
        ("MatMul", np.float16, "float16"),
        ("QLinearMatMul", np.int8, "int8"),
        ("MatMulInteger", np.int8, "int8"),
        ("DequantizeLinear", np.int8, "int8"),
    ],
)
def test_an_onnx_file_tells_what_it_holds(tmp_path, operator, number, expected):
    save_operator(tmp_path / "model.onnx", operator, number)
    assert stored_dtype(tmp_path / "model.onnx") == expected


@pytest.mark.parametrize(("content", "expected"), [(b'element_type="f32"', "float32"), (b'element_type="i8"', "int8")])
def test_an_openvino_file_tells_what_it_holds(tmp_path, content, expected):
    (tmp_path / "model.xml").write_bytes(b"\x00" + content)
    assert stored_dtype(tmp_path / "model.xml") == expected
