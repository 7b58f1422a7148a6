"""Peak memory, measured in a process of its own."""

import sys

import pytest

from haystack_ce_ranker.machine import memory


def test_a_larger_batch_is_used_and_takes_more_memory(tiny_bert):
    small = memory.peak_megabytes(tiny_bert, "torch")
    large = memory.peak_megabytes(tiny_bert, "torch", 131_072)
    assert small.device == large.device == "cpu"
    assert large.batch_tokens == 131_072
    assert large.peak_memory_mb > small.peak_memory_mb + 20


def test_a_model_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="there is no folder"):
        memory.peak_megabytes(str(tmp_path / "missing"), "torch")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_stays_when_memory_is_given_back():
    before = memory.process_peak_megabytes()
    block = bytearray(80_000_000)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert memory.process_peak_megabytes() > 70
    assert memory.process_peak_megabytes() >= before


def test_memory_on_a_gpu_is_that_of_torch_alone():
    with pytest.raises(ValueError, match="measured for backend='torch', but got 'onnx'; set device to 'cpu'"):
        memory._peak("onnx", "cuda:0")
