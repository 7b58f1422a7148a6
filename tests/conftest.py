"""Fixtures that tests share: tiny models built in memory, and where the real weights and collections are."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
# For all of Chroma's stores in a process alike: it refuses a second one in memory that has other settings.
os.environ["ANONYMIZED_TELEMETRY"] = "False"

import pytest

import profiles
from fakes import REPOSITORY, save_bert, save_bi_encoder
from haystack_ce_ranker.scoring import sharing
from small_tasks import make_task, save_learner
from stores.postgres import running_postgres
from stores.servers import shared_opensearch

# A test that imports openvino would let it report each conversion, in a process that it forks.
sys.modules.setdefault("openvino_telemetry", None)
profiles.register_profiles()


# What the way without torch leaves out (requirements-light.txt).
ONLY_WITH_TORCH = frozenset({"torch", "sentence_transformers", "datasets", "peft", "onnx", "pyarrow"})
WITHOUT_TORCH = find_spec("torch") is None


def pytest_report_header():
    return "without torch: files of tests that import what is left out with it are skipped" if WITHOUT_TORCH else []


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a file of tests that imports, itself or through others, what an environment without torch lacks."""
    report = yield
    call = getattr(report, "call", None)
    cause = call.excinfo.value.__cause__ if WITHOUT_TORCH and call is not None and call.excinfo is not None else None
    if isinstance(cause, ModuleNotFoundError) and cause.name in ONLY_WITH_TORCH:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: needs {cause.name}")
    return report


def pytest_collection_modifyitems(config, items):
    profiles.order(items)
    profiles.mark(items)
    chosen = config.getoption("--hypothesis-profile", None) or "default"
    profiles.multiply((item.function for item in items if hasattr(item, "function")), profiles.TIMES[chosen])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    with profiles.traced_or_not(item.nodeid):
        return (yield)


@pytest.fixture(autouse=True)
def no_shared_models() -> None:
    """Let no test share a model that another one has loaded, and perhaps not released."""
    sharing._tables.after_fork()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """The folder of a tiny cross-encoder that reads 128 tokens."""
    return save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_bi_encoder(tmp_path_factory) -> str:
    """The folder of a tiny bi-encoder that reads 48 tokens."""
    return save_bi_encoder(tmp_path_factory.mktemp("models") / "tiny-bi-encoder")


@pytest.fixture(scope="session")
def two_label_bert(tmp_path_factory) -> str:
    """The folder of a tiny model with two output labels."""
    return save_bert(tmp_path_factory.mktemp("models") / "two-labels", labels=2)


@pytest.fixture(scope="session")
def task():
    """A small task to learn, with held-out queries."""
    return make_task()


@pytest.fixture(scope="session")
def learner(tmp_path_factory) -> str:
    """The folder of a tiny cross-encoder that learns the task within seconds."""
    return save_learner(tmp_path_factory.mktemp("models") / "learner")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """The folder of a tiny encoder without a head."""
    return save_learner(tmp_path_factory.mktemp("models") / "encoder", head=False)


@pytest.fixture(scope="session")
def opensearch_url(tmp_path_factory) -> Iterator[str]:
    """The URL of a real OpenSearch, one for all of pytest's processes; skips with the reason where there is none."""
    folder = tmp_path_factory.getbasetemp()
    with shared_opensearch(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """The URI of a real PostgreSQL with pgvector; skips with the reason without the package that brings one."""
    with running_postgres() as uri:
        yield uri


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where the real weights are; skips without them."""
    return _there("CE_RANKER_MODELS", REPOSITORY / ".models")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real collections are; skips without them."""
    return _there("CE_RANKER_DATA", REPOSITORY.parent / "shared" / "data")


def _there(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    folder = folder if folder.is_absolute() else REPOSITORY / folder
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable}")
    return folder
