"""Groups and their files: what is written is read again, by us and by `datasets`, and errors name line and form."""

import json

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haystack_ce_ranker.data.sources import CollectionError
from haystack_ce_ranker.training.groups import (
    EXPECTED_GROUPS,
    Candidate,
    Group,
    read_groups,
    row_of,
    write_groups,
)

GROUPS = [
    Group(
        "q1",
        'what is "snow"\u2028 in 漢字 🙂',
        (
            Candidate("d1", "Snow.\nIt is cold.", 1.0, 4.25),
            Candidate("d 2", "a\u2028b\r\nc", 0.5, -0.1, "judged"),
            Candidate("d3", "", 0.0, None, "bm25"),
            Candidate("d4", "no judgment", None, 1e-300, "dense"),
        ),
    ),
    Group("q2", "nothing found", (), ("d 2", "d9")),
]
ROW = json.loads(EXPECTED_GROUPS[0])

texts = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, codec="utf-8"), min_size=1, max_size=5).filter(
    lambda one: one == one.strip()
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
candidates = st.builds(Candidate, ids, texts, st.none() | st.floats(0, 1), numbers, st.sampled_from(["bm25", "judged"]))


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["groups.jsonl", "groups.parquet"])
def test_what_is_written_is_read_again(tmp_path, name):
    path = tmp_path / "folder" / name
    assert write_groups(path, iter(GROUPS)) == 2
    assert read_groups(path) == GROUPS
    assert [one.name for one in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["groups.jsonl", "groups.parquet"])
def test_equal_groups_make_equal_bytes(tmp_path, name):
    made = []
    for folder in ("one", "two"):
        write_groups(tmp_path / folder / name, GROUPS)
        made.append((tmp_path / folder / name).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@given(some=st.lists(st.lists(candidates, max_size=3, unique_by=lambda one: one.document_id), min_size=1, max_size=3))
def test_any_texts_and_numbers_come_back(tmp_path_factory, suffix, some):
    groups = [Group(f"q{place}", f"query {place}", tuple(found)) for place, found in enumerate(some)]
    path = tmp_path_factory.mktemp("groups") / f"groups{suffix}"
    write_groups(path, groups)
    assert read_groups(path) == groups


@pytest.mark.parametrize(("form", "name"), [("json", "groups.jsonl"), ("parquet", "groups.parquet")])
def test_datasets_reads_the_files(tmp_path, monkeypatch, form, name):
    datasets = pytest.importorskip("datasets", reason="needs the extra 'train'")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write_groups(tmp_path / name, GROUPS)
    found = datasets.load_dataset(form, data_files=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))["train"]
    assert found.to_list() == [row_of(group) for group in GROUPS]
    assert found.column_names == list(ROW)


def test_more_rows_than_are_written_at_once_are_all_there(tmp_path):
    groups = [Group(f"q{number}", "query", (Candidate("d", "text"),)) for number in range(2500)]
    assert write_groups(tmp_path / "groups.parquet", groups) == 2500
    assert read_groups(tmp_path / "groups.parquet") == groups
    assert pyarrow.parquet.ParquetFile(tmp_path / "groups.parquet").num_row_groups == 3


@pytest.mark.parametrize("name", ["groups.jsonl", "groups.parquet"])
def test_an_error_on_the_way_leaves_the_old_file(tmp_path, name):
    path = tmp_path / name
    write_groups(path, GROUPS)
    with pytest.raises(ValueError, match="query id 'q1' appears twice"):
        write_groups(path, [*GROUPS, GROUPS[0]])
    assert read_groups(path) == GROUPS
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.parquet, but got .*groups\.csv"):
        write_groups(tmp_path / "groups.csv", GROUPS)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"label": 1.5}, "label must be a finite number >= 0 and <= 1 or None, but got 1.5"),
        ({"label": float("nan")}, "label must be a finite number"),
        ({"teacher": float("inf")}, "teacher must be a finite number or None, but got inf"),
        ({"teacher": "4"}, "teacher must be a finite number or None, but got '4', a text"),
    ],
)
def test_a_number_that_no_loss_can_take_is_refused(values, told):
    with pytest.raises(ValueError, match=told):
        Candidate("d1", "text", **values)


def test_a_file_made_by_hand_needs_ids_and_texts_alone(tmp_path):
    own = {key: ROW[key] for key in ("query_id", "query", "document_ids", "documents")}
    nulls = {**own, "query_id": 7, "labels": [1, None], "teacher_logits": None, "sources": [None, "mine"]}
    first, second = read_groups(lines(tmp_path / "own.jsonl", own, nulls))
    assert [(one.label, one.teacher, one.source) for one in first.candidates] == [(None, None, "judged")] * 2
    assert second.query_id == "7"
    assert [(one.label, one.source) for one in second.candidates] == [(1.0, "judged"), (None, "mine")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [1.0]}, r"'labels' must have as many entries as 'document_ids' \(2\), but has 1"),
        ({"labels": [1.0, 3.0]}, "label must be a finite number >= 0 and <= 1 or None, but got 3.0"),
        ({"teacher_logits": [1.0, "high"]}, "teacher must be a finite number or None, but got 'high'"),
        ({"document_ids": ["d1", "d1"]}, "'document_ids' holds 'd1' twice"),
        ({"document_ids": ["d1", ""]}, "'document_ids' must be a string that is not empty"),
        ({"documents": "text"}, "'documents' must be a list, but got 'text'"),
        ({"documents": None}, "'documents' must be a list, but got None"),
        ({"documents": ["text", 3]}, "'documents' must be a string, but got 3"),
        ({"sources": ["judged", 3]}, "source must be a text"),
        ({"query": " "}, "'query' must be a text that is not empty, but got ' '"),
        ({"query_id": "q1"}, "'query_id' 'q1' appears twice"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path, change, told):
    path = lines(tmp_path / "groups.jsonl", ROW, {**ROW, "query_id": "q2", **change})
    with pytest.raises(CollectionError, match=f"groups.jsonl, line 2: {told}(.|\n)*Expected form"):
        read_groups(path)


def test_a_missing_key_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(CollectionError, match=r"the key 'documents' is missing \(found: query_id, query, document_ids"):
        read_groups(lines(tmp_path / "groups.jsonl", {key: ROW[key] for key in ("query_id", "query", "document_ids")}))
    with pytest.raises(CollectionError, match="it has no groups"):
        read_groups(lines(tmp_path / "empty.jsonl"))
    with pytest.raises(CollectionError, match="there is no such file"):
        read_groups(tmp_path / "none.jsonl")
