"""Every kind of re-ranker in `zoo.py` scores here as in sentence-transformers, however pairs are batched and cut."""

import unicodedata
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
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


@dataclass
class Loaded:
    """A specimen, loaded by the library and by us."""

    name: str
    library: Any
    scorer: CrossEncoderScorer
    label: int | None

    def expected(self, document: str) -> float:
        """The library's raw score of one pair, which runs alone."""
        values = self.library.predict([(QUERY, document)], activation_fn=torch.nn.Identity())[0]
        if self.label is None:
            return float(values)
        others = np.delete(values, self.label).astype(float)
        return float(values[self.label] - np.log(np.exp(others).sum()))

    def found(self, documents: list[str]) -> np.ndarray:
        scores, _ = self.scorer.score(QUERY, documents)
        return np.array([document.logit for document in scores.documents])

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
    backend = loading.load("torch", ModelOptions(folder, device="cpu", dtype="float32", label=label))
    return Loaded(request.param, library, CrossEncoderScorer(backend, POLICY), label)


def test_scores_are_the_librarys(animal):
    assert animal.found(SHORT) == pytest.approx([animal.expected(text) for text in SHORT], abs=1e-4)


def test_the_score_of_a_pair_does_not_depend_on_its_batch(animal):
    alone = [animal.found([text])[0] for text in SHORT]
    assert animal.found(SHORT) == pytest.approx(alone, abs=1e-5, rel=1e-5)


MOVED = ("xlnet", "fnet", "convbert")
"""Models whose scores padding moves, whatever it is filled with."""


def test_pairs_of_different_lengths_run_together_unless_padding_itself_moves_scores(animal):
    assert animal.scorer.backend.mixes_lengths == (animal.name not in MOVED)


def test_a_document_that_fills_its_pair_to_the_last_token_is_read_as_the_library_reads_it(animal):
    words = LONG.split()

    def is_cut(count: int) -> bool:
        text = " ".join(words[:count])
        return animal.pairs(text)[0].texts().document != text

    fitting = bisect(range(1, len(words)), False, key=is_cut)
    most = " ".join(words[:fitting])
    [pair] = animal.pairs(most)
    assert LIMIT - 16 <= len(pair.ids) <= LIMIT
    assert is_cut(fitting + 1)
    assert animal.found([most]) == pytest.approx([animal.expected(most)], abs=1e-4)


def test_a_window_scores_as_its_text_alone(animal):
    for document, windows in ((("yes or no, near Berlin; " * 25 + "where is the hut? ") * 4, 4), (SCRIPTS, 1)):
        pairs = animal.pairs(document)
        assert len(pairs) >= windows
        assert all(len(pair.ids) <= LIMIT for pair in pairs)
        logits = np.array([animal.expected(pair.texts().document) for pair in pairs])
        assert animal.found([document]) == pytest.approx([AGGREGATES["logsumexp"](logits)], abs=1e-4)


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


@pytest.mark.parametrize(
    "name", ["bert, two labels", "bert, modular", "modernbert, modular", "bert, prompt", "qwen2", "qwen3, chat"]
)
def test_openvino_converts_the_whole_model(tmp_path, name):
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    specimen = ZOO[name]
    options = ModelOptions(specimen.save(tmp_path / "model"), device="cpu", label=0 if specimen.labels > 1 else None)
    exact, converted = (CrossEncoderScorer(loading.load(one, options), POLICY) for one in ("torch", "openvino"))
    documents = [*SHORT, LONG]
    expected, found = (
        [one.logit for one in scorer.score(QUERY, documents)[0].documents] for scorer in (exact, converted)
    )
    assert found == pytest.approx(expected, abs=1e-3)
