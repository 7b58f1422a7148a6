"""
The table of runtimes, and loading a model with one of them.

Each runtime's file offers `load(options) -> Backend` and imports its runtime nowhere but there. To add one, add a file
and its line in `BACKENDS`.
"""

from importlib import import_module

from haystack_ce_ranker.backends.model_files import ModelOptions, check_dtype
from haystack_ce_ranker.backends.protocol import Backend

BACKENDS = {
    "torch": "haystack_ce_ranker.backends.torch_backend",
    "onnx": "haystack_ce_ranker.backends.onnx_backend",
    "openvino": "haystack_ce_ranker.backends.openvino_backend",
    "auto": "haystack_ce_ranker.backends.auto",  # chooses one of the others
}


def load(name: str, options: ModelOptions) -> Backend:
    """
    Load a model with the runtime `name`.

    :raises ValueError: If there is no such runtime, or no such dtype.
    :raises ImportError: If the runtime is not installed; names the extra.
    :raises ModelNotFoundError: If the model is in none of the places where it was looked for.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, but got {name!r}.")
    check_dtype(options.dtype)
    backend: Backend = import_module(BACKENDS[name]).load(options)
    return backend
