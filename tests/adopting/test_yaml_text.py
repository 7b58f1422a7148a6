"""Edits in the text of a YAML file: what is described is edited, and every other line stays as it is."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker.adopting.edits import Add, Remove, Rename, Replace, edited
from haystack_ce_ranker.adopting.yaml_text import FormError, edited_text, parsed

SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.none(),
    st.sampled_from(["", "a b", "x: y", "# no", "yes", "1.5", "${A}", "line\nline\n", "ü", "'q'"]),
    st.floats(-5, 5).map(lambda value: round(value, 2)),
)
KEYS = st.sampled_from([*"abcd", "a b", "x-y"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def mappings(value, path=()):
    if isinstance(value, dict):
        yield path
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from mappings(one, (*path, key))


@st.composite
def some_edits(draw):
    """A description, and edits one of which may concern what another has made."""
    start = {"top": draw(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)), "end": 1}
    now, edits = start, []
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([one for one in mappings(now) if one]))
        holder = now
        for part in path:
            holder = holder[part]
        simple = [key for key, one in holder.items() if not isinstance(one, dict | list)]
        free = [key for key in (*"efgh",) if key not in holder]
        kinds = [*(["add"] if free else []), *(["remove", "rename"] if holder and free else [])]
        kind = draw(st.sampled_from([*kinds, *(["replace"] if simple else [])] or ["none"]))
        if kind == "none":
            continue
        if kind == "add":
            edit = Add((*path, free[0]), draw(VALUES), draw(st.sampled_from([None, *holder])))
        elif kind == "replace":
            edit = Replace((*path, draw(st.sampled_from(simple))), draw(SCALARS))
        else:
            place = (*path, draw(st.sampled_from(list(holder))))
            edit = Remove(place) if kind == "remove" else Rename(place, free[0])
        edits.append(edit)
        now = edited(now, [edit])
    return start, edits


def test_a_value_that_braces_would_take_apart_is_quoted():
    text = "top:\n  a: {b: 1, c: 2}\n"
    after = edited_text(text, [Replace(("top", "a", "b"), "${A}"), Add(("top", "a", "d"), "x, y")])
    assert after == "top:\n  a: {b: '${A}', c: 2, d: 'x, y'}\n"


@given(some_edits(), st.sampled_from([False, None]), st.booleans())
@settings(max_examples=150)
def test_the_text_describes_what_the_edits_make_of_the_description(given_edits, flow, commented):
    start, edits = given_edits
    text = yaml.safe_dump(start, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=10_000)
    if commented and not any(mark in text for mark in ('"', "'", "|")):
        text = "# first\n" + "".join(f"{line} # {place}\n" for place, line in enumerate(text.splitlines()))
    after = edited_text(text, edits)
    assert parsed(after) == edited(start, edits)
    assert list(parsed(after)["top"]) == list(edited(start, edits)["top"])


TEXT = """\
# of the team
components:
    ranker: # re-ranks
        type: 'a.B'   # quoted

        # nothing of this changes
        init_parameters: {model: "x", top_k: 5} # flow
    last:
        type: c.D
        init_parameters:
            only: |
                a text
                of two lines
# a note between
connections:
-   sender: ranker
    receiver: last # here
"""


def test_comments_quotes_and_blank_lines_stay():
    edits = [
        Replace(("components", "ranker", "type"), "e.F"),
        Add(("components", "ranker", "init_parameters", "k"), [1]),
        Remove(("components", "ranker", "init_parameters", "top_k")),
        Add(("components", "last", "init_parameters", "more"), {"a": 1}),
        Add(("components", "new"), {"type": "g.H"}, after="ranker"),
        Replace(("connections", 0, "sender"), "new.documents"),
        Add(("connections", 1), {"sender": "ranker", "receiver": "new"}),
    ]
    assert (
        edited_text(TEXT, edits)
        == """\
# of the team
components:
    ranker: # re-ranks
        type: 'e.F'   # quoted

        # nothing of this changes
        init_parameters: {model: "x", k: [1]} # flow
    new:
      type: g.H
    last:
        type: c.D
        init_parameters:
            only: |
                a text
                of two lines
            more:
              a: 1
# a note between
connections:
-   sender: new.documents
    receiver: last # here
- sender: ranker
  receiver: new
"""
    )


def test_the_only_entry_leaves_braces_behind():
    removed = [Remove(("components", "last", "init_parameters", "only"))]
    assert "        init_parameters: {}\n# a note between\n" in edited_text(TEXT, removed)


def test_an_entry_behind_a_dash_and_a_value_that_is_left_out():
    assert edited_text("a:\n- b: 1\n  c: 2\n", [Remove(("a", 0, "b"))]) == "a:\n- c: 2\n"
    assert edited_text("a:\n- b: 1\n- 2\n", [Remove(("a", 0, "b"))]) == "a:\n- {}\n- 2\n"
    assert edited_text("a:\n  b:\n  c: 2\n", [Replace(("a", "b"), {"d": 1})]) == "a:\n  b: {d: 1}\n  c: 2\n"
    assert edited_text("a: []\n", [Add(("a", 0), {"b": 1})]) == "a: [{b: 1}]\n"
    assert edited_text("a: 1", [Add(("b",), 2)]) == "a: 1\nb: 2\n"


@pytest.mark.parametrize(
    ("text", "edit", "told"),
    [
        ("a: &x {b: 1}\nc: *x\n", Replace(("c", "b"), 2), "c.b shares its lines"),
        ("a: &x {b: 1}\nc: *x\n", Replace(("c",), 2), "c shares its lines"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", Remove(("c", "b")), "c.b comes from another place"),
        ("a:\n  b: 1\n", Replace(("a",), 2), "a is written over several lines"),
    ],
)
def test_an_unusual_form_is_refused(text, edit, told):
    with pytest.raises(FormError, match=told):
        edited_text(text, [edit])
