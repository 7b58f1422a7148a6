"""Advice: the simplest way to fuse that nothing beats."""

import numpy as np
import pytest

from haystack_ce_ranker.fusion.advice import advise


def _systems(**means: float) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    return {key: mean + noise * (i + 1) for i, (key, mean) in enumerate(means.items())}


@pytest.mark.parametrize(
    ("means", "use", "words"),
    [
        ({"bm25": 0.5, "ce": 0.7, "default": 0.7, "tuned": 0.7}, "ce", "no significant difference: use ce alone"),
        (
            {"bm25": 0.5, "ce": 0.7, "default": 0.6, "tuned": 0.65},
            "ce",
            "use ce alone: everything else is significantly worse (bm25 alone: -0.2",
        ),
        ({"bm25": 0.5, "ce": 0.4, "default": 0.45, "tuned": 0.6}, "tuned", "use the tuned blend: significantly better"),
        (
            {"bm25": 0.5, "ce": 0.4, "default": 0.6, "tuned": 0.6},
            "default",
            "the tuned blend is not significantly better",
        ),
        (
            {"bm25": 0.5, "ce": 0.4, "default": 0.45, "tuned": 0.6},
            "tuned",
            "significantly better than bm25 alone (+0.1",
        ),
        (
            {"bm25": 0.6, "ce": 0.4, "default": 0.5, "tuned": 0.6},
            "bm25",
            "use bm25 alone: significantly better than ce",
        ),
    ],
)
def test_advice_names_the_simplest_that_nothing_beats(means: dict[str, float], use: str, words: str) -> None:
    found = advise(_systems(**means), {"bm25": "bm25", "ce": "ce"}, heaviest="ce")
    assert found.use == use
    assert words in found.reason
    assert found.significant == (use != "ce")


def test_advice_tells_what_is_worse_from_what_is_no_different() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 50)
    systems = {"bm25": np.full(50, 0.2), "ce": np.full(50, 0.7), "default": 0.7 + noise, "tuned": np.full(50, 0.7)}
    reason = advise(systems, {"bm25": "bm25", "ce": "ce"}, heaviest="ce").reason
    first, _, rest = reason.partition(". Significantly worse: ")
    assert first.startswith("no significant difference: use ce alone (the default blend: ")
    assert first.endswith("; the tuned blend: the same)")
    assert rest.startswith("bm25 alone: -0.5000 nDCG@10")


def test_advice_says_of_every_single_input_whether_it_would_do() -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 60)
    systems = {"bm25": 0.5 + noise, "e": 0.55 - noise, "ce": np.full(60, 0.3), "tuned": np.full(60, 0.56) + noise / 20}
    found = advise(systems, {"bm25": "bm25", "e": "e", "ce": "ce"}, heaviest="ce")
    assert found.use in ("bm25", "e")
    other = "e" if found.use == "bm25" else "bm25"
    assert f"not significantly different from {other} alone" in found.reason
    assert f"from {found.use} alone" not in found.reason
