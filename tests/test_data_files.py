"""Files of data: only sound JSON of regular files is read, and what is written goes nowhere else than named."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_results import results
from haystack_ce_ranker.backends.configuration import _saved_prompt
from haystack_ce_ranker.backends.model_files import require_shards
from haystack_ce_ranker.data.converters import convert_csv
from haystack_ce_ranker.data_files import open_to_append, read_json, replacing, write_bytes, write_text
from haystack_ce_ranker.evaluation.running.journal import NAME, Journal
from haystack_ce_ranker.evaluation.showing import files, report
from haystack_ce_ranker.scoring.speed_profile import SpeedProfile, load_profile
from haystack_ce_ranker.tokenizing import saved_formats
from haystack_ce_ranker.training.run_folder import write as write_state

BROKEN = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "long number": b"9" * 5_000,
    "not a number": b'{"a": NaN}',
    "infinite": b'{"a": -Infinity}',
    "twice": b'{"a": 1, "a": 2}',
    "twice inside": b'[{"a": {"b": 1, "b": 1}}]',
    "no JSON": b"a",
    "nothing": b"",
    "cut off": b'{"a": [1, 2',
    "no UTF-8": b'{"a": "\xff"}',
    "null byte": b"\0",
}


@pytest.fixture
def outside(tmp_path_factory):
    """A file in another folder, which must stay as it is."""
    file = tmp_path_factory.mktemp("outside") / "file"
    file.write_text("as it was\n", encoding="utf-8")
    yield file
    assert file.read_text(encoding="utf-8") == "as it was\n"
    assert [one.name for one in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_no_json_is_one_error_in_one_line_that_names_the_file(tmp_path, content):
    file = tmp_path / "data.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+data\.json is no JSON that can be read \(.*\)\.$"):
        read_json(file)


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            read_json(path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    with pytest.raises(ValueError, match="has 1,000,000,000,000 bytes, but such a file has at most 67,108,864"):
        read_json(tmp_path / "large")
    with pytest.raises(OSError, match="absent"):
        read_json(tmp_path / "absent")


READERS = {
    "speed_profile.json": load_profile,
    "pair_format.json": lambda file: saved_formats.read(file.parent),
    "config_sentence_transformers.json": lambda file: _saved_prompt(file.parent),
    "model.safetensors.index.json": lambda file: require_shards(file.parent),
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    *("format", "model", "backend", "dtype", "device", "cpus", "batch_tokens", "threads", "measured"),
    *("prefix", "middle", "suffix", "query_type", "document_type", "query", "document", "ids", "types"),
    *("before", "lead", "tail", "after", "strips", "prompts", "default_prompt_name", "weight_map"),
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=len(KEYS))


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", READERS)
def test_each_file_of_ours_that_is_broken_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as told:
        READERS[name](tmp_path / name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40)
@given(content=objects | values)
def test_each_file_of_ours_gives_a_value_or_an_error_that_names_it(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("read")
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    try:
        READERS[name](folder / name)
    except (ValueError, OSError) as error:
        told = str(error)
    else:
        told = name
    assert name in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("key", "value"), [("threads", 10**9), ("threads", 10**40), ("batch_tokens", 2**40), ("cpus", 10**12)]
)
def test_a_speed_profile_asks_for_no_more_than_a_machine_has(tmp_path, key, value):
    made = {"format": 1, "model": "m", "backend": "torch", "dtype": "float32", "device": "cpu"}
    made |= {"cpus": 2, "batch_tokens": 512, "threads": 2}
    (tmp_path / "made.json").write_text(json.dumps(made), encoding="utf-8")
    assert load_profile(tmp_path / "made.json").threads == 2
    (tmp_path / "made.json").write_text(json.dumps({**made, key: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"made\.json' is not .* {key} is {value}, not a whole number from 1 to"):
        load_profile(tmp_path / "made.json")


def write_replacing(path: Path) -> None:
    with replacing(path) as file:
        file.write("new")


WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "bytes": lambda path: write_bytes(path, b"new"),
    "lines": write_replacing,
    "state of a run": lambda path: write_state(path, "new"),
    "speed profile": SpeedProfile("m", "torch", "float32", "cpu", 2, 512, None).save,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_is_replaced_and_not_followed(tmp_path, outside, write):
    (tmp_path / "out").symlink_to(outside)
    write(tmp_path / "out")
    assert "new" in (tmp_path / "out").read_text(encoding="utf-8") or "512" in (tmp_path / "out").read_text()
    assert not (tmp_path / "out").is_symlink()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_an_evaluation_writes_into_its_folder_alone(tmp_path, outside):
    for name in ("results.json", report.NAME, report.PICTURE):
        (tmp_path / name).symlink_to(outside)
    written = [*files.write(tmp_path, results(), ()), *report.write(tmp_path, results())]
    assert all(path.is_file() and not path.is_symlink() for path in written)
    assert len(written) == 3


@pytest.mark.parametrize("fresh", [True, False])
def test_a_journal_is_not_written_through_a_link_or_into_a_pipe(tmp_path, outside, fresh):
    (tmp_path / NAME).symlink_to(outside)
    with (
        pytest.raises(OSError, match=f"{NAME} is a link or no regular file"),
        Journal(tmp_path, fresh=fresh) as journal,
    ):
        journal.note("k", "q", 1)
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(OSError, match=f"{NAME} is a link or no regular file"):
        open_to_append(tmp_path / NAME, fresh=fresh)


def test_a_link_in_the_place_of_the_unfinished_folder_is_not_followed(tmp_path, outside):
    (tmp_path / "a.csv").write_text("query,document,label\na,b,1\n", encoding="utf-8")
    (tmp_path / ".out.partial").symlink_to(outside.parent)
    with pytest.raises(FileExistsError):
        convert_csv(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / ".out.partial").unlink()
    assert convert_csv(tmp_path / "a.csv", tmp_path / "out").documents == 1


def test_a_file_keeps_its_permissions_and_stays_whole_after_an_error(tmp_path):
    file = tmp_path / "out"
    before = os.umask(0o027)
    try:
        write_text(file, "old")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o600)
        write_text(file, "new\r\n\ud800")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert file.read_bytes() == b"new\r\n\\ud800"
    with pytest.raises(KeyError), replacing(file) as opened:
        opened.write("half" + {}["the other half"])
    assert file.read_bytes() == b"new\r\n\\ud800"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_place_of_a_folder_and_the_other_way_round_are_errors(tmp_path):
    (tmp_path / "file").write_text("as it was", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "new")
    with pytest.raises(OSError, match="file"):
        files.write(tmp_path / "file", results(), ())
    with pytest.raises(OSError, match="file"), Journal(tmp_path / "file") as journal:
        journal.note("k", "q", 1)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "as it was"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]
