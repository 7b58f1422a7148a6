"""Every kind of re-ranker in `zoo.py` scores here as in sentence-transformers, however pairs are batched and cut."""

import os
import unicodedata
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from fakes import REPOSITORY
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.quantizing import quantize as quantizing
from haystack_ce_ranker.quantizing import writers
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.passages import AGGREGATES
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import EncodedQuery
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from zoo import BERT, EIGHT_SCRIPTS, ENCODER, LIMIT, QWEN_LEFT, ZOO, Specimen, Words

QUERY = "where is the hut?"
SHORT = ["the hut is in the snow", "yes", " Berlin, near the snow; no hut\n", *EIGHT_SCRIPTS]
LONG = "The hut is in the snow, near Berlin! yes or no. " * 120
SCRIPTS = " ".join(EIGHT_SCRIPTS) * 16
POLICY = ReadingPolicy(passage_tokens=24, passage_stride=12)


def logits(scorer: CrossEncoderScorer, documents: list[str]) -> np.ndarray:
    scores, _ = scorer.score(QUERY, documents)
    return np.array([document.logit for document in scores.documents])


def converted(options: ModelOptions) -> Any:
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    return loading.load("openvino", options)


def exported(options: ModelOptions) -> Any:
    """The model as a file that others export in float32."""
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    exact = loading.load("torch", quantizing._float32(options))
    folder = Path(f"{options.model}-onnx")
    folder.mkdir()
    writers.export(exact, folder / "model.onnx")
    quantizing._save_beside(exact, folder)
    return quantizing._loaded("onnx", folder, options.model)


def quantized(backend: str, *packages: str) -> Callable[[ModelOptions], Any]:
    def load(options: ModelOptions) -> Any:
        for package in packages:
            pytest.importorskip(package, reason=f"needs the extra {backend!r}")
        folder = Path(f"{options.model}-{backend}-int8")
        quantizing.quantize(
            options, folder, [(QUERY, SHORT[:2])], backend=backend, min_correlation=-1.0, min_overlap=0.0
        )
        return loading.load(backend, ModelOptions(str(folder), device="cpu", threads=1))

    return load


FLOAT = {"onnx": exported, "openvino": converted}
INT8 = {
    "onnx int8": quantized("onnx", "onnx", "onnxruntime"),
    "openvino int8": quantized("openvino", "openvino", "nncf"),
}
FORMS: dict[str, Callable[[ModelOptions], Any]] = {**FLOAT, **INT8}
"""How a specimen is loaded in each form beside torch."""

MATRIX: dict[str, dict[str, str]] = {}
"""What the tests of this run found: by specimen and form, how it scores, or why it is refused."""

BOUNDS = (1e-4, 1e-3)


def within(found: np.ndarray, expected: np.ndarray) -> str:
    """Say by a power of ten how far scores are from others."""
    difference = float(np.abs(found - expected).max())
    bound = next((bound for bound in BOUNDS if difference <= bound), None)
    return "differs" if bound is None else f"{bound:.0e}"


REFUSED = {
    ("longformer", "onnx"): "what its converter made does not run",
    ("longformer", "openvino"): "does not run once OpenVINO has converted it",
    ("fnet", "onnx"): "cannot be exported to ONNX",
}
"""The refusals: by specimen and form, what the error says."""

PAGE = REPOSITORY / "docs" / "model_matrix.md"
WRITE = "CE_RANKER_WRITE_MATRIX"
HEAD = """\
# Models and backends

The tests make this table. `{write}=1 python -m pytest tests/test_zoo.py` writes it, and every other run
compares it with what it found. Each row is a tiny random model of that kind. [Which models it loads](models.md) has the
rest.

- **torch:** how far scores are from those of `sentence_transformers.CrossEncoder`, at most, in float32.
- **ONNX, OpenVINO:** how far scores are from torch's, at most, in float32: short pairs, full pairs, and windows of a
  long document, alone and among others. The ONNX file is an export of the model, and OpenVINO converts it while it
  loads.
- **int8:** what `haystack-ce-ranker quantize` writes. *Same* means that a document has the same score, to the last bit,
  alone and in every batch.
- *Refused* has what the error says. `backend="auto"` takes torch if OpenVINO cannot convert a model.

"""
COLUMNS = {
    "torch": "torch",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "onnx int8": "ONNX int8",
    "openvino int8": "OpenVINO int8",
}
HEADS = {"classifier": "classifier", "modular": "stack", "causal": "causal", "lora": "adapter"}


def row(name: str, found: dict[str, str]) -> str:
    """A row of the page."""
    one = ZOO[name]
    prompt = "a template" if one.words.template is not None else "before the query" if one.prompt else "none"
    if one.words.template is not None and one.prompt:
        prompt = "in a template"
    described = (name, HEADS[one.form], str(one.labels), one.words.kind, one.words.padding_side, prompt)
    return f"| {' | '.join([*described, *(found[column] for column in COLUMNS)])} |"


def page() -> str:
    """The page that this run makes."""
    titles = ("model", "head", "labels", "tokenizer", "padding", "prompt", *COLUMNS.values())
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles), *(row(name, MATRIX[name]) for name in ZOO)]
    return HEAD.format(write=WRITE) + "\n".join(lines) + "\n"


@dataclass
class Loaded:
    """A specimen, loaded by the library and by us."""

    name: str
    library: Any
    scorer: CrossEncoderScorer
    options: ModelOptions
    forms: dict[str, CrossEncoderScorer | str] = field(default_factory=dict)

    @property
    def label(self) -> int | None:
        return self.options.label

    def form(self, name: str) -> CrossEncoderScorer | str:
        """The model in a form of `FORMS`, or the error that refuses it."""
        if name not in self.forms:
            try:
                self.forms[name] = CrossEncoderScorer(FORMS[name](self.options), POLICY)
            except ValueError as error:
                self.forms[name] = str(error)
        return self.forms[name]

    def expected(self, document: str) -> float:
        """The library's raw score of one pair, which runs alone."""
        values = self.library.predict([(QUERY, document)], activation_fn=torch.nn.Identity())[0]
        if self.label is None:
            return float(values)
        others = np.delete(values, self.label).astype(float)
        return float(values[self.label] - np.log(np.exp(others).sum()))

    def found(self, documents: list[str]) -> np.ndarray:
        return logits(self.scorer, documents)

    @cached_property
    def most(self) -> str:
        """The longest text, to a word, that a pair holds."""
        words = LONG.split()
        fitting = bisect(range(1, len(words)), False, key=lambda count: self.is_cut(" ".join(words[:count])))
        assert self.is_cut(" ".join(words[: fitting + 1]))
        return " ".join(words[:fitting])

    def is_cut(self, document: str) -> bool:
        return self.pairs(document)[0].texts().document != document

    def pairs(self, document: str) -> list[Any]:
        """The pairs that show a document."""
        tokenizer = self.scorer.backend.tokenizer
        query = EncodedQuery(QUERY, tokenizer.encode_queries([self.scorer.backend.query_prompt + QUERY])[0])
        [encoded] = self.scorer._documents.encode([DocumentText(document)])
        plan = self.scorer._planner.plan(query, DocumentText(document), encoded, place=0)
        return [plan.pack(piece) for piece in plan.pieces]


@pytest.fixture(scope="module", params=ZOO)
def animal(request, tmp_path_factory) -> Loaded:
    specimen = ZOO[request.param]
    folder = specimen.save(tmp_path_factory.mktemp("zoo") / "model")
    library = CrossEncoder(folder, device="cpu")
    if library.tokenizer.pad_token is None:
        library.tokenizer.pad_token = library.tokenizer.unk_token  # the library refuses even a single pair without
    label = specimen.labels - 1 if specimen.labels > 1 else None
    options = ModelOptions(folder, device="cpu", dtype="float32", label=label, threads=1)
    return Loaded(request.param, library, CrossEncoderScorer(loading.load("torch", options), POLICY), options)


def test_scores_are_the_librarys(animal):
    found, expected = animal.found(SHORT), np.array([animal.expected(text) for text in SHORT])
    MATRIX.setdefault(animal.name, {})["torch"] = within(found, expected)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_score_of_a_pair_does_not_depend_on_its_batch(animal):
    alone = [animal.found([text])[0] for text in SHORT]
    assert animal.found(SHORT) == pytest.approx(alone, abs=1e-5, rel=1e-5)


MOVED = ("xlnet", "fnet", "convbert")
"""Models whose scores padding moves, whatever it is filled with."""


def test_pairs_of_different_lengths_run_together_unless_padding_itself_moves_scores(animal):
    assert animal.scorer.backend.mixes_lengths == (animal.name not in MOVED)


def test_a_document_that_fills_its_pair_to_the_last_token_is_read_as_the_library_reads_it(animal):
    [pair] = animal.pairs(animal.most)
    assert LIMIT - 16 <= len(pair.ids) <= LIMIT
    assert animal.found([animal.most]) == pytest.approx([animal.expected(animal.most)], abs=1e-4)


def test_a_window_scores_as_its_text_alone(animal):
    for document, windows in ((("yes or no, near Berlin; " * 25 + "where is the hut? ") * 4, 4), (SCRIPTS, 1)):
        pairs = animal.pairs(document)
        assert len(pairs) >= windows
        assert all(len(pair.ids) <= LIMIT for pair in pairs)
        logits = np.array([animal.expected(pair.texts().document) for pair in pairs])
        assert animal.found([document]) == pytest.approx([AGGREGATES["logsumexp"](logits)], abs=1e-4)


def test_a_piece_that_a_shared_budget_shortened_scores_as_its_text_alone(animal):
    documents = [LONG, SCRIPTS, SHORT[0], SCRIPTS[5:], LONG[3:]]
    policy = ReadingPolicy(passage_tokens=48, passage_stride=24, passages_per_document=1)
    free, _ = CrossEncoderScorer(animal.scorer.backend, policy).score(QUERY, documents)
    policy = replace(policy, max_tokens_per_query=free.tokens - 60)
    bound, _ = CrossEncoderScorer(animal.scorer.backend, policy).score(QUERY, documents)
    assert bound.tokens <= free.tokens - 60
    assert bound.documents[0].tokens_read < free.documents[0].tokens_read
    read = [text[one.read[0].start : one.read[0].end] for text, one in zip(documents, bound.documents, strict=True)]
    assert [one.logit for one in bound.documents] == pytest.approx([animal.expected(text) for text in read], abs=1e-4)


@pytest.mark.parametrize("form", FLOAT)
def test_an_exported_model_scores_as_torch_does_alone_and_among_others_or_is_refused(animal, form):
    scorer = animal.form(form)
    if isinstance(scorer, str):
        MATRIX.setdefault(animal.name, {})[form] = "refused: " + REFUSED[animal.name, form]
        assert REFUSED[animal.name, form] in scorer
        assert "\n" not in scorer
        return
    documents = [*SHORT, animal.most, LONG]
    expected, found = animal.found(documents), logits(scorer, documents)
    alone = np.concatenate([logits(scorer, [text]) for text in documents])
    MATRIX.setdefault(animal.name, {})[form] = within(np.concatenate([found, alone]), np.tile(expected, 2))
    assert (animal.name, form) not in REFUSED
    assert found == pytest.approx(expected, abs=1e-3)
    assert alone == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("form", INT8)
def test_in_int8_the_score_of_a_pair_is_the_same_in_every_batch(animal, form):
    runtime = form.removesuffix(" int8")
    if (animal.name, runtime) in REFUSED:
        MATRIX.setdefault(animal.name, {})[form] = "refused: " + REFUSED[animal.name, runtime]
        pytest.skip("the same converter makes both forms")
    scorer = animal.form(form)
    assert not isinstance(scorer, str), scorer
    documents = [*SHORT, animal.most, LONG]
    found = logits(scorer, documents)
    same = all(np.array_equal(found[[place]], logits(scorer, [text])) for place, text in enumerate(documents))
    same &= np.array_equal(found[::-1], logits(scorer, documents[::-1]))
    MATRIX.setdefault(animal.name, {})[form] = "same" if same else "moves"
    assert same
    assert scorer.backend.dtype == "int8"
    assert np.corrcoef(found, animal.found(documents))[0, 1] > 0.8


@pytest.mark.parametrize("text", EIGHT_SCRIPTS)
def test_offsets_cover_every_character_of_a_text(animal, text):
    tokenizer = animal.scorer.backend.tokenizer
    for tokens in (*tokenizer.encode_queries([text]), *tokenizer.encode_documents([text])):
        covered = np.zeros(len(text), dtype=bool)
        for start, end in zip(tokens.starts, tokens.ends, strict=True):
            assert 0 <= start <= end <= len(text)
            covered[start:end] = True
        # BERT's normaliser drops marks, accents among them.
        seen = [not (one.isspace() or unicodedata.category(one).startswith("M")) for one in text]
        assert covered[seen].all()


BACKWARDS = (
    "<|im_start|>{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}\n"
    "{{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}<|im_end|>"
)
TWICE = (
    "<|im_start|>{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    "{{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}<|im_end|>"
)


def qwen(template: str) -> Words:
    special = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
    return Words("bytes", "", special, padding_side="left", template=template)


DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16}


@pytest.mark.parametrize(
    ("template", "reason"),
    [(BACKWARDS, "the document stands before the query"), (TWICE, "not found again, each once")],
)
def test_a_template_that_cannot_be_packed_is_refused(tmp_path, template, reason):
    folder = Specimen("Qwen3", qwen(template), DECODER, form="causal").save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"pair format that cannot be packed: .*{reason}"):
        loading.load("torch", ModelOptions(folder, device="cpu"))


@pytest.mark.parametrize(
    ("family", "words"), [("BertModel", BERT), ("BertForMaskedLM", BERT), ("Qwen2Model", QWEN_LEFT)]
)
def test_a_model_without_a_trained_head_is_refused(tmp_path, family, words):
    tokenizer = words.build()
    config = getattr(transformers, f"{family.split('M')[0].split('For')[0]}Config")
    values = {**(ENCODER if words is BERT else DECODER), "vocab_size": len(tokenizer), "pad_token_id": 0}
    getattr(transformers, family)(config(**values)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no trained head: its files lack (classifier|score)\.weight"):
        loading.load("torch", ModelOptions(str(tmp_path), device="cpu"))


def test_a_folder_with_nothing_but_an_adapter_says_what_it_needs(tmp_path):
    folder = Path(ZOO["bert, adapter"].save(tmp_path / "model"))
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    with pytest.raises(OSError, match=r"only an adapter in .*sentence_transformers\.CrossEncoder"):
        loading.load("torch", ModelOptions(str(folder), device="cpu"))


def test_several_labels_need_one_that_is_named(tmp_path):
    folder = ZOO["bert, three labels"].save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"3 output labels \(0: 'LABEL_0', 1: 'LABEL_1', 2: 'LABEL_2'\).*set label"):
        loading.load("torch", ModelOptions(folder, device="cpu"))
    by_name, by_number = (
        loading.load("torch", ModelOptions(folder, device="cpu", label=one)) for one in ("label_1", 1)
    )
    [first], [second] = (CrossEncoderScorer(one).score(QUERY, ["yes"])[0].documents for one in (by_name, by_number))
    assert first.logit == second.logit


def test_a_prompt_can_be_given(tmp_path):
    folder = ZOO["qwen3, chat"].save(tmp_path / "model")
    library = CrossEncoder(folder, device="cpu")
    backend = loading.load("torch", ModelOptions(folder, device="cpu", prompt="Find the hut."))
    scores, _ = CrossEncoderScorer(backend).score(QUERY, SHORT)
    expected = library.predict(
        [(QUERY, text) for text in SHORT], prompt="Find the hut.", activation_fn=torch.nn.Identity()
    )
    assert [one.logit for one in scores.documents] == pytest.approx(expected, abs=1e-4)


def test_the_manuals_matrix_is_what_this_run_found():
    if any(MATRIX.get(name, {}).keys() != COLUMNS.keys() for name in ZOO):
        pytest.skip("only a part of the zoo was tested")
    if os.environ.get(WRITE):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), f"write it anew: {WRITE}=1 python -m pytest tests/test_zoo.py"


@pytest.mark.parametrize("name", ZOO)
def test_the_manuals_matrix_has_a_row_for_each_model(name):
    described = row(name, dict.fromkeys(COLUMNS, "")).rstrip(" |")
    assert f"\n{described} | 1e-04 |" in PAGE.read_text(encoding="utf-8")
