"""Collections and runs: what is read, what is refused, and that a refusal shows where and what was expected."""

import json

import pytest

from haystack_ce_ranker.data.collections import CollectionError, load_collection, load_judgments, load_run


def write_collection(folder, *, corpus=None, queries=None, qrels=None):
    """A small collection on disk; pass lines of a file to replace it."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [
        {"_id": "d1", "title": "Returns", "text": "Goods can be sent back."},
        {"_id": "d2", "title": "", "text": "Parcels leave at noon.", "metadata": {"kind": "note"}},
        {"_id": "d3", "text": "Invoices are sent by e-mail."},
    ]
    asked = [{"_id": "q1", "text": "send back"}, {"_id": "q2", "text": "when do parcels leave"}]
    corpus = [json.dumps(row) for row in documents] if corpus is None else corpus
    queries = [json.dumps(row) for row in asked] if queries is None else queries
    qrels = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t2"] if qrels is None else qrels
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder


def test_a_folder_is_read_with_titles_metadata_and_grades(tmp_path):
    collection = load_collection(write_collection(tmp_path / "shop"))
    assert collection.name == "shop"
    assert collection.documents["d1"].content == "Returns\nGoods can be sent back."
    assert collection.documents["d2"].content == "Parcels leave at noon."
    assert collection.documents["d2"].metadata == {"kind": "note"}
    assert collection.judgments == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert collection.notes == ()


def test_queries_without_judgments_are_left_out_and_said(tmp_path):
    folder = write_collection(tmp_path, qrels=["query-id\tcorpus-id\tscore", "q1\td1\t1", "q9\td1\t1", "q1\td9\t1"])
    collection = load_collection(folder)
    assert list(collection.queries) == ["q1"]
    assert collection.notes == ()
    assert {one.text: one.share for one in collection.left_out} == {
        "1 of 2 relevant documents are not in the corpus (they count as missed)": 0.5,
        "1 of 2 judged queries are not in queries.jsonl": 0.5,
        "1 of 2 queries have no judgments": 0.0,
    }


def test_a_sample_is_the_same_each_time_and_keeps_the_order_and_all_documents(tmp_path):
    queries = [json.dumps({"_id": f"q{n}", "text": f"number {n}"}) for n in range(50)]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{n}\td1\t1" for n in range(50))]
    collection = load_collection(write_collection(tmp_path, queries=queries, qrels=qrels))
    drawn = collection.sample(7)
    assert len(drawn.queries) == 7
    assert list(drawn.queries) == list(collection.sample(7).queries)
    assert list(drawn.queries) == [query for query in collection.queries if query in drawn.queries]
    assert drawn.documents is collection.documents
    assert set(drawn.judgments) == set(drawn.queries)
    assert collection.sample(50) is collection
    with pytest.raises(ValueError, match="queries must be a whole number >= 1 or None, but got 0"):
        collection.sample(0)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"corpus": ["{not json"]}, r"corpus\.jsonl, line 1: it is not a JSON object"),
        ({"corpus": ["[1]"]}, "must be a JSON object a line, but got list"),
        ({"corpus": ['{"id": "d1", "text": "x"}']}, r"line 1: the key '_id' is missing \(found: id, text\)"),
        ({"corpus": ['{"_id": 7.5, "text": "x"}']}, "'_id' must be a string that is not empty, but got 7.5"),
        ({"corpus": ['{"_id": true, "text": "x"}']}, "'_id' must be a string that is not empty, but got True"),
        ({"corpus": ['{"_id": "a\\tb", "text": "x"}']}, "'_id' must not hold a tab or a line's end"),
        ({"corpus": ['{"_id": "d1", "_id": "d2", "text": "x"}']}, "line 1: .*a key stands twice"),
        ({"corpus": ['{"_id": "d1", "text": 5}']}, "'text' must be a string, but got 5"),
        ({"corpus": ['{"_id": "d1"}']}, "the key 'text' is missing"),
        ({"corpus": ['{"_id": "d1", "title": 3, "text": "x"}']}, "'title' must be a string, but got 3"),
        ({"corpus": ['{"_id": "d1", "text": "x", "metadata": 1}']}, "'metadata' must be an object"),
        ({"corpus": ['{"_id": "d1", "text": "x"}', '{"_id": "d1", "text": "y"}']}, "line 2: '_id' 'd1' appears twice"),
        ({"corpus": [""]}, "it has no documents"),
        ({"queries": ['{"_id": "q1", "text": " "}']}, r"queries\.jsonl, line 1: 'text' must be a string that is not"),
        ({"queries": ['{"_id": "q1", "text": "a"}', '{"_id": "q1", "text": "b"}']}, "line 2: '_id' 'q1' appears twice"),
        ({"queries": [""]}, "it has no queries"),
        ({"qrels": ["query-id\tdocument\tscore", "q1\td1\t1"]}, r"test\.tsv, line 1: column 'corpus-id' is missing"),
        ({"qrels": ["q1,d1,1"]}, "no header with the columns"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "q1\td1\thigh"]}, "line 2: column 'score' must be a whole number"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "q1 d1"]}, "2 columns where 3 are expected"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "q1\t\t1"]}, "an id is empty"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q1\td1\t0"]}, "were judged 1 before"),
        ({"qrels": ["query-id\tcorpus-id\tscore"]}, "it has no judgments"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "x\td1\t1"]}, "none of its 1 query ids is in queries.jsonl"),
        ({"qrels": ["query-id\tcorpus-id\tscore", "q1\tx\t1"]}, "none of its 1 relevant document ids"),
    ],
)
def test_another_form_is_refused_with_file_and_line_and_three_lines_of_the_expected_form(tmp_path, broken, says):
    with pytest.raises(CollectionError, match=says) as caught:
        load_collection(write_collection(tmp_path, **broken))
    form = str(caught.value).split("Expected form")[1].splitlines()[1:]
    assert len(form) == 3


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(CollectionError, match="nowhere: there is no such folder"):
        load_collection(tmp_path / "nowhere")
    folder = write_collection(tmp_path / "c")
    with pytest.raises(CollectionError, match=r"no judgments named 'dev' \(found: test\)"):
        load_collection(folder, split="dev")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert load_collection(folder).judgments == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    (folder / "qrels" / "all.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with pytest.raises(CollectionError, match=r"must hold test.tsv \(found: all.tsv, dev.tsv\)"):
        load_collection(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(CollectionError, match=r"c: queries\.jsonl is missing \(found: corpus.jsonl, qrels\)"):
        load_collection(folder)
    with pytest.raises(CollectionError, match=r"corpus\.jsonl: it is a file, not a folder; .*convert"):
        load_collection(folder / "corpus.jsonl")


@pytest.mark.parametrize("names", [[], ["topics.txt", "qrels.txt"], [f"{n}.csv" for n in range(20)]])
def test_a_folder_of_another_shape_is_told_what_is_missing_and_how_to_convert(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(CollectionError, match="corpus.jsonl, queries.jsonl, qrels are missing") as caught:
        load_collection(tmp_path)
    said = str(caught.value)
    assert "haystack-ce-ranker convert" in said
    assert ("and 12 more" in said) == (len(names) == 20)
    assert len(said.split("Expected form")[1].splitlines()[1:]) == 3


def test_bytes_that_are_not_utf8_are_refused_and_a_byte_order_mark_is_not(tmp_path):
    folder = write_collection(tmp_path)
    text = (folder / "queries.jsonl").read_text()
    (folder / "queries.jsonl").write_text(text, encoding="utf-8-sig")
    assert "q1" in load_collection(folder).queries
    (folder / "queries.jsonl").write_bytes(text.encode("utf-16"))
    with pytest.raises(CollectionError, match="it is not UTF-8"):
        load_collection(folder)


def test_judgments_may_have_trecs_four_columns(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("q1 0 d1 2\nq1 0 d2 0\n")
    assert load_judgments(path) == {"q1": {"d1": 2, "d2": 0}}


def test_a_run_is_ordered_by_score_and_cut(tmp_path):
    collection = load_collection(write_collection(tmp_path / "c"))
    path = tmp_path / "run.tsv"
    path.write_text("qid\tdocid\trank\tscore\nq1\td3\t9\t1.5\nq1\td1\t1\t2.5\nq1\td2\t2\t1.5\nq7\tx\t1\t1\n")
    assert list(load_run(path, collection=collection)["q1"]) == ["d1", "d3", "d2"]
    assert load_run(path, collection=collection, depth=1) == {"q1": {"d1": 2.5}}
    assert set(load_run(path)) == {"q1", "q7"}


def test_a_run_may_have_trecs_six_columns(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("q1 Q0 d1 1 2.5 mine\nq1 Q0 d2 2 1.5 mine\n")
    assert load_run(path) == {"q1": {"d1": 2.5, "d2": 1.5}}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("qid\tdocid\trank\tscore\nq1\td1\t1\tbest\n", "line 2: column 'score' must be a number, but got 'best'"),
        ("qid\tdocid\trank\tscore\nq1\td1\t1\tnan\n", "is NaN"),
        ("qid\tdocid\trank\tscore\nq1\tx\t1\t1\n", "document 'x' is not in the corpus of 'c'"),
        ("qid\tdocid\trank\tscore\nq1\td1\t1\t1\nq1\td1\t2\t1\n", "line 3: document 'd1' appears twice"),
        ("qid\tdocid\trank\nq1\td1\t1\n", "column 'score' is missing"),
        ("qid\tdocid\trank\tscore\nq8\td1\t1\t1\n", "no rows for the collection's queries"),
    ],
)
def test_a_run_of_another_form_is_refused(tmp_path, rows, says):
    collection = load_collection(write_collection(tmp_path / "c"))
    path = tmp_path / "run.tsv"
    path.write_text(rows)
    with pytest.raises(CollectionError, match=says):
        load_run(path, collection=collection)
