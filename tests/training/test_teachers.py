"""Teachers: each pair is asked for once, a killed run goes on to the same bits, and several teachers are one."""

import shutil

import numpy as np
import pytest

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.evaluation.running.journal import NAME, Journal
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.training.groups import Candidate, Group
from haystack_ce_ranker.training.passages import Shown
from haystack_ce_ranker.training.teachers import KeptJudge, Teacher, contents_key, several, taught

LONG = "a car of berlin. " * 9 + "the hut is in the snow. " * 3 + "paris is a city. " * 9
REQUESTS = [
    ("the hut", ["the hut in the snow", LONG, "a car", ""]),
    ("a city", ["paris", "a car", "berlin is a city"]),
    ("snow", ["the hut in the snow", "a brake"]),
]
PAIRS = 9


class Killed(Exception):
    """What stands for the end of the process."""


def killing(reader, after):
    """Let a reader do some calls, and die in the next one."""
    scored, best = [], reader.best_of_many

    def read(requests, **options):
        if len(scored) == after:
            raise Killed
        scored.append([text for _, texts in requests for text in texts])
        return best(requests, **options)

    reader.best_of_many = read
    return scored


@pytest.mark.parametrize(("asked", "most", "read"), [(None, 40, 40), (64, 40, 40), (40, 64, 40), (None, None, 128)])
def test_a_teacher_reads_no_more_than_who_learns_from_it(tiny_bert, asked, most, read):
    made = Teacher.load(ModelOptions(tiny_bert, device="cpu"), ReadingPolicy(max_length=asked), most=most)
    assert made.reader.scorer.max_length == read
    shown = made.reader.best("the hut", [LONG])
    assert len(made.reader.scorer.backend.tokenizer.encode([shown[0].text])[0].ids) < read


def test_a_part_that_was_noted_as_nothing_is_asked_again(teacher, tmp_path):
    with Journal(tmp_path) as journal:
        journal.note(teacher.key, "part", None)
        assert KeptJudge(teacher, journal)(REQUESTS) == teacher.reader.best_of_many(REQUESTS)


def test_what_the_teacher_said_is_not_asked_again(teacher, backend, tmp_path):
    with Journal(tmp_path) as journal:
        judge = KeptJudge(teacher, journal)
        first = judge(REQUESTS)
        assert first == teacher.reader.best_of_many(REQUESTS)
        assert (judge.asked, judge.kept) == (PAIRS, 0)
        backend.fed.clear()
        assert judge(REQUESTS) == first
        assert (judge.asked, judge.kept) == (PAIRS, PAIRS)
    again = KeptJudge(teacher, Journal(tmp_path))
    assert again(REQUESTS[1:]) == first[1:]
    assert again(REQUESTS) == first
    assert (again.asked, backend.fed) == (0, [])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_same_bits_and_asks_only_for_the_rest(teacher, tmp_path, after):
    with Journal(tmp_path / "whole") as journal:
        whole = KeptJudge(teacher, journal, part=3)(REQUESTS)
    read = teacher.reader.best_of_many
    before = killing(teacher.reader, after)
    with Journal(tmp_path / "killed") as journal, pytest.raises(Killed):
        KeptJudge(teacher, journal, part=3)(REQUESTS)
    teacher.reader.best_of_many = read
    later = killing(teacher.reader, 99)
    with Journal(tmp_path / "killed") as journal:
        assert KeptJudge(teacher, journal, part=3)(REQUESTS) == whole
    assert [len(part) for part in before + later] == [4, 3, 2]
    lines = [(tmp_path / name / NAME).read_text(encoding="utf-8").splitlines() for name in ("whole", "killed")]
    assert [line.partition('"value"')[2] for line in lines[0]] == [line.partition('"value"')[2] for line in lines[1]]


def test_a_part_that_a_kill_left_torn_is_asked_for_again(teacher, tmp_path):
    with Journal(tmp_path) as journal:
        first = KeptJudge(teacher, journal, part=3)(REQUESTS)
    lines = (tmp_path / NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / NAME).write_text(lines[0] + lines[1][:40], encoding="utf-8")
    with Journal(tmp_path) as journal:
        judge = KeptJudge(teacher, journal, part=3)
        assert judge(REQUESTS) == first
        assert (judge.asked, judge.kept) == (5, 4)


def test_a_pair_that_comes_twice_is_asked_for_once(teacher, tmp_path):
    judge = KeptJudge(teacher, Journal())
    [one], [other, third] = judge([("snow", ["a hut"]), ("snow", ["a hut", "a hut"])])
    assert one == other == third
    assert judge.asked == 1


def test_the_journal_of_another_teacher_is_not_used(teacher, tmp_path):
    with Journal(tmp_path) as journal:
        KeptJudge(teacher, journal)(REQUESTS)
        judge = KeptJudge(Teacher("fake", "another", teacher.reader), journal)
        judge(REQUESTS)
        assert judge.asked == PAIRS


def test_progress_counts_what_is_known_already(teacher):
    told = []
    with Journal() as journal:
        KeptJudge(teacher, journal)(REQUESTS[:1])
        judge = KeptJudge(teacher, journal, progress=lambda done, total: told.append((done, total)), part=3)
        judge(REQUESTS)
    assert told == sorted(told)
    assert told[0][0] > 4
    assert told[-1] == (PAIRS, PAIRS)


def test_a_model_goes_by_its_files_wherever_they_lie(tiny_bert, tmp_path):
    copy = shutil.copytree(tiny_bert, tmp_path / "copy")
    assert contents_key(str(copy)) == contents_key(tiny_bert)
    (copy / "config.json").write_text("{}", encoding="utf-8")
    assert contents_key(str(copy)) != contents_key(tiny_bert)
    (copy / "config.json").unlink()
    assert contents_key(str(copy)) != contents_key(tiny_bert)
    assert contents_key("some/model") != contents_key("some/model", "v2")


def test_a_teacher_is_loaded_with_its_policy_in_its_key(tiny_bert, tmp_path):
    plain = Teacher.load(ModelOptions(tiny_bert))
    same = Teacher.load(ModelOptions(str(shutil.copytree(tiny_bert, tmp_path / "copy"))))
    other = Teacher.load(ModelOptions(tiny_bert), ReadingPolicy(max_length=64))
    assert plain.key == same.key != other.key
    scores, _ = plain.reader.scorer.score("the hut", ["snow"])
    assert plain.reader.best("the hut", ["snow"]) == [Shown("snow", scores.documents[0].logit)]


def judge_of(logits):
    return lambda requests: [[Shown(text, logits.get(text)) for text in texts] for _, texts in requests]


def test_several_teachers_are_a_mean_on_the_scale_of_the_first():
    first, second = {"a": 1.0, "b": 2.0, "c": 3.0, "x": 9.0}, {"a": 300.0, "b": 100.0, "c": 200.0}
    requests = [("q", ["a", "b"]), ("p", ["c", "x"])]
    [a, b], [c, x] = several([judge_of(first), judge_of(second)])(requests)
    assert [a.logit, b.logit, c.logit] == pytest.approx([2.0, 1.5, 2.5])
    assert x == Shown("x", None)
    assert several([judge_of(first)])(requests) == judge_of(first)(requests)


def test_a_further_teacher_scores_what_the_first_one_reads():
    def first(requests):
        return [[Shown(text.upper(), 1.0) for text in texts] for _, texts in requests]

    seen = []

    def second(requests):
        seen.extend(requests)
        return judge_of({"A": 7.0, "B": 7.0})(requests)

    assert several([first, second])([("q", ["a", "b"])]) == [[Shown("A", 1.0), Shown("B", 1.0)]]
    assert seen == [("q", ["A", "B"])]


def test_teachers_that_can_read_nothing_together_give_no_logit():
    found = several([judge_of({"a": 1.0}), judge_of({"b": 1.0})])([("q", ["a", "b"])])
    assert found == [[Shown("a", None), Shown("b", None)]]
    with pytest.raises(ValueError, match="at least one teacher"):
        several([])


def test_groups_get_the_text_that_is_read_and_its_logit(teacher):
    judge = KeptJudge(teacher, Journal())
    groups = [
        Group("q1", "the hut", (Candidate("d1", LONG, 1.0), Candidate("d2", " ", 0.0), Candidate("d3", "a car", 0.0))),
        Group("q2", "snow", (Candidate("d2", "", 0.0),)),
    ]
    [group] = taught(groups, judge)
    assert [one.document_id for one in group.candidates] == ["d1", "d3"]
    [best, car] = teacher.reader.best("the hut", [LONG, "a car"])
    assert [(one.text, one.teacher) for one in group.candidates] == [best, car]
    assert best.text != LONG
    assert [one.label for one in group.candidates] == [1.0, 0.0]
    assert np.isfinite(best.logit)
