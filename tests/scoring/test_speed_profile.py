"""A speed profile: what is chosen, what the file must hold, and what the ranker takes from it."""

import json
import logging

import pytest
from haystack import Document
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fakes import FakeBackend
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.scoring import runner as pair_runner
from haystack_ce_ranker.scoring import speed_profile
from haystack_ce_ranker.scoring.speed_profile import (
    AS_FAST,
    Measured,
    SpeedProfile,
    choose,
    load_profile,
    measure_speed,
    model_key,
    synthetic_requests,
    thread_choices,
)

runner = CliRunner()


def made_for(folder, **changes):
    values = {
        "model": model_key(folder),
        "backend": "torch",
        "dtype": "float32",
        "device": "cpu",
        "cpus": allowed_cpus(),
        "batch_tokens": 333,
        "threads": 1,
    }
    return SpeedProfile(**{**values, **changes})


@given(st.lists(st.tuples(st.sampled_from([256, 512, 1024]), st.integers(1, 4), st.floats(1, 100)), min_size=1))
def test_the_smallest_setting_that_is_about_as_fast_as_the_fastest_is_chosen(rows):
    measured = [Measured(*row) for row in rows]
    chosen = choose(measured)
    fastest = max(one.pairs_per_second for one in measured)
    assert chosen.pairs_per_second >= fastest * (1 - AS_FAST)
    for one in measured:
        if (one.batch_tokens, one.threads) < (chosen.batch_tokens, chosen.threads):
            assert one.pairs_per_second < fastest * (1 - AS_FAST)


def test_thread_numbers_are_all_cpus_half_and_a_quarter():
    assert [thread_choices(cpus) for cpus in (1, 2, 3, 16)] == [(1,), (1, 2), (1, 3), (4, 8, 16)]


def test_synthetic_documents_are_of_mixed_lengths_and_always_the_same():
    backend = FakeBackend()
    requests = synthetic_requests(backend)
    assert requests == synthetic_requests(backend)
    lengths = [len(tokens.ids) for _, texts in requests for tokens in backend.tokenizer.encode(texts)]
    assert len(lengths) == 64
    assert min(lengths) <= 8 < 40 <= max(lengths) <= backend.max_length
    assert lengths != sorted(lengths)


def test_every_setting_is_run_in_turn_and_counts_with_its_best_time(monkeypatch, tiny_bert):
    seen = []

    def seconds(backend, batch_tokens, requests):
        seen.append((backend._threads, batch_tokens))
        noise = 5.0 if len(seen) % 5 else 0.0  # four of five times the machine is busy
        return 1.0 + noise + (0.0 if batch_tokens == 512 else 1.0)

    monkeypatch.setattr(speed_profile, "_seconds", seconds)
    monkeypatch.setattr(speed_profile, "allowed_cpus", lambda: 2)
    found = measure_speed("torch", ModelOptions(tiny_bert, device="cpu"), repeats=6)
    settings = len(speed_profile.CPU_BATCH_TOKENS) * 2
    assert len(found.measured) == settings
    assert len(seen) == 2 + 6 * settings
    assert (found.batch_tokens, found.cpus, found.backend, found.dtype) == (512, 2, "torch", "float32")
    assert max(found.measured, key=lambda one: one.pairs_per_second).pairs_per_second == 64.0


def test_a_named_number_of_threads_is_the_only_one_tried(monkeypatch, tiny_bert):
    monkeypatch.setattr(speed_profile, "_seconds", lambda *setting: 1.0)
    found = measure_speed("torch", ModelOptions(tiny_bert, device="cpu", threads=3))
    assert {one.threads for one in found.measured} == {3}


def test_settings_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(speed_profile.loading, "load", lambda name, options: FakeBackend(room_for=1024))
    monkeypatch.setattr(pair_runner, "CPU_PASS_TOKENS", None)  # every batch as full as it goes
    found = measure_speed("fake", ModelOptions("owner/name", threads=1))
    assert {one.batch_tokens for one in found.measured} == {256, 512, 1024}
    monkeypatch.setattr(speed_profile, "_seconds", lambda *setting: None)
    with pytest.raises(ValueError, match="ran out of memory on cpu with every setting"):
        measure_speed("fake", ModelOptions("owner/name", threads=1))


def test_the_command_writes_what_the_ranker_reads(monkeypatch, tiny_bert, tmp_path):
    monkeypatch.setattr(speed_profile, "CPU_BATCH_TOKENS", (64, 128))
    monkeypatch.setattr(speed_profile, "synthetic_requests", lambda *_, **__: [("the hut", ["a car", "snow"])])
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "best.json"
    done = runner.invoke(app, ["profile", tiny_bert, "--output", str(file), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "pairs a second" in done.output
    found = load_profile(file)
    assert found.batch_tokens in (64, 128)
    assert f"batch_tokens {found.batch_tokens}" in done.output
    assert len(found.measured) == 2 * len(thread_choices(allowed_cpus()))
    made = CrossEncoderRanker(model=tiny_bert, speed_profile=file)
    assert CrossEncoderRanker.from_dict(made.to_dict()).speed_profile == str(file)
    assert len(made.run("the hut", [Document(content="a car")])["documents"]) == 1
    assert made._scorer.runner.batch_tokens == found.batch_tokens
    assert made._scorer.backend._threads == found.threads
    explicit = CrossEncoderRanker(model=tiny_bert, speed_profile=file, batch_tokens=99, threads=7)
    explicit.warm_up()
    assert (explicit._scorer.runner.batch_tokens, explicit._scorer.backend._threads) == (99, 7)


@pytest.mark.parametrize(
    ("field", "value"), [("model", "owner/name"), ("backend", "onnx"), ("dtype", "bfloat16"), ("device", "cuda")]
)
def test_a_speed_profile_of_something_else_is_an_error(tiny_bert, tmp_path, field, value):
    made_for(tiny_bert, **{field: value}).save(tmp_path / "other.json")
    ranker = CrossEncoderRanker(model=tiny_bert, speed_profile=tmp_path / "other.json")
    with pytest.raises(
        ValueError, match=rf"speed_profile was made for {field}='{value}', but got .* profile .* --dtype float32"
    ):
        ranker.warm_up()


def test_a_speed_profile_of_another_machine_is_left_aside_with_a_warning(tiny_bert, tmp_path, caplog):
    made_for(tiny_bert, cpus=allowed_cpus() + 1).save(tmp_path / "other.json")
    ranker = CrossEncoderRanker(model=tiny_bert, speed_profile=tmp_path / "other.json")
    with caplog.at_level(logging.WARNING):
        ranker.warm_up()
    assert "made with" in caplog.text
    assert ranker._scorer.runner.batch_tokens == ranker._scorer.backend.batch_tokens
    assert ranker._scorer.backend._threads is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda values: "no json", "no JSON"),
        (lambda values: [values], "no object with"),
        (lambda values: {**values, "format": 2}, "no object with"),
        (lambda values: {**values, "extra": 1}, "keys .*extra"),
        (lambda values: {**values, "batch_tokens": 0}, "batch_tokens is 0"),
        (lambda values: {**values, "threads": True}, "threads is True"),
        (lambda values: {**values, "cpus": "two"}, "cpus is 'two'"),
        (lambda values: {**values, "model": None}, "model is None"),
        (lambda values: {**values, "measured": [{"speed": 1}]}, "measured is not a list of settings"),
    ],
)
def test_a_file_of_another_shape_is_an_error(tiny_bert, tmp_path, change, problem):
    file = tmp_path / "made.json"
    made_for(tiny_bert).save(file)
    assert load_profile(file) == made_for(tiny_bert)
    changed = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=f"not a file that `haystack-ce-ranker profile` writes: .*{problem}"):
        load_profile(file)


def test_a_missing_file_or_model_is_a_clear_error(tiny_bert, tmp_path):
    with pytest.raises(OSError, match=r"absent\.json"):
        CrossEncoderRanker(model=tiny_bert, speed_profile=tmp_path / "absent.json").warm_up()
    done = runner.invoke(app, ["profile", str(tmp_path / "absent")])
    assert done.exit_code == 2
    assert "was not found" in done.output
    with pytest.raises(ValueError, match="threads must be a whole number >= 1 or None, but got 0"):
        CrossEncoderRanker(threads=0)


def test_the_command_makes_the_folder_and_refuses_one_for_a_file_before_it_measures(tiny_bert, tmp_path, monkeypatch):
    def measured(*_, **__):
        raise ValueError("has begun")

    monkeypatch.setattr("haystack_ce_ranker.scoring.speed_profile.measure_speed", measured)
    done = runner.invoke(app, ["profile", tiny_bert, "--output", str(tmp_path / "new" / "file.json")])
    assert (tmp_path / "new").is_dir()
    assert "has begun" in done.output
    done = runner.invoke(app, ["profile", tiny_bert, "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert "output must be a file to write" in done.output
