"""The devices of this machine: how many CPUs the process may use, the locks of devices, and their reserved memory."""

import os
import sys
import threading


def pass_lock(device: str) -> threading.Lock:
    """Return the lock of a device: forward passes there run one at a time, whichever model they belong to."""
    return _pass_locks.setdefault(device, threading.Lock())


# One for the process: models that share a device do not know of each other.
_pass_locks: dict[str, threading.Lock] = {}


def allowed_cpus() -> int:
    """Return how many CPUs this process may use. In a container these are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_back_reserve(device: str) -> None:
    """Give back the memory that torch holds in reserve on a GPU. Call it when nothing refers to a model any longer."""
    torch = sys.modules.get("torch")  # if torch was never imported, it holds nothing
    if torch is not None and device.startswith("cuda"):
        torch.cuda.empty_cache()
