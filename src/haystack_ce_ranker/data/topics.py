"""Reads queries as TREC publishes them: marked topics, lines of id and text, or JSON lines."""

import html
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from haystack_ce_ranker.data.collections import EMPTY_QUERIES
from haystack_ce_ranker.data.sources import Source, trimmed
from haystack_ce_ranker.data.tables import REPEATED, TRAILING

EXPECTED_TOPICS = (
    "<top> <num> Number: 301 <title> international organized crime <desc> Description: ... </top>",
    '<topic number="301"><query>international organized crime</query></topic>',
    "301\tinternational organized crime",
)

TOPIC_FIELDS: Mapping[str, tuple[str, ...]] = {
    "title": ("title", "query"),
    "description": ("desc", "description", "question"),
    "narrative": ("narr", "narrative"),
}
"""What of a topic can become the query, and the tags under which TREC's tracks have it."""

_BOUND = re.compile(r"<(/?)top(?:ic)?\b([^<>]*)>", re.IGNORECASE)
_AROUND = re.compile(r"<[/?!a-z][^<>]*>", re.IGNORECASE)
_MARKUP = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_FIELD = re.compile(
    r"<(num|title|query|question|desc|description|narr|narrative|smry|summary|note|con|fac|def|dom|nat|head|subtopic)\b"
    r"[^<>]*>",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"""\b(?:number|id)\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_LABEL = re.compile(r"^\s*(number|topic|title|description|narrative)\s*:", re.IGNORECASE)
_ID_KEYS = ("_id", "id", "docid", "doc_id", "docno", "document_id", "pid")
_TEXT_KEYS = ("text", "contents", "content", "body", "passage", "document")


def read_topics(source: Source, field: str, judged: Collection[str]) -> dict[str, str]:
    """
    Read queries.

    :param field: What of a marked topic becomes the query: a key of `TOPIC_FIELDS`.
    :param judged: The queries with judgments, which must have a text.
    :returns: Texts by query id.
    """
    found: Iterator[tuple[int | None, str, str]]
    if re.match("<[/?!a-z]", trimmed(source.first_line()), re.IGNORECASE):
        found = _marked_topics(source, field)
    elif source.holds_objects():
        found = ((None, *id_and_text(source, row)) for row in source.objects())
    else:
        found = _tabbed_topics(source)
    queries: dict[str, str] = {}
    for line, query_id, given in found:
        text = trimmed(given)
        if not query_id.strip() or (not text.strip() and query_id in judged):
            raise source.error(f"topic {query_id!r} has no {'text' if query_id else 'id'}", line)
        if not text.strip():
            source.mend(EMPTY_QUERIES)
        elif query_id not in queries:
            queries[query_id] = text
        elif queries[query_id] == text:
            source.mend(REPEATED)
        else:
            raise source.error(f"topic {query_id!r} appears twice, with different texts", line)
    if not queries:
        raise source.error("it has no topics")
    return queries


def id_and_text(source: Source, row: Mapping[str, object]) -> tuple[str, str]:
    """Return id and text of an object, under any of the keys that are usual."""
    found = []
    for what, keys in (("id", _ID_KEYS), ("text", _TEXT_KEYS)):
        key = next((key for key in keys if key in row), None)
        if key is None:
            problem = f"there is no {what}: one of the keys {', '.join(keys)} (found: {', '.join(row) or 'none'})"
            raise source.error(problem)
        found.append(key)
    text = row[found[1]]
    is_number = isinstance(text, int) and not isinstance(text, bool)
    return source.identity(found[0], row[found[0]]), str(text) if is_number else source.string(found[1], text)


def names_columns(fields: Sequence[str]) -> bool:
    """Tell whether a row is a table's header: it begins with a name for an id and ends with one for a text."""
    return fields[0].lower() in (*_ID_KEYS, "qid", "query-id") and fields[-1].lower() in (*_TEXT_KEYS, "query")


def _marked_topics(source: Source, field: str) -> Iterator[tuple[int, str, str]]:
    """`<top>` blocks, whose inner tags are mostly not closed, and `<topic number="...">` blocks of XML."""
    for line, attributes, body in _blocks(source):
        fields: dict[str, str] = {}
        starts = list(_FIELD.finditer(body))
        stray = [body[: starts[0].start()] if starts else body]
        for number, start in enumerate(starts):
            content = body[start.end() : starts[number + 1].start() if number + 1 < len(starts) else len(body)]
            tag = start[1].lower()
            text, *behind = re.split(rf"</{tag}\s*>", content, maxsplit=1, flags=re.IGNORECASE)
            stray += behind
            if tag in fields and tag in ("num", *TOPIC_FIELDS[field]):
                raise source.error(f"a topic has two <{tag}>", line)
            fields[tag] = " ".join(html.unescape(_MARKUP.sub(" ", _LABEL.sub("", text))).split())
        if words := next((text for text in map(str.strip, stray) if text and not text.startswith("<")), None):
            raise source.error(f"a topic has words that are in no field: {words}", line)
        attribute = _NUMBER.search(attributes)
        name = attribute[1].strip() if attribute else fields.pop("num", "")
        if not name:
            raise source.error("a topic has no <num> and no number=", line)
        found = next((fields[tag] for tag in TOPIC_FIELDS[field] if fields.get(tag)), None)
        if found is None:
            has = ", ".join(f"<{tag}>" for tag in fields) or "no field"
            raise source.error(f"topic {name!r} has no {field} (it has {has})", line)
        yield line, source.identity("number", name), found


def _blocks(source: Source) -> Iterator[tuple[int, str, str]]:
    """
    Yield the line, the attributes and the content of each topic.

    :raises CollectionError: If a topic is not closed, or words stand between topics: they would be lost.
    """
    content = _without_comments(source.text())
    opened: re.Match[str] | None = None
    line, counted, end = 1, 0, 0
    for bound in _BOUND.finditer(content):
        if opened is None and not bound[1]:
            _check_around(source, content[end : bound.start()], line)
            line, counted = line + content.count("\n", counted, bound.start()), bound.start()
            opened = bound
        elif opened is not None and bound[1]:
            yield line, opened[2], content[opened.end() : bound.start()]
            opened, end = None, bound.end()
        else:
            here = line + content.count("\n", counted, bound.start())
            problem = "a topic begins before the one above it ends" if opened else "a topic ends that did not begin"
            raise source.error(problem, here)
    if opened is not None:
        raise source.error("this topic does not end: a </top> or </topic> is missing", line)
    _check_around(source, content[end:], line)


def _without_comments(text: str) -> str:
    """Return a text without its comments; their line feeds stay, so that lines keep their numbers."""
    first, *others = text.split("<!--")
    kept = [first]
    for part in others:
        comment, end, behind = part.partition("-->")
        kept.append("\n" * comment.count("\n") + behind if end else f"<!--{part}")
    return "".join(kept)


def _check_around(source: Source, text: str, line: int) -> None:
    if words := _AROUND.sub("", text).strip():
        raise source.error(f"words stand outside of all topics, behind this line: {words}", line)


def _tabbed_topics(source: Source) -> Iterator[tuple[None, str, str]]:
    is_first = True
    for text in source.lines():
        fields = [trimmed(field) for field in text.split("\t")]
        if len(fields) > 2 and not any(fields[2:]):
            source.mend(TRAILING)
            fields = fields[:2]
        if len(fields) != 2:
            problem = f"it has {len(fields)} columns where an id and a text are expected (are they separated by a tab?)"
            raise source.error(problem)
        if not (is_first and names_columns(fields)):
            yield None, fields[0], fields[1]
        is_first = False
