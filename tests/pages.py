"""The code blocks of README.md and docs/: which there are, and how one of each language is run or checked."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from haystack import Document, Pipeline
from typer.main import get_command

import haystack_ce_ranker
from fakes import REPOSITORY
from haystack_ce_ranker.cli import app

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")] + sorted(
    DOCS.rglob("*.md")
)
HANDBOOK = REPOSITORY / "examples" / "handbook"
QUERY = "releasing the brake by hand"

_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"# not run: (.+)")
_QUERY_SOCKETS = ("query", "text")
_OTHER_COMMANDS = ("cd", "curl", "docker", "git", "hayhooks", "ls", "uvicorn")
"""Commands of a shell block of which only the examples that they name are known here."""


@dataclass(frozen=True)
class Block:
    """
    A fenced block of a page.

    :ivar line: Where its text begins in the page, from 1.
    :ivar printed: What the page says that it prints: the text of a `text` block right behind it, else None.
    """

    page: Path
    line: int
    language: str
    text: str
    printed: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the block is not run, as its first line says it; None if it is run."""
        found = _NOT_RUN.match(self.text)
        return found[1] if found else None

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.name}, line {self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, of one language or of all."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence, behind in pairwise([*_FENCE.finditer(text), None]):
        follows = behind is not None and behind[2] == "text" and not text[fence.end() : behind.start()].strip()
        found.append(
            Block(
                page=page,
                line=text.count("\n", 0, fence.start(3)) + 1,
                language=fence[2],
                text=textwrap.dedent(fence[3]),
                printed=textwrap.dedent(behind[3]) if follows and behind is not None else None,
            )
        )
    return [block for block in found if language in (None, block.language)]


def pages_with(language: str) -> list[Path]:
    """Return the pages that hold a block of this language."""
    return [page for page in PAGES if blocks(page, language)]


def name_of(page: Path) -> str:
    """Return a page's name for a test's id and for the count of blocks that are not run."""
    return str(page.relative_to(REPOSITORY))


def run_python(page: Path) -> dict[str, Any]:
    """
    Run a page's Python blocks in their order in one namespace, then the tests that they define.

    :raises AssertionError: If a block prints something else than the page says.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        if block.reason is not None:
            check_python(block)
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        if block.printed is not None:
            assert printed.getvalue().strip() == block.printed.strip(), block.place
    for name, test in list(namespace.items()):
        if name.startswith("test_") and inspect.isfunction(test):
            test()
    return namespace


def check_python(block: Block) -> None:
    """Check a block that cannot run: its syntax, and that our components have the parameters it names."""
    for call in ast.walk(ast.parse(block.text)):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in haystack_ce_ranker.__all__
        ):
            named = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
            unknown = named - set(inspect.signature(getattr(haystack_ce_ranker, call.func.id).__init__).parameters)
            assert not unknown, f"{block.place}: {call.func.id} has no {', '.join(sorted(unknown))}"


def described_components(value: Any) -> Iterator[dict[str, Any]]:
    """Find every component and document store that a YAML describes, however deep it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str) and "init_parameters" in value:
            yield value
        for inner in value.values():
            yield from described_components(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from described_components(inner)


def check_yaml(block: Block) -> None:
    """Check that a YAML describes components that exist with parameters that they have, and make them if it is run."""
    described = list(described_components(yaml.safe_load(block.text)))
    assert described, f"{block.place}: no component is described"
    for one in described:
        module, _, name = one["type"].rpartition(".")
        made = getattr(importlib.import_module(module), name)
        unknown = set(one["init_parameters"]) - set(inspect.signature(made.__init__).parameters)
        assert not unknown, f"{block.place}: {name} has no {', '.join(sorted(unknown))}"
        if block.reason is None:
            made.from_dict(one)


def run_yaml(block: Block) -> list[Document]:
    """Load a pipeline, fill its stores with the handbook, and return the documents at its end for one query."""
    pipeline = Pipeline.loads(block.text)
    filled = set()
    for name in pipeline.graph.nodes:
        store = getattr(pipeline.get_component(name), "document_store", None)
        if store is not None and id(store) not in filled:
            filled.add(id(store))
            store.write_documents(handbook())
    asked = {
        name: {socket: QUERY for socket in sockets if socket in _QUERY_SOCKETS}
        for name, sockets in pipeline.inputs().items()
    }
    found = pipeline.run({name: sockets for name, sockets in asked.items() if sockets})
    return [document for output in found.values() for document in output.get("documents", [])]


def handbook() -> list[Document]:
    """Return the documents of the example collection."""
    lines = (HANDBOOK / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [Document(id=row["_id"], content=f"{row['title']}\n{row['text']}") for row in map(json.loads, lines)]


def commands(block: Block) -> Iterator[list[str]]:
    """Split a shell block into its commands, each a list of words, without comments and assignments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\s\|\s", line):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Return the commands of ours that a page names between its blocks, each a list of words."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in re.findall(r"`((?:haystack-ce-ranker|make|python3? benchmarks/)[^`]*)`", text):
        words = shlex.split(found)
        if len(words) > 1:
            yield words


def check_command(words: list[str]) -> None:
    """
    Check that a command could run: our command parses it, a target or a file exists, an extra is offered.

    :raises AssertionError: If it could not.
    """
    program, arguments = Path(words[0]).name, words[1:]
    if program == "haystack-ce-ranker":
        parse_command(arguments)
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert set(arguments) <= targets, f"make has no {' '.join(sorted(set(arguments) - targets))}"
    elif program in ("python", "python3") and arguments[0] != "-m":
        check_script(REPOSITORY / arguments[0], arguments[1:])
    elif program in ("python", "python3", "pip"):
        offered = re.findall(r"^(\w+) = \[", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        named = {
            extra for word in arguments for found in re.findall(r"\[([\w,]+)\]", word) for extra in found.split(",")
        }
        assert named <= set(offered), f"no extra {', '.join(sorted(named - set(offered)))}"
    else:
        assert program in _OTHER_COMMANDS, f"nothing is known about the command {program}"
        absent = [word for word in arguments if word.startswith("examples/") and not (REPOSITORY / word).exists()]
        assert not absent, f"{absent[0]} is not there"


def parse_command(arguments: list[str]) -> None:
    """Let the command line read its arguments without running anything."""
    command: Any = get_command(app)
    name = "haystack-ce-ranker"
    parent = None
    while True:
        with command.make_context(name, list(arguments), parent=parent) as context:
            if not hasattr(command, "resolve_command"):
                return
            rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
            assert rest, "a command is named"
            name, command, arguments = command.resolve_command(context, rest)
            assert command is not None
            parent = context


def check_script(script: Path, arguments: list[str]) -> None:
    """Check that a script exists and that its text has the options and parts which are named."""
    assert script.is_file(), f"{script} is not there"
    shared = script.with_name("common.py")
    text = "".join(path.read_text(encoding="utf-8") for path in (script, shared) if path.is_file())
    for argument in arguments:
        if argument.startswith("-"):
            assert f'"{argument.partition("=")[0]}"' in text, f"{script.name} has no {argument}"
