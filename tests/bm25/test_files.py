"""The index on disk: what is saved is opened, what is damaged is refused, and a crash loses nothing."""

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from fakes import assert_finds_alike, random_texts
from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.bm25.scoring import Scoring

PLAIN = Analysis(language=None)
TEXTS = ["the brake of the car", "a car in the snow", "", "snow and more snow", "the hut", "car car car brake"]


def saved(folder, texts=TEXTS, analysis=None):
    index = BM25Index.build(texts, analysis=analysis)
    index.save(folder, extra={"keys": np.arange(len(texts), dtype=np.uint64)}, labels={"fields": ["title"]})
    return index


def test_an_opened_index_is_the_saved_one(tmp_path):
    texts = random_texts(500)
    index = saved(tmp_path / "index", texts, PLAIN)
    opened = BM25Index.open(tmp_path / "index", analysis=PLAIN)
    assert_finds_alike(opened, texts, ["w1", "w2 w3 w100"])
    assert opened.extra["keys"].tolist() == list(range(500))
    assert opened.labels == {"fields": ["title"]}
    assert not opened._base.documents.flags.writeable
    assert isinstance(opened._base.documents.base, np.memmap)
    mask = np.arange(500) % 2 == 0
    assert (
        opened.search("w1 w5", 9, allowed=opened.allow(mask)).positions.tolist()
        == index.search("w1 w5", 9, allowed=index.allow(mask)).positions.tolist()
    )


def test_an_opened_index_can_be_updated_saved_and_opened_again(tmp_path):
    texts = random_texts(3000)
    saved(tmp_path, texts, PLAIN)
    base = {path.name for path in tmp_path.glob("base-*")}
    texts = [*texts[1:], "w1 w2 fresh", "fresh"]
    changed = BM25Index.open(tmp_path, analysis=PLAIN).update([*range(1, 3000), -1, -1], texts[-2:])
    changed.save(tmp_path)
    assert {path.name for path in tmp_path.glob("base-*")} == base  # the large files were not written again
    again = BM25Index.open(tmp_path, analysis=PLAIN)
    assert_finds_alike(again, texts, ["w1", "fresh w2"])
    texts = [*texts, "fresh fresh"]
    assert_finds_alike(again.update([*range(3001), -1], texts[-1:]), texts, ["fresh", "w4"])


def test_saving_leaves_nothing_behind_but_what_is_in_force(tmp_path):
    for size in (10, 2000, 30):
        saved(tmp_path, random_texts(size))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "manifest.json",
        *(fields["file"] for fields in manifest["arrays"].values()),
    }


def test_an_empty_index_can_be_saved(tmp_path):
    BM25Index.build([]).save(tmp_path)
    assert len(BM25Index.open(tmp_path)) == 0


def test_an_index_is_opened_for_its_own_analysis_and_any_formula(tmp_path):
    saved(tmp_path)
    with pytest.raises(IndexFilesError, match="analysis"):
        BM25Index.open(tmp_path, analysis=PLAIN)
    opened = BM25Index.open(tmp_path, scoring=Scoring("bm25plus", k1=2.0))
    assert_finds_alike(opened, TEXTS, ["car", "snow brakes"])


def test_no_index_is_an_error_that_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(IndexFilesError, match=r"there is no manifest\.json"):
            BM25Index.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format="something else"), "it is of format 'something else'"),
        (lambda manifest: manifest.update(version=99), "version 99"),
        (lambda manifest: manifest.update(byte_order="big"), "big-endian"),
        (lambda manifest: manifest["values"].update(documents=7), "damaged"),
        (lambda manifest: manifest.pop("arrays"), "damaged"),
        (lambda manifest: manifest.pop("version"), "cannot be read"),
    ],
)
def test_a_foreign_or_changed_manifest_is_refused(tmp_path, change, message):
    saved(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexFilesError, match=message):
        BM25Index.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'"index"'])
def test_a_broken_manifest_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(IndexFilesError, match="cannot be read"):
        BM25Index.open(tmp_path)


def test_any_file_that_is_cut_changed_or_gone_is_noticed(tmp_path):
    index = BM25Index.build(random_texts(1200)).update([*range(1200), -1], ["w3 w4"])
    index.save(tmp_path, extra={"keys": np.arange(3, dtype=np.uint64)})
    files = [path for path in tmp_path.glob("*.array") if path.stat().st_size]
    assert len(files) == 12
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for damaged in (content[:-1], content + b"\0", flipped):
            path.write_bytes(damaged)
            with pytest.raises(IndexFilesError, match=path.name):
                BM25Index.open(tmp_path)
        path.unlink()
        with pytest.raises(IndexFilesError, match=f"{path.name} is missing"):
            BM25Index.open(tmp_path)
        path.write_bytes(content)
    assert len(BM25Index.open(tmp_path)) == 1201


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    saved(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("crc32")
    manifest["arrays"]["lengths"]["file"] = "../secret"
    path.write_text(json.dumps({**manifest, "crc32": files.zlib.crc32(files._canonical(manifest))}))
    with pytest.raises(IndexFilesError, match="malformed"):
        BM25Index.open(tmp_path / "index")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
@pytest.mark.parametrize("writes_before_the_end", [0, 1, 5, 9, 12, 13])
def test_a_process_killed_while_it_saves_leaves_an_index_that_opens(tmp_path, writes_before_the_end):
    saved(tmp_path / "index", ["old car", "old hut"])
    saved(tmp_path / "other", ["new car", "new hut", "new snow"])
    code = f"""
        import os, signal, sys
        from haystack_ce_ranker.bm25 import files
        from haystack_ce_ranker.bm25.index import BM25Index

        write, left = files._write_synced, [{writes_before_the_end}]

        def write_or_die(path, data):
            if left[0] == 0:
                path.write_bytes(bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            write(path, data)

        files._write_synced = write_or_die
        files._remove_others = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        index = BM25Index.open(sys.argv[1] + "/other")
        index.save(sys.argv[1] + "/index", extra=index.extra)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    finished = writes_before_the_end == 13  # twelve arrays and the manifest: only the cleaning up was still to come
    opened = BM25Index.open(tmp_path / "index")
    assert len(opened) == (3 if finished else 2)
    assert len(opened.search("new" if finished else "old").positions) == len(opened)
    leftovers = {path.name for path in (tmp_path / "index").iterdir()}
    saved(tmp_path / "index")
    assert_finds_alike(BM25Index.open(tmp_path / "index"), TEXTS, ["car"])
    if not finished:  # what the dead process left is young, so it may be another process's: it is removed later
        old = leftovers & {path.name for path in (tmp_path / "index").iterdir()}
        for name in old:
            os.utime(tmp_path / "index" / name, (0, 0))
        saved(tmp_path / "index")
        assert not old & {path.name for path in (tmp_path / "index").iterdir()} - {"manifest.json"}


def test_a_failed_save_raises_and_keeps_the_old_index(tmp_path, monkeypatch):
    saved(tmp_path)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_synced", full)
    with pytest.raises(OSError, match="No space"):
        BM25Index.build(["other"]).save(tmp_path)
    assert len(BM25Index.open(tmp_path)) == len(TEXTS)


@pytest.mark.parametrize("when", ["before", "while the manifest is written"])
def test_a_file_that_another_process_removed_meanwhile_is_written_again(tmp_path, monkeypatch, when):
    saved(tmp_path)
    changed = BM25Index.open(tmp_path).update([*range(len(TEXTS)), -1], ["a new car"])
    others = [BM25Index.build(["another collection"])]  # saving it removes all files that ours has open
    write = files._write_synced

    def after_the_others(path, data):
        if path.name.startswith(files.MANIFEST) and others:
            others.pop().save(tmp_path)
        write(path, data)

    if when == "before":
        others.pop().save(tmp_path)
    monkeypatch.setattr(files, "_write_synced", after_the_others)
    changed.save(tmp_path)
    assert_finds_alike(BM25Index.open(tmp_path), [*TEXTS, "a new car"], ["car", "new"])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no lock of a folder")
def test_of_two_that_save_at_once_one_waits_for_the_other(tmp_path, monkeypatch):
    saved(tmp_path)
    inside, go_on, order = threading.Event(), threading.Event(), []
    require = files._require

    def slowly(needed):
        order.append(threading.current_thread().name)
        if threading.current_thread().name == "first":
            inside.set()
            assert go_on.wait(60)
        require(needed)

    monkeypatch.setattr(files, "_require", slowly)
    indexes = [BM25Index.open(tmp_path).update([*range(len(TEXTS)), -1], [text]) for text in ("one", "two")]
    first, second = (
        threading.Thread(target=one.save, args=(tmp_path,), name=name)
        for one, name in zip(indexes, ("first", "second"), strict=True)
    )
    first.start()
    assert inside.wait(60)
    second.start()
    second.join(0.5)
    assert order == ["first"]
    go_on.set()
    first.join(60)
    second.join(60)
    assert order == ["first", "second"]
    assert BM25Index.open(tmp_path).search("two").positions.tolist() == [len(TEXTS)]


def test_nothing_on_disk_is_pickled_and_a_copy_shares_the_postings(tmp_path):
    index = saved(tmp_path)
    assert all(b"numpy" not in path.read_bytes() for path in tmp_path.iterdir())
    assert copy.deepcopy(index) is index
