r"""
Python's regular expressions -> Java's, as Lucene's `pattern` tokenizer takes them.

Python's own parser reads the pattern, and its tree is written again. So the signs that mean more in Java are plain
there, and `\w`, `\d`, `\s` and `\b` know all scripts. What Java lacks is an error.
"""

import re
from collections.abc import Iterable
from re import _parser as parser  # type: ignore[attr-defined]  # public as `sre_parse` until Python 3.11
from typing import Any

WORD = r"\p{L}\p{N}_"
"""What is in Java's set of `\\w` as Python means it."""

_SPACE = r"\s\x{1c}-\x{1f}\x{85}\p{Z}"
_CATEGORIES = {
    "CATEGORY_WORD": WORD,
    "CATEGORY_NOT_WORD": f"[^{WORD}]",
    "CATEGORY_DIGIT": r"\p{Nd}",
    "CATEGORY_NOT_DIGIT": r"\P{Nd}",
    "CATEGORY_SPACE": _SPACE,
    "CATEGORY_NOT_SPACE": f"[^{_SPACE}]",
}
_PLACES = {
    "AT_BEGINNING": r"\A",
    "AT_BEGINNING_STRING": r"\A",
    "AT_END": r"(?=\n?\z)",
    "AT_END_STRING": r"\z",
    "AT_BOUNDARY": f"(?:(?<=[{WORD}])(?![{WORD}])|(?<![{WORD}])(?=[{WORD}]))",
    "AT_NON_BOUNDARY": f"(?:(?<=[{WORD}])(?=[{WORD}])|(?<![{WORD}])(?![{WORD}]))",
}
_GREED = {"MAX_REPEAT": "", "MIN_REPEAT": "?", "POSSESSIVE_REPEAT": "+"}
_LOOKS = {("ASSERT", 1): "?=", ("ASSERT", -1): "?<=", ("ASSERT_NOT", 1): "?!", ("ASSERT_NOT", -1): "?<!"}
_READ_ALREADY = re.UNICODE | re.VERBOSE | re.IGNORECASE  # the tokenizer ignores case: Python sees small letters alone


def java_regex(pattern: str) -> str:
    """
    Return the pattern of Java that matches, without regard to case, what Python's does in lower-case text.

    :param pattern: A regular expression that Python compiles.
    :raises ValueError: If it has something that Java lacks.
    """
    tree = parser.parse(pattern)
    _require(not tree.state.flags & ~_READ_ALREADY, pattern, "flags such as (?s), (?m) and (?a)")
    return _written(tree, pattern)


def _require(holds: bool, pattern: str, what: str) -> None:
    if not holds:
        raise ValueError(
            f"tokenization_regex must go without {what}, which Lucene cannot do as Python does, but got {pattern!r}: "
            "write it otherwise, or use engine='bm25s'"
        )


def _written(tree: Iterable[Any], pattern: str) -> str:
    return "".join(_piece(str(kind), value, pattern) for kind, value in tree)


def _piece(kind: str, value: Any, pattern: str) -> str:
    """Return a piece of the tree as Java writes it."""
    match kind:
        case "LITERAL":
            return _character(value)
        case "NOT_LITERAL":
            return f"[^{_character(value)}]"
        case "ANY":
            return r"[^\n]"
        case "IN":
            return f"[{_items(value)}]"
        case "BRANCH":
            return f"(?:{'|'.join(_written(tree, pattern) for tree in value[1])})"
        case "SUBPATTERN":
            number, added, removed, tree = value
            _require(not (added & ~_READ_ALREADY or removed), pattern, "flags such as (?s:...) and (?-i:...)")
            return f"({'?:' if number is None else ''}{_written(tree, pattern)})"
        case "ATOMIC_GROUP":
            return f"(?>{_written(value, pattern)})"
        case "ASSERT" | "ASSERT_NOT":
            return f"({_LOOKS[kind, value[0]]}{_written(value[1], pattern)})"
        case "AT":
            return _PLACES[str(value)]
        case "GROUPREF":
            return rf"(?:\{value})"
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _repeated(kind, value, pattern)
    _require(False, pattern, "(?(1)...)")
    return ""


def java_set(items: str) -> str:
    """Return what stands in a set of Python's, such as `a-z`, as it stands in one of Java's."""
    ((_, found),) = parser.parse(f"[{items}]")
    return _items(found)


def _items(items: Iterable[Any]) -> str:
    """Return the items of a set; negated sets among them are sets of their own, which Java joins to it."""
    written = []
    for kind, value in items:
        match str(kind):
            case "NEGATE":
                written.append("^")
            case "LITERAL":
                written.append(_character(value))
            case "RANGE":
                written.append("-".join(map(_character, value)))
            case "CATEGORY":
                written.append(_CATEGORIES[str(value)])
    return "".join(written)


def _character(code: int) -> str:
    """Return a character as it stands for itself, in and outside of sets."""
    plain = chr(code)
    return plain if plain.isalnum() else f"\\x{{{code:x}}}"


def _repeated(kind: str, value: Any, pattern: str) -> str:
    least, most, tree = value
    repeated = _written(tree, pattern)
    single = len(tree) == 1 and str(tree[0][0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "GROUPREF")
    end = "" if most is parser.MAXREPEAT else most
    times = {(0, ""): "*", (1, ""): "+", (0, 1): "?"}.get(
        (least, end), f"{{{least}}}" if least == end else f"{{{least},{end}}}"
    )
    return f"{repeated if single else f'(?:{repeated})'}{times}{_GREED[kind]}"
