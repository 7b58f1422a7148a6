"""
Properties of all readers: any bytes give data or one error of ours, no line is lost in silence, and the counts add up.

`make long-properties` runs them for an hour.
"""

import csv
import gzip
import io
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.data.collections import EXPECTED_CORPUS, load_collection, load_queries, load_unjudged
from haystack_ce_ranker.data.converters import (
    EXPECTED_TEXTS,
    CsvColumns,
    convert_csv,
    convert_trec,
    csv_rows,
    read_texts,
)
from haystack_ce_ranker.data.sources import CollectionError, Source, trimmed
from haystack_ce_ranker.data.tables import EXPECTED_QRELS, EXPECTED_RUN, judgments_of, run_of
from haystack_ce_ranker.data.topics import EXPECTED_TOPICS, read_topics

PLAIN = b'{"_id": "d1", "text": "x"}\n'
PIECES = (
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\t",
        b" ",
        b",",
        b";",
        b'"',
        b"\\",
        b"\x00",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\xff",
        b"\x1a",
    ),
    *("\ufeff".encode(), "\x85".encode(), "\u2028".encode(), "\u00a0".encode(), "\U0001f600".encode(), b"\xed\xa0\x80"),
    *(b'{"_id": "d1", "text": "x"}', b'{"_id": 2, "title": null, "text": null}', b'{"_id": "q1", "text": "\\ud800"}'),
    *(
        b'{"_id": "',
        b'", "text": ',
        b"}",
        b"[",
        b"null",
        b"NaN",
        b"1e999",
        b'"metadata": {"a": [1]}',
        b"{",
        b"1" * 4400,
    ),
    *(b"query-id\tcorpus-id\tscore\n", b"qid\tdocid\trank\tscore\n", b"q1\td1\t1\n", b"q1\td2\t-1.0\t\t\n"),
    *(b"q1 0 d1 1\n", b"q1 0\td2 2\n", b"q1 Q0 d1 1 2.5 tag\n", b"q1 Q0\td2 2\t1.5 tag\n", b"q1", b"d1", b"1", b"1_0"),
    *(b"query,document,label\n", b"a,b,1\n", b'a,"b\nc",0\n', b"a;b;1\n", b"d1\ttitle\ttext\n", b"d2\ttext\n"),
    *(b"<top>", b"</top>", b"<num> Number: 1 ", b"<title> a < b ", b"</title>", b"<desc>", b"<!--", b"-->", b"&amp;"),
    *(b'<topic number="1">', b"</topic>", b"<query>a</query>", b"<?xml?>", b"<topics>"),
    *(b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1\x15", b"PAR1", b"PK\x03\x04"),
)


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def in_parquet(rows: list[dict]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


PACKS = (bytes, gzip.compress, zstd)
VALID = (
    PLAIN * 2 + b'\n{"_id": 7, "title": "t", "text": null}\n',
    b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n",
    b"q1 0 d1 1\nq2\t0 d2 1.0\n",
    b"q1 Q0 d1 1 2.5 tag\nq1\tQ0\td2\t2\t1.5\ttag\t\n",
    b'query,document,label\r\na,"b\nc",1\r\nd,e,0\r\n',
    b"d1\tone\nd2\ttwo\r\n",
    b"<top>\n<num> Number: 1\n<title> one\n</top>\n<top><num>2<title>two</title></top>\n",
    in_parquet([{"_id": "d1", "title": "", "text": "x"}, {"_id": "d2", "title": None, "text": "y"}]),
    in_parquet([{"query-id": "q1", "corpus-id": 3, "score": 1.0}]),
)


@st.composite
def torn(draw) -> bytes:
    """A sound file, perhaps packed, with some bytes cut out, put in or changed."""
    content = draw(st.sampled_from(PACKS))(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        width = draw(st.sampled_from((0, 1, 2, len(content))))
        content = content[:place] + draw(st.binary(max_size=3) | st.sampled_from(PIECES)) + content[place + width :]
    return content


pieces = st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=14).map(b"".join)
contents = (
    st.binary(max_size=60) | pieces | torn() | st.builds(lambda pack, one: pack(one), st.sampled_from(PACKS), pieces)
)


def corpus_of(source: Source) -> object:
    return list(source.objects())


READERS = {
    "objects": (EXPECTED_CORPUS, corpus_of),
    "judgments": (EXPECTED_QRELS, lambda source: judgments_of([source])),
    "run": (EXPECTED_RUN, run_of),
    "texts": (EXPECTED_TEXTS, lambda source: list(read_texts(source))),
    "topics": (EXPECTED_TOPICS, lambda source: read_topics(source, "title", {"q1"})),
    "csv": (EXPECTED_QRELS, lambda source: csv_rows(source, CsvColumns())),
}


@contextmanager
def folder(**files: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for path, content in files.items():
            file = Path(name) / path.replace("__", "/").replace("_", ".", 1)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        yield Path(name)


def lines_of(content: bytes) -> int:
    """The lines of a file, by the one rule: a line feed ends a line."""
    if content.startswith(b"PAR1\x15"):
        return pyarrow.parquet.read_metadata(io.BytesIO(content)).num_rows
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    elif content.startswith(b"\x28\xb5\x2f\xfd"):
        content = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read()
    return content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


def check_error(error: CollectionError, name: str) -> None:
    """One line says file and problem, one may show the wrong line, and three the form; no other line, no escape."""
    first, *rest = str(error).split("\n")
    assert name in first
    assert len(rest) in (4, 5) if rest[0].startswith("  The line: ") else len(rest) == 4
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", str(error))
    number = re.search(r", line (\d+): ", first)
    assert error.counts.refused == (number is not None)
    assert number is None or int(number[1]) <= error.counts.lines


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60)
@given(content=contents)
@example(content=b"")
@example(content=b"[" * 100_000)
@example(content=b"<top>" * 10_000)
@example(content=b"<!--" * 10_000)
@example(content=b"\r" * 10)
@example(content=zstd(PLAIN * 50_000)[:-1])
@example(content=gzip.compress(PLAIN)[:-1])
@example(content=gzip.compress(b"PAR1\x15\t"))
@example(content=gzip.compress(gzip.compress(PLAIN)))
@example(content=gzip.compress(b"\x1f\x8b\t"))
def test_any_bytes_give_data_or_one_error_of_ours_and_the_counts_add_up(reader, content):
    expected, read = READERS[reader]
    with folder(file_name=content) as path:
        source = Source(path / "file.name", expected)
        try:
            read(source)
        except CollectionError as error:
            check_error(error, "file.name")
        else:
            assert source.counts.lines == lines_of(content)
            assert source.counts.refused == 0


@settings(max_examples=60)
@given(corpus=contents, queries=contents, qrels=contents)
@example(corpus=PLAIN, queries=PLAIN.replace(b"d1", b"q1"), qrels=b"q1 0 d1 1\n")
def test_any_folder_gives_a_collection_or_one_error_of_ours(corpus, queries, qrels):
    files = {"corpus_jsonl": corpus, "queries_jsonl": queries, "qrels__test_tsv": qrels}
    with folder(**files) as path:
        try:
            found = load_collection(path)
        except CollectionError as error:
            check_error(error, str(path))
        else:
            assert [one.lines for one in found.files] == [lines_of(content) for content in files.values()]
            mends = sum(count for one in found.files for count in one.mends.values())
            assert mends == 0 or any("line" in note for note in found.notes)


@settings(max_examples=60)
@given(corpus=contents, log=contents)
@example(corpus=PLAIN, log=b"one query a line\n\n \nanother\n")
@example(corpus=PLAIN, log=b"\n\n")
def test_any_corpus_alone_and_any_log_of_queries_are_read_or_one_error_of_ours(corpus, log):
    with folder(corpus_jsonl=corpus, a_log=log) as path:
        try:
            found = load_unjudged(path)
        except CollectionError as error:
            check_error(error, str(path))
        else:
            assert [one.lines for one in found.files] == [lines_of(corpus)]
            assert not found.queries
        try:
            queries = load_queries(path / "a.log")
        except CollectionError as error:
            check_error(error, "a.log")
        else:
            assert 0 < len(queries) <= lines_of(log)
            assert all(text.strip() for text in queries.values())


@settings(max_examples=60)
@given(topics=contents, qrels=contents, texts=contents, labels=contents)
@example(topics=b"1\ta\n", qrels=b"1 0 d1 1\n", texts=b"d1\ttext\n", labels=b"query,document,label\na,b,1\n")
def test_what_is_converted_is_read_again_and_anything_else_is_one_error_of_ours(topics, qrels, texts, labels):
    with folder(a_topics=topics, a_qrels=qrels, a_texts=texts, a_csv=labels) as path:
        trec = (path / "a.topics", path / "a.qrels", path / "a.texts", path / "trec")
        for convert, given_paths in ((convert_trec, trec), (convert_csv, (path / "a.csv", path / "csv"))):
            try:
                made = convert(*given_paths)
            except CollectionError as error:
                check_error(error, "/a.")
                assert not given_paths[-1].exists()
            else:
                found = load_collection(made.folder)
                assert len(found.documents) == made.documents
                assert sum(len(grades) for grades in found.judgments.values()) <= made.judgments
                assert not any(one.mended for one in found.files)


# From here on the files are sound, and what is read must be what was written.

characters = st.characters(exclude_categories=("Cs",))
texts = st.text(characters, max_size=20)
one_line = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n"), max_size=12)
ids = one_line.map(lambda text: trimmed(text.lstrip("\ufeff"))).filter(
    # What begins so at the start of a file says that it is marked, JSON, or no text at all.
    lambda text: text.strip() and "\r" not in text and not text.startswith(("<", "{", "\ufeff"))
)
words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6).filter(
    lambda text: text.strip(" \ufeff{") == text
)
ends = st.sampled_from(("\n", "\r\n", "\n\n", "\n \t\r\n"))
titles = texts | st.none()


def packed(draw, lines: list[str]) -> bytes:
    """Lines with the ends that people's files have, perhaps a byte order mark, perhaps packed."""
    text = "".join(line + draw(ends) for line in lines)
    return draw(st.sampled_from(PACKS))((draw(st.sampled_from(("", "\ufeff"))) + text).encode())


@settings(max_examples=60)
@given(data=st.data(), documents=st.dictionaries(ids, st.tuples(titles, texts | st.none()), min_size=1, max_size=6))
def test_every_document_is_read_as_it_was_written(data, documents):
    rows = [{"_id": one, "title": title, "text": text} for one, (title, text) in documents.items()]
    repeated = [row for row in rows if data.draw(st.booleans())]
    if data.draw(st.booleans()):
        content = in_parquet([*rows, *repeated])
    else:
        content = packed(data.draw, [json.dumps(row, ensure_ascii=data.draw(st.booleans())) for row in rows + repeated])
    name = "corpus_parquet" if content.startswith(b"PAR1") else "corpus_jsonl"
    first = next(iter(documents))
    queries, qrels = json.dumps({"_id": "q", "text": "x"}), json.dumps({"qid": "q", "docid": first, "score": 1})
    with folder(**{name: content, "queries_jsonl": queries.encode(), "qrels__test_jsonl": qrels.encode()}) as path:
        found = load_collection(path)
    expected = {one: (title or "", text or "") for one, (title, text) in documents.items()}
    assert {one.id: (one.title, one.text) for one in found.documents.values()} == expected
    assert list(found.documents) == list(documents)
    counts = found.files[0]
    nulls = sum(None in (row["title"], row["text"]) for row in rows)
    mends = {"lines that stand there twice are read once": len(repeated)}
    mends["null texts and titles are read as empty"] = nulls + sum(None in row.values() for row in repeated)
    assert counts.mends == {kind: count for kind, count in mends.items() if count}
    assert counts.read + counts.mended == len(rows) + len(repeated)


def line_of(draw, cells: list[str], *, spaces: bool) -> str:
    """Cells in one line, parted by tabs, or also by spaces where no cell holds one; perhaps with tabs at the end."""
    blanks = st.sampled_from((" ", "\t", "  ", " \t")) if spaces else st.just("\t")
    parts = [part for cell in cells for part in (cell, draw(blanks))]
    return "".join(parts[:-1]) + draw(st.sampled_from(("", "", "\t", "\t\t")))


@settings(max_examples=60)
@given(data=st.data(), spaces=st.booleans(), run=st.booleans(), header=st.booleans())
def test_every_judgment_and_every_row_of_a_run_is_read_as_it_was_written(data, spaces, run, header):
    names = words if spaces else ids
    pairs = data.draw(st.lists(st.tuples(names, names), unique=True, min_size=1, max_size=6))
    numbers = st.floats(allow_nan=False) if run else st.integers(-3, 2**31 - 1)
    written: dict[str, dict[str, float]] = {}
    lines = []
    for query, document in pairs:
        number = written.setdefault(query, {})[document] = data.draw(numbers)
        text = repr(number) + ("" if run else data.draw(st.sampled_from(("", ".0", ".", ".000"))))
        cells = [query, "0", document, "1", text, "my_run"] if run else [query, "0", document, text]
        lines.append(line_of(data.draw, cells, spaces=spaces))
    if header:
        columns = ["qid", "Q0", "docid", "rank", "score", "tag"] if run else ["query-id", "iter", "corpus-id", "score"]
        lines.insert(0, line_of(data.draw, columns, spaces=spaces))
    with folder(a_tsv=packed(data.draw, lines)) as path:
        source = Source(path / "a.tsv", EXPECTED_RUN if run else EXPECTED_QRELS)
        found = run_of(source) if run else judgments_of([source])
    assert found == written
    assert source.counts.read + source.counts.mended == len(lines)


@settings(max_examples=60)
@given(data=st.data(), rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_every_row_of_a_csv_is_read_as_it_was_written(data, rows):
    stream = io.StringIO(newline="")
    delimiter, end = data.draw(st.sampled_from(",;\t")), data.draw(st.sampled_from(("\n", "\r\n")))
    quoting = data.draw(st.sampled_from((csv.QUOTE_ALL, csv.QUOTE_MINIMAL)))
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("query", "document", "label"), *((query, document, 1) for query, document in rows)])
    content = data.draw(st.sampled_from(PACKS))(stream.getvalue().encode())
    with folder(a_csv=content) as path:
        source = Source(path / "a.csv", EXPECTED_QRELS)
        found = csv_rows(source, CsvColumns())
    assert [row for _, row in found] == [(query, document, "1") for query, document in rows]
    assert source.counts.lines == lines_of(content)


@settings(max_examples=60)
@given(data=st.data(), rows=st.dictionaries(ids, st.tuples(one_line, one_line), min_size=1, max_size=5))
def test_every_line_of_texts_and_of_topics_is_read_as_it_was_written(data, rows):
    lines = [f"{one}\t{title}\t{text}" for one, (title, text) in rows.items()]
    with folder(a_texts=packed(data.draw, ["docid\ttitle\ttext", *lines])) as path:
        found = list(read_texts(Source(path / "a.texts", EXPECTED_TEXTS)))
    expected = [(one, trimmed(title), trimmed(text)) for one, (title, text) in rows.items()]
    assert [(one.id, one.title, one.text) for one in found] == expected
    asked = {one: trimmed(title) for one, (title, _) in rows.items() if title.strip()}
    for form in (
        [f"{one}\t{title}" for one, (title, _) in rows.items()],
        [json.dumps({"id": one, "text": title}) for one, (title, _) in rows.items()],
    ):
        with folder(a_topics=packed(data.draw, form)) as path:
            source = Source(path / "a.topics", EXPECTED_TOPICS)
            if asked:
                assert read_topics(source, "title", ()) == asked
            else:
                with pytest.raises(CollectionError, match="it has no topics"):
                    read_topics(source, "title", ())
