"""Quantising: what is written loads and ranks the same, and what does not is refused and leaves nothing behind."""

import math
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from fakes import bert_tokenizer, scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.quantizing import quantize as quantization
from haystack_ce_ranker.quantizing import writers
from haystack_ce_ranker.quantizing.quantize import Agreement, RanksDifferentlyError, agreement, quantize
from haystack_ce_ranker.quantizing.sample_texts import TEXTS, sample_requests
from zoo import ZOO

pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

REQUESTS = [("the hut", list(TEXTS)), ("a car in the city", list(TEXTS)), ("nothing", [])]
ANYTHING = {"min_correlation": -1.0, "min_overlap": 0.0}


def logits(backend):
    return np.asarray(scores_of(backend, TEXTS))


FILES = {"onnx": ["model.onnx"], "openvino": ["openvino_model.bin", "openvino_model.xml"]}


@pytest.fixture(scope="module", params=FILES)
def int8_bert(request, tmp_path_factory, tiny_bert):
    if request.param == "openvino":
        pytest.importorskip("nncf", reason="needs the extra 'openvino'")
    folder = tmp_path_factory.mktemp("quantized") / "int8"
    return request.param, folder, quantize(ModelOptions(tiny_bert), folder, REQUESTS, backend=request.param, **ANYTHING)


def test_what_is_written_is_int8_and_scores_as_the_model_does(tiny_bert, int8_bert):
    backend, folder, written = int8_bert
    exact, small = (
        loading.load(name, ModelOptions(str(place), device="cpu"))
        for name, place in (("torch", tiny_bert), (backend, folder))
    )
    assert (small.name, small.dtype, small.max_length) == (backend, "int8", 128)
    assert np.corrcoef(logits(exact), logits(small))[0, 1] > 0.95
    assert asdict(written.agreement) == pytest.approx(asdict(agreement(exact, small, REQUESTS)), abs=1e-3)
    assert (written.agreement.queries, written.agreement.pairs) == (2, 2 * len(TEXTS))
    assert 0 < written.agreement.mean_difference <= written.agreement.largest_difference < 1
    assert written.megabytes == pytest.approx(sum((folder / name).stat().st_size for name in FILES[backend]) / 1e6)
    beside = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == {*FILES[backend], *beside}
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_a_model_compared_with_itself_agrees(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    found = agreement(backend, backend, REQUESTS)
    assert (found.correlation, found.lowest_correlation, found.overlap) == pytest.approx((1.0, 1.0, 1.0))
    assert found.largest_difference == pytest.approx(0.0, abs=1e-6)


def test_documents_and_queries_without_text_do_not_count(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    empty = [(REQUESTS[0][0], ["", *REQUESTS[0][1], " "]), *REQUESTS[1:], ("hut", ["", "\u200b"]), (" ", ["a hut"])]
    assert agreement(backend, backend, empty) == agreement(backend, backend, REQUESTS)


def test_comparing_says_how_far_it_is(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    calls = []
    agreement(backend, backend, REQUESTS, lambda done, documents: calls.append((done, documents)))
    documents = 2 * sum(len(texts) for _, texts in REQUESTS)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert {total for _, total in calls} == {documents}
    assert calls[-1][0] == documents


@pytest.mark.parametrize("bound", [{"min_correlation": 0.75}, {"min_overlap": 0.75}])
def test_a_model_below_a_bound_is_reported_refused_and_not_left_behind(tiny_bert, tmp_path, bound, monkeypatch):
    for measure in ("_correlation", "_overlap"):
        monkeypatch.setattr(quantization, measure, lambda ours, theirs: 0.7)
    seen = []
    with pytest.raises(RanksDifferentlyError, match="ranks differently.*at least 0.75.*Nothing was written"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, **{**ANYTHING, **bound}, report=seen.append)
    assert isinstance(seen[0], Agreement)
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_weights_were_lost_is_refused(tiny_bert, tmp_path, monkeypatch):
    def scrambled(exact, folder):
        with_noise = exact.cross_encoder.model.classifier.weight.data
        kept = with_noise.clone()
        with_noise.mul_(-1.0)
        writers.export(exact, folder / "model.onnx")
        with_noise.copy_(kept)

    monkeypatch.setitem(writers.WRITERS, "onnx", scrambled)
    with pytest.raises(RanksDifferentlyError, match="rank correlation with float32 is -"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS)
    assert list(tmp_path.iterdir()) == []


def test_an_agreement_that_is_no_number_is_refused(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "_correlation", lambda ours, theirs: math.nan)
    with pytest.raises(RanksDifferentlyError, match="rank correlation with float32 is nan"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, **ANYTHING)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_never_touched(tiny_bert, tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match="output must be a folder that is not there yet, or empty"):
        quantize(ModelOptions(tiny_bert), tmp_path, REQUESTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_done_is_a_clear_error(tiny_bert, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of 'onnx', 'openvino', but got 'torch'"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, backend="torch")
    with pytest.raises(ValueError, match="requests must have a query with documents"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", [("the hut", [])])
    monkeypatch.setattr(writers, "LARGEST_ONNX", 1000)
    with pytest.raises(ValueError, match="one ONNX file holds 2 GB"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(ImportError, match=r"ce-ranker-haystack\[onnx\]"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS)
    for missing in ("nncf", "openvino"):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ImportError, match=r"ce-ranker-haystack\[openvino\]"):
            quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, backend="openvino")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", FILES)
def test_a_saved_prompt_is_kept_beside_the_weights(tiny_bert, tmp_path, backend):
    from sentence_transformers import CrossEncoder

    prompted = CrossEncoder(tiny_bert, prompts={"rank": "city "}, default_prompt_name="rank")
    prompted.save_pretrained(str(tmp_path / "prompted"))
    quantize(ModelOptions(str(tmp_path / "prompted")), tmp_path / "out", REQUESTS, backend=backend, **ANYTHING)
    small = loading.load(backend, ModelOptions(str(tmp_path / "out"), device="cpu"))
    exact = loading.load("torch", ModelOptions(str(tmp_path / "prompted"), device="cpu"))
    assert (small.prompt, small.query_prompt) == ("city ", "city ")
    assert np.corrcoef(logits(exact), logits(small))[0, 1] > 0.9
    other = loading.load(backend, ModelOptions(str(tmp_path / "out"), device="cpu", prompt=""))
    assert logits(other) != pytest.approx(logits(small))


@pytest.mark.parametrize("backend", FILES)
def test_a_chat_template_is_kept_beside_the_weights_with_its_prompt(tmp_path, backend):
    folder = ZOO["qwen3, chat, prompt"].save(tmp_path / "chat")
    options = ModelOptions(str(tmp_path / "out"), device="cpu")
    quantize(ModelOptions(folder), tmp_path / "out", REQUESTS, backend=backend, **ANYTHING)
    small, exact = loading.load(backend, options), loading.load("torch", ModelOptions(folder, device="cpu"))
    assert (small.prompt, small.query_prompt) == (exact.prompt, exact.query_prompt) == ("Find the hut.", "")
    query, document = "where is the hut?", " 山上有一个小屋。 in the snow"
    packed = []
    for tokenizer in (small.tokenizer, exact.tokenizer):
        [asked], [read] = tokenizer.encode_queries([query]), tokenizer.encode_documents([document])
        packed.append(tokenizer.format.pack(asked.ids, read.ids).ids.tolist())
    assert packed[0] == packed[1]
    assert np.corrcoef(logits(exact), logits(small))[0, 1] > 0.9
    assert loading.load(backend, replace(options, prompt="Find the hut.")).prompt == "Find the hut."
    with pytest.raises(ValueError, match=r"prompt must be the one that .*pair_format\.json was written with, 'Find"):
        loading.load(backend, replace(options, prompt="another"))
    (tmp_path / "out" / "pair_format.json").write_text('{"prefix": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"pair_format\.json is no pair format .*quantize"):
        loading.load(backend, options)


def test_a_model_whose_export_does_not_run_is_refused_and_not_left_behind(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setitem(writers.WRITERS, "onnx", lambda exact, folder: (folder / "model.onnx").write_bytes(b"no model"))
    with pytest.raises(ValueError, match="cannot be written for onnx: what its converter made does not run"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS)
    assert list(tmp_path.iterdir()) == []


def test_what_an_exported_model_takes_as_padding_is_saved_with_it(tmp_path):
    for name in ("qwen2, other padding token", "qwen2, no padding token in its configuration"):
        exact = loading.load("torch", quantization._float32(ModelOptions(ZOO[name].save(tmp_path / name))))
        folder = tmp_path / f"{name}-onnx"
        folder.mkdir()
        writers.export(exact, folder / "model.onnx")
        quantization._save_beside(exact, folder)
        backend = loading.load("onnx", ModelOptions(str(folder), device="cpu"))
        tokenizer = backend.tokenizer
        assert (tokenizer.pad_id, tokenizer.pads_left) == (exact.tokenizer.pad_id, exact.tokenizer.pads_left)
        pairs = [tokenizer.format.pack(*(one.ids for one in tokenizer.encode(["a hut", text]))) for text in TEXTS[:3]]
        together = backend._run(Batch(pairs, tokenizer.pad_id, tokenizer.pads_left))  # as on a GPU
        assert together == pytest.approx(backend.logits(Batch(pairs, tokenizer.pad_id)), abs=1e-4)


@pytest.mark.parametrize("backend", FILES)
def test_a_stack_of_modules_is_written_with_the_label_that_counts(tmp_path, backend):
    for name, label in (("bert, modular", None), ("bert, three labels", 1)):
        options = ModelOptions(ZOO[name].save(tmp_path / name), label=label, device="cpu")
        quantize(options, tmp_path / f"{name}-int8", REQUESTS, backend=backend, **ANYTHING)
        small = loading.load(backend, ModelOptions(str(tmp_path / f"{name}-int8"), device="cpu"))
        assert np.corrcoef(logits(loading.load("torch", options)), logits(small))[0, 1] > 0.9


@pytest.mark.parametrize("backend", FILES)
def test_a_model_without_token_types_is_exported_without_them(tmp_path, backend):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = bert_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=1, n_heads=2, num_labels=1, initializer_range=0.4
    )
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    quantize(ModelOptions(str(tmp_path / "model")), tmp_path / "out", REQUESTS, backend=backend, **ANYTHING)
    small = loading.load(backend, ModelOptions(str(tmp_path / "out"), device="cpu"))
    exact = loading.load("torch", ModelOptions(str(tmp_path / "model"), device="cpu"))
    assert np.corrcoef(logits(exact), logits(small))[0, 1] > 0.9


values = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=20)


def ranks(numbers):
    """Ranks from the lowest value up; equal values share the mean of theirs."""
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[places]


@given(values, st.randoms(use_true_random=False))
@example([1.0, 1.0, 2.0], None)
@example([3.0, 3.0], None)
def test_the_rank_correlation_is_that_of_ranks_with_ties_and_1_where_all_values_are_equal(numbers, shuffler):
    ours = np.asarray(numbers)
    theirs = np.roll(ours, 1)
    if shuffler is not None:
        theirs = theirs + np.asarray([shuffler.choice([0.0, 0.0, 5.0]) for _ in numbers])
    found = quantization._correlation(ours, theirs)
    if np.ptp(ours) and np.ptp(theirs):
        assert found == pytest.approx(np.corrcoef(ranks(ours), ranks(theirs))[0, 1])
        assert found == stats.spearmanr(ours, theirs).statistic
    else:
        assert found == 1.0


def test_logits_that_are_no_numbers_agree_with_nothing():
    ours, theirs = np.asarray([1.0, 2.0, 3.0]), np.asarray([1.0, math.nan, 3.0])
    assert math.isnan(quantization._correlation(ours, theirs))
    assert math.isnan(quantization._correlation(ours, theirs * math.nan))


def test_overlap_counts_the_top_10_or_the_best_half():
    up = np.arange(40.0)
    assert quantization._overlap(up, up) == 1.0
    assert quantization._overlap(up, -up) == 0.0
    assert quantization._overlap(np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([4.0, 1.0, 2.0, 3.0])) == 0.5


@pytest.mark.integration
@pytest.mark.parametrize(("backend", "difference"), [("onnx", 0.3), ("openvino", 0.1)])
def test_the_real_model_in_int8_ranks_as_in_float32(models_dir, tmp_path, backend, difference):
    model = ModelOptions(str(models_dir / "ce-minilm-l12"))
    written = quantize(model, tmp_path / "int8", sample_requests()[:4], backend=backend)
    assert written.agreement.mean_difference < difference
    assert written.megabytes < 40
