"""
The engine that stands on Ray Data: an actor for each replica, shards in, scores out. No other file imports Ray.

Ray starts a replica again that died, and gives its shards to others. What is done is kept by the caller, not by Ray:
Ray's checkpoints go by a column of ids alone, and need a reader and a writer of its own and a disk that all machines
share.

A cluster that is started here listens on this machine's loopback alone, with a token, and is gone at the end with its
files. There is no dashboard, and nothing is reported to anybody.
"""

import contextlib
import importlib
import json
import logging
import os
import secrets
import shutil
import site
import socket
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from haystack_ce_ranker.bulk.replica import Model, Replica, row_of
from haystack_ce_ranker.bulk.shards import Shard, ShardScores

RETRIES = 10
"""How often Ray gives a shard to a replica again after one died over it."""

SPARE_CPUS = 1
"""CPUs that no replica may take. Ray Data reads with them; without any it would wait for ever."""

_PATIENCE = 10.0  # seconds until something must answer at a cluster's address
_LOOPBACK = ("127.0.0.1", "::1")
_CHOOSE_GPUS = ("torch", "auto")  # the runtimes that take a GPU without being told so


def score(
    model: Model, shards: Sequence[Shard], *, replicas: int | None = None, address: str | None = None
) -> Generator[tuple[int, ShardScores], None, None]:
    """
    Yield the number of each shard with its scores, once each, as they are done.

    :param replicas: None for as many as there are CPUs for, or GPUs if the model is to run on these.
    :param address: Of a cluster that runs; None for the one that this program has connected to, or else one that is
        started for the call.
    :raises ValueError: If the cluster has too few CPUs or GPUs, or the model cannot be used.
    :raises ImportError: If Ray is not installed.
    :raises OSError: If a replica dies over a shard again and again, or the cluster is lost.
    """
    if not shards:
        return
    threads = model.options.threads or 1
    wanted = None if replicas is None else min(replicas, len(shards))
    with connected(address, cpus=max(_cpus(), threads * (wanted or 1)) + SPARE_CPUS) as ray:
        count, gpus = _places(ray.cluster_resources(), model, wanted, threads)
        yield from _scores(ray, model, shards, {"num_cpus": threads, "num_gpus": gpus}, min(count, len(shards)))


@contextlib.contextmanager
def connected(address: str | None = None, *, cpus: int) -> Iterator[Any]:
    """
    Connect to a cluster, and leave it at the end. One that this program has connected to before is used and kept.

    :param address: See `score`.
    :param cpus: How many a cluster has that is started here.
    """
    with contextlib.ExitStack() as ending:
        if address is None:
            ending.enter_context(_environment(_own_cluster()))
        ray = _imported()
        if not ray.is_initialized():
            if address is None:
                _start(ray, cpus, ending)
            else:
                _require_answer(address)
                ending.callback(ray.shutdown)
                with _one_line(ray):
                    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        yield ray


def _start(ray: Any, cpus: int, ending: contextlib.ExitStack) -> None:
    """
    Start a cluster on this machine, and connect to it.

    A part of it asks the metadata services of clouds where it is, even where nothing is reported. It does not ask if
    a file in its home folder says so. So the cluster's home is its own folder; the replicas have the user's.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp" if Path("/tmp").is_dir() else None))  # paths are short
    ending.callback(shutil.rmtree, folder, ignore_errors=True)
    ending.callback(ray.shutdown)  # before its folder goes
    (folder / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    home = str(Path.home())
    with _one_line(ray), _environment({"HOME": str(folder), "PYTHONUSERBASE": site.getuserbase()}):
        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"HOME": home}},
            _temp_dir=str(folder),
        )
    if ray.util.get_node_ip_address() not in _LOOPBACK:
        raise ValueError(
            "ray was imported by this program before, so that a cluster would listen on all networks: call "
            "ray.init() yourself before, or name the address of a cluster."
        )


def _scores(
    ray: Any, model: Model, shards: Sequence[Shard], place: Mapping[str, float], replicas: int
) -> Iterator[tuple[int, ShardScores]]:
    """Run a dataset with a block for each shard through a pool of replicas."""
    sizes = {shard.number: len(shard) for shard in shards}
    with _one_line(ray), _quiet(ray):
        rows = ray.data.from_items([row_of(shard) for shard in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `max_task_retries` will have another place in a later version
            found = rows.map(
                Replica,
                fn_constructor_args=(model,),
                compute=ray.data.ActorPoolStrategy(size=replicas, max_tasks_in_flight_per_actor=2),
                max_task_retries=RETRIES,
                **place,
            )
        for row in found.iter_rows():
            if row.get("error") is not None:
                raise ValueError(row["error"])
            number = int(row["number"])
            if number in sizes:  # Ray may compute a block anew that was lost
                yield number, ShardScores.from_plain(json.loads(row["scores"]), sizes.pop(number))
    if sizes:
        raise OSError(f"ray ended without the scores of {len(sizes)} shards: run the same command again.")


def _places(resources: Mapping[str, float], model: Model, wanted: int | None, threads: int) -> tuple[int, int]:
    """Return how many replicas there are to be, and how many GPUs each takes."""
    device, cards = model.options.device, int(resources.get("GPU", 0))
    if device is not None and device.startswith("cuda:"):
        raise ValueError(f"device must be 'cuda' with the engine 'ray', which shares out the GPUs, but got {device!r}.")
    gpus = int(device == "cuda" or (device is None and cards > 0 and model.backend in _CHOOSE_GPUS))
    cpus = int(resources.get("CPU", 0))
    room = (cpus - SPARE_CPUS) // threads
    most = min(room, cards) if gpus else room
    if most < max(wanted or 1, 1):
        has = f"{cpus} CPUs and {cards} GPUs" if gpus else f"{cpus} CPUs"
        raise ValueError(
            f"replicas must be at most {most}, but got {wanted or 1}: the cluster has {has}, each replica takes "
            f"{threads} CPUs{' and a GPU' if gpus else ''}, and {SPARE_CPUS} CPU is left to read with. Take fewer "
            "replicas or threads, or a larger cluster."
        )
    return wanted or most, gpus


def _imported() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ImportError(
            f"the engine 'ray' needs Ray Data: pip install \"ce-ranker-haystack[ray]\" ({error})"
        ) from error
    return ray


def _require_answer(address: str) -> None:
    """Check that something listens where a cluster should be: Ray itself would ask for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"no Ray cluster answers at {address!r} ({error}): start one with `ray start --head`, or omit the address."
        ) from error


@contextlib.contextmanager
def _one_line(ray: Any) -> Iterator[None]:
    """Turn Ray's errors, which are pages, into one line."""
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if isinstance(error, RuntimeError):  # of the start: another version there, no room in memory
            lines = [" ".join(lines)]
        died = isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.ActorUnavailableError)
        what = f"a replica died {RETRIES + 1} times over one shard" if died else "ray gave up"
        raise OSError(
            f"{what} ({type(error).__name__}: {lines[-1] if lines else '':.300}). What was scored is kept: the same "
            "command goes on from there."
        ) from error


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray Data from its own bars and reports."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment until the end of the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@cache
def _own_cluster() -> dict[str, str]:
    """
    Return the environment of a cluster that is started here: what the user has not set himself.

    Ray reads some of it once in each process.
    """
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # under this name Ray has what keeps it on the loopback
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    if "ray" not in sys.modules:
        variables["RAY_AUTH_MODE"] = "token"
    return {name: value for name, value in variables.items() if name not in os.environ}


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
