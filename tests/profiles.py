"""Which tests are slow, need real weights or run untraced, and how many examples hypothesis tries in each profile."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from coverage import Coverage
from hypothesis import settings

TIMES = {"default": 1, "ci": 1, "long": 20}
"""By what each profile of hypothesis (`--hypothesis-profile`) multiplies the examples that a test asks for."""

SLOW: tuple[str, ...] = (
    "tests/adopting/test_files.py::test_a_fresh_process_says_in_one_line_what_does_not_load",
    "tests/adopting/test_files.py::test_the_command_writes_what_it_shows_and_what_loads",
    "tests/adopting/test_forms.py",
    "tests/adopting/test_yaml_text.py::test_the_text_describes_what_the_edits_make_of_the_description",
    "tests/backends/test_concurrent_requests.py",
    "tests/backends/test_damaged_weights.py::test_a_loaded_model_scores_the_same_whatever_happens_to_its_file",
    "tests/backends/test_loading.py::test_threads_that_meet_a_runtime_first_never_freeze_the_process",
    "tests/backends/test_openvino_backend.py",
    "tests/backends/test_other_processes.py",
    "tests/backends/test_packed.py::test_packed_batches_that_score_otherwise_or_fail_are_not_used",
    "tests/backends/test_without_torch.py",
    "tests/benchmarks/test_engines.py",
    "tests/bm25/test_files.py::test_a_process_killed_while_it_saves_leaves_an_index_that_opens",
    "tests/bulk/test_on_ray.py",
    "tests/cli",
    "tests/components/test_cross_encoder_ranker.py::test_a_fresh_process_trusts_a_saved_pipeline_and_loads_no_model_yet",
    "tests/components/test_cross_encoder_ranker.py::test_changing_the_type_line_migrates_a_pipeline",
    "tests/components/test_opensearch_server.py",
    "tests/components/test_refreshing.py::test_a_reading_that_never_ends_keeps_no_process_alive",
    "tests/components/test_rerank_gate.py::test_the_example_loads_and_runs_in_a_fresh_process",
    "tests/evaluation/commands/test_tune_joiner.py::test_from_pipeline_and_collection_to_advice_pictures_and_file",
    "tests/components/test_poison.py",
    "tests/data/test_reader_properties.py",
    "tests/evaluation/running/test_experiments.py::test_slices_rank_at_each_depth_as_a_pipeline_of_that_depth_does",
    "tests/fusion/test_fuse.py::test_weighted_sums_and_reciprocal_ranks_equal_those_of_ranx",
    "tests/inspecting/test_inspection.py",
    "tests/inspecting/test_real_weights.py",
    "tests/machine/test_memory.py",
    "tests/proving",
    "tests/quantizing",
    "tests/served",
    "tests/stores",
    "tests/test_docs.py",
    "tests/test_examples.py",
    "tests/test_forking.py::test_a_child_retrieves_with_the_parents_index_and_with_its_own",
    "tests/test_network.py",
    "tests/test_readme.py",
    "tests/test_zoo.py::test_an_exported_model_scores_as_torch_does_alone_and_among_others_or_is_refused",
    "tests/test_zoo.py::test_in_int8_the_score_of_a_pair_is_the_same_in_every_batch",
    "tests/training/commands/test_distil.py",
    "tests/training/commands/test_train.py",
    "tests/training/test_bases.py",
    "tests/training/test_bi_encoders.py",
    "tests/training/test_cutting.py::test_a_student_is_an_ordinary_cross_encoder_with_fewer_layers",
    "tests/training/test_fitting.py",
    "tests/training/test_gate.py",
    "tests/training/test_losses.py",
    "tests/training/test_resources.py::test_what_is_told_beforehand_is_what_two_steps_take_within_a_third",
)
"""Folders, files and single tests that take more than about 1.5 seconds of a CPU: `make check` leaves them out."""

REAL = frozenset({"models_dir", "data_dir"})
"""Fixtures of real weights and collections: a test that asks for one is an integration test."""


LONGEST = (
    *("tests/test_integration.py", "tests/tokenizing/test_tokens.py"),
    *("tests/test_docs.py", "tests/test_zoo.py"),
    *("tests/stores/test_conformance.py", "tests/training/test_fitting.py"),
)
"""Files that take minutes: they go first, so that no worker is left alone with one of them at the end."""

UNTRACED = (
    *("tests/test_zoo.py", "tests/stores", "tests/training/test_fitting.py", "tests/test_examples.py", "tests/served"),
    *("tests/benchmarks/test_engines.py", "tests/benchmarks/test_watts_blend.py"),
)
"""
Folders and files of tests that run without coverage's tracer, which costs them half of their time again.

They run what other tests run, too, with more models and more stores, or longer.
"""


def register_profiles() -> None:
    """Register the profiles, none of which lets the time of an example decide a test."""
    settings.register_profile("default", deadline=None)
    # The same examples in every run, so that a change fails for what it changes.
    settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
    settings.register_profile("long", deadline=None, print_blob=True)
    settings.load_profile("default")


def is_slow(test: str) -> bool:
    """Tell whether the list of slow tests names a test, its file or a folder above it."""
    return _named(test, SLOW)


@contextmanager
def traced_or_not(test: str) -> Iterator[None]:
    """Run a test, without coverage's tracer if `UNTRACED` names it."""
    tracer = Coverage.current() if _named(test, UNTRACED) else None
    if tracer is not None:
        tracer.stop()
    try:
        yield
    finally:
        if tracer is not None:
            tracer.start()


def _named(test: str, entries: Iterable[str]) -> bool:
    return any(test == entry or test.startswith((f"{entry}/", f"{entry}::", f"{entry}[")) for entry in entries)


def order(items: list[pytest.Item]) -> None:
    """Put the tests of the files that take longest first, and leave the others in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that are slow, and those that need real weights or collections."""
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker("slow")
        if REAL & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


def multiply(functions: Iterable[Callable[..., Any]], times: int) -> None:
    """Multiply the examples that hypothesis tries for each function: a profile alone leaves a number set by a test."""
    for function in {id(function): function for function in functions}.values():
        own = getattr(function, "_hypothesis_internal_use_settings", None)
        if own is not None and times != 1:
            function._hypothesis_internal_use_settings = settings(own, max_examples=own.max_examples * times)
