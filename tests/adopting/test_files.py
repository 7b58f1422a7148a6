"""A file is moved at once or not at all, and what is wrong with it is told in one line."""

import json
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from haystack_ce_ranker.adopting import files
from haystack_ce_ranker.adopting.files import AdoptError, adopt_file, adopt_text, loading_fault
from haystack_ce_ranker.cli import app

BM25 = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
PLAIN = f"""\
components:
  retriever: # by words
    type: {BM25}
    init_parameters:
      document_store: &store
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {{}}
      top_k: 3
connections: []
"""


@pytest.fixture
def loads(monkeypatch):
    """No process is started; the list says what was asked to load."""
    asked = []
    monkeypatch.setattr(files, "loading_fault", lambda text: asked.append(text))
    return asked


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(PLAIN, encoding="utf-8")
    return path


def run(*arguments):
    done = CliRunner().invoke(app, ["adopt", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_writes_what_it_shows_and_what_loads(old, tmp_path):
    new = tmp_path / "new.yaml"
    code, told = run(old, "--output", new)
    assert (code, old.read_text(encoding="utf-8")) == (0, PLAIN)
    assert new.read_text(encoding="utf-8") == adopt_text(PLAIN).after
    assert "- retriever: InMemoryBM25Retriever becomes BM25Retriever." in told
    assert "+      language: null" in told
    assert f"{new} is written; it loads in a fresh process." in told
    assert set(tmp_path.iterdir()) == {old, new}


def test_an_output_that_exists_is_kept_without_force(old, tmp_path, loads):
    new = tmp_path / "new.yaml"
    new.write_text("mine", encoding="utf-8")
    code, told = run(old, "--output", new)
    assert (code, new.read_text(encoding="utf-8"), loads) == (2, "mine", [])
    assert "--force" in told
    assert run(old, "--output", new, "--force")[0] == 0
    assert new.read_text(encoding="utf-8") == adopt_text(PLAIN).after == loads[0]


def test_a_dry_run_shows_and_writes_nothing(old, tmp_path, loads):
    code, told = run(old, "--output", tmp_path / "new.yaml", "--dry-run")
    assert (code, list(tmp_path.iterdir())) == (0, [old])
    assert "becomes BM25Retriever" in told
    assert len(loads) == 1
    code, told = run(old)
    assert code == 2
    assert "--output" in told


def test_where_nothing_changes_nothing_is_written(old, tmp_path, loads):
    old.write_text(adopt_text(PLAIN).after, encoding="utf-8")
    code, told = run(old, "--output", tmp_path / "new.yaml")
    assert (code, list(tmp_path.iterdir()), loads) == (0, [old], [])
    assert "Nothing to change" in told


def test_line_ends_and_a_mark_at_the_start_of_a_file_are_taken(old, tmp_path, loads):
    old.write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    new = tmp_path / "new.yaml"
    assert run(old, "--output", new)[0] == 0
    assert new.read_bytes() == adopt_text(PLAIN).after.replace("\n", "\r\n").encode()


ALIASED = PLAIN.replace("connections", "  other: *it\nconnections").replace("retriever: #", "retriever: &it #")
SHARED = PLAIN.replace("init_parameters:\n      doc", "init_parameters: &it\n      doc") + "metadata: *it\n"
ONE = "components: {a: {type: a}}"
DOUBLED = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)) + ONE
STORE = "components: {{retriever: {{type: a, {}}}}}"
HAYSTACK_1 = "version: 1.20\ncomponents:\n- name: Retriever\n  type: BM25Retriever\npipelines: []\n"


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("a: [1", (), "it is no YAML"),
        ("", (), "it describes no pipeline"),
        ("just a text", (), "it describes no pipeline"),
        (HAYSTACK_1, (), "it is a pipeline of Haystack 1"),
        ("components: 3", (), "its components are no mapping"),
        ("components: {a: {init_parameters: {}}}", (), "its component 'a' has no type"),
        ("components: {no: {type: a}}", (), "the name of its component False is no text"),
        ("components: {'': {type: a}}", (), "the name of its component '' is no text"),
        ("components: {a: {type: a, init_parameters: [1]}}", (), "the init_parameters of its component 'a' are no map"),
        ("components: {a: {type: a}}\nconnections: 5", (), "its connections are no list, but 5"),
        (f"{ONE}\nconnections: [{{sender: .documents, receiver: a.b}}]", (), "names the component '', which is not"),
        (f"{ONE}\nconnections: [{{sender: a.b, receiver: ghost.c}}]", ("--insert",), "names the component 'ghost'"),
        ("&a\ncomponents: {x: {type: a, init_parameters: {p: *a}}}\nconnections: []", (), "an alias hold itself"),
        (DOUBLED, (), "an alias hold itself"),
        ("components: " + "[" * 3000 + "]" * 3000, (), "it has too many levels"),
        (STORE.format("init_parameters: [1]"), (), "'retriever' are no mapping"),
        (ALIASED, (), "components.other.type shares its lines"),
        (SHARED, (), "lines of it stand for two components"),
        (PLAIN, ("--model", "./not/there"), "model './not/there' was not found"),
        (PLAIN, ("--backend", "tensorrt"), "backend must be one of"),
        (PLAIN, ("--model", ""), "model must"),
        (None, (), "No such file"),
        (b"\xff\xfe\x00", (), "it is no text in UTF-8"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(text, options, told, tmp_path, loads):
    old = tmp_path / "old.yaml"
    if text is not None:
        old.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, output = run(old, "--output", tmp_path / "new.yaml", *options)
    assert code == 2
    assert output.count("\n") == 1
    assert told in output
    assert not (tmp_path / "new.yaml").exists()
    assert loads == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("DeserializationError: No module named 'ours'", "Install the package"),
        ("x is not in the allowlist", "HAYSTACK_DESERIALIZATION_ALLOWLIST"),
        ("while loading in safe mode", "HAYSTACK_UNSAFE_DESERIALIZATION=1"),
        ("None of the environment variables are set", "Set that variable"),
        ("something else", "something else. Nothing was written"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_what_does_not_load_is_not_written(fault, told, before, old, monkeypatch):
    monkeypatch.setattr(files, "loading_fault", lambda text: fault if before or text != PLAIN else None)
    with pytest.raises(AdoptError) as raised:
        adopt_file(old)
    assert told in str(raised.value)
    assert ("neither before nor after" in str(raised.value)) is before
    assert ("please report" in str(raised.value)) is not before


def test_what_a_store_cannot_be_given_keeps_its_retriever():
    assert not adopt_text(PLAIN).changes[0].left
    for given, told in (("[1]", "document_store.init_parameters"), ("{bm25_parameters: abc}", "bm25_parameters")):
        found = adopt_text(PLAIN.replace("init_parameters: {}", f"init_parameters: {given}"))
        assert found.changes[0].left
        assert f"{told} must be a mapping" in found.changes[0].text


def test_nothing_of_the_current_folder_runs_and_no_file_lifts_haystacks_distrust(tmp_path, monkeypatch):
    (tmp_path / "haystack.py").write_text("open('it-ran', 'w').close()", encoding="utf-8")
    (tmp_path / "placeholder.py").write_text("open('it-ran', 'w').close()", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert loading_fault(PLAIN) is None
    secret = "{type: env_var, env_vars: [HAYSTACK_DESERIALIZATION_ALLOWLIST], strict: true}"
    asked = f"components: {{a: {{type: placeholder.Thing, init_parameters: {{key: {secret}}}}}}}\nconnections: []\n"
    assert loading_fault(asked) is not None
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["HAYSTACK_DESERIALIZATION_ALLOWLIST", "PYTHONPATH", "ld_preload", "A_KEY_OF_OURS"])
def test_no_placeholder_stands_for_what_says_which_code_runs(name, monkeypatch):
    given = {}
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files.subprocess, "run", lambda *_, env, **__: given.update(env) or CompletedProcess([], 0))
    secret = {"type": "env_var", "env_vars": [name], "strict": True}
    loading_fault(json.dumps({"components": {"a": {"type": "a.B", "init_parameters": {"key": secret}}}}))
    assert (given.get(name) == "placeholder") is (name == "A_KEY_OF_OURS")


def test_a_name_cannot_write_to_the_terminal(tmp_path, loads):
    old = tmp_path / "old.yaml"
    old.write_text(PLAIN.replace("retriever:", '"r\\e[31m":'), encoding="utf-8")
    code, output = run(old, "--output", tmp_path / "new.yaml")
    assert (code, "\x1b" in output, "r\\x1b[31m" in output) == (0, False, True)


def test_a_fresh_process_says_in_one_line_what_does_not_load(monkeypatch):
    generator = {
        "type": "haystack.components.generators.chat.openai.OpenAIChatGenerator",
        "init_parameters": {"api_key": {"type": "env_var", "env_vars": ["A_KEY_OF_OURS"], "strict": True}},
    }
    unknown = {"type": "${OUR_TYPE}", "init_parameters": {}}
    monkeypatch.setenv("OUR_TYPE", "a_package_of_ours.Component")
    fault = loading_fault(json.dumps({"components": {"generator": generator, "ours": unknown}, "connections": []}))
    assert "a_package_of_ours" in fault  # and not the key, which a placeholder stands for
    assert "\n" not in fault
