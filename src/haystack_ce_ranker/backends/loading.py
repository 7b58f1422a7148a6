"""
The table of runtimes, and loading a model with one of them.

Each runtime has a file that offers `load(options) -> Backend`; no other file imports the runtime. To add one, add its
file, its line in `BACKENDS`, and a test. Everything that lists, checks or tries runtimes reads the table.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends import ties
from haystack_ce_ranker.backends.model_files import DTYPE_KWARGS, DTYPES, ModelOptions
from haystack_ce_ranker.backends.needs_torch import require_torch
from haystack_ce_ranker.backends.trusted import require_trusted, warn_of_code
from haystack_ce_ranker.checks import choice

if TYPE_CHECKING:
    from haystack_ce_ranker.backends.protocol import Backend


class Runtime(NamedTuple):
    """
    A line of the table.

    :ivar module: The module that offers `load`.
    :ivar package: The package that runs models. None if there is none, as for a service or a choice among the others.
        Such a runtime is used only if it is named.
    :ivar format: The name of a format that it reads and torch does not; None if there is none.
    :ivar files: The pattern of files of that format.
    :ivar takes_key: Whether it sends a key to a server (`ModelOptions.api_key`).
    :ivar chooses: Whether it computes in what it is told to, so that `dtype="auto"` leaves it a choice.
    """

    module: str
    package: str | None = None
    format: str | None = None
    files: str = ""
    takes_key: bool = False
    chooses: bool = False


BACKENDS = {
    "torch": Runtime("haystack_ce_ranker.backends.torch_backend", "sentence_transformers", chooses=True),
    "onnx": Runtime("haystack_ce_ranker.backends.onnx_backend", "onnxruntime", "ONNX", "*.onnx"),
    "openvino": Runtime(
        "haystack_ce_ranker.backends.openvino_backend", "openvino", "OpenVINO", "openvino_*.xml", chooses=True
    ),
    "auto": Runtime("haystack_ce_ranker.backends.auto"),  # chooses one of the others
    "remote": Runtime("haystack_ce_ranker.backends.remote", takes_key=True),  # asks a server
}


def load(name: str, options: ModelOptions) -> "Backend":
    """
    Load a model with the runtime `name`.

    `dtype` or `torch_dtype` in `model_kwargs` is the same as the option `dtype`, for every runtime.

    :raises ValueError: If there is no such runtime, or no such dtype, or an option would run code that is not trusted.
    :raises ImportError: If the runtime is not installed. The error says how to install it.
    :raises ModelNotFoundError: If the model is in none of the places where it was looked for.
    """
    choice("backend", name, BACKENDS)
    require_trusted(options)
    warn_of_code(options)
    return forking.in_own_thread(partial(_load, name, with_one_dtype(options)))


def _load(name: str, options: ModelOptions) -> "Backend":
    """Import a runtime and load a model, one at a time. A fork by another thread waits meanwhile."""
    if name == "torch":
        require_torch("backend='torch'", "backend='onnx' and 'openvino' run files of these formats without it.")
    with forking.uninterrupted(), _loading():
        load_with: Callable[[ModelOptions], Backend] = import_module(BACKENDS[name].module).load
        backend = load_with(options)
        if options.dtype == "auto" and BACKENDS[name].chooses:
            return ties.refused(backend, lambda: load_with(replace(options, dtype="float32")))
        return backend


@forking.cached  # one for the process: a load may load with another runtime
def _loading() -> AbstractContextManager[Any]:
    return threading.RLock()


def with_one_dtype(options: ModelOptions) -> ModelOptions:
    """
    Return the options with a dtype that `model_kwargs` names as the option `dtype`.

    :raises ValueError: If there is no such dtype, or two are given.
    """
    named = {key: options.model_kwargs[key] for key in DTYPE_KWARGS if options.model_kwargs.get(key) is not None}
    given = {"dtype": options.dtype} if options.dtype is not None else {}
    given |= {f"model_kwargs[{key!r}]": str(value).removeprefix("torch.") for key, value in named.items()}
    for parameter, dtype in given.items():
        choice(parameter, dtype, DTYPES, optional=True)
    if len(given) > 1:
        listed = " and ".join(f"{parameter}={dtype!r}" for parameter, dtype in given.items())
        raise ValueError(f"{listed} say the same thing; give one of them.")
    rest = {key: value for key, value in options.model_kwargs.items() if key not in DTYPE_KWARGS}
    return replace(options, dtype=next(iter(given.values()), None), model_kwargs=rest)


def installed() -> list[str]:
    """Return the names of the runtimes whose package is installed, in the order of the table."""
    return [name for name, runtime in BACKENDS.items() if runtime.package is not None and find_spec(runtime.package)]
