"""
Makes edits in the text of a YAML file: a line that an edit does not concern stays as it is, to the byte.

The parser says where each key and value begins and ends, and only what stands there is written anew. So comments,
quotes, order and indentation need no care: nobody reads and writes them.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from haystack.marshal.yaml import YamlLoader

from haystack_ce_ranker.adopting.edits import Add, Edit, Path, Remove, Rename, Replace


class FormError(ValueError):
    """A text's form is unusual, so that an edit cannot be made in it safely; the message names the place."""


class _Marked(yaml.SafeLoader):
    """Composes a text so that an alias is a node of its own, at its own place."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode("alias", event.anchor, event.start_mark, event.end_mark)
        return super().compose_node(parent, index)


def parsed(text: str) -> Any:
    """
    Return what a text describes, read as Haystack reads it.

    :raises yaml.YAMLError: If it is no YAML, or one without an end to its levels.
    """
    try:
        return yaml.load(text, Loader=YamlLoader)
    except RecursionError as error:
        raise yaml.YAMLError("it has too many levels") from error


def edited_text(text: str, edits: Sequence[Edit]) -> str:
    """
    Return the text with the edits made, one after the other.

    :raises FormError: If an edit cannot be made.
    """
    for edit in edits:
        text = _edited(text, edit)
    return text


def _edited(text: str, edit: Edit) -> str:
    root = yaml.compose(text, Loader=_Marked)
    where = ".".join(map(str, edit.path))
    if isinstance(edit, Add):
        holder = _node(root, edit.path[:-1], where)
        if isinstance(holder, yaml.SequenceNode):
            return _with_item(text, holder, edit.value)
        return _with_entry(text, _mapping(holder, where), str(edit.path[-1]), edit.value, edit.after)
    if isinstance(edit, Replace):
        return _with_value(text, _node(root, edit.path, where), edit.value, where)
    holder = _mapping(_node(root, edit.path[:-1], where), where)
    place = _place(holder, edit.path[-1], where)
    if isinstance(edit, Rename):
        return _spliced(text, holder.value[place][0], edit.key)
    return _without(text, root, edit, holder, place)


def _node(root: yaml.Node | None, path: Path, where: str) -> yaml.Node:
    """Return the node at a path; one behind an alias is refused, because other places share it."""
    node = root
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        else:
            holder = _mapping(node, where)
            node = holder.value[_place(holder, part, where)][1]
    if node is None or node.tag == "alias":
        raise FormError(f"{where} shares its lines with another place (`*`): write them out")
    return node


def _mapping(node: yaml.Node | None, where: str) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        raise FormError(f"{where} shares its lines with another place (`*`): write them out")
    return node


def _place(holder: yaml.MappingNode, key: str | int, where: str) -> int:
    for place, (found, _) in enumerate(holder.value):
        if found.value == str(key):
            return place
    raise FormError(f"{where} comes from another place (`<<`): write it out")


def _spliced(text: str, node: yaml.Node, new: str) -> str:
    return text[: node.start_mark.index] + new + text[node.end_mark.index :]


def _with_value(text: str, node: yaml.Node, value: Any, where: str) -> str:
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        raise FormError(f"{where} is written over several lines: write it in one")
    if not isinstance(node, yaml.ScalarNode):
        return _spliced(text, node, _flow(value))
    if node.style in ("'", '"') and isinstance(value, str):
        return _spliced(text, node, yaml.safe_dump(value, default_style=node.style, width=2**16).rstrip("\n"))
    # A value that is left out has no place of its own: it begins right behind the colon.
    gap = " " if text[node.start_mark.index - 1 : node.start_mark.index] == ":" else ""
    return _spliced(text, node, gap + _flow(value))


def _with_item(text: str, holder: yaml.SequenceNode, value: Any) -> str:
    if holder.flow_style or not holder.value:
        comma = ", " if holder.value else ""
        return _inserted(text, holder.end_mark.index - 1, comma + _flow(value))
    indent = holder.start_mark.column
    block = _block(value, indent + 2)
    return _inserted_lines(text, _end(text, holder.value[-1]), " " * indent + "- " + block.lstrip(" "))


def _with_entry(text: str, holder: yaml.MappingNode, key: str, value: Any, after: str | None) -> str:
    place = -1 if after is None else _place(holder, after, key)
    last = holder.value[place] if holder.value else None
    if holder.flow_style or last is None:
        comma = ", " if holder.value else ""
        entry = _flow({key: value})[1:-1]
        if last is not None and last is not holder.value[-1]:
            return _inserted(text, last[1].end_mark.index, comma + entry)
        return _inserted(text, holder.end_mark.index - 1, comma + entry)
    return _inserted_lines(text, _end(text, last[1]), _block({key: value}, holder.value[0][0].start_mark.column))


def _without(text: str, root: yaml.Node | None, edit: Remove, holder: yaml.MappingNode, place: int) -> str:
    key, value = holder.value[place]
    following = holder.value[place + 1][0] if place + 1 < len(holder.value) else None
    if holder.flow_style:
        start = holder.value[place - 1][1].end_mark.index if place and following is None else key.start_mark.index
        return text[:start] + text[value.end_mark.index if following is None else following.start_mark.index :]
    end = _end(text, value)
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    if place == 0 and following is None:  # a mapping needs an entry, or braces
        parent = _node(root, edit.path[:-2], "")
        if isinstance(parent, yaml.SequenceNode):
            return text[: key.start_mark.index] + "{}\n" + text[end:]
        own = next(one for one, node in parent.value if node is holder)
        text = text[:begin] + text[end:]
        return _inserted(text, text.index(":", own.end_mark.index) + 1, " {}")
    if text[begin : key.start_mark.index].strip() and following is not None:  # behind the dash of a list
        return text[: key.start_mark.index] + text[following.start_mark.index :]
    return text[:begin] + text[end:]


def _end(text: str, node: yaml.Node) -> int:
    """Return where the line ends in which a value ends: behind its line feed. A comment in that line belongs to it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    stop = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return stop  # of a text over several lines the parser gives the start of the next line
    found = text.find("\n", stop)
    return len(text) if found < 0 else found + 1


def _inserted(text: str, index: int, new: str) -> str:
    return text[:index] + new + text[index:]


def _inserted_lines(text: str, index: int, lines: str) -> str:
    before = text[:index]
    return (before if before.endswith("\n") else before + "\n") + lines + text[index:]


def _flow(value: Any) -> str:
    # As an entry of a list it is quoted where braces or commas need that, which `${NAME}` does between braces.
    made = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=2**16, allow_unicode=True)
    return made.rstrip("\n")[1:-1]


def _block(value: Any, indent: int) -> str:
    made = yaml.safe_dump(value, default_flow_style=False, sort_keys=False, width=2**16, allow_unicode=True)
    return "".join(f"{' ' * indent}{line}\n" for line in made.removesuffix("...\n").splitlines())
