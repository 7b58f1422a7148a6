"""A joiner's setting as YAML: a fragment to read, or written into a pipeline file that else stays as it is."""

from collections.abc import Mapping
from difflib import SequenceMatcher
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.running.graphs import PipelineError
from haystack_ce_ranker.fusion.judged import Setting
from haystack_ce_ranker.fusion.plain import parameters_of

_INDENTATIONS = tuple(product((2, 4), ((2, 0), (4, 2), (6, 4))))  # of mappings; of a list's entries and of its dashes


def fragment(joiner: str, setting: Setting) -> str:
    """Return the YAML that belongs into the pipeline file."""
    described = {"components": {joiner: {"init_parameters": parameters_of(setting)}}}
    return yaml.safe_dump(described, sort_keys=False)


def write_into(path: Path, joiner: str, setting: Setting) -> None:
    """
    Put a setting into a pipeline file at once; comments and every line that does not change stay as they are.

    :raises PipelineError: If the file has no such component, or shares its parameters with another one.
    :raises ImportError: If ruamel.yaml is missing.
    """
    by_hand = f"write this by hand:\n{fragment(joiner, setting)}"
    raw = path.read_bytes().decode("utf-8")
    text = raw.replace("\r\n", "\n")
    changes = parameters_of(setting)
    try:
        described = yaml.safe_load(text)
        own = described["components"][joiner]["init_parameters"]
        if "adapt_weights" not in own and not changes["adapt_weights"]:
            del changes["adapt_weights"]
        expected = {**described, "components": {**described["components"]}}
        expected["components"][joiner] = {**described["components"][joiner], "init_parameters": {**own, **changes}}
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise PipelineError(f"{path}: components.{joiner}.init_parameters is not there; {by_hand}") from error
    try:
        after = _changed(text, joiner, changes)
        same = yaml.safe_load(after) == expected
    except (ValueError, yaml.YAMLError):
        same = False
    if not same:
        raise PipelineError(f"{path}: the file's form is unusual; {by_hand}")
    write_text(path, after.replace("\n", "\r\n") if "\r\n" in raw else after)


def round_trip() -> Any:
    """
    Return ruamel.yaml's reader and writer that keeps comments, quotes and order.

    :raises ImportError: If ruamel.yaml is missing.
    """
    try:
        from ruamel.yaml import YAML
    except ImportError as error:
        message = 'writing into a pipeline file needs ruamel.yaml: pip install "ce-ranker-haystack[evaluate]"'
        raise ImportError(message) from error
    made = YAML()
    made.preserve_quotes = True
    made.width = 2**16  # characters: no line is folded
    return made


def _changed(text: str, joiner: str, changes: Mapping[str, Any]) -> str:
    """Return the text with the parameters changed; ValueError if the lines to change cannot be told from the others."""
    from ruamel.yaml.error import YAMLError

    form = round_trip()
    try:
        document = form.load(text)
        before = _dumped(form, document, text)
        # PyYAML writes the new values: it marks floats so that YAML 1.1 and 1.2 both read floats.
        _update(document["components"][joiner]["init_parameters"], form.load(yaml.safe_dump(changes, sort_keys=False)))
        stream = StringIO()
        form.dump(document, stream)
    except YAMLError as error:
        raise ValueError(str(error)) from error
    return _patched(text, before, stream.getvalue())


def _dumped(form: Any, document: Any, text: str) -> str:
    """Return the document as ruamel.yaml writes it, indented as much like the text as it can be."""
    best, most = "", -1
    for mapping, (sequence, offset) in _INDENTATIONS:
        stream = StringIO()
        form.indent(mapping=mapping, sequence=sequence, offset=offset)
        form.dump(document, stream)
        lines = set(stream.getvalue().splitlines())
        equal = sum(line in lines for line in text.splitlines())
        if equal > most:
            best, most, chosen = stream.getvalue(), equal, (mapping, sequence, offset)
    form.indent(*chosen)
    return best


def _update(parameters: Any, changes: Any) -> None:
    """Change a mapping of ruamel.yaml in place; what has its value already keeps its form."""
    for place, key in enumerate([key for key in changes if key not in parameters]):
        parameters.insert(place, key, changes[key])
    for key, value in changes.items():
        old = parameters[key]
        if old == value:
            continue
        if _is_mapping(old) and _is_mapping(value) and old.keys() == value.keys() and not old.anchor.value:
            _update(old, value)
            continue
        # The comment behind the old value may stand on lines of its own, above the next entry.
        holder, last = _last_entry(parameters, key)
        comment = holder.ca.items.pop(last, None)
        if _is_mapping(old) and _is_mapping(value) and old.fa.flow_style():
            value.fa.set_flow_style()
        parameters[key] = value
        if comment is not None:
            holder, last = _last_entry(parameters, key)
            holder.ca.items[last] = comment


def _last_entry(mapping: Any, key: Any) -> tuple[Any, Any]:
    """Return where ruamel.yaml keeps the comment behind an entry: at the entry that stands last in it."""
    value = mapping[key]
    if _is_mapping(value) and len(value) and not value.fa.flow_style():
        return _last_entry(value, list(value)[-1])
    return mapping, key


def _is_mapping(node: Any) -> bool:
    return isinstance(node, Mapping)


def _patched(text: str, before: str, after: str) -> str:
    """
    Make in the text the change that leads from `before` to `after`, line by line; ValueError if that cannot be done.

    `before` is the text as ruamel.yaml writes it. It may break and indent lines differently, but not where they change.
    """
    lines, old, new = ((each.rstrip("\n") + "\n").splitlines(keepends=True) for each in (text, before, after))
    stripped = [line.strip() for line in old], [line.strip() for line in lines]
    places = {0: 0, len(old): len(lines)}
    for block in SequenceMatcher(None, *stripped, autojunk=False).get_matching_blocks():
        for step in range(block.size + 1):
            places.setdefault(block.a + step, block.b + step)
    made: list[str] = []
    for kind, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if start not in places or stop not in places:
            raise ValueError("the change meets lines that ruamel.yaml would write otherwise")
        made += lines[places[start] : places[stop]] if kind == "equal" else new[first:last]
    return "".join(made)
