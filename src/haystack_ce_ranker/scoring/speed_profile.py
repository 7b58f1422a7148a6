"""
A machine's speed profile: which token budget and how many threads score fastest there, measured and kept as JSON.

The pairs are synthetic: made-up words, in documents of mixed lengths. A setting's speed depends on lengths, not on
meaning.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.model_files import DTYPES, ModelOptions, locate
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.data_files import read_json, write_text
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

logger = logging.getLogger(__name__)

FORMAT = 1
_LARGEST_FILE = 1 << 20  # bytes
_LARGEST_COUNT = 1 << 20  # of CPUs, of threads, and of tokens in a batch
CPU_BATCH_TOKENS = (256, 512, 1024, 2048, 4096, 8192)
GPU_BATCH_TOKENS = (8192, 16384, 32768, 65536, 131072)
AS_FAST = 0.03
"""Speeds this share apart count as equal, as noise. The smaller setting is then taken: it needs less memory."""

Request = tuple[str, list[str]]


@dataclass(frozen=True)
class Measured:
    """One setting and its speed; `threads` is None if the runtime's own number was used."""

    batch_tokens: int
    threads: int | None
    pairs_per_second: float


@dataclass(frozen=True)
class SpeedProfile:
    """
    The best setting of one model on one machine.

    :ivar model: A hub id, `package:<name>/<path>`, or the absolute path of a folder.
    :ivar backend: The runtime. The loaded model reported this, `dtype` and `device`.
    :ivar cpus: How many CPUs the measuring process was allowed to use.
    :ivar measured: All settings that were tried.
    """

    model: str
    backend: str
    dtype: str
    device: str
    cpus: int
    batch_tokens: int
    threads: int | None
    measured: tuple[Measured, ...] = field(default=(), compare=False)

    def require(self, model: str, backend: Backend) -> None:
        """
        Check that this was measured with the model that was loaded.

        :raises ValueError: If it was another model, runtime, dtype or device.
        """
        here = {
            "model": model_key(model),
            "backend": backend.name,
            "dtype": backend.dtype,
            "device": _device_type(backend.device),
        }
        for name, value in here.items():
            measured = getattr(self, name)
            if measured != value:
                how = f"--backend {backend.name}" + (f" --dtype {backend.dtype}" if backend.dtype in DTYPES else "")
                raise ValueError(
                    f"speed_profile was made for {name}={measured!r}, but got {value!r}; measure this one with "
                    f"`haystack-ce-ranker profile {model} {how}`, or omit speed_profile."
                )

    def save(self, path: Path) -> None:
        """Write the file that `load_profile` reads."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def model_key(model: str) -> str:
    """Return a model's name. A folder's name is its absolute path, so that one folder has one name."""
    place = Path(locate(model))
    return str(place.resolve()) if place.is_dir() and not model.startswith("package:") else model


def load_profile(path: str | Path) -> SpeedProfile:
    """
    Read a speed profile.

    :raises OSError: If the file cannot be read.
    :raises ValueError: If it is not a speed profile.
    """
    try:
        values = read_json(Path(path), most=_LARGEST_FILE)
    except ValueError as error:
        raise _not_a_profile(path, str(error).rstrip(".")) from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise _not_a_profile(path, f'no object with "format": {FORMAT}')
    measured = values.pop("measured", [])
    wanted = {item.name for item in fields(SpeedProfile)} - {"measured"}
    if set(values) != wanted:
        raise _not_a_profile(path, f"keys {sorted(values)!s:.200} instead of {sorted(wanted)}")
    for name in ("model", "backend", "dtype", "device"):
        if not isinstance(values[name], str):
            raise _not_a_profile(path, f"{name} is {values[name]!r:.80}, not a text")
    for name in ("cpus", "batch_tokens", "threads"):
        if not _is_count(values[name]) and not (name == "threads" and values[name] is None):
            shown = f"{values[name]!r:.80}"
            raise _not_a_profile(path, f"{name} is {shown}, not a whole number from 1 to {_LARGEST_COUNT:,}")
    try:
        return SpeedProfile(**values, measured=tuple(Measured(**one) for one in measured))
    except TypeError as error:
        raise _not_a_profile(path, f"measured is not a list of settings ({error})") from error


def profile_of_this_machine(path: str | Path) -> SpeedProfile | None:
    """
    Read a speed profile; return None, with a warning, if the process had another number of CPUs when it was made.

    :raises OSError: If the file cannot be read.
    :raises ValueError: If it is not a speed profile.
    """
    found = load_profile(path)
    here = allowed_cpus()
    if found.cpus == here:
        return found
    logger.warning(
        "speed profile %s was made with %s CPUs, but this process may use %s: the backend's own defaults are used.",
        path,
        found.cpus,
        here,
    )
    return None


def measure_speed(
    backend: str,
    options: ModelOptions,
    *,
    repeats: int = 2,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> SpeedProfile:
    """
    Measure all settings and return the best one.

    Every setting is run `repeats` times, all in turn, and counts with its best time. So a moment in which the machine
    was busy with something else does not decide.

    :param track: Shows progress over the runs.
    :raises ValueError: If no setting could be run.
    """
    loaded = loading.load(backend, options)
    on_cpu = _device_type(loaded.device) == "cpu"
    requests = synthetic_requests(loaded, documents=32 if on_cpu else 512)
    pairs = sum(len(documents) for _, documents in requests)
    by_threads: dict[int | None, Backend] = {options.threads: loaded}
    if on_cpu and options.threads is None:
        by_threads = {
            threads: loading.load(backend, replace(options, threads=threads))
            for threads in thread_choices(allowed_cpus())
        }
    settings = [
        (batch_tokens, threads)
        for threads in by_threads
        for batch_tokens in (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
    ]
    best: dict[tuple[int, int | None], float] = {}
    for one in by_threads.values():  # first passes allocate memory and choose kernels
        _seconds(one, min(batch_tokens for batch_tokens, _ in settings), requests[:1])
    for batch_tokens, threads in track(settings * repeats):
        seconds = _seconds(by_threads[threads], batch_tokens, requests)
        if seconds is not None:
            best[batch_tokens, threads] = min(seconds, best.get((batch_tokens, threads), seconds))
    if not best:
        raise ValueError(
            f"model {options.model!r} ran out of memory on {loaded.device} with every setting, the smallest "
            f"{settings[0][0]} tokens a batch; use a smaller model or dtype."
        )
    measured = tuple(Measured(*setting, pairs / seconds) for setting, seconds in best.items())
    chosen = choose(measured)
    return SpeedProfile(
        model=model_key(options.model),
        backend=loaded.name,
        dtype=loaded.dtype,
        device=_device_type(loaded.device),
        cpus=allowed_cpus(),
        batch_tokens=chosen.batch_tokens,
        threads=chosen.threads,
        measured=measured,
    )


def choose(measured: Sequence[Measured]) -> Measured:
    """Return the fastest setting; of several that are about as fast (`AS_FAST`), the one with the smallest batches."""
    fastest = max(one.pairs_per_second for one in measured)
    equal = [one for one in measured if one.pairs_per_second >= fastest * (1.0 - AS_FAST)]
    return min(equal, key=lambda one: (one.batch_tokens, one.threads if one.threads is not None else 0))


def thread_choices(cpus: int) -> tuple[int, ...]:
    """Return the numbers of threads worth trying: all CPUs, one per core where two share one, and half of that."""
    return tuple(sorted({max(cpus // part, 1) for part in (1, 2, 4)}))


def synthetic_requests(backend: Backend, *, queries: int = 2, documents: int = 32, seed: int = 0) -> list[Request]:
    """
    Make up queries with documents of mixed lengths: from 8 tokens to the model's limit, short ones more often.

    :returns: Each query with its documents, in no order of length.
    """
    rng = random.Random(seed)
    limits = [limit for limit in (backend.max_length, backend.tokenizer.max_length) if limit is not None]
    longest = max(min([*limits, 512]) - 16, 8)
    requests = []
    for _ in range(queries):
        lengths = [int(length) for length in np.geomspace(8, longest, documents)]
        rng.shuffle(lengths)
        texts = [_text(rng, backend.tokenizer, length) for length in lengths]
        requests.append((_text(rng, backend.tokenizer, 6), texts))
    return requests


def _text(rng: random.Random, tokenizer: PairTokenizer, tokens: int) -> str:
    """Make up a text of about `tokens` tokens."""
    words = ["".join(rng.choice("bdfklmnprst") + rng.choice("aeiou") for _ in range(2)) for _ in range(tokens)]
    lengths = np.cumsum([len(encoded.ids) for encoded in tokenizer.encode(words)])
    return " ".join(words[: max(int(np.searchsorted(lengths, tokens, side="right")), 1)])


def _seconds(backend: Backend, batch_tokens: int, requests: Sequence[Request]) -> float | None:
    """Return how long scoring takes, query by query as in a ranker; None if such batches did not fit into memory."""
    scorer = CrossEncoderScorer(backend, ReadingPolicy(long_documents="head"), batch_tokens=batch_tokens)
    seconds = sum(scorer.score(query, documents)[1].score for query, documents in requests)
    return seconds if scorer.runner.affordable_batch_tokens == batch_tokens else None


def _device_type(device: str) -> str:
    return device.partition(":")[0]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_COUNT


def _not_a_profile(path: str | Path, found: str) -> ValueError:
    return ValueError(
        f"speed_profile {str(path)!r} is not a file that `haystack-ce-ranker profile` writes: {found}; write it anew."
    )
