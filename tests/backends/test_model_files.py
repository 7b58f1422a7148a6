"""Where weights are: folders, folders of packages, the hub."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from fakes import scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions, check_dtype, find_files, locate
from onnx_models import import_onnx, spread


def test_packages_are_found_and_left_only_by_their_name(tmp_path):
    assert Path(locate("package:haystack_ce_ranker/backends")).name == "backends"
    for bad in ("package:no_such_package/x", "package:haystack_ce_ranker/../x", "package:haystack_ce_ranker/none"):
        with pytest.raises(ModelNotFoundError):
            locate(bad)
    with pytest.raises(ModelNotFoundError, match="none of a.onnx"):
        find_files(ModelOptions(str(tmp_path)), ["a.onnx"])
    assert locate("owner/name") == "owner/name"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        locate(str(tmp_path / "absent"))


def test_dtypes_are_checked_by_name():
    for dtype in (None, "auto", "float32", "float16", "bfloat16"):
        check_dtype(dtype)
    with pytest.raises(ValueError, match="dtype must be one of 'auto', 'float32', 'float16', 'bfloat16' or None"):
        check_dtype("int4")


def hub(monkeypatch, source, cache):
    """Put a folder in the place of the hub: what is asked for by pattern is copied into the cache, as links."""
    asked = []

    def download(model, *, revision, token, allow_patterns, **how):
        asked.append((allow_patterns, how))
        blobs, snapshot = cache / "blobs", cache / "snapshots" / "main"
        for folder in (blobs, snapshot):
            folder.mkdir(parents=True, exist_ok=True)
        for file in Path(source).rglob("*"):
            name = file.relative_to(source).as_posix()
            if file.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                there, blob = snapshot / name, blobs / str(abs(hash(name)))
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, blob)
                there.unlink(missing_ok=True)
                there.symlink_to(blob)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
@pytest.mark.parametrize("location", ["model.onnx_data", "weights.onnx.data", "parts/a.bin"])
def test_weights_outside_of_a_hub_model_s_file_are_fetched(monkeypatch, float_onnx, tmp_path, name, package, location):
    pytest.importorskip(package)
    (tmp_path / "source" / "onnx" / "parts").mkdir(parents=True)
    spread(float_onnx, tmp_path / "flat", location="weights")
    shutil.copytree(tmp_path / "flat", tmp_path / "source", dirs_exist_ok=True)
    relocate(tmp_path / "source", location)
    (tmp_path / "source" / "onnx" / "model_fp16.onnx_data").write_bytes(b"of another file")
    asked = hub(monkeypatch, tmp_path / "source", tmp_path / "cache")
    options = ModelOptions("owner/name", device="cpu", model_kwargs={"cache_dir": "here", "file_name": "model.onnx"})
    expected = scores_of(loading.load(name, ModelOptions(float_onnx, device="cpu")))
    assert scores_of(loading.load(name, options)) == pytest.approx(expected, abs=1e-5)
    assert asked[-1] == ([f"onnx/{location}"], {"cache_dir": "here"})
    assert not list((tmp_path / "cache").rglob("*fp16*"))


def test_an_openvino_file_of_the_hub_comes_with_its_weights(monkeypatch, ir, tmp_path):
    asked = hub(monkeypatch, ir, tmp_path / "cache")
    expected = scores_of(loading.load("openvino", ModelOptions(ir, device="cpu")))
    assert scores_of(loading.load("openvino", ModelOptions("owner/name", device="cpu"))) == pytest.approx(expected)
    assert "openvino_model.bin" in asked[0][0]


def relocate(folder, location):
    """Move a model's file into the folder `onnx`, and its weights to a place beside it."""
    onnx = import_onnx()
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "model.onnx").unlink()
    (folder / "weights").rename(folder / "onnx" / location)


@pytest.mark.parametrize("name", ["onnx", "openvino", "auto"])
def test_weights_that_are_missing_are_named(float_onnx, tmp_path, name):
    folder = spread(float_onnx, tmp_path / "m")
    (tmp_path / "m" / "model.onnx_data").unlink()
    with pytest.raises(ModelNotFoundError, match=r"weights in files that are not there: .*m/model.onnx_data. Copy or"):
        loading.load(name, ModelOptions(folder, device="cpu"))


def test_an_openvino_file_without_its_weights_names_them(ir, tmp_path):
    shutil.copytree(ir, tmp_path / "m")
    (tmp_path / "m" / "openvino_model.bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"files that are not there: .*m/openvino_model.bin"):
        loading.load("openvino", ModelOptions(str(tmp_path / "m"), device="cpu"))


def test_a_checkpoint_in_several_files_needs_them_all(tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(tiny_bert, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForSequenceClassification.from_pretrained(tiny_bert).save_pretrained(tmp_path / "m", max_shard_size="20KB")
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 1
    expected = scores_of(loading.load("torch", ModelOptions(tiny_bert)))
    assert scores_of(loading.load("torch", ModelOptions(str(tmp_path / "m")))) == pytest.approx(expected, abs=1e-5)
    shards[-1].unlink()
    with pytest.raises(ModelNotFoundError, match=f"not there: .*{shards[-1].name}"):
        loading.load("torch", ModelOptions(str(tmp_path / "m")))
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../b.safetensors"}}', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"says that its weights are in '../b.safetensors', but they must be in its own"
    ):
        loading.load("torch", ModelOptions(str(tmp_path / "m")))


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "/etc/hosts", "..\\w.bin", "C:\\w.bin", ""])
def test_weights_outside_of_the_model_s_folder_are_refused(float_onnx, tmp_path, location):
    spread(float_onnx, tmp_path / "m", location="weights")
    (tmp_path / "m" / "onnx").mkdir()
    (tmp_path / "w.bin").write_bytes(b"0" * 100_000)
    onnx = import_onnx()
    model = onnx.load(str(tmp_path / "m" / "model.onnx"), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "m" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="says that its weights are in .*, but they must be in its own folder"):
        find_files(ModelOptions(str(tmp_path / "m")), ["model.onnx"])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a model in it, and a folder beside the package that is no part of it."""
    inside = tmp_path / "site" / "a_package" / "model"
    inside.mkdir(parents=True)
    (tmp_path / "site" / "a_package" / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (inside.parent / "out").symlink_to(tmp_path / "outside")
    (inside.parent / "also").symlink_to(inside)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_a_folder_of_a_package_is_found_without_importing_it(package):
    inside = package / "site" / "a_package"
    for model, folder in {"": inside, "/model": inside / "model", "/./model/": inside / "model"}.items():
        assert Path(locate(f"package:a_package{model}")) == folder
    assert Path(locate("package:a_package/also")) == inside / "also"  # a link that stays inside


@pytest.mark.parametrize(
    "inside",
    [
        *("/{out}", "//{out}", "../../outside", "model/../../../outside", "..", "model/..", "out", "out/"),
        *("..\\outside", "C:\\", "C:outside", "\\\\host\\share", "%2e%2e/%2e%2e/outside", "\uff0e\uff0e/outside"),
        *("~", "~root", "model\0", "model\n", "\ud800", "x" * 5000, "a/" * 3000, "package:a_package/model"),
    ],
)
def test_a_package_path_cannot_leave_its_package(package, inside):
    with pytest.raises(ModelNotFoundError) as told:
        locate("package:a_package/" + inside.replace("{out}", str(package / "outside")))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "model", ["~no_such_user/x", "~\0", "a\0b", "a\nb", "\ud800", "/" + "x" * 5000, "x" * 5000, "package:__main__/x"]
)
def test_a_name_that_can_be_no_folder_is_an_error_of_its_own(model):
    with pytest.raises(ModelNotFoundError, match="was not found"):
        locate(model)
