"""How files are opened, where lines end, and that the counts of lines add up."""

import gc
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from haystack_ce_ranker.data import sources
from haystack_ce_ranker.data.collections import load_judgments, load_run
from haystack_ce_ranker.data.converters import convert_csv, convert_trec
from haystack_ce_ranker.data.sources import CollectionError, Source

INNER = ("\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
"""Characters that `str.splitlines` takes for the end of a line, and a file does not."""


def zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def source(tmp_path, content, name="file.jsonl"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(tmp_path / name, ("one", "two", "three"))


@pytest.mark.parametrize("inner", INNER)
def test_only_a_line_feed_ends_a_line_in_every_reader(tmp_path, inner):
    text = f"one{inner}two"
    assert list(source(tmp_path, f"{text}\r\n{text}\n{text}").lines()) == [text] * 3
    files = {
        "topics": "1\tone\n",
        "qrels": f"1 0 d{inner}1 1\n1 0 d2 0\n",
        "texts": f"d{inner}1\t{text}\nd2\ttwo\n",
        "run": f"1 Q0 d{inner}1 1 2.5 tag\n",
        "labels.csv": f"query,document,label\n{text},{text},1\n{text},other,0\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
    assert load_judgments(tmp_path / "qrels") == {"1": {f"d{inner}1": 1, "d2": 0}}
    assert load_run(tmp_path / "run") == {"1": {f"d{inner}1": 2.5}}
    made = convert_trec(*(tmp_path / name for name in ("topics", "qrels", "texts")), tmp_path / "trec")
    rows = [json.loads(line) for line in Source(made.folder / "corpus.jsonl", ()).lines()]
    assert [row["text"] for row in rows] == [text, "two"]
    made = convert_csv(tmp_path / "labels.csv", tmp_path / "csv")
    rows = [json.loads(line) for line in Source(made.folder / "corpus.jsonl", ()).lines()]
    assert [row["text"] for row in rows] == [text, "other"]


def test_a_carriage_return_in_quotes_and_one_before_a_line_feed_are_kept_as_they_stand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'query,document,label\r\na,"one\rtwo\r\nthree",1\r\n')
    made = convert_csv(path, tmp_path / "out")
    assert json.loads((made.folder / "corpus.jsonl").read_text())["text"] == "one\rtwo\r\nthree"


@pytest.mark.parametrize("content", ["a\tone\rb\ttwo\r", "a\tone\rb\ttwo"])
def test_lines_that_end_in_carriage_returns_alone_are_refused(tmp_path, content):
    with pytest.raises(CollectionError, match="line 1: its lines end in carriage returns alone"):
        list(source(tmp_path, content).lines())
    assert list(source(tmp_path, "a\tone\r").lines()) == ["a\tone"]


def two_members(pack):
    return pack(b'{"a": 1}\n') + pack(b'{"a": 2}\n')


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_packed_files_are_read_whole_whatever_their_name(tmp_path, pack):
    assert list(source(tmp_path, two_members(pack)).objects()) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_packed_file_that_is_torn_is_refused_at_any_place(tmp_path, pack):
    content = pack(b"".join(b'{"number": %d}\n' % number for number in range(50_000)))
    for kept in (len(content) // 2, len(content) - 1):
        with pytest.raises(CollectionError, match=r"file\.jsonl.*: it cannot be read"):
            list(source(tmp_path, content[:kept]).objects())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04", "a zip archive: unpack it first"),
        (b"BZh91AY", "packed by bzip2: unpack it first"),
        (b"\xfd7zXZ\x00", "packed by xz: unpack it first"),
        ("{}".encode("utf-16"), "not UTF-8 but UTF-16"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "line 2: it is not UTF-8 .invalid start byte at byte 7 of the line"),
        ("[" * 100_000, "line 1: it is not a JSON object a line .nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "line 1: it is not a JSON object a line .Exceeds the limit"),
        (b"PAR1\x15\x00", "it cannot be read"),
        (gzip.compress(b"PAR1\x15\t", mtime=0), "what is packed in it is itself packed, or a parquet file"),
        (zstd(gzip.compress(b"{}", mtime=0)), "what is packed in it is itself packed, or a parquet file"),
        (gzip.compress(b"PK\x03\x04", mtime=0), "what is packed in it cannot be read: it is a zip archive"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_way_out(tmp_path, content, says):
    gc.collect()  # or what other tests left may be finalised at the end of a stack that deep nesting has used up
    with pytest.raises(CollectionError, match=says):
        list(source(tmp_path, content).objects())


def test_the_wrong_line_is_shown_in_one_line_without_control_characters(tmp_path):
    with pytest.raises(CollectionError) as caught:
        list(source(tmp_path, '\n{"a": "\x1b[31m\u2028' + "x" * 1000 + "}\n").objects())
    first, line, *form = str(caught.value).split("\n")
    assert "file.jsonl, line 2: it is not a JSON object a line" in first
    assert line.startswith('  The line: {"a": "\\x1b[31m\\u2028xxx')
    assert "... (1," in line
    assert len(line) < 300
    assert form == ["  Expected form (file.jsonl):", "    one", "    two", "    three"]
    assert "\x1b" not in str(caught.value)
    counts = caught.value.counts
    assert (counts.blank, counts.read, counts.mended, counts.refused, counts.lines) == (1, 0, 0, 1, 2)


def test_lines_are_counted_once_and_mends_by_kind(tmp_path):
    given = source(tmp_path, '{"a": 1}\n\n{"a": 2}\n{"a": 3}\n')
    for row in given.objects():
        if row["a"] > 1:
            given.mend("first")
        if row["a"] > 2:
            given.mend("second")
            given.mend("second")
    counts = given.counts
    assert (counts.blank, counts.read, counts.mended, counts.refused, counts.lines) == (1, 1, 2, 0, 4)
    assert counts.notes() == ["file.jsonl: first (2 lines)", "file.jsonl: second (1 line)"]


def test_halves_of_a_character_and_marks_inside_a_file_are_mended(tmp_path):
    given = source(tmp_path, '{"a": "\\ud800 \\ud83d\\ude00 \\udc00"}\n\ufeff{"a": "\\uD83D\\uDE00"}\n')
    assert [row["a"] for row in given.objects()] == ["\ufffd \U0001f600 \ufffd", "\U0001f600"]
    assert given.counts.mends == {sources.HALVES: 1, sources.MARKS: 1}


def test_without_arrow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    given = source(tmp_path, zstd(b"{}"))
    with pytest.raises(ImportError, match=r'pip install "ce-ranker-haystack\[evaluate\]"'):
        list(given.objects())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_a_few_bytes_that_unpack_to_an_endless_line_or_text_are_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(sources, "_LONGEST_LINE", 10_000)
    monkeypatch.setattr(sources, "_LONGEST_TEXT", 20_000)
    (tmp_path / "line").write_bytes(pack(b"fine\n" + b"0" * 10_000_000))
    with pytest.raises(CollectionError, match=r"line, line 2: it has more than 10,000 bytes"):
        list(Source(tmp_path / "line", ("form",)).lines())
    (tmp_path / "text").write_bytes(pack(b"0" * 100 + b"\n" * 10_000_000))
    with pytest.raises(CollectionError, match=r"text, line \d+: it has more than 20,000 characters up to here"):
        Source(tmp_path / "text", ("form",)).text()
    (tmp_path / "fine").write_bytes(pack(b"0" * 9_999 + b"\n"))
    assert len(Source(tmp_path / "fine", ("form",)).text()) == 10_000


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_what_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(sources, "_SMALL", 100_000)
    (tmp_path / "bomb").write_bytes(pack(b"0\n" * 500_000))
    with pytest.raises(CollectionError, match="bomb, line .*: it unpacks to more than 200 times its size"):
        list(Source(tmp_path / "bomb", ("form",)).lines())
    (tmp_path / "plain").write_bytes(b"0\n" * 100_000)
    assert len(list(Source(tmp_path / "plain", ("form",)).lines())) == 100_000


def test_a_parquet_file_of_one_long_text_many_times_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SMALL", 1_000_000)
    table = pyarrow.table({"text": ["0" * 10_000] * 3_000})
    pyarrow.parquet.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    with pytest.raises(CollectionError, match="bomb.parquet.*: it unpacks to more than 200 times its size"):
        list(Source(tmp_path / "bomb.parquet", ("form",)).objects())
