"""
Reads one file: opens it however it is packed, counts what became of each line, and refuses with the line that is wrong.

Only a line feed, or a carriage return with a line feed, ends a line. Any other character may stand inside a text.
"""

import gzip
import json
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import IO, Any

NUMBERS = "ids that are numbers are read as text"
PADDED = "spaces around an id or a number are left out"
NULLS = "null texts and titles are read as empty"
HALVES = "halves of a character are read as \ufffd"
MARKS = "byte order marks inside the file are left out"

_GZIP, _ZSTANDARD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1\x15"
_FOREIGN = {
    _PARQUET: "it is a parquet file, where text is expected",
    b"PK\x03\x04": "it is a zip archive: unpack it first",
    b"BZh9": "it is packed by bzip2: unpack it first",
    b"\xfd7zXZ": "it is packed by xz: unpack it first",
    b"\xff\xfe": "it is not UTF-8 but UTF-16: save it as UTF-8",
    b"\xfe\xff": "it is not UTF-8 but UTF-16: save it as UTF-8",
}
_LONGEST_MAGIC = 6
_LONGEST_LINE = 2**28  # bytes: a few kilobytes that are packed can claim to be a line of many gigabytes
_LONGEST_TEXT = 2**28  # characters of a file that is read as a whole
_MOST_TIMES, _SMALL = (
    200,
    2**28,
)  # text shrinks to a tenth; what unpacks to more bytes and so many times its size is none
_PARQUET_ROWS = 256  # at once: equal texts of many megabytes are kept as one
_LINE_END = "\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN, _LONGEST_PROBLEM = 160, 600  # characters of a line and of a problem in an error


@dataclass(slots=True)
class ReadCounts:
    """
    What became of the lines of one file; rows are the lines of a parquet file.

    All lines that were looked at are `blank + read + mended + refused`.

    :ivar name: The file's name.
    :ivar blank: Lines that hold nothing.
    :ivar read: Lines taken as they stand, a header among them.
    :ivar mended: Lines taken otherwise than they stand, or left out because they add nothing.
    :ivar refused: 1 if reading stopped at a line, which the error names.
    :ivar mends: For each kind of mending, the lines that it was done to; a line may have several.
    """

    name: str
    blank: int = 0
    read: int = 0
    mended: int = 0
    refused: int = 0
    mends: dict[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """All lines that were looked at."""
        return self.blank + self.read + self.mended + self.refused

    def notes(self) -> list[str]:
        """Return what was mended, a sentence for each kind with the number of lines."""
        return [f"{self.name}: {kind} ({n} {'line' if n == 1 else 'lines'})" for kind, n in self.mends.items()]


class CollectionError(ValueError):
    """
    A file of a collection or a run does not have the expected form; the message says where and shows the form.

    :ivar counts: What became of the file's lines up to there.
    """

    def __init__(self, message: str, counts: ReadCounts) -> None:
        super().__init__(message)
        self.counts = counts


@dataclass(slots=True)
class Source:
    """
    A file that is read once, and the lines that show the form it must have.

    `lines`, `objects` and `text` read it; while they do, `error` and `mend` speak of the line that was read last.
    """

    path: Path
    expected: tuple[str, ...]
    counts: ReadCounts = field(init=False)
    _number: int | None = field(init=False, default=None)
    _line: object = field(init=False, default=None)
    _mended: set[str] = field(init=False, default_factory=set)
    _unpacked: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.counts = ReadCounts(self.path.name)

    def error(self, problem: str, line: int | None = None) -> CollectionError:
        """
        Return the error that names the file, the line and the problem, and shows the line and the form.

        :param line: Its number; by default that of the line that was read last.
        """
        number = self._number if line is None else line
        wrong = ""
        if number is not None:
            shown = str(self._line) if number == self._number else self._line_at(number)
            wrong = f"\n  The line: {short(shown.rstrip(_LINE_END))}"
            self.counts.refused = 1
            if self._number is None and self.counts.read:  # all was read before this line was found to be wrong
                self.counts.read -= 1
        where = visible(str(self.path) if number is None else f"{self.path}, line {number}")
        form = "\n".join(f"    {one}" for one in self.expected)
        name = self.path.name if self.path.name else str(self.path)
        told = f"{where}: {short(problem, _LONGEST_PROBLEM)}.{wrong}\n  Expected form ({visible(name)}):\n{form}"
        return CollectionError(told, self.counts)

    def mend(self, kind: str) -> None:
        """Note that the line that was read last is taken otherwise than it stands."""
        if kind not in self._mended:
            self._mended.add(kind)
            self.counts.mends[kind] = self.counts.mends.get(kind, 0) + 1

    def lines(self, *, raw: bool = False) -> Generator[str, None, None]:
        """
        Yield the lines that are not empty, without their ends.

        :param raw: Yield empty lines, too, and the lines' ends.
        """
        with self._open() as stream:
            for number, content in enumerate(iter(lambda: stream.readline(_LONGEST_LINE + 1), b""), start=1):
                self._number = number
                self._mended.clear()
                if len(content) > _LONGEST_LINE:
                    self._line = content[:_LONGEST_PROBLEM].decode(errors="replace")
                    raise self.error(f"it has more than {_LONGEST_LINE:,} bytes: it is no text of lines")
                self._count_unpacked(len(content))
                self._line = text = self._decoded(content, number, raw)
                if not raw and (not text or text.isspace()):
                    self.counts.blank += 1
                    continue
                yield text if raw else text.removesuffix("\n").removesuffix("\r")
                self._settle()
        self._number = self._line = None

    def text(self) -> str:
        """Return the whole text, its line ends as they are."""
        kept, size = [], 0
        for line in self.lines(raw=True):
            kept.append(line)
            size += len(line)
            if size > _LONGEST_TEXT:
                raise self.error(f"it has more than {_LONGEST_TEXT:,} characters up to here, too many for such a file")
        return "".join(kept)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of JSON lines, or the rows of a parquet file."""
        if self._is_parquet():
            yield from self._parquet_rows()
            return
        for text in self.lines():
            try:
                row = _JSON.decode(text)
                if "\\ud" in text or "\\uD" in text:
                    row = self._whole_characters(row)
            except (ValueError, RecursionError) as error:
                why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else why
                raise self.error(f"it is not a JSON object a line ({why})") from None
            if not isinstance(row, dict):
                raise self.error(f"it must be a JSON object a line, but got {type(row).__name__}")
            yield row

    def holds_objects(self) -> bool:
        """Tell whether the file is parquet or JSON lines, and not a table."""
        return self._is_parquet() or trimmed(self.first_line()).startswith("{")

    def first_line(self) -> str:
        """Return the first line that is not empty, or nothing. It is still read, and counted, later."""
        with closing(Source(self.path, self.expected).lines()) as lines:
            return next(lines, "")

    def identity(self, key: str, value: object) -> str:
        """Return an id: a text, or a whole number as text, that can stand in a line of a table."""
        if isinstance(value, int) and not isinstance(value, bool):
            self.mend(NUMBERS)
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{key!r} must be a string that is not empty, but got {value!r}")
        found = trimmed(value)
        if re.search("[\t\r\n]", found):
            raise self.error(f"{key!r} must not hold a tab or a line's end, but got {value!r}")
        if found != value:
            self.mend(PADDED)
        return found

    def string(self, key: str, value: object) -> str:
        """Return a text; null is an empty one."""
        if value is None:
            self.mend(NULLS)
            return ""
        if not isinstance(value, str):
            raise self.error(f"{key!r} must be a string, but got {value!r}")
        return value

    def _line_at(self, number: int) -> str:
        with closing(Source(self.path, self.expected).lines(raw=True)) as lines:
            return next(islice(lines, number - 1, None), "")

    def _settle(self) -> None:
        if self._mended:
            self.counts.mended += 1
        else:
            self.counts.read += 1

    def _decoded(self, content: bytes, number: int, raw: bool) -> str:
        if content.startswith(_BYTE_ORDER_MARK) and (number == 1 or not raw):
            content = content.removeprefix(_BYTE_ORDER_MARK)
            if number > 1:
                self.mend(MARKS)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            self._line = content.decode(errors="backslashreplace")
            raise self.error(f"it is not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
        if number == 1 and not text.endswith("\n") and "\r" in text.rstrip("\r"):
            self._line = text
            raise self.error("its lines end in carriage returns alone: save it with line feeds at the lines' ends")
        return text

    def _whole_characters(self, row: Any) -> Any:
        """Replace halves of a character that JSON's escapes can hold, and that no file and no tokenizer takes."""
        given = json.dumps(row, ensure_ascii=False)
        whole = given.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if whole == given:
            return row
        self.mend(HALVES)
        return json.loads(whole)

    def _count_unpacked(self, size: int) -> None:
        """Raise an error if a small file unpacks without an end."""
        self._unpacked += size
        if self._unpacked > _SMALL and self._unpacked > _MOST_TIMES * self.path.stat().st_size:
            raise self.error(f"it unpacks to more than {_MOST_TIMES} times its size, as no text does")

    def _parquet_rows(self) -> Iterator[dict[str, Any]]:
        arrow = _arrow()
        with self._clear_errors():
            file = arrow.parquet.ParquetFile(self.path)
            rows = self._rows_of(file)
        number = 0
        while True:
            with self._clear_errors():
                row = next(rows, None)
            if row is None:
                break
            number += 1
            self._mended.clear()
            self._number, self._line = number, row
            yield row
            self._settle()
        self._number = self._line = None
        if number != file.metadata.num_rows:
            raise self.error(f"it says that it has {file.metadata.num_rows} rows, but {number} can be read")

    def _rows_of(self, file: Any) -> Iterator[dict[str, Any]]:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            self._count_unpacked(batch.nbytes)
            yield from batch.to_pylist()

    def _is_parquet(self) -> bool:
        return self.path.suffix == ".parquet" or self._start().startswith(_PARQUET)

    def _start(self) -> bytes:
        if not self.path.is_file():
            raise self.error("there is no such file")
        with self._clear_errors(), self.path.open("rb") as stream:
            return stream.read(_LONGEST_MAGIC)

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """Open the file; how it is packed is seen by its first bytes, not by its name."""
        start = self._start()
        self._refuse_foreign(start)
        with self._clear_errors(), self.path.open("rb") as file:
            if start.startswith(_GZIP):
                unpacked = BufferedReader(gzip.GzipFile(fileobj=file))
            elif start.startswith(_ZSTANDARD):  # Arrow notices a torn end, which zstandard's own reader does not
                unpacked = BufferedReader(_arrow().CompressedInputStream(file, "zstd"))
            else:
                yield file
                return
            self._refuse_foreign(unpacked.peek(_LONGEST_MAGIC), packed=True)
            yield unpacked

    def _refuse_foreign(self, start: bytes, *, packed: bool = False) -> None:
        """Raise an error if a file, or what is packed in it, begins as no text does."""
        if packed and start.startswith((_PARQUET, _GZIP, _ZSTANDARD)):
            raise self.error("what is packed in it is itself packed, or a parquet file: unpack it first")
        if problem := next((why for magic, why in _FOREIGN.items() if start.startswith(magic)), None):
            raise self.error(f"what is packed in it cannot be read: {problem}" if packed else problem)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn what a library says of a torn or broken file into our error."""
        try:
            yield
        except (CollectionError, ImportError):
            raise
        except Exception as error:  # each library has its own kinds, and some raise none of their own
            why = str(error).strip().partition("\n")[0].rstrip(".")
            raise self.error(f"it cannot be read ({why if why else type(error).__name__})") from error


def trimmed(text: str) -> str:
    """Return a cell or an id without the blanks around it; rarer spaces may be a part of it."""
    return text.strip(" \t\r\n")


def visible(text: str) -> str:
    """Return a text in one line, with escapes for what would break the line or a terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def visible_lines(text: str) -> str:
    """Return a text with escapes for what would break a terminal; its lines stay."""
    return "\n".join(map(visible, text.split("\n")))


def short(text: str, most: int = _SHOWN) -> str:
    """Return what an error shows of a text: one line, and of a long text the beginning."""
    text = visible(text)
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_object)


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        message = 'reading parquet and zstd files needs pyarrow: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    return pyarrow
