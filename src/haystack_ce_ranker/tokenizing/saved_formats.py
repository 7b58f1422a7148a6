"""
Keeps the pair format of a chat model in a file beside exported weights.

A format of special tokens is learnt again from the tokenizer. A chat template is not: what fills it in is part of the
library that loads torch models, and exported weights run without it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from haystack_ce_ranker.data_files import read_json
from haystack_ce_ranker.tokenizing.pairs import Frame, PackedPair, PairFormat

FILE = "pair_format.json"

_PARTS = ("prefix", "middle", "suffix")
_TYPES = ("query_type", "document_type")
_FRAMES = ("query", "document")


def save(pair_format: PairFormat, folder: Path) -> None:
    """Write a format into a folder."""
    saved: dict[str, Any] = {name: getattr(pair_format, name) for name in _TYPES}
    for name in _PARTS:
        part = getattr(pair_format, name)
        saved[name] = {"ids": part.ids.tolist(), "types": part.types.tolist()}
    saved |= {name: getattr(pair_format, name)._asdict() for name in _FRAMES}
    (folder / FILE).write_text(json.dumps(saved, indent=2), encoding="utf-8")


def read(folder: Path) -> PairFormat | None:
    """
    Read the format that was saved in a folder, or None if there is none.

    :raises ValueError: If the file is no such format.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        saved = read_json(file)
        read: dict[str, Any] = {name: int(saved[name]) for name in _TYPES}
        for name in _PARTS:
            ids, types = (np.array(saved[name][key], dtype=np.int32) for key in ("ids", "types"))
            if ids.shape != types.shape:
                raise ValueError(f"{name} has not as many ids as types")
            read[name] = PackedPair(ids, types)
        read |= {name: Frame(**saved[name]) for name in _FRAMES}
        return PairFormat(**read)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file} is no pair format ({error!r}); write the model again with `haystack-ce-ranker quantize`."
        ) from error
