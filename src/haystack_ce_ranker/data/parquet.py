"""Writes rows to a Parquet file, some at a time. Equal rows make equal bytes. Reading is left to `sources`."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

ROWS_AT_ONCE = 1024
"""The rows of a row group, and the most that are held as a table."""


def write_rows(
    file: Path | IO[bytes], rows: Iterable[Mapping[str, Any]], *, columns: Mapping[str, str], extra: str
) -> int:
    """
    Write rows over what is there.

    :param columns: Each column with the name of what it holds, as Arrow names it: `string`, `double`, `int64`. A name
        in brackets is a list of these.
    :param extra: The extra of this package that brings pyarrow, for the error.
    :returns: How many rows were written.
    :raises ImportError: If pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f'writing parquet needs pyarrow: pip install "ce-ranker-haystack[{extra}]"') from error

    def kind(name: str) -> Any:
        return pyarrow.list_(kind(name[1:-1])) if name.startswith("[") else pyarrow.type_for_alias(name)

    schema = pyarrow.schema([(column, kind(name)) for column, name in columns.items()])
    count, left = 0, iter(rows)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while block := list(islice(left, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(block, schema=schema))
            count += len(block)
    return count
