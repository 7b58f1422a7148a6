"""Pipelines in the forms that people have them: each is moved or left with a reason, loads, and finds the same."""

import copy
import json
import os
import subprocess
import sys
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path

import haystack
import pytest
import yaml
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker.adopting import adopt
from haystack_ce_ranker.adopting.edits import Add, Remove, Rename, edits_of
from haystack_ce_ranker.adopting.equivalences import JOINER, RANKER, RETRIEVER, TABLE
from haystack_ce_ranker.adopting.files import adopt_text
from haystack_ce_ranker.adopting.yaml_text import edited_text

FORMS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "forms").iterdir())}
HYBRID = {"by_words": RETRIEVER, "joiner": JOINER}
BOTH = {"retriever": RETRIEVER, "ranker": RANKER}
MOVED = {
    "chroma": {"ranker": RANKER},
    "cohere": {"retriever": RETRIEVER},
    "dense": {"ranker": RANKER},
    "elasticsearch": BOTH,
    "fastembed": {"ranker": RANKER},
    "haystack_2": BOTH,
    "haystack_2_legacy": BOTH,
    "hybrid_concatenate": {"by_words": RETRIEVER},
    "hybrid_concatenate_ranked": {**HYBRID, "ranker": RANKER},
    "hybrid_default_mode": {**HYBRID, "ranker": RANKER},
    "hybrid_distribution": {"by_words": RETRIEVER},
    "hybrid_merge": HYBRID,
    "hybrid_rrf": HYBRID,
    "hybrid_rrf_weighted": HYBRID,
    "jina": {"ranker": RANKER},
    "keyword": {"retriever": RETRIEVER},
    "keyword_ranked": BOTH,
    "loop": BOTH,
    "multi_query": {"retriever > retriever": RETRIEVER},
    "multi_retriever": {"retriever > retrievers > words": RETRIEVER},
    "opensearch": {"retriever": RETRIEVER},
    "qdrant": {"ranker": RANKER},
    "rag": BOTH,
    "router": BOTH,
    "super_component": {"search > retriever": RETRIEVER, "search > ranker": RANKER},
    "tei": {"ranker": RANKER},
    "two_rankers": {"retriever": RETRIEVER, "first": RANKER, "second": RANKER},
}
"""What becomes ours in each form."""

LEFT = {
    "cohere": ("ranker", "ours measures texts with the tokenizer"),
    "hybrid_concatenate": ("joiner", "join_mode: concatenate keeps the best score"),
    "hybrid_distribution": ("joiner", "join_mode: distribution_based_rank_fusion keeps the best score"),
}
ABSENT = {"cohere", "elasticsearch", "fastembed", "jina", "opensearch", "rag", "tei", "qdrant", "chroma"}
"""Forms that are not run here: a server, a key, or a package that is not installed."""
ON_HAYSTACK_2 = haystack.__version__.startswith("2.")
SERVERS = {"elasticsearch", "opensearch", "qdrant", "chroma"}
"""Forms whose stores come from packages; those that are installed do not import on Haystack 2.24."""
if find_spec("haystack.components.retrievers.multi_retriever") is None:
    del FORMS["multi_retriever"], MOVED["multi_retriever"]  # Haystack 2.24 has no such component
OTHER_SCORES = {"haystack_2_legacy", "hybrid_rrf", "hybrid_rrf_weighted"}

QUERY = "the hut in snow of germany"  # no word twice: ours would count it twice
TEXTS = (
    *("the hut is in the snow", "a car in berlin", "paris is a city of france", "snow", "the brake of the car"),
    *("germany", "a city in germany is berlin", "the hut of the hut"),
)


@pytest.fixture
def texts(tiny_bert):
    return {name: text.replace("TINY_MODEL", tiny_bert) for name, text in FORMS.items()}


@pytest.fixture
def documents():
    """Documents in the store that the forms name, with embeddings in which no two lie in one direction."""
    store = InMemoryDocumentStore(index="forms")
    written = [
        Document(id=f"d{place}", content=text, embedding=[1.0, 0.3 * place], meta={"title": "a hut"})
        for place, text in enumerate(TEXTS)
    ]
    store.write_documents(written)
    yield written
    store.delete_documents([one.id for one in written])


def run(pipeline):
    """The documents that a pipeline ends in, whatever its inputs are called."""
    values = {"query": QUERY, "queries": ["hut", "snow car"], "query_embedding": [0.6, 1.0], "value": QUERY}
    taken = {
        name: {socket: values[socket] for socket in sockets if socket in values}
        for name, sockets in pipeline.inputs().items()
    }
    made = pipeline.run(taken)
    return next(output["documents"] for output in made.values() if "documents" in output)


def as_it_was(text):
    """A form as the installed Haystack can run it: the rankers of Haystack 2 have their successor's name."""
    similarity, legacy = TABLE[0], TABLE[1]
    text = text.replace(similarity.types[1], similarity.types[0])
    kept = [line for line in text.splitlines() if "calibration_factor" not in line and "threshold: 0.4" not in line]
    return "\n".join(kept).replace(legacy.types[0], similarity.types[0]) if legacy.types[0] in text else text


def with_our_retrievers(text):
    """
    A form as it is on Haystack 3. On Haystack 2, its retrievers become ours, and rankers and joiners are compared.

    There, the in-memory store gives documents a score for words that they lack, by which it finds and orders others.
    """
    if not ON_HAYSTACK_2:
        return text
    changes = adopt_text(text).changes
    ours = {one.component for one in changes if one.edits and getattr(one.edits[0], "value", None) == RETRIEVER}
    return edited_text(text, edits_of([one for one in changes if one.component in ours]))


def test_there_are_twenty_forms_and_each_is_expected_to_become_something():
    assert len(FORMS) >= 20
    assert FORMS.keys() == MOVED.keys()


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_moved_or_left_with_the_reason(name, texts):
    found = adopt_text(texts[name])
    kinds = {}
    for change in found.changes:
        if change.edits and change.edits[0].path[-1] == "type":
            kinds[change.component] = change.edits[0].value
    assert kinds == MOVED[name]
    left = [(change.component, change.text) for change in found.changes if change.left]
    expected = [LEFT[name]] if name in LEFT else []
    assert [component for component, _ in left] == [component for component, _ in expected]
    assert all(text.startswith(start) for (_, text), (_, start) in zip(left, expected, strict=True))
    assert all("\n" not in str(change) for change in found.changes)


@pytest.mark.parametrize("name", FORMS)
def test_what_was_moved_is_moved_no_further(name, texts):
    once = adopt_text(texts[name])
    assert once.after != texts[name]
    again = adopt_text(once.after)
    assert again.after == once.after
    assert all(change.left for change in again.changes)


def lines_of(text, path):
    """The numbers of the lines that an entry of a file takes."""
    node = yaml.compose(text)
    first = node.start_mark.line
    for part in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[part]
            first = node.start_mark.line
        else:
            key, node = next(pair for pair in node.value if pair[0].value == part)
            first = key.start_mark.line
    return set(range(first, node.end_mark.line + 1))


def renamed(edits):
    """The edits, with the place of what is renamed as it is called afterwards."""
    for edit in edits:
        yield (*edit.path[:-1], edit.key) if isinstance(edit, Rename) else edit.path


@pytest.mark.parametrize("name", FORMS)
def test_only_the_lines_that_a_change_names_differ(name, texts):
    found = adopt_text(texts[name])
    edits = edits_of(found.changes)
    gone = {edit.path for edit in edits if isinstance(edit, Remove)} - {e.path for e in edits if isinstance(e, Add)}
    old, new = set(), set()
    for edit in edits:
        if not isinstance(edit, Add):
            old |= lines_of(found.before, edit.path)
    for path in renamed(edits):
        if path not in gone and not any(path == e.path for e in edits if isinstance(e, Rename)):
            new |= lines_of(found.after, path)
    for edit in edits:  # what is added to braces changes their line
        holder = edit.path[:-1]
        if isinstance(edit, Add) and len(lines_of(found.after, holder)) == 1:
            old |= lines_of(found.before, holder)
    before, after = found.before.splitlines(), found.after.splitlines()
    for kind, first, last, start, stop in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            assert set(range(first, last)) <= old, before[first:last]
            assert set(range(start, stop)) <= new, after[start:stop]


LOAD = """
import json, sys
from haystack import Pipeline
for name, text in json.load(sys.stdin).items():
    try:
        Pipeline.loads(text)
    except Exception as error:
        print(name, type(error).__name__, error)
"""


def test_all_load_in_a_fresh_process(texts):
    left = {"cohere", *(SERVERS if haystack.__version__.startswith("2.24.") else ())}
    moved = {name: adopt_text(text).after for name, text in texts.items() if name not in left}
    moved["with a ranker added"] = adopt_text(texts["keyword"], insert=True).after
    environment = {**os.environ, "OUR_OPENAI_KEY": "none", "TEI_KEY": "none", "JINA_API_KEY": "none"}
    done = subprocess.run(
        *([sys.executable, "-c", LOAD],),
        input=json.dumps(moved),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("name", sorted(FORMS.keys() - ABSENT))
def test_the_same_documents_come_back(name, texts, documents):
    moved = adopt_text(texts[name]).after
    before, after = run(Pipeline.loads(as_it_was(with_our_retrievers(texts[name])))), run(Pipeline.loads(moved))
    if name == "haystack_2_legacy":  # what the file says, computed from the plain sigmoid
        odds = [(one, (one.score / (1 - one.score)) ** 2) for one in before]
        before = [one for one, odd in odds if odd / (1 + odd) >= 0.4]
    assert after
    assert [one.id for one in after] == [one.id for one in before]
    if name not in OTHER_SCORES:
        assert [one.score for one in after] == pytest.approx([one.score for one in before], abs=1e-5)
    assert {one.id: one.content for one in after}.items() <= {one.id: one.content for one in documents}.items()


@pytest.mark.parametrize("name", ["hybrid_rrf_weighted", "super_component", "two_rankers", "keyword"])
def test_a_pipeline_built_in_python_becomes_a_new_one_and_stays_as_it_is(name, texts, documents):
    old = Pipeline.loads(texts[name])
    described = copy.deepcopy(old.to_dict())
    new, changes = adopt(old)
    assert old.to_dict() == described
    assert {c.component for c in changes if c.edits and c.edits[0].path[-1] == "type"} == MOVED[name].keys()
    if not ON_HAYSTACK_2:  # there, its own BM25 finds others, see `with_our_retrievers`
        assert [one.id for one in run(new)] == [one.id for one in run(old)]
    again, further = adopt(new)
    assert [change for change in further if not change.left] == []
    assert again.to_dict() == new.to_dict()


def test_a_ranker_is_added_before_what_reads_the_documents(texts, tiny_bert, documents):
    old = Pipeline.loads(texts["hybrid_rrf"])
    new, changes = adopt(old, model=tiny_bert, insert=True)
    assert {one.id for one in run(new)} == {one.id for one in run(adopt(old).pipeline)}
    assert "you must" not in str(changes[-1])
    assert "must now pass ranker.query" in str(changes[-1])
    assert new.get_component("ranker").top_k == 5


def test_a_ranker_is_added_inside_of_a_super_component(texts, tiny_bert, documents):
    described = yaml.safe_load(texts["super_component"])
    search = described["components"]["search"]["init_parameters"]
    del search["pipeline"]["components"]["ranker"]
    search["pipeline"]["connections"] = []
    search["input_mapping"], search["output_mapping"] = (
        {"query": ["retriever.query"]},
        {"retriever.documents": "documents"},
    )
    old = Pipeline.from_dict(described)
    new, changes = adopt(old, model=tiny_bert, insert=True)
    assert changes[-1].component == "search > ranker"
    found = run(new)
    assert {one.id for one in found} == {one.id for one in run(adopt(old).pipeline)}
    assert all("cross_encoder" in one.meta["ce_ranker"] for one in found)


INSERTED = {
    "keyword": [
        "-connections: []",
        "+  ranker:",
        "+    type: haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker",
        "+    init_parameters:",
        "+      model: a/b",
        "+      backend: onnx",
        "+      top_k: 3",
        "+connections: [{sender: retriever.documents, receiver: ranker.documents}]",
        "-  query: retriever.query",
        "+  query: [retriever.query, ranker.query]",
        "-  documents: retriever.documents",
        "+  documents: ranker.documents",
    ]
}


def test_the_lines_of_an_added_ranker(texts):
    plain = adopt_text(texts["keyword"]).after
    found = adopt_text(plain, insert=True, model="a/b", backend="onnx")
    assert found.difference() == INSERTED["keyword"]
    assert adopt_text(found.after, insert=True).after == found.after
