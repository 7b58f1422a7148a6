"""Compiles loops with numba: ahead of the first call, for named types, and with a cache on disk if possible."""

from collections.abc import Callable
from typing import Any

from numba import njit, types


def read_only(element: Any) -> Any:
    """Return the type of a one-dimensional read-only array, in memory or mapped from a file."""
    return types.Array(element, 1, "C", readonly=True)


def compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Compile a function for these signatures; it runs without Python's lock. The cache on disk is used if possible."""

    def compile_function(function: Any) -> Any:
        try:
            return njit(list(signatures), nogil=True, cache=True, error_model="numpy")(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):  # numba finds no folder for its cache, so every process compiles
                raise
            return njit(list(signatures), nogil=True, error_model="numpy")(function)

    return compile_function
