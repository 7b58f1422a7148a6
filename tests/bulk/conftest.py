"""What the tests of bulk scoring share: a small collection with a run, and the tiny model in a file without torch."""

import io
import json
import shutil

import pytest
from rich.console import Console

from bulk_runs import QUERIES, TEXTS, write_run
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bulk.replica import Model
from haystack_ce_ranker.bulk.scoring import BulkScoring, run_scoring
from haystack_ce_ranker.quantizing import writers


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory, tiny_bert):
    """A folder with the tiny model in int8: a process that loads it needs no torch."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("bulk") / "tiny"
    shutil.copytree(tiny_bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    exact = loading.load("torch", ModelOptions(tiny_bert, model_kwargs={"attn_implementation": "eager"}, device="cpu"))
    writers.write_onnx(exact, folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(tiny_onnx):
    return Model(ModelOptions(tiny_onnx, threads=1), "onnx")


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    """A folder with texts and queries, without judgments."""
    folder = tmp_path_factory.mktemp("bulk-data") / "small"
    folder.mkdir()
    corpus = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in TEXTS.items()]
    asked = [json.dumps({"_id": key, "text": text}) for key, text in QUERIES.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(asked) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run(collection):
    """A run with all documents for each query, in an order of its own."""
    ids = list(TEXTS)
    return write_run(collection / "first.run", {key: ids[n:] + ids[:n] for n, key in enumerate(QUERIES)})


@pytest.fixture
def scored(collection, run, model, tmp_path):
    """A function that scores the run into a file, and returns what was found and what the terminal said."""

    def score(name="scored.run", **values):
        console = Console(file=io.StringIO(), width=300)
        own = {"run": run, "collection": collection, "model": model, "output": tmp_path / name, **values}
        found = run_scoring(BulkScoring(**own), console)
        return found, console.file.getvalue()

    return score
