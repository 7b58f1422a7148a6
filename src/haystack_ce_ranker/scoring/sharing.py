"""
Loaded models, each once in the process: rankers that name a model with the same options share it.

The tables are weak, so Python's own references count who uses a model: it is released with its last ranker.
"""

import threading
from collections.abc import Hashable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions, locate
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.data_files import read_json
from haystack_ce_ranker.scoring.runner import LearntBatchSizes, PairRunner

_BATCH_SIZES = LearntBatchSizes()  # of all models: they share the memory of this process's devices


class _Tables(NamedTuple):
    """What this process has loaded: models, and the runners of each by their limits."""

    backends: "WeakValueDictionary[Hashable, Backend]"
    runners: "WeakValueDictionary[Hashable, PairRunner]"


@forking.cached  # a child begins with nothing: it may use what its parent loaded, but on a GPU it must load again
def _tables() -> _Tables:
    return _Tables(WeakValueDictionary(), WeakValueDictionary())


@forking.cached  # one for the process: two models that load at once would need the memory of both
def _loading() -> threading.Lock:
    return threading.Lock()


def shared_runner(
    name: str,
    options: ModelOptions,
    *,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    max_wait: float = 0.0,
) -> PairRunner:
    """
    Return the runner of a model, which is loaded unless this process has it already.

    All runners of a model run the same loaded model. Those with equal limits are one runner, so that they learn its
    speed together; see `PairRunner` for the limits. A folder whose files have changed is another model.

    :param name: A runtime, a key of `backends.loading.BACKENDS`.
    :param options: Two models with different options are two, even if one of them could stand for both.
    :raises Exception: Whatever the runtime raises while it loads.
    """
    limits = (batch_tokens, batch_size, max_wait)
    with _loading():
        tables = _tables()
        key = (name, _key(options), _files(options) if name != "remote" else ())
        runner = tables.runners.get((key, limits))
        if runner is None:
            backend = tables.backends.get(key)
            if backend is None:
                backend = loading.load(name, options)
                tables.backends[key] = backend
            runner = PairRunner(
                backend,
                batch_tokens=batch_tokens,
                batch_size=batch_size,
                model_name=options.model,
                batch_sizes=_BATCH_SIZES,
                max_wait=max_wait,
            )
            tables.runners[key, limits] = runner
        return runner


class _Same:
    """Equal to another one if both hold the same object. The object lives on, so nothing else gets its address."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _key(value: Any) -> Hashable:
    """Return something that is equal for equal options. An object that is no plain value equals only itself."""
    if isinstance(value, ModelOptions):
        return tuple(_key(getattr(value, one.name)) for one in fields(value))
    if isinstance(value, Mapping):
        return frozenset((key, _key(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if value is None or type(value) in (bool, int, float, str):
        return (type(value), value)  # True, 1 and 1.0 are three values
    return _Same(value)


def _files(options: ModelOptions) -> Hashable:
    """Return the state of a local model's files, and of those of a local model that an adapter changes."""
    try:
        folder = Path(locate(options.model))
    except ModelNotFoundError:  # loading says it
        return ()
    return (_state(folder), _state(_changed_by_adapter(folder)))


def _changed_by_adapter(folder: Path) -> Path | None:
    try:
        base = Path(read_json(folder / "adapter_config.json")["base_model_name_or_path"])
        holds_a_model = (base / "config.json").is_file() or any(base.glob("*.safetensors"))
        return base if holds_a_model else None  # else it may be any folder, and hold all files of the disk
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(folder: Path | None) -> Hashable:
    if folder is None or not folder.is_dir():
        return ()
    states = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((path, state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states)
