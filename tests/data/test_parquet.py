"""Parquet files: rows come back as they were, however many there are, and equal rows make equal bytes."""

import sys

import pytest

from haystack_ce_ranker.data.parquet import ROWS_AT_ONCE, write_rows

COLUMNS = {"name": "string", "score": "double", "count": "int64", "names": "[string]", "scores": "[double]"}


def rows(number):
    return [
        {
            "name": f"n{n}",
            "score": n / 3 if n % 2 else None,
            "count": n,
            "names": ["a"] * (n % 3),
            "scores": [0.1, None],
        }
        for n in range(number)
    ]


@pytest.mark.parametrize("number", [0, 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 1])
def test_rows_come_back_as_they_were_and_make_equal_bytes(tmp_path, number):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'evaluate'")
    for name in ("one", "two"):
        assert write_rows(tmp_path / name, iter(rows(number)), columns=COLUMNS, extra="train") == number
    assert parquet.read_table(tmp_path / "one").to_pylist() == rows(number)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_pyarrow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'writing parquet needs pyarrow: pip install "ce-ranker-haystack\[train\]"'):
        write_rows(tmp_path / "one", [], columns=COLUMNS, extra="train")
