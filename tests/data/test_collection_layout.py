"""Where a collection's files may lie, what is said of those left unread, and that each hint can do what it says."""

import gzip
import json
import re
import shlex

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.data.sources import CollectionError

CORPUS = [{"_id": "d1", "title": "Returns", "text": "Goods"}, {"_id": "d2", "title": None, "text": "Parcels"}]
QUERIES = [{"_id": "q1", "text": "send back"}, {"_id": "q2", "text": "when"}]
QRELS = [{"query-id": "q1", "corpus-id": "d1", "score": 1}, {"query-id": "q2", "corpus-id": "d2", "score": 2}]
JUDGED = {"q1": {"d1": 1}, "q2": {"d2": 2}}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tsv(rows):
    return "\n".join(["\t".join(QRELS[0]), *("\t".join(map(str, row.values())) for row in rows), ""]).encode()


def zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def parquet(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


BEIR = {"corpus.jsonl": jsonl(CORPUS), "queries.jsonl": jsonl(QUERIES), "qrels/test.tsv": tsv(QRELS)}


@pytest.mark.parametrize(
    "files",
    [
        BEIR,
        {f"{name}.gz": gzip.compress(content) for name, content in BEIR.items()},
        {f"{name}.zst": zstd(content) for name, content in BEIR.items()},
        {
            "corpus/corpus-00000-of-00002.parquet": parquet(CORPUS[:1]),
            "corpus/corpus-00001-of-00002.parquet": parquet([{"id": "d2", "title": "", "text": "Parcels"}]),
            "queries/queries-00000-of-00001.parquet": parquet(QUERIES),
            "qrels/test-00000-of-00002.parquet": parquet(QRELS[:1]),
            "qrels/test-00001-of-00002.parquet": parquet(QRELS[1:]),
            "README.md": b"not read, and not missed",
        },
        {
            "corpus.parquet": parquet(CORPUS),
            "queries/train.parquet": parquet(QUERIES[:1]),
            "queries/test.parquet": parquet(QUERIES),
            "qrels/test/0000.parquet": parquet(QRELS),
        },
        {"corpus/corpus.jsonl.gz": gzip.compress(jsonl(CORPUS)), "queries.jsonl": jsonl(QUERIES)}
        | {"qrels/test.jsonl": jsonl(QRELS)},
    ],
)
def test_the_same_collection_is_read_from_every_layout(tmp_path, files):
    found = load_collection(put(tmp_path, files))
    assert {one.id: one.content for one in found.documents.values()} == {"d1": "Returns\nGoods", "d2": "Parcels"}
    assert found.queries == {"q1": "send back", "q2": "when"}
    assert found.judgments == JUDGED
    assert not any("unread" in note for note in found.notes)


def test_splits_are_chosen_by_name_in_every_form(tmp_path):
    more = {"qrels/dev.tsv": tsv(QRELS[:1]), "qrels/train-00000-of-00001.parquet": parquet(QRELS[1:])}
    folder = put(tmp_path, BEIR | more)
    assert load_collection(folder).judgments == JUDGED
    assert load_collection(folder, split="dev").judgments == {"q1": {"d1": 1}}
    assert load_collection(folder, split="train").judgments == {"q2": {"d2": 2}}
    with pytest.raises(CollectionError, match=r"no judgments named 'all' \(found: dev, test, train\)"):
        load_collection(folder, split="all")
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(CollectionError, match="name one with --split dev"):
        load_collection(folder)


def test_files_that_a_system_leaves_beside_them_are_none_of_a_collection(tmp_path):
    more = {"qrels/._dev.tsv": b"\0", "qrels/.hidden/x.tsv": b"\0", "qrels/dev.tsv": tsv(QRELS[:1])}
    folder = put(tmp_path, BEIR | more)
    (folder / "qrels" / "test.tsv").unlink()
    assert load_collection(folder).judgments == {"q1": {"d1": 1}}


def test_what_lies_beside_the_files_that_are_read_is_named(tmp_path):
    more = {"corpus.jsonl.gz": b"", "corpus/part.parquet": b"", "qrels/test.tsv.gz": b""}
    notes = load_collection(put(tmp_path, BEIR | more)).notes
    assert notes == (
        *("corpus.jsonl.gz is left unread", "corpus/part.parquet is left unread", "qrels/test.tsv.gz is left unread"),
        "corpus.jsonl: null texts and titles are read as empty (1 line)",
    )


def test_a_missing_part_is_not_passed_over(tmp_path):
    files = {f"corpus/corpus-0000{number}-of-00003.parquet": parquet(CORPUS) for number in (0, 2)}
    files |= {name: content for name, content in BEIR.items() if name != "corpus.jsonl"}
    with pytest.raises(CollectionError, match="it is one of 3 parts, but 2 of them are there") as caught:
        load_collection(put(tmp_path, files))
    assert "corpus-00001-of-00003.parquet" in str(caught.value)


@pytest.mark.parametrize("words", ["evaluate HERE", "tune HERE --pipeline P", "quantize MODEL OUT --verify-on HERE"])
def test_every_command_that_reads_a_collection_takes_its_split(tmp_path, words):
    put(tmp_path, BEIR)
    given = {"HERE": str(tmp_path), "OUT": str(tmp_path / "out")}
    done = CliRunner().invoke(app, [*(given.get(word, word) for word in words.split()), "--split", "dev"])
    assert done.exit_code == 2
    assert "there are no judgments named 'dev' (found: test)" in done.output


def test_mends_are_notes_of_the_collection_with_their_counts(tmp_path):
    files = {
        "corpus.jsonl": jsonl([{"_id": 1, "text": None}, {"_id": "2", "text": "x"}, {"_id": "2", "text": "x"}]),
        "queries.jsonl": jsonl([{"_id": 7, "text": "x"}, {"_id": "q2", "text": ""}, {"_id": "q3", "text": None}]),
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\n7\t1\t1.0\t\n7\t2\t-1\n",
    }
    found = load_collection(put(tmp_path, files))
    assert found.queries == {"7": "x"}
    assert found.judgments == {"7": {"1": 1, "2": -1}}
    assert found.notes == (
        "corpus.jsonl: ids that are numbers are read as text (1 line)",
        "corpus.jsonl: null texts and titles are read as empty (1 line)",
        "corpus.jsonl: lines that stand there twice are read once (1 line)",
        "queries.jsonl: ids that are numbers are read as text (1 line)",
        "queries.jsonl: empty queries that nothing judges are left out (2 lines)",
        "queries.jsonl: null texts and titles are read as empty (1 line)",
        "test.tsv: tabs at the end of a line are left out (1 line)",
    )
    assert [(one.name, one.read, one.mended, one.refused) for one in found.files] == [
        ("corpus.jsonl", 1, 2, 0),
        ("queries.jsonl", 0, 3, 0),
        ("test.tsv", 2, 1, 0),
    ]


def hint(path):
    with pytest.raises(CollectionError) as caught:
        load_collection(path)
    return str(caught.value).split("\n")[0]


def test_a_hint_names_only_a_command_that_can_help(tmp_path):
    folder = put(tmp_path / "a folder", BEIR)
    said = hint(folder / "corpus.jsonl")
    assert said.endswith(f"; name its folder, {folder}.")
    assert load_collection(said.partition("its folder, ")[2].removesuffix("."))

    table = b"query,document,label\nsend back,Goods,1\n"
    trec = {"texts.jsonl.gz": gzip.compress(jsonl(CORPUS)), "topics": b"q1\tsend back\n", "qrels": b"q1 0 d1 1\n"}
    files = put(tmp_path / "some files", {"labels.csv": table, "labels.csv.gz": gzip.compress(table), **trec})
    for name in ("labels.csv", "labels.csv.gz", "texts.jsonl.gz"):
        command = re.search("`haystack-ce-ranker (.*)`", hint(files / name))[1]
        given = {"FOLDER": tmp_path / f"made of {name}", "TOPICS": files / "topics", "QRELS": files / "qrels"}
        words = [str(given.get(word, word)) for word in shlex.split(command)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert load_collection(given["FOLDER"]).judgments == {"q1": {"d1": 1}}


@pytest.mark.parametrize("name", ["scifact.zip", "beir.tar.gz", "data.tgz"])
def test_an_archive_is_to_be_unpacked_and_nothing_else(tmp_path, name):
    put(tmp_path, {name: b"x"})
    for path in (tmp_path, tmp_path / name):
        said = hint(path)
        assert said.endswith(f"; unpack {name} first, and name the folder that comes out of it.")
        assert "convert" not in said


def test_a_file_that_no_command_can_turn_into_a_collection_has_no_hint(tmp_path):
    assert hint(put(tmp_path, {"report.pdf": b"x"}) / "report.pdf").endswith("it is a file, not a folder.")
