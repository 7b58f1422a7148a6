"""The definition of an index of Lucene's that ranks as ours: its form, its errors, and Java's way to write patterns."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from fakes import REPOSITORY
from haystack_ce_ranker.bm25.analysis import languages
from haystack_ce_ranker.bm25.java_regex import java_regex
from haystack_ce_ranker.bm25.lucene import STEMMERS, index_definition
from haystack_ce_ranker.cli import app

WORD = r"\p{L}\p{N}_"


@pytest.mark.parametrize(
    ("pattern", "java"),
    [
        ("abc", "abc"),
        (r"\w+", rf"[{WORD}]+"),
        (r"[^\W\d_]{2,}", rf"[^[^{WORD}]\p{{Nd}}\x{{5f}}]{{2,}}"),
        ("[&[]{3}?", r"[\x{26}\x{5b}]{3}?"),
        ("a{,2}b{", r"a{0,2}b\x{7b}"),
        ("(?P<n>a|bc)(?P=n)*+", r"((?:a|bc))(?:\1)*+"),
        (r"(?<!\.)(?=x)(?>a+)[^b].", r"(?<!\x{2e})(?=x)(?>a+)[^b][^\n]"),
        (r"^\s$|\Z", r"(?:\A[\s\x{1c}-\x{1f}\x{85}\p{Z}](?=\n?\z)|\z)"),
        ("(?xi) a b", "ab"),
        ("(?:ab)?", "(?:ab)?"),
    ],
)
def test_a_pattern_of_python_as_java_writes_it(pattern, java):
    assert java_regex(pattern) == java


@pytest.mark.parametrize("pattern", ["(a)?(?(1)b|c)", "(?s).", "(?a:x)", "(?-i:x)"])
def test_what_java_lacks_is_an_error_that_names_the_pattern(pattern):
    with pytest.raises(ValueError, match="tokenization_regex must go without .* Lucene cannot do"):
        java_regex(pattern)


def test_the_definition_holds_the_parameters():
    found = index_definition(language="german", tokenization_regex="([a-z]+)-", k1=0.9, b=0.4)
    settings = found["settings"]
    assert settings["similarity"]["default"] == {"type": "BM25", "k1": 0.9, "b": 0.4}
    tokenizer = settings["analysis"]["tokenizer"]["words"]
    assert (tokenizer["pattern"], tokenizer["group"]) == (r"([a-z]+)\x{2d}", 1)
    assert settings["analysis"]["filter"]["stems"]["language"] == "German"
    assert "und" in settings["analysis"]["filter"]["stopped"]["stopwords"]
    assert settings["query"]["default_field"] == ["content", "content.letters"]


def test_without_a_language_there_is_one_field_with_all_words():
    found = index_definition(language=None)
    assert found["settings"]["query"]["default_field"] == ["content"]
    assert set(found["settings"]["analysis"]["filter"]) == {"kept"}
    assert "fields" not in found["mappings"]["properties"]["content"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "bm25plus"}, "method must be 'lucene'.*'bm25plus'.*engine='bm25s'"),
        ({"language": "klingon"}, "language must be None or one of"),
        ({"language": "polish"}, "Lucene has our stemmer of .*'polish': use None"),
        ({"language": "dutch"}, "'dutch': use 'dutch_porter'"),
        ({"k1": -1}, "k1"),
        ({"tokenization_regex": "("}, "must be a regular expression"),
    ],
)
def test_what_lucene_cannot_do_is_an_error(arguments, message):
    missing = {"polish", "dutch_porter"} - set(languages())
    if arguments.get("language") in ("polish", "dutch") and missing:
        pytest.skip(f"this PyStemmer has no {missing}")
    with pytest.raises(ValueError, match=message):
        index_definition(**arguments)


def test_every_stemmer_is_one_of_ours():
    assert set(STEMMERS) - {"dutch_porter", "estonian"} <= set(languages())


def printed(*options):
    done = CliRunner().invoke(app, ["index-definition", *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_prints_it_for_a_yaml_file_and_for_a_request():
    assert yaml.safe_load(printed()) == index_definition()
    assert "&id" not in printed()
    given = ("--language", "none", "--k1", "0.9", "--b", "0.4", "--tokenization-regex", r"\w+")
    assert json.loads(printed("--form", "json", *given)) == index_definition(
        language=None, k1=0.9, b=0.4, tokenization_regex=r"\w+"
    )


def test_the_command_says_in_a_line_what_is_wrong():
    done = CliRunner().invoke(app, ["index-definition", "--language", "klingon"])
    assert done.exit_code == 2
    assert "language must be None or one of" in done.output


def test_the_example_holds_what_the_command_prints():
    example = yaml.safe_load((REPOSITORY / "examples" / "opensearch.yaml").read_text(encoding="utf-8"))
    store = example["components"]["bm25_retriever"]["init_parameters"]["document_store"]["init_parameters"]
    assert {name: store[name] for name in ("settings", "mappings")} == index_definition()
