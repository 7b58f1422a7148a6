"""
Checks that arrays from files make an index, before compiled loops trust them: a number too large would make these read
and write outside of their arrays.

The checksums in `files.py` find damage. This finds files that somebody made with checksums that are right.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: Mapping[str, tuple[str, ...]] = {
    "base-terms": ("uint8",),
    "base-indptr": ("int64",),
    "base-documents": ("int32",),
    "base-codes": ("uint16", "uint32"),
    "base-impact-counts": ("uint32",),
    "base-impact-lengths": ("int32",),
    "recent-terms": ("uint8",),
    "recent-numbers": ("int32",),
    "recent-starts": ("int64",),
    "lengths": ("int32",),
    "positions": ("int32",),
}


def require_dtypes(arrays: Mapping[str, NDArray[Any]]) -> None:
    """
    Check that all arrays of an index are there, each of its type.

    :raises ValueError: If one is not.
    """
    for name, allowed in _DTYPES.items():
        if name not in arrays:
            raise ValueError(f"there is no array {name}")
        if arrays[name].dtype.name not in allowed:
            raise ValueError(f"{name} is of {arrays[name].dtype.name}, but {' or '.join(allowed)} is needed")


def require_slots(lengths: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
    """
    Check that there is a length for each slot, and that each document of the collection has one slot.

    :raises ValueError: If not.
    """
    present = positions[positions >= 0]
    order = np.zeros(len(present), np.bool_)
    if len(lengths) != len(positions) or (len(lengths) and int(lengths.min()) < 0):
        raise ValueError("lengths must have one entry from 0 on for each slot")
    if len(positions) and (int(positions.min()) < -1 or int(positions.max()) >= len(present)):
        raise ValueError(f"positions must be -1 or below {len(present)}")
    order[present] = True
    if not order.all():
        raise ValueError("positions must not hold a place twice")


def require_recent(terms: int, numbers: NDArray[np.int32], starts: NDArray[np.int64]) -> None:
    """
    Check that documents as numbered words begin and end where there are words, and name terms that exist.

    :param terms: How many terms there are.
    :raises ValueError: If not.
    """
    _require_bounds("recent-starts", starts, len(numbers))
    if len(numbers) and (int(numbers.max()) >= terms or int(numbers.min()) < -1 - terms):
        raise ValueError(f"recent-numbers must name one of {terms} terms")


def require_postings(indptr: NDArray[np.int64], count: int, stretches: Iterable[NDArray[np.int32]], slots: int) -> None:
    """
    Check that the postings of each term are documents that exist, each once and in ascending order.

    :param count: How many postings there are.
    :param stretches: Their documents, in pieces of any size.
    :param slots: How many documents there are.
    :raises ValueError: If not.
    """
    _require_bounds("base-indptr", indptr, count)
    done, last = 0, -1
    for documents in stretches:
        if int(documents.min()) < 0 or int(documents.max()) >= slots:
            raise ValueError(f"base-documents must be below {slots}")
        falls = np.flatnonzero(np.diff(documents, prepend=np.int32(last)) <= 0) + done
        if not np.array_equal(indptr[np.searchsorted(indptr, falls)], falls):
            raise ValueError("base-documents must ascend within a term")
        done, last = done + len(documents), int(documents[-1])


def require_codes(stretches: Iterable[NDArray[Any]], counts: NDArray[np.uint32], lengths: NDArray[np.int32]) -> None:
    """
    Check that each posting's code is the place of a pair, and that the pairs can be of a term and a document.

    :param stretches: The codes, in pieces of any size.
    :param counts: Of the pairs, how often a term occurs.
    :param lengths: Of the pairs, how long the document is.
    :raises ValueError: If not.
    """
    if len(counts) != len(lengths) or (len(counts) and (int(counts.min()) < 1 or int(lengths.min()) < 0)):
        raise ValueError("base-impact-counts must be at least 1, with a length of at least 0 for each")
    if any(int(codes.max()) >= len(counts) for codes in stretches):
        raise ValueError(f"base-codes must be below {len(counts)}")


def _require_bounds(name: str, starts: NDArray[np.int64], end: int) -> None:
    if not len(starts) or starts[0] != 0 or starts[-1] != end or (np.diff(starts) < 0).any():
        raise ValueError(f"{name} must ascend from 0 to {end}")
