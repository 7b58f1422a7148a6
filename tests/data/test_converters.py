"""Converters: what comes out is a collection that loads, and what is refused says where and shows the expected form."""

import csv
import json

import pytest
from typer.testing import CliRunner

from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import CollectionError, load_collection
from haystack_ce_ranker.data.converters import CsvColumns, convert_csv, convert_trec

TOPICS = """<top>
<num> Number: 301
<title> Sending &amp; returning

<desc> Description:
How do I send goods
back?
<narr> Narrative:
Only goods count.
</top>

<top>
<num> Number: 302
<title> Parcels
<desc> Description:
When do parcels leave?
</top>
"""
XML = """<?xml version="1.0"?>
<topics><topic number="301"><query>sending back</query><question>How do I send goods back?</question></topic>
<topic number="302"><query>parcels</query><question>When do parcels leave?</question></topic></topics>
"""
QRELS = "301 0 d1 2\n301 0 d2 0\n302 0 d2 1\n"
TEXTS = "d1\tGoods can be sent back.\nd2\tParcels leave at noon.\n"


def put(path, text, **how):
    path.write_text(text, encoding="utf-8", **how)
    return path


def trec(tmp_path, *, topics=TOPICS, qrels=QRELS, texts=TEXTS, **more):
    files = {"topics.txt": topics, "qrels.txt": qrels, "texts": texts}
    paths = [put(tmp_path / name, text) for name, text in files.items()]
    return convert_trec(*paths, tmp_path / "out", **more)


def test_a_csv_becomes_a_collection_with_equal_texts_merged(tmp_path):
    rows = [
        ("send back", "Goods, even\nlarge ones, go back.", "1"),
        ("send back", 'Parcels "leave" at noon.', "0"),
        ("when do parcels leave", 'Parcels "leave" at noon.', "2.0"),
        ("when do parcels leave", 'Parcels "leave" at noon.', "2"),
    ]
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("query", "document", "label"), *rows])
    made = convert_csv(tmp_path / "labels.csv", tmp_path / "new" / "shop")
    assert (made.documents, made.queries, made.judgments, made.notes) == (2, 2, 3, ())
    collection = load_collection(tmp_path / "new" / "shop")
    assert collection.queries == {"q1": "send back", "q2": "when do parcels leave"}
    assert [text.content for text in collection.documents.values()] == [rows[0][1], rows[1][1]]
    assert collection.judgments == {"q1": {"d1": 1, "d2": 0}, "q2": {"d2": 2}}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["shop"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_may_have_other_names_orders_and_delimiters(tmp_path, delimiter):
    rows = [("id", "Grade", "Answer", "question"), ("1", "3", "noon", "when"), ("2", "0", "x" * 200_000, "when")]
    put(tmp_path / "a.csv", "\n".join(delimiter.join(row) for row in rows), newline="\r\n")
    limit = csv.field_size_limit()
    made = convert_csv(tmp_path / "a.csv", tmp_path / "out", columns=CsvColumns("question", "Answer", "grade"))
    assert csv.field_size_limit() == limit
    assert load_collection(made.folder).judgments == {"q1": {"d1": 3, "d2": 0}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("question,document,label\na,b,1\n", r"a\.csv, line 1: column 'query' is missing \(found: question, document"),
        ("a b c\n", r"'query', 'document', 'label' is missing \(found: a b c\)"),
        ("", r"is missing \(found: none\)"),
        ("query,document,label\n", "no rows below its header"),
        ("query,document,label\na,b,yes\n", "line 2: column 'label' must be a whole number .* got 'yes'"),
        ("query,document,label\na,b,-1\n", "no row has a 'label' above 0"),
        ("query,document,label\na,b,0.5\n", "must be a whole number"),
        ("query,document,label\na,b,nan\n", "must be a whole number"),
        ("query,document,label\na,b,1\n ,b,1\n", "line 3: column 'query' is empty"),
        ('query,document,label\na,"b\nc",1\na,"b\nc",0\n', "line 4: this query and document had the label 1 before"),
        ("query,document,label\na,b,c,1\n", "line 2: it has 4 columns where 3 are expected"),
        ('query,document,label\na,"b"c,1\n', "it is not a CSV"),
        ("query,document,label\na,b,0\n", "no row has a 'label' above 0"),
    ],
)
def test_a_csv_of_another_form_is_refused_and_nothing_written(tmp_path, text, says):
    with pytest.raises(CollectionError, match=says) as caught:
        convert_csv(put(tmp_path / "a.csv", text), tmp_path / "out")
    assert len(str(caught.value).split("Expected form")[1].splitlines()[1:]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("topics", [TOPICS, XML])
@pytest.mark.parametrize("qrels", [QRELS, "query-id\tcorpus-id\tscore\n301\td1\t2\n301\td2\t0\n302\td2\t1\n"])
def test_trec_files_become_a_collection(tmp_path, topics, qrels):
    made = trec(tmp_path, topics=topics, qrels=qrels, field="description")
    collection = load_collection(made.folder)
    assert collection.queries == {"301": "How do I send goods back?", "302": "When do parcels leave?"}
    assert collection.judgments == {"301": {"d1": 2, "d2": 0}, "302": {"d2": 1}}
    assert collection.documents["d2"].content == "Parcels leave at noon."
    assert made.notes == ()


def test_the_title_is_the_query_by_default_without_labels_and_entities(tmp_path):
    assert load_collection(trec(tmp_path).folder).queries == {"301": "Sending & returning", "302": "Parcels"}


@pytest.mark.parametrize("topics", ["301\tsend back\n\n302\twhen\n", '{"_id": "301", "text": "send back"}\n{"qid": 1}'])
def test_topics_may_be_lines_of_id_and_text(tmp_path, topics):
    if "qid" in topics:
        with pytest.raises(CollectionError, match=r"topics\.txt, line 2: there is no id"):
            trec(tmp_path, topics=topics)
    else:
        assert load_collection(trec(tmp_path, topics=topics).folder).queries == {"301": "send back", "302": "when"}


@pytest.mark.parametrize(
    "texts",
    [
        "docid\ttitle\ttext\nd1\tReturns\tGoods\nd2\t\tParcels\n",
        "d1\tReturns\tGoods\nd2\t\tParcels\n",
        '{"_id": "d1", "title": "Returns", "text": "Goods"}\n{"id": "d2", "contents": "Parcels", "title": null}\n',
    ],
)
def test_texts_may_be_a_table_or_json_lines_with_titles(tmp_path, texts):
    documents = load_collection(trec(tmp_path, texts=texts).folder).documents
    assert {name: text.content for name, text in documents.items()} == {"d1": "Returns\nGoods", "d2": "Parcels"}


def test_no_word_of_a_topic_is_lost_to_markup_or_to_a_sign(tmp_path):
    topics = '<?xml version="1.0"?><!-- two <top> --><topics>\n<top><num> Number: 301\n<title> a < b <i>and</i> c\n'
    topics += "<smry> not\nthis </top><top><num>302</num><title>d &gt; e</title><note>nor this</note></top></topics>"
    assert load_collection(trec(tmp_path, topics=topics).folder).queries == {"301": "a < b and c", "302": "d > e"}


@pytest.mark.parametrize("topics", ["qid\tquery\n301\ta\n302\t\n303\tb\t\t\n", "301\ta\n302\t\n303\tb\n303\tb\n"])
def test_topics_are_mended_with_a_note(tmp_path, topics):
    made = trec(tmp_path, topics=topics, qrels="301 0 d1 1\n303\t0 d2 1\n")
    assert load_collection(made.folder).queries == {"301": "a", "303": "b"}
    second = (
        "tabs at the end of a line are left out" if "qid" in topics else "lines that stand there twice are read once"
    )
    assert made.notes == (
        "qrels.txt: spaces and tabs together part the columns (1 line)",
        "topics.txt: empty queries that nothing judges are left out (1 line)",
        f"topics.txt: {second} (1 line)",
    )


def test_metadata_is_carried_over_and_equal_documents_are_written_once(tmp_path):
    row = '{"id": 1, "body": "Goods", "metadata": {"kind": "note"}}\n'
    made = trec(tmp_path, texts=row * 2 + '{"id": 2, "body": null}\n', qrels="301 0 1 1\n")
    documents = load_collection(made.folder).documents
    assert documents["1"].metadata == {"kind": "note"}
    assert [(one.id, one.text) for one in documents.values()] == [("1", "Goods"), ("2", "")]
    assert made.notes[:3] == (
        "texts: ids that are numbers are read as text (3 lines)",
        "texts: lines that stand there twice are read once (1 line)",
        "texts: null texts and titles are read as empty (1 line)",
    )


def test_a_csv_with_empty_cells_behind_its_columns_is_read_with_a_note(tmp_path):
    content = "query,document,label\na,b,1,,\n,,\nc,d,-1\nc,b,1.0\n"
    made = convert_csv(put(tmp_path / "a.csv", content), tmp_path / "out")
    assert load_collection(made.folder).judgments == {"q1": {"d1": 1}, "q2": {"d2": -1, "d1": 1}}
    assert made.notes == ("a.csv: empty cells at the end of a row are left out (1 line)",)


def test_what_does_not_fit_together_is_said(tmp_path):
    made = trec(tmp_path, topics=TOPICS + "<top><num>303<title>more</top>", qrels=QRELS + "302 0 d9 1\n304 0 d1 1\n")
    assert len(made.notes) == 3
    assert made.notes[0].startswith("1 of 4 relevant documents")
    assert json.loads((made.folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()[-1])["_id"] == "303"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"topics": "<top>\n</top>"}, "line 1: a topic has no <num>"),
        ({"topics": "\n<top><num>1<narr>x</top>"}, r"line 2: topic '1' has no title \(it has <narr>\)"),
        ({"topics": "<top><num>1<title>x</top>\n<top><num>1<title>y</top>"}, "line 2: topic '1' appears twice"),
        ({"topics": "301 send back"}, "line 1: it has 1 columns where an id and a text"),
        ({"topics": "301\t \n"}, "topic '301' has no text"),
        ({"topics": "<nothing>"}, "it has no topics"),
        ({"topics": TOPICS + "<top><num>303<title>more"}, "line 18: this topic does not end"),
        ({"topics": "<top><num>301<title>a\n<top><num>302<title>b</top>"}, "line 2: a topic begins before the one"),
        ({"topics": "<top><num>301<title>a</top>\n</top>"}, "line 2: a topic ends that did not begin"),
        ({"topics": "<topics>\n<top><num>301<title>a</top> lost"}, "words stand outside of all topics"),
        ({"topics": "<top> lost <num>301<title>a</top>"}, "line 1: a topic has words that are in no field"),
        ({"topics": "<top><num>301<title>a</title> lost</top>"}, "a topic has words that are in no field"),
        ({"topics": "<top><num>301<title>a<title>b</top>"}, "a topic has two <title>"),
        ({"topics": '{"_id": [1], "text": "x"}'}, "'_id' must be a string"),
        ({"qrels": "1 0 d1 1\n"}, r"qrels\.txt: none of its 1 query ids is in topics\.txt \(such as '301' there\)"),
        ({"qrels": "301 0 d1 high\n"}, "column 'score' must be a whole number"),
        ({"qrels": "301 0 d9 1\n"}, "none of its 1 relevant document ids is among the 2 documents"),
        ({"texts": "d1 Goods\n"}, "texts, line 1: it has 1 columns where 2 .id, text. or 3"),
        ({"texts": "d1\tGoods\nd2\tmore\tfields\n"}, "line 2: it has 3 columns where 2"),
        ({"texts": "d1\tGoods\nd1\tmore\n"}, "line 2: document 'd1' appears twice"),
        ({"texts": "\tGoods\n"}, "line 1: an id is empty"),
        ({"texts": '{"_id": "d1"}\n'}, "there is no text: one of the keys"),
        ({"texts": '{"_id": "d1", "text": [1]}\n'}, "'text' must be a string"),
        ({"texts": '{"_id": "d1", "text": "x", "title": 1}\n'}, "'title' must be a string"),
        ({"texts": "\n"}, "it has no documents"),
    ],
)
def test_trec_files_of_another_form_are_refused_and_nothing_written(tmp_path, given, says):
    with pytest.raises(CollectionError, match=says) as caught:
        trec(tmp_path, **given)
    assert "Expected form" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qrels.txt", "texts", "topics.txt"]


def test_other_encodings_missing_files_unknown_fields_and_full_folders_are_refused(tmp_path):
    latin = tmp_path / "latin.csv"
    latin.write_bytes("query,document,label\nüber,b,1\n".encode("latin-1"))
    with pytest.raises(CollectionError, match="not UTF-8"):
        convert_csv(latin, tmp_path / "out")
    with pytest.raises(CollectionError, match="no such file"):
        convert_csv(tmp_path / "none.csv", tmp_path / "out")
    with pytest.raises(ValueError, match="field must be one of 'title', .* but got 'titel'"):
        trec(tmp_path, field="titel")
    trec(tmp_path)
    with pytest.raises(FileExistsError, match="out exists and is not an empty folder"):
        trec(tmp_path)


def test_the_command_converts_and_says_what_comes_next(tmp_path):
    runner = CliRunner()
    put(tmp_path / "a.csv", "q;document;label\nsend;goods;1\n")
    done = runner.invoke(app, ["convert", "csv", str(tmp_path / "a.csv"), str(tmp_path / "made"), "--query", "q"])
    assert done.exit_code == 0, done.output
    assert "1 documents, 1 queries, 1 judgments" in done.output
    assert load_collection(tmp_path / "made").queries == {"q1": "send"}
    done = runner.invoke(app, ["convert", "csv", str(tmp_path / "a.csv"), str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "column 'query' is missing" in done.output
    names = {"--topics": TOPICS, "--qrels": QRELS, "--documents": TEXTS}
    files = [part for name, text in names.items() for part in (name, str(put(tmp_path / name, text)))]
    done = runner.invoke(app, ["convert", "trec", *files, str(tmp_path / "trec"), "--field", "description"])
    assert done.exit_code == 0, done.output
    assert load_collection(tmp_path / "trec").queries["302"] == "When do parcels leave?"
