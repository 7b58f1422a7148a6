"""
Peak memory of a cross-encoder by batch size: each setting scores full-length pairs in a process of its own.

    python -m haystack_ce_ranker.machine.memory '{"model": "...", "backend": "onnx", "batch_tokens": 4096}'

Each setting needs a new process, because a peak cannot be taken back: whatever was loaded before would count.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FEWEST_PAIRS = 16
"""How many pairs of the model's full length are scored; more if one batch holds more."""


@dataclass(frozen=True)
class MemoryRow:
    """A process's peak memory in 10^6 bytes, by the most tokens of a forward pass, padding included."""

    model: str
    backend: str
    peak_memory_mb: float
    batch_tokens: int
    device: str


def peak_megabytes(model: str, backend: str, batch_tokens: int | None = None) -> MemoryRow:
    """
    Score in a fresh process and return its peak in 10^6 bytes: resident memory on a CPU, the allocator's on a GPU.

    :param batch_tokens: None for the backend's default.
    :returns: The peak, with the `batch_tokens` that were used.
    :raises RuntimeError: If the process failed. The error holds the last line of its output.
    """
    asked = json.dumps({"model": model, "backend": backend, "batch_tokens": batch_tokens})
    command = [sys.executable, "-P", "-m", "haystack_ce_ranker.machine.memory", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"measuring memory failed for {model} on {backend}: {said[-1] if said else done.returncode}")
    return MemoryRow(model, backend, **json.loads(done.stdout.strip().splitlines()[-1]))


def process_peak_megabytes() -> float | None:
    """Return this process's peak resident memory in 10^6 bytes, or None if the system does not tell it."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _measure(model: str, backend: str, batch_tokens: int | None) -> dict[str, str | float | None]:
    from haystack_ce_ranker.backends import loading
    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.reading.policy import ReadingPolicy
    from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

    loaded = loading.load(backend, ModelOptions(model))
    scorer = CrossEncoderScorer(loaded, ReadingPolicy(long_documents="head"), batch_tokens=batch_tokens)
    word = next(token for token in sorted(loaded.tokenizer.vocabulary()) if token.isascii() and token.isalpha())
    pairs = max(FEWEST_PAIRS, scorer.runner.batch_tokens // scorer.max_length)
    scorer.score(word, [f"{number} " + f"{word} " * scorer.max_length for number in range(pairs)])
    return {
        "peak_memory_mb": _peak(loaded.name, loaded.device),
        "batch_tokens": scorer.runner.batch_tokens,
        "device": loaded.device,
    }


def _peak(backend: str, device: str) -> float | None:
    """
    Return the peak of this process, or of torch's allocator on a GPU.

    :raises ValueError: If another runtime than torch used a GPU. What it allocated there is not known.
    """
    if not device.startswith("cuda"):
        return process_peak_megabytes()
    if backend != "torch":
        raise ValueError(f"memory on a GPU is measured for backend='torch', but got {backend!r}; set device to 'cpu'.")
    import torch

    return float(torch.cuda.max_memory_allocated()) / 1e6


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
