"""The machine that figures are measured on: its processor, its memory, and the versions of the packages at work."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from haystack_ce_ranker.backends.devices import allowed_cpus

_PACKAGES = (
    "ce-ranker-haystack",
    "haystack-ai",
    "torch",
    "onnxruntime",
    "openvino",
    "sentence-transformers",
    "transformers",
    "tokenizers",
    "bm25s",
)


def machine() -> dict[str, str | int | float | None]:
    """Return the facts by name. A fact that the system does not tell is None. Missing packages are omitted."""
    found: dict[str, str | int | float | None] = {
        "processor": _processor(),
        "cpus": allowed_cpus(),
        "memory_gb": _memory_gb(),
        "gpu": _gpu(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's name, or the architecture if the system does not tell it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Return the names of the NVIDIA cards that the driver tells, or None."""
    told = [one.read_text(errors="replace") for one in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    names = [line.partition(":")[2].strip() for text in told for line in text.splitlines() if line.startswith("Model")]
    return ", ".join(names) or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
