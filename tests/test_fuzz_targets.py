"""Any bytes are read or refused as documented; `make fuzz` does the same for longer, led by coverage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS, seeds

PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"true",
    b"\n",
    b"\t",
    b" ",
    b"/",
    b"..",
)


@st.composite
def torn(draw, name):
    """A sound file of a target, with some bytes cut out, put in or changed."""
    content = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(0, 4))):
        place, width = draw(st.integers(0, len(content))), draw(st.sampled_from((0, 1, 2, 8)))
        piece = draw(st.binary(max_size=3) | st.sampled_from(PIECES))
        content = content[:place] + piece + content[place + width :]
    return content


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_bytes_are_read_or_refused_as_documented(name, data):
    TARGETS[name](data.draw(st.binary(max_size=60) | torn(name)))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"\x80" * 10_000])
def test_extremes_are_read_or_refused_as_documented(name, content):
    TARGETS[name](content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_sound_file_is_read(name):
    for seed in seeds(name):
        TARGETS[name](seed)
