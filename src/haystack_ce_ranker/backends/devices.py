"""The devices of this machine: which torch can use, how many CPUs the process may, their locks and reserved memory."""

import os
import sys
import threading

from haystack_ce_ranker import forking


@forking.cached  # one for the process: models that share a device do not know of each other
def pass_lock(device: str) -> threading.Lock:  # noqa: ARG001 - the key
    """Return the lock of a device: forward passes there run one at a time, whichever model they belong to."""
    return threading.Lock()


def require_process_of(device: str, process: int) -> None:
    """
    Check that a model on a device is used in the process that loaded it.

    :param process: The id of that process.
    :raises RuntimeError: If this process was forked from it and the device is no CPU.
    """
    if not device.startswith("cpu") and process != os.getpid():
        raise RuntimeError(
            f"the model was loaded on {device} before this process was forked, and a forked process cannot use "
            "what its parent has there: load the model after the fork, or start workers with 'spawn'."
        )


def require_device(parameter: str, device: str | None) -> None:
    """
    Check that torch can use a device here.

    :param parameter: What named it, for the error.
    :param device: A torch device; None for whichever is chosen later.
    :raises ValueError: If it cannot.
    """
    if device is None:
        return
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        why = f"torch {torch.__version__} sees no GPU; set it to 'cpu', or install a torch that is built for CUDA"
    else:
        try:
            if torch.empty(0, device=device).device.type != "meta":
                return
            why = "it holds no values"
        except (RuntimeError, AssertionError, ImportError) as error:  # what it says depends on the kind of device
            why = f"{next(iter(str(error).strip().splitlines()), type(error).__name__):.200}"
    raise ValueError(f"{parameter} must be one that torch can use here, but got {device!r}: {why}.")


def allowed_cpus() -> int:
    """Return how many CPUs this process may use. In a container these are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_back_reserve(device: str) -> None:
    """Give back the memory that torch holds in reserve on a GPU. Call it when nothing refers to a model any longer."""
    torch = sys.modules.get("torch")  # if torch was never imported, it holds nothing
    if torch is not None and device.startswith("cuda"):
        torch.cuda.empty_cache()
