"""The engine on Ray: the same bytes as in this process, also when replicas are killed; and what it leaves alone."""

import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import bulk_runs
from fakes import REPOSITORY
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bulk import on_ray
from haystack_ce_ranker.bulk.engines import Workers
from haystack_ce_ranker.bulk.replica import Model
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.evaluation.running.journal import NAME

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'ray'")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """
    One cluster for all tests, as the engine starts it, with room for two replicas.

    Its home folder is a new one, and its proxy is a socket: at the end no file has come there, and nobody has called.
    Its own folder is gone, and so are its processes.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        made, make = [], on_ray.tempfile.mkdtemp
        patch.setattr(on_ray.tempfile, "mkdtemp", lambda **how: made.append(make(**how)) or made[-1])
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
            patch.setenv(name.lower(), f"http://127.0.0.1:{proxy.getsockname()[1]}")
        patch.setenv("HOME", str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (REPOSITORY / "src", REPOSITORY / "tests"))))
        with on_ray.connected(cpus=3) as ray:
            yield ray
            started = bulk_runs.processes()
            assert len(started) >= 5
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert list(home.rglob("*")) == []
    assert [Path(folder).exists() for folder in made] == [False]
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []


def killing(monkeypatch, after):
    """Kill a replica at work after some shards have come; returns the killed and the shards that came."""
    scores, killed, came = on_ray._scores, [], []

    def watched(*arguments):
        for found in scores(*arguments):
            came.append(found[0])
            yield found
            if len(came) in after:
                killed.append(bulk_runs.kill_one(but=killed))

    monkeypatch.setattr(on_ray, "_scores", watched)
    return killed, came


def test_replicas_that_are_killed_change_no_byte(scored, model, tmp_path, monkeypatch):
    scored("local.run", shard=20)
    slow = Model(model.options, "onnx", load=bulk_runs.slow)
    killed, came = killing(monkeypatch, after={2, 8})
    found, told = scored(engine="ray", workers=Workers(2), shard=20, model=slow)
    assert len(set(killed)) == 2
    assert sorted(came) == [shard.number for shard in found.shards]  # none is lost, and none comes twice
    assert len(found.shards) > 20
    assert f"scored: {sum(map(len, found.shards))} pairs in " in told
    assert (tmp_path / "scored.run").read_bytes() == (tmp_path / "local.run").read_bytes()
    lines = (tmp_path / "scored.progress" / NAME).read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["name"] for line in lines}) == len(lines) == len(found.shards)


def test_a_shard_that_kills_each_replica_ends_the_run_and_loses_nothing_else(scored, model, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "RETRIES", 0)
    poisoned = Model(model.options, "onnx", load=bulk_runs.poisoned)
    with pytest.raises(
        OSError, match=r"a replica died 1 times over one shard \(.*\)\. What was scored is kept"
    ) as error:
        scored(engine="ray", workers=Workers(1), shard=42, model=poisoned)
    assert "\n" not in str(error.value)
    found, told = scored(shard=42)
    assert 0 < len(found.kept) < len(found.shards)
    assert f"{42 * len(found.kept)} taken from " in told


def test_an_error_of_a_replica_comes_in_its_own_words(scored, model):
    broken = Model(model.options, "onnx", load=bulk_runs.broken)
    with pytest.raises(ValueError, match=r"^the weights are no weights$"):
        scored(engine="ray", workers=Workers(1), model=broken)


@pytest.mark.parametrize(
    ("replicas", "options", "error"),
    [
        (
            3,
            {},
            "replicas must be at most 2, but got 3: the cluster has 3 CPUs, each replica takes 1 CPUs, and 1 CPU is",
        ),
        (
            None,
            {"threads": 3},
            "replicas must be at most 0, but got 1: the cluster has 3 CPUs, each replica takes 3 CPUs",
        ),
        (1, {"device": "cuda"}, "replicas must be at most 0, but got 1: the cluster has 3 CPUs and 0 GPUs"),
        (1, {"device": "cuda:1"}, "device must be 'cuda' with the engine 'ray', which shares out the GPUs"),
    ],
)
def test_a_cluster_that_is_too_small_is_an_error_and_nobody_waits(scored, model, replicas, options, error):
    few = Model(ModelOptions(model.options.model, **{"threads": 1, **options}), "onnx")
    with pytest.raises(ValueError, match=error):
        scored(engine="ray", workers=Workers(replicas), model=few, shard=10)


@pytest.mark.parametrize(
    ("backend", "options", "wanted", "expected"),
    [
        ("torch", {}, None, (2, 1)),
        ("auto", {}, 1, (1, 1)),
        ("torch", {"device": "cuda", "threads": 4}, None, (2, 1)),
        ("torch", {"device": "cpu"}, None, (8, 0)),
        ("torch", {"device": "cpu", "threads": 4}, None, (2, 0)),
        ("onnx", {}, None, (8, 0)),
        ("onnx", {"device": "cuda"}, None, (2, 1)),
    ],
)
def test_replicas_are_as_many_as_there_are_gpus_or_cpus_but_one(backend, options, wanted, expected):
    model = Model(ModelOptions("any", **{"threads": 1, **options}), backend)
    assert on_ray._places({"CPU": 9.0, "GPU": 2.0}, model, wanted, model.options.threads) == expected


def test_the_cluster_listens_on_the_loopback_alone_and_reports_to_nobody():
    found = [connection for process in bulk_runs.processes() for connection in process.net_connections()]
    listening = [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]
    connected = [one.raddr.ip for one in found if one.raddr]
    assert min(len(listening), len(connected)) >= 3
    assert {address.removeprefix("::ffff:") for address in listening + connected} == {"127.0.0.1"}
    commands = [" ".join(process.cmdline()) for process in bulk_runs.processes()]
    assert not any("--include-dashboard=true" in command or "dashboard_8265" in command for command in commands)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_command_scores_on_ray_as_it_does_alone(collection, run, tiny_onnx, tmp_path):
    given = ["score", str(run), "--collection", str(collection), "--model", tiny_onnx, "--backend", "onnx"]
    given += ["--depth", "4", "--shard", "12"]
    for name, engine in (("local.run", ()), ("ray.run", ("--engine", "ray"))):
        written = ["--output", str(tmp_path / name)]
        done = CliRunner().invoke(app, [*given, *written, *engine], env={"COLUMNS": "1000"})  # no path is wrapped
        assert done.exit_code == 0, done.output
        assert f"wrote {tmp_path / name}: " in done.output
    assert (tmp_path / "ray.run").read_bytes() == (tmp_path / "local.run").read_bytes()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://localhost:1", "nowhere.invalid:6379"])
def test_an_address_where_no_cluster_is_ends_at_once(scored, monkeypatch, cluster, address):
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)
    with pytest.raises(OSError, match=f"no Ray cluster answers at '{address}' .*: start one with `ray start --head`"):
        scored(engine="ray", workers=Workers(address=address))


def test_what_keeps_ray_from_starting_is_one_line(scored, monkeypatch, cluster):
    def init(*_given, **_named):
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 1.0\nThis process with:\n    Ray: 2.0"
        )

    monkeypatch.setattr(cluster, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "init", init)
    monkeypatch.setattr(cluster, "shutdown", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as there, pytest.raises(OSError, match="ray gave up") as error:
        scored(engine="ray", workers=Workers(address=f"127.0.0.1:{there.getsockname()[1]}"))
    assert "(RuntimeError: Version mismatch: The cluster was started with: Ray: 1.0 This process" in str(error.value)


def test_without_ray_the_error_names_the_extra(scored, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(
        ImportError, match=r"the engine 'ray' needs Ray Data: pip install \"ce-ranker-haystack\[ray\]\""
    ):
        scored(engine="ray")
