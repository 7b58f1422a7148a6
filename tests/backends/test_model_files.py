"""Where weights are: folders, folders of packages, the hub."""

from pathlib import Path

import pytest

from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions, check_dtype, find_files, locate


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
