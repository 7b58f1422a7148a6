"""The reading policy: values in range, names in their tables, numpy scalars made plain, defaults in one place."""

import inspect
from dataclasses import asdict, fields

import numpy as np
import pytest

from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.reading.policy import ReadingPolicy


def test_numpy_scalars_become_plain_numbers():
    policy = ReadingPolicy(max_length=np.int64(128), passage_tokens=np.int32(32), passage_evidence=np.float32(0.5))
    assert {type(value) for value in asdict(policy).values()} <= {int, float, str, type(None)}
    assert policy == ReadingPolicy(max_length=128, passage_tokens=32, passage_evidence=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": "128"}, "max_length must be a whole number >= 1 or None, but got '128'"),
        ({"max_length": 5.0}, "max_length must be a whole number >= 1 or None, but got 5.0"),
        ({"passage_stride": 65}, r"passage_stride must be <= passage_tokens \(64\)"),
        ({"passage_evidence": float("nan")}, "passage_evidence must be a finite number >= 0 and <= 1, but got nan"),
        ({"long_documents": None}, "long_documents must be one of 'best_passages', .*, but got None"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        ReadingPolicy(**values)


def test_the_ranker_takes_its_defaults_from_here():
    parameters = inspect.signature(CrossEncoderRanker.__init__).parameters
    shared = [one for one in fields(ReadingPolicy) if one.name in parameters]
    assert len(shared) == len(fields(ReadingPolicy)) - 1  # all but query_reduction
    assert all(parameters[one.name].default == one.default for one in shared)
