"""What training takes of this machine: threads, the device and its number format, and memory, told before it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from haystack_ce_ranker.backends.devices import allowed_cpus, require_device
from haystack_ce_ranker.backends.torch_backend import cpu_has_bfloat16
from haystack_ce_ranker.checks import choice, whole_number

BFLOAT16 = "bfloat16"
DTYPES = ("float32", BFLOAT16)
"""What training multiplies in."""

_BYTES_PER_WEIGHT = 12
"""A gradient and Adam's two moments, in float32; the weight itself is loaded already."""


@dataclass(frozen=True)
class Resources:
    """
    What training uses.

    :ivar device: A torch device.
    :ivar bf16: Whether it multiplies in bfloat16. Weights and gradients stay in float32.
    :ivar threads: Threads of one operation on a CPU.
    """

    device: str
    bf16: bool
    threads: int

    def plain(self) -> dict[str, Any]:
        """Return plain values."""
        return {"device": self.device, "bf16": self.bf16, "threads": self.threads}


def resources(device: str | None = None, threads: int | None = None, dtype: str | None = None) -> Resources:
    """
    Choose what to use: the GPU if there is one, and as many threads as this process may run at once.

    It multiplies in bfloat16 where the hardware does: on such a GPU, and on a CPU with AVX512-BF16 or AMX.

    :param device: A torch device, such as `cpu` or `cuda:0`; None chooses.
    :param threads: None for torch's own number, within the CPUs that this process may use.
    :param dtype: One of `DTYPES`: what it multiplies in; None chooses.
    :raises ValueError: If `threads` is no whole number, `dtype` is unknown, or torch cannot use the device.
    """
    threads = whole_number("threads", threads, optional=True)
    require_device("device", device)
    chosen = device if device is not None else "cuda:0" if torch.cuda.is_available() else "cpu"
    if choice("dtype", dtype, DTYPES, optional=True) is not None:
        bf16 = dtype == BFLOAT16
    else:
        bf16 = torch.cuda.is_bf16_supported() if chosen.startswith("cuda") else chosen == "cpu" and cpu_has_bfloat16()
    return Resources(chosen, bf16, threads if threads is not None else min(torch.get_num_threads(), allowed_cpus()))


@dataclass(frozen=True)
class Memory:
    """
    How much memory training will take, in 10^6 bytes.

    :ivar held: What is held already, the weights among it.
    :ivar for_weights: Gradients and the optimiser's moments.
    :ivar for_batch: What the largest batch keeps for the way back.
    :ivar free: What this machine has left; None if it does not tell.
    """

    held: float
    for_weights: float
    for_batch: float
    free: float | None

    @property
    def peak(self) -> float:
        """All of it together."""
        return self.held + self.for_weights + self.for_batch

    @property
    def is_enough(self) -> bool:
        """Whether what is to come fits into what is left."""
        return self.free is None or self.for_weights + self.for_batch <= self.free

    def told(self) -> str:
        """Return it in words."""
        of = "" if self.free is None else f"; {self.free:,.0f} MB are free"
        short = "" if self.is_enough else ". That may not be enough: use a smaller batch, or a smaller max_length"
        return (
            f"memory: about {self.peak:,.0f} MB, of which {self.held:,.0f} MB are held already, "
            f"{self.for_weights:,.0f} MB are for gradients and the optimiser, and {self.for_batch:,.0f} MB for the "
            f"largest batch{of}{short}"
        )


def expected_memory(model: Any, forward: Callable[[], Any], device: str) -> Memory:
    """
    Return how much memory training will take, from one forward pass.

    The pass is counted, not guessed: torch says of each tensor that it keeps for the way back. The state of random
    numbers is put back, and no gradient is computed.

    :param model: A torch module with the weights that learn.
    :param forward: Computes the loss of the largest batch.
    """
    held, free = _held(device), _free(device)
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        kept = _kept_bytes(model, forward)
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Memory(held, _BYTES_PER_WEIGHT * learning / 1e6, kept / 1e6, free)


def _kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Return the bytes of all tensors that a forward pass keeps, each storage once, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    # What is kept stays until the pass ends, or a later tensor could have the same address. It is detached, since a
    # tensor that a node of the graph keeps would keep that node, and neither would ever be freed.
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> None:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda _: None):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _held(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.memory_allocated(device)) / 1e6
    return _line("/proc/self/status", "VmRSS") or 0.0


def _free(device: str) -> float | None:
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0]) / 1e6
    return _line("/proc/meminfo", "MemAvailable")


def _line(file: str, name: str) -> float | None:
    """Return a value of a file of the kernel in 10^6 bytes; None if the system has no such file."""
    path = Path(file)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return None
