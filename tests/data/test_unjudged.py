"""Folders without judgments, and queries without them: what is read, and what is still an error."""

import json

import pytest

from haystack_ce_ranker.data.collections import (
    CollectionError,
    load_collection,
    load_queries,
    load_texts,
    load_unjudged,
)

CORPUS = ['{"_id": "d1", "title": "Returns", "text": "Goods can be sent back."}', '{"_id": "d2", "text": "At noon."}']
HEADER = "query-id\tcorpus-id\tscore"


def folder_of(tmp_path, **files):
    """A folder with these files: `corpus`, `queries`, and `test`, the judgments, each as lines."""
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "test": "qrels/test.tsv"}
    for name, lines in files.items():
        path = tmp_path / names[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"queries": ['{"_id": "q1", "text": "send back"}']},
        {"test": []},
        {"test": [HEADER]},
        {"queries": ['{"_id": "q1", "text": "send back"}'], "test": [HEADER, "", "  "]},
    ],
    ids=["no more files", "queries alone", "empty judgments", "a header alone", "queries and a header"],
)
def test_documents_are_read_where_nothing_is_judged(tmp_path, files):
    found = load_unjudged(folder_of(tmp_path, corpus=CORPUS, **files))
    assert list(found.documents) == ["d1", "d2"]
    assert found.documents["d1"].content == "Returns\nGoods can be sent back."
    assert (found.queries, found.judgments, found.name) == ({}, {}, tmp_path.name)
    with pytest.raises(CollectionError):
        load_collection(tmp_path)


def test_an_empty_folder_of_judgments_is_none(tmp_path):
    (folder_of(tmp_path, corpus=CORPUS) / "qrels").mkdir()
    assert load_unjudged(tmp_path).queries == {}


def test_judgments_are_read_where_they_are(tmp_path):
    folder = folder_of(
        tmp_path, corpus=CORPUS, queries=['{"_id": "q1", "text": "send back"}'], test=[HEADER, "q1\td1\t1"]
    )
    assert load_unjudged(folder) == load_collection(folder)
    assert load_unjudged(folder, split="test").judgments == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "corpus.jsonl is missing"),
        ({"corpus": CORPUS, "test": [HEADER, "q1\td1\t1"]}, "queries.jsonl is missing"),
        ({"corpus": CORPUS, "queries": [], "test": [HEADER, "q1\td1\tgood"]}, "'good'"),
        ({"corpus": ["{"]}, "line 1"),
    ],
)
def test_what_is_there_must_have_its_form(tmp_path, files, says):
    with pytest.raises(CollectionError, match=says):
        load_unjudged(folder_of(tmp_path, **files))


def test_judgments_that_are_named_must_be_there(tmp_path):
    with pytest.raises(CollectionError, match="no judgments named 'dev'"):
        load_unjudged(folder_of(tmp_path, corpus=CORPUS), split="dev")


@pytest.mark.parametrize("splits", [(), ("test",), ("dev", "train"), ("broken",)])
def test_texts_are_read_with_all_queries_whatever_is_judged(tmp_path, splits):
    queries = [json.dumps({"_id": f"q{n}", "text": text}) for n, text in enumerate(["send back", "", "noon"])]
    folder = folder_of(tmp_path, corpus=CORPUS, queries=queries)
    for split in splits:
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{split}.tsv").write_text(f"{HEADER}\nq0\td1\t{split}\n", encoding="utf-8")
    found = load_texts(folder)
    assert (list(found.documents), found.queries) == (["d1", "d2"], {"q0": "send back", "q2": "noon"})
    assert found.judgments == {}
    assert found.notes == ("queries.jsonl: empty queries that nothing judges are left out (1 line)",)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(CollectionError, match=r"queries\.jsonl is missing"):
        load_texts(folder)


def test_what_was_mended_in_the_documents_is_noted(tmp_path):
    found = load_unjudged(folder_of(tmp_path, corpus=[*CORPUS, CORPUS[0], '{"_id": 7, "text": null}']))
    assert len(found.notes) == 3
    assert found.documents["7"].content == ""


def test_queries_of_a_log_are_json_lines_or_a_query_a_line(tmp_path):
    lines, plain = tmp_path / "log.jsonl", tmp_path / "log.txt"
    lines.write_text(
        json.dumps({"_id": "a", "text": "send back"}) + "\n" + json.dumps({"_id": "b", "text": " "}) + "\n"
    )
    plain.write_text("send back\n\n  when do parcels leave \r\n")
    assert load_queries(lines) == {"a": "send back"}
    assert load_queries(plain) == {"line-1": "send back", "line-3": "when do parcels leave"}


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_a_log_without_queries_is_refused(tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(CollectionError, match="it has no queries"):
        load_queries(path)
    with pytest.raises(CollectionError, match="no such file"):
        load_queries(tmp_path / "none.txt")
