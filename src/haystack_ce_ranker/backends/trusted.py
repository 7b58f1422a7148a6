"""
What of a model is trusted: its weights as data, and its code only if the user asks for it.

Refuses options that would fetch and run code, or read files outside of the model, and warns of a model's own code.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import PureWindowsPath
from typing import Any

from haystack_ce_ranker.backends.model_files import ModelOptions

logger = logging.getLogger(__name__)

_KERNELS = ("use_kernels", "allow_all_kernels", "kernel_config")
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation")
_PATHS = ("file_name", "subfolder", "variant")


def require_trusted(options: ModelOptions) -> None:
    """
    Check that no option lets a library fetch and run code without `trust_remote_code`, or leads out of the model.

    transformers takes `kernels-community/flash-attn` for an attention, fetches that repository and runs it.

    :raises ValueError: If one does. The error names it.
    """
    for parameter in ("model_kwargs", "tokenizer_kwargs", "config_kwargs"):
        given: Mapping[str, Any] = getattr(options, parameter)
        for key, value in given.items():
            where = f"{parameter}[{key!r}]"
            if key in _PATHS and isinstance(value, str) and _leads_out(value):
                raise ValueError(
                    f"{where} must be a path inside the model's own folder, but got {value!r:.100}. Give the folder "
                    "that holds the file as model."
                )
            names_code = key in _IMPLEMENTATIONS and any("/" in name for name in _texts(value))
            if not options.trust_remote_code and (names_code or (key in _KERNELS and value)):
                raise ValueError(
                    f"{where} is {value!r:.100}, for which transformers fetches code from the Hugging Face Hub and "
                    "runs it: remove it, or set trust_remote_code=True if you trust that code."
                )


def warn_of_code(options: ModelOptions) -> None:
    """Say in the log, once for each model, that it may bring code of its own."""
    if options.trust_remote_code:
        _warn(options.model)


@cache
def _warn(model: str) -> None:
    logger.warning(
        "trust_remote_code=True: code that model %r brings runs in this process, with all that the process may do. "
        "Set it only for a model whose code you have read, and name its revision.",
        model,
    )


def _leads_out(path: str) -> bool:
    parts = PureWindowsPath(path)  # reads both kinds of separators
    return bool(parts.anchor) or ".." in parts.parts


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value: an implementation, or one for each part of the model."""
    for one in value.values() if isinstance(value, Mapping) else (value,):
        if isinstance(one, str):
            yield one
