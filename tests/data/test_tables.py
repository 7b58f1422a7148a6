"""Judgments and runs as people have them: what is read as it stands, what is mended, and what is refused."""

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from haystack_ce_ranker.data import tables
from haystack_ce_ranker.data.sources import PADDED, CollectionError, Source
from haystack_ce_ranker.data.tables import EXPECTED_QRELS, judgments_of, load_judgments, load_run, whole

HEADER = "query-id\tcorpus-id\tscore\n"


def put(tmp_path, content, name="file.tsv"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("content", "mends"),
    [
        (f"{HEADER}q1\td1\t1\nq1\td2\t-1\n", {}),
        (f"\ufeff{HEADER}q1\td1\t1.0\r\nq1\td2\t-1.0\r\n", {}),
        ("q1 0 d1 1\nq1 0 d2 -1\n", {}),
        ("q1   0 d1   1  \n q1 0 d2 -1\n", {}),
        ("q1 \t0\t d1\t1\nq1\t0\td2\t-1 \n", {PADDED: 2}),
        ("q1 0\td1\t1\nq1\t0 d2 -1\n", {tables.MIXED: 2}),
        ("query-id corpus-id\tscore\nq1 d1\t1\nq1\td2\t-1\n", {tables.MIXED: 2}),
        (f"{HEADER}q1\td1\t1\t\t\nq1\td2\t-1\t\n", {tables.TRAILING: 2}),
        ("query-id\tcorpus-id\tscore\t\nq1\td1\t1\t\nq1\td2\t-1\t\n", {tables.TRAILING: 2}),
        ("q1 0 d1 1\t\nq1 0 d2 -1\n", {tables.TRAILING: 1}),
        (f"{HEADER}q1\td1\t1\nq1\td2\t-1\nq1\td1\t1\n", {tables.REPEATED: 1}),
        ("qid\titer\tdocno\trel\nq1\t0\td1\t1e0\nq1\t0\td2\t-1\n", {}),
    ],
)
def test_judgments_are_read_however_their_columns_are_parted(tmp_path, content, mends):
    given = Source(put(tmp_path, content), EXPECTED_QRELS)
    assert judgments_of([given]) == {"q1": {"d1": 1, "d2": -1}}
    assert given.counts.mends == mends
    assert given.counts.lines == content.count("\n")


def test_ids_may_hold_spaces_where_tabs_part_the_columns(tmp_path):
    assert load_run(put(tmp_path, "q 1\tQ0\td\u00a01 x\t1\t2.5\tmy run\n")) == {"q 1": {"d\u00a01 x": 2.5}}
    assert load_judgments(put(tmp_path, "q\u00a01 0 d1 1\n")) == {"q\u00a01": {"d1": 1}}
    with pytest.raises(CollectionError, match="line 1: it has no header"):
        load_run(put(tmp_path, "q 1 Q0 d 1 1 2.5 mine\n"))


def test_only_a_brace_at_the_very_start_says_that_a_file_is_json(tmp_path):
    assert load_judgments(put(tmp_path, "\x0c{q1 0 d1 1\n")) == {"\x0c{q1": {"d1": 1}}
    assert load_judgments(put(tmp_path, ' \n \t{"qid": "q1", "docid": "d1", "score": 1}\n')) == {"q1": {"d1": 1}}


@pytest.mark.parametrize("content", ["q1 Q0\td1 1\t2.5 mine\n", "q1\tQ0\td1\t1\t2.5\tmine\t\t\n"])
def test_a_run_is_mended_and_said(tmp_path, content, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_run(put(tmp_path, content)) == {"q1": {"d1": 2.5}}
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("file.tsv: ")
    assert warning.endswith("(1 line)")


def test_judgments_and_runs_may_be_json_lines_or_parquet_with_numbers_as_ids(tmp_path):
    judged = [{"query-id": 1, "corpus-id": "d1", "score": 2.0}, {"query-id": 1, "corpus-id": "d2", "score": -1}]
    lines = "".join(json.dumps(row) + "\n" for row in judged)
    rows = [{"query_id": 1, "doc_id": 7, "score": 2.5}, {"query_id": 1, "doc_id": 8, "score": 3.0}]
    for path in (put(tmp_path, lines, "q.jsonl"), parquet(tmp_path / "q.parquet", judged)):
        assert load_judgments(path) == {"1": {"d1": 2, "d2": -1}}
    assert list(load_run(parquet(tmp_path / "r.parquet", rows)).items()) == [("1", {"8": 3.0, "7": 2.5})]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"query-id": "q1", "score": 1}], "line 1: column 'corpus-id' is missing .found: query-id, score"),
        ([{"query-id": "q1", "corpus-id": "d1", "score": None}], "line 1: column 'score' must be a whole number"),
        ([{"query-id": "q1", "corpus-id": "d1", "score": 0.5}], "must be a whole number, but got 0.5"),
        ([{"query-id": "q1", "corpus-id": None, "score": 1}], "'corpus-id' must be a string"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path, rows, says):
    for path in (
        parquet(tmp_path / "q.parquet", rows),
        put(tmp_path, json.dumps(rows[0]), "q.jsonl"),
    ):
        with pytest.raises(CollectionError, match=says):
            load_judgments(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{HEADER}q1\td1\t1\nq1\td2\n", "line 3: it has 2 columns where 3 are expected"),
        (f"{HEADER}q1\td1\t1\textra\n", "line 2: it has 4 columns where 3"),
        ("q1 0 d1 1\nq 1 0 d1 1\n", "line 2: it has 5 columns where 4"),
        (f"{HEADER}q1\td1\t1_0\n", "line 2: column 'score' must be a whole number, but got '1_0'"),
        (f"{HEADER}q1\td1\t1e999\n", "line 2: column 'score' must be a whole number"),
        (f"{HEADER}q1\td1\t{'9' * 5000}\n", "line 2: column 'score' must be a whole number"),
        (f"{HEADER}q1\td1\t0.5\n", "line 2: column 'score' must be a whole number, but got '0.5'"),
    ],
)
def test_a_wrong_line_is_named_and_shown(tmp_path, content, says):
    with pytest.raises(CollectionError, match=says) as caught:
        load_judgments(put(tmp_path, content))
    first, line, *form = str(caught.value).split("\n")
    assert "file.tsv, line " in first
    assert line.replace("\\t", "\t").startswith(f"  The line: {content.split(chr(10))[-2][:100]}")
    assert len(form) == 4


def test_a_file_without_rows_is_refused(tmp_path):
    for content in ("", "\n \n", HEADER):
        with pytest.raises(CollectionError, match=r"file\.tsv: it has no judgments"):
            load_judgments(put(tmp_path, content))


@pytest.mark.parametrize(
    ("given", "grade"),
    [
        *((text, 1) for text in ("1", "1.0", "1.", "+1", "1e0", "10e-1", 1, 1.0)),
        *((text, -1) for text in ("-1", "-1.0", -1.0)),
        *(
            (text, None)
            for text in ("", "1_0", "x", "0.5", "nan", "inf", "1 0", "\u0661", None, True, [1], 2**31, 10**400)
        ),
    ],
)
def test_a_grade_is_a_whole_number_however_it_is_written(given, grade):
    assert whole(given) == grade
