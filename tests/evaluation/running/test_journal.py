"""The journal: what was noted is found again, after a crash too."""

import json
import subprocess
import sys
from functools import partial

import pytest

from haystack_ce_ranker.evaluation.running.experiments import _named
from haystack_ce_ranker.evaluation.running.journal import NAME, Journal


def test_what_was_noted_is_found_under_its_key_alone(tmp_path):
    with Journal(tmp_path / "new") as journal:
        journal.note("k", "q1", {"ranking": [["d1", 0.5]]})
        assert journal.get("k", "q1") == {"ranking": [["d1", 0.5]]}
    again = Journal(tmp_path / "new")
    assert again.get("k", "q1") == {"ranking": [["d1", 0.5]]}
    assert again.get("other", "q1") is None
    assert again.get("k", "q2") is None


def test_entries_of_other_settings_stay(tmp_path):
    for key in ("a", "b"):
        with Journal(tmp_path) as journal:
            journal.note(key, "q", key)
    found = Journal(tmp_path)
    assert (found.get("a", "q"), found.get("b", "q")) == ("a", "b")


def test_all_that_was_noted_under_a_key_is_found_in_its_order(tmp_path):
    with Journal(tmp_path) as journal:
        for key, name in (("a", "z"), ("b", "q"), ("a", "c")):
            journal.note(key, name, name)
        assert journal.values("a") == ["z", "c"]
    assert Journal(tmp_path).values("a") == ["z", "c"]
    assert Journal(tmp_path).values("other") == []


def test_a_torn_line_is_skipped_and_the_next_entry_stands_on_a_line_of_its_own(tmp_path):
    whole = json.dumps({"key": "k", "name": "q1", "value": 1})
    (tmp_path / NAME).write_text(whole + "\n" + whole[:20], encoding="utf-8")
    with Journal(tmp_path) as journal:
        assert journal.get("k", "q1") == 1
        journal.note("k", "q2", 2)
    found = Journal(tmp_path)
    assert (found.get("k", "q1"), found.get("k", "q2")) == (1, 2)


def test_lines_that_are_no_entries_are_skipped(tmp_path):
    (tmp_path / NAME).write_text('[]\n{"key": "k"}\nnull\n"text"\n', encoding="utf-8")
    assert Journal(tmp_path).get("k", "q") is None


def test_an_entry_is_on_disk_when_the_process_dies_right_after(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from haystack_ce_ranker.evaluation.running.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.note('k', 'q', [1]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert Journal(tmp_path).get("k", "q") == [1]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Journal() as journal:
        journal.note("k", "q", 1)
        assert journal.get("k", "q") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_over_is_counted_with_its_time(tmp_path):
    with Journal(tmp_path) as journal:
        for name in ("q1", "q2", "q3"):
            journal.note("k", name, name)
        journal.get("k", "q1", counts=True)
        assert journal.taken_over() == []
    again = Journal(tmp_path)
    again.get("k", "q1")
    assert again.taken_over() == []
    for _ in range(2):
        again.get("k", "q1", counts=True)
        again.get("k", "q2", counts=True)
    (told,) = again.taken_over()
    at = json.loads((tmp_path / NAME).read_text(encoding="utf-8").splitlines()[0])["at"]
    assert told.startswith(f"2 results are taken over from {tmp_path / NAME}, of {at}")
    assert told.endswith("; --fresh measures them again")


def test_a_fresh_journal_begins_anew(tmp_path):
    with Journal(tmp_path) as journal:
        journal.note("k", "q1", 1)
        journal.note("k", "q2", 2)
    with Journal(tmp_path, fresh=True) as journal:
        assert journal.get("k", "q1") is None
        journal.note("k", "q1", 3)
    found = Journal(tmp_path)
    assert (found.get("k", "q1"), found.get("k", "q2")) == (3, None)


@pytest.mark.parametrize("value", [5, "text", [], [5], {}, [{"ranking": 5}], [[]], True, 1e300])
def test_an_entry_of_another_form_is_an_error_that_names_the_file_and_what_to_do(tmp_path, value):
    entry = {"key": "k", "name": "q1", "at": "now", "value": value}
    (tmp_path / NAME).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    message = rf"{NAME}: what it holds for 'q1' has another form .*; delete that file"
    with pytest.raises(ValueError, match=message) as told:
        Journal(tmp_path).restore("k", "q1", partial(_named, ("a",)))
    assert "\n" not in str(told.value)


def test_lines_that_are_deep_or_of_odd_names_are_skipped_or_read_as_text(tmp_path):
    odd = json.dumps({"key": ["k"], "name": 5, "at": {"a": 1}, "value": 1})
    twice = '{"key": "k", "key": "k", "name": "q", "value": 1}'
    (tmp_path / NAME).write_text("\n".join(["[" * 100_000, '{"key":' * 50_000, odd, twice, "NaN"]), encoding="utf-8")
    journal = Journal(tmp_path)
    assert journal.get("k", "q") is None
    assert journal.get("['k']", "5", counts=True) == 1
    assert "of {'a': 1}" in journal.taken_over()[0]
