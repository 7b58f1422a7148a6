"""How loops are compiled by numba: ahead, for named types, and from its cache on disk where there is one."""

from collections.abc import Callable
from typing import Any

from numba import njit, types


def read_only(element: Any) -> Any:
    """Return the type of a one-dimensional array that is only read, be it in memory or mapped from a file."""
    return types.Array(element, 1, "C", readonly=True)


def compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Compile for these signatures, without Python's lock, and from the cache on disk where there is one."""

    def compile_function(function: Any) -> Any:
        try:
            return njit(list(signatures), nogil=True, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):  # no folder to write the cache to: compile in every process
                raise
            return njit(list(signatures), nogil=True)(function)

    return compile_function
