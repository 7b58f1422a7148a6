import os
import subprocess
import sys

import pytest

from haystack_ce_ranker.backends.torch_threads import limited_threads
from haystack_ce_ranker.training import resources as module
from haystack_ce_ranker.training.resources import Memory, expected_memory, resources

torch = pytest.importorskip("torch")
UNUSABLE = ("gpu", "", "xpu", "cpu:x", "hpu", "meta")


def test_threads_are_set_and_put_back():
    before = torch.get_num_threads()
    with limited_threads(1 if before > 1 else 2):
        assert torch.get_num_threads() != before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_on_this_machine_the_cpu_is_chosen_with_no_more_threads_than_it_may_use(monkeypatch, has_bfloat16):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: has_bfloat16)
    found = resources()
    assert (found.device, found.bf16) == ("cpu", has_bfloat16)
    assert (resources(dtype="float32").bf16, resources(dtype="bfloat16").bf16) == (False, True)
    assert 1 <= found.threads <= len(os.sched_getaffinity(0))
    assert resources(threads=3).threads == 3


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"threads": 0}, "threads must be"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"device": "cuda"}, "device must be .* got 'cuda': .* sees no GPU"),
        *(({"device": one}, f"device must be one that torch can use here, but got '{one}': ") for one in UNUSABLE),
    ],
)
def test_what_cannot_be_is_refused(given, error):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=error):
        resources(**given)


def test_what_a_forward_pass_keeps_is_counted_once_and_without_the_weights():
    layer = torch.nn.Linear(1000, 1000, bias=False)
    inputs = torch.randn(500, 1000)

    def forward():
        return (layer(inputs).relu() * 2.0).sum() + layer(inputs).sum()  # keeps the inputs once, and relu's output

    found = expected_memory(layer, forward, "cpu")
    assert found.for_batch == pytest.approx((500 * 1000 + 500 * 1000) * 4 / 1e6)
    assert found.for_weights == pytest.approx(12 * 1000 * 1000 / 1e6)
    assert layer.weight.grad is None


def test_the_state_of_random_numbers_is_put_back():
    dropout = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    expected_memory(dropout, lambda: dropout(torch.ones(2, 4)).sum(), "cpu")
    assert torch.equal(torch.rand(3), wanted)


def test_too_little_memory_is_said_with_a_remedy():
    assert "may not be enough: use a smaller batch" in Memory(100.0, 200.0, 300.0, 400.0).told()
    enough = Memory(100.0, 200.0, 300.0, 500.0)
    assert enough.told() == (
        "memory: about 600 MB, of which 100 MB are held already, 200 MB are for gradients and the optimiser, and "
        "300 MB for the largest batch; 500 MB are free"
    )
    assert Memory(100.0, 200.0, 300.0, None).is_enough


MEASURE = """
import sys, torch
from haystack_ce_ranker.machine.memory import process_peak_megabytes
from haystack_ce_ranker.training import resources as module
from haystack_ce_ranker.training.resources import expected_memory

torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Tanh()) for _ in range(16)])
inputs = torch.randn(4096, 512)
tiny = torch.nn.Linear(512, 512)  # the first step of all imports a great deal, which training has behind it by then
tiny(inputs).sum().backward()
torch.optim.AdamW(tiny.parameters()).step()
expected = expected_memory(model, lambda: model(inputs).sum(), "cpu")
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    optimizer.zero_grad()
    model(inputs).sum().backward()
    optimizer.step()
print(expected.for_weights + expected.for_batch, process_peak_megabytes() - expected.held)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_told_beforehand_is_what_two_steps_take_within_a_third():
    # Without this, glibc keeps freed tensors in its heap, and the process holds more than torch has asked for.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=environment)
    expected, measured = map(float, done.stdout.split())
    assert expected == pytest.approx(measured, rel=0.33)
