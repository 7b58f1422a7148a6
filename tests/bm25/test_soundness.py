"""An index that somebody forged, with checksums that are right, is an error and never read past the end of an array."""

import json
import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.postings import pack_terms

PLAIN = Analysis(language=None)
LARGE, SMALL = 2**31 - 1, -(2**31)


def rewritten(folder, change):
    """Change what a manifest says, and make its checksum fit."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    del body["crc32"]
    change(body)
    path.write_text(json.dumps({**body, "crc32": zlib.crc32(files._canonical(body))}), encoding="utf-8")


def forged(folder, name, array):
    """Put another array into an index, with size and checksum that are right."""
    content = np.ascontiguousarray(array).tobytes()
    (folder / f"{name}.array").write_bytes(content)
    entry = {"file": f"{name}.array", "dtype": array.dtype.name, "length": array.size, "crc32": zlib.crc32(content)}
    rewritten(folder, lambda body: body["arrays"].update({name: entry}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index with documents in both of its blocks, and one that was removed."""
    folder = tmp_path_factory.mktemp("index")
    index = BM25Index.build(["a b b c", "b c", "c d", "e"], analysis=PLAIN).update([0, 2, 3, -1], ["b f f"])
    index.save(folder, extra={"keys": np.arange(4, dtype=np.uint64)})
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def arrays_of(folder):
    return {name: np.array(array) for name, array in files.read(folder).arrays.items()}


FORGED = {  # each breaks one rule alone: where another one is broken, too, it would be refused for that
    "base-documents": (
        *([0, 0, 1, 0, 1, 2, 2, LARGE], [0, 0, 1, 0, 1, 2, 2, 4], [SMALL, 0, 1, 0, 1, 2, 2, 3]),
        *([-1, 0, 1, 0, 1, 2, 2, 3], [0, 0, 0, 0, 1, 2, 2, 3], [0, 1, 0, 0, 1, 2, 2, 3], [0] * 7, []),
    ),
    "base-codes": ([2, 3, 1, 2, 1, 1, 1, 4], [2**16 - 1, 3, 1, 2, 1, 1, 1, 0], [0] * 7, []),
    "base-impact-counts": ([1, 1, 1, 0], [1, 1, 1], []),
    "base-impact-lengths": ([1, 2, 4, -1], [SMALL, 2, 4, 4], [4], [1, 2, 4], []),
    "base-indptr": (
        *([0, 1, 3, 6, 7, LARGE], [0, 1, 3, 6, 7, 7], [0, 1, 3, 6, 7], [1, 1, 3, 6, 7, 8]),
        *([-(2**60), 1, 3, 6, 7, 8], [0, 2**60, 3, 6, 7, 8], [0] * 6, []),
    ),
    "recent-numbers": ([LARGE] * 3, [SMALL] * 3, [2] * 3, [-4] * 3),
    "recent-starts": ([0, LARGE], [-1, 3], [0, 2], [0], [], [0, 3, 3, 3, 3, 3, 3, 3]),
    "lengths": ([-1] * 5, [SMALL] * 5, [1] * 4, []),
    "positions": ([LARGE] * 5, [SMALL] * 5, [0, 0, 0, 0, -1], [0, 1, 2, 4, -1], []),
}


@pytest.mark.parametrize(("name", "values"), [(name, one) for name, many in FORGED.items() for one in many])
def test_numbers_that_would_lead_out_of_an_array_are_refused(copy, name, values):
    found = arrays_of(copy)[name]
    forged(copy, name, np.array(values, found.dtype))
    with pytest.raises(IndexFilesError, match="do not make an index"):
        BM25Index.open(copy, analysis=PLAIN)


def test_what_is_refused_above_is_refused_for_what_was_changed(copy):
    for name, array in arrays_of(copy).items():
        forged(copy, name, array)
        assert BM25Index.open(copy, analysis=PLAIN).search("b").positions.tolist() == [0, 3]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32", "uint64", "uint16", "uint32"])
def test_an_array_of_another_type_is_refused(copy, dtype):
    for name, array in arrays_of(copy).items():
        if array.dtype != dtype and not name.startswith("extra") and (name, dtype) != ("base-codes", "uint32"):
            forged(copy, name, array.astype(dtype))
            with pytest.raises(IndexFilesError, match=f"{name} is of {dtype}, but"):
                BM25Index.open(copy, analysis=PLAIN)
            forged(copy, name, array)


@pytest.mark.parametrize(
    "content", [b"{}", b"5", b"[1, 2, 3, 4, 5]", b"[[]]", b"[" * 100_000, b"\xff", b'["a", "a", "c", "d", "e"]', b""]
)
def test_terms_that_are_no_list_of_texts_are_refused(copy, content):
    for name in ("base-terms", "recent-terms"):
        before = arrays_of(copy)[name]
        forged(copy, name, np.frombuffer(content, np.uint8))
        with pytest.raises(IndexFilesError, match="do not make an index"):
            BM25Index.open(copy, analysis=PLAIN)
        forged(copy, name, before)


@pytest.mark.parametrize(
    "fields",
    [
        *({"length": 10**12}, {"length": 10**40}, {"length": -1}, {"length": 5.0}, {"length": "5"}, {"length": True}),
        *({"dtype": "object"}, {"dtype": "float64"}, {"dtype": ["int32"]}, {"crc32": "0"}, {"crc32": None}),
        *({"file": ""}, {"file": "."}, {"file": ".."}, {"file": "a\0b"}, {"file": 5}, {"file": "/dev/zero"}),
        *({"file": "../lengths.array"}, {"file": "..\\x"}, {"file": "CON:"}, {"file": "x" * 5000}, {"more": 1}),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(copy, fields):
    rewritten(copy, lambda body: body["arrays"]["lengths"].update(fields))
    with pytest.raises(IndexFilesError):
        BM25Index.open(copy, analysis=PLAIN)


@pytest.mark.parametrize("body", [{"arrays": []}, {"arrays": None}, {"values": 5}, {"arrays": {"lengths": 3}}])
def test_a_manifest_of_another_form_is_refused(copy, body):
    rewritten(copy, lambda found: found.update(body))
    with pytest.raises(IndexFilesError, match="malformed"):
        BM25Index.open(copy, analysis=PLAIN)
    BM25Index.build(["a"], analysis=PLAIN).save(copy)
    assert len(BM25Index.open(copy, analysis=PLAIN)) == 1


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 50_000, '{"crc32": NaN}', '{"crc32": ' + "9" * 5000 + "}"]
)
def test_a_manifest_that_is_deep_or_has_no_number_is_refused(copy, content):
    (copy / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(IndexFilesError, match="cannot be read"):
        BM25Index.open(copy, analysis=PLAIN)


def test_no_pipe_and_no_device_is_waited_for(copy):
    entry = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))["arrays"]["lengths"]
    (copy / entry["file"]).unlink()
    os.mkfifo(copy / entry["file"])
    rewritten(copy, lambda body: body["arrays"]["lengths"].update(length=0, crc32=0))
    with pytest.raises(IndexFilesError, match="no regular file"):
        BM25Index.open(copy, analysis=PLAIN)
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    with pytest.raises(IndexFilesError, match="no regular file"):
        BM25Index.open(copy, analysis=PLAIN)


def test_saving_follows_no_link_out_of_the_folder(copy, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_text("as it was", encoding="utf-8")
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to(outside)
    BM25Index.build(["a"], analysis=PLAIN).save(copy)
    assert outside.read_text(encoding="utf-8") == "as it was"
    assert not (copy / "manifest.json").is_symlink()
    assert len(BM25Index.open(copy, analysis=PLAIN)) == 1


numbers = st.sampled_from((0, 1, 2, 3, 4, 5, 7, 8, -1, -2, -3, LARGE, SMALL, 2**16)) | st.integers(SMALL, LARGE)


@settings(max_examples=50)
@given(data=st.data())
def test_any_forged_index_is_refused_or_searched_without_harm(folder, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("forged")
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = arrays_of(copy)
    name = data.draw(st.sampled_from([name for name in found if "terms" not in name]))
    array = found[name]
    for _ in range(data.draw(st.integers(1, 3))):
        if len(array):
            place = data.draw(st.integers(0, len(array) - 1))
            array[place] = np.int64(data.draw(numbers)).astype(array.dtype)
    if data.draw(st.booleans()):
        array = array[: data.draw(st.integers(0, len(array)))]
    forged(copy, name, array)
    if data.draw(st.booleans()):
        forged(copy, "base-terms", pack_terms(dict.fromkeys(data.draw(st.sets(st.text(max_size=3), max_size=7)), 0)))
    try:
        index = BM25Index.open(copy, analysis=PLAIN)
    except IndexFilesError:
        return
    for query in ("a b c d e f", "b", "f f"):
        hits = index.search(query)
        assert set(hits.positions.tolist()) <= set(range(len(index)))
        index.matching(query)
    assert len(index.update([*range(len(index)), -1], ["b f"]).merged()) == len(index) + 1
