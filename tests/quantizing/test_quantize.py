"""Quantising: what is written loads and ranks the same, and what does not is refused and leaves nothing behind."""

import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fakes import REPOSITORY, bert_tokenizer
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.quantizing import quantize as quantization
from haystack_ce_ranker.quantizing import writers as quantizers
from haystack_ce_ranker.quantizing.quantize import Agreement, RanksDifferentlyError, compare, quantize
from haystack_ce_ranker.quantizing.sample_texts import QUERIES, TEXTS, sample_requests
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

runner = CliRunner()
REQUESTS = [("the hut", list(TEXTS)), ("a car in the city", list(TEXTS)), ("nothing", [])]
ANYTHING = {"min_correlation": -1.0, "min_overlap": 0.0}


def logits(backend):
    found, _ = CrossEncoderScorer(backend).score("the hut", TEXTS)
    return np.asarray([document.logit for document in found.documents])


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
    assert asdict(written.agreement) == pytest.approx(asdict(compare(exact, small, REQUESTS)), abs=1e-3)
    assert (written.agreement.queries, written.agreement.pairs) == (2, 2 * len(TEXTS))
    assert 0 < written.agreement.mean_difference <= written.agreement.largest_difference < 1
    assert written.megabytes == pytest.approx(sum((folder / name).stat().st_size for name in FILES[backend]) / 1e6)
    beside = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == {*FILES[backend], *beside}
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_exporting_leaves_the_model_as_it_was(tiny_bert, tmp_path):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    before = logits(backend)
    quantizers.export(backend, tmp_path / "model.onnx")
    assert not backend.cross_encoder.model.training
    assert logits(backend).tolist() == pytest.approx(before.tolist(), abs=1e-5)


def test_a_model_compared_with_itself_agrees(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    found = compare(backend, backend, REQUESTS)
    assert (found.correlation, found.lowest_correlation, found.overlap) == pytest.approx((1.0, 1.0, 1.0))
    assert found.largest_difference == pytest.approx(0.0, abs=1e-6)


def test_comparing_says_how_far_it_is(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    calls = []
    compare(backend, backend, REQUESTS, lambda done, documents: calls.append((done, documents)))
    documents = 2 * sum(len(texts) for _, texts in REQUESTS)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert {total for _, total in calls} == {documents}
    assert calls[-1][0] == documents


@pytest.mark.parametrize("bound", [{"min_correlation": 1.1}, {"min_overlap": 1.1}])
def test_a_model_below_a_bound_is_reported_refused_and_not_left_behind(tiny_bert, tmp_path, bound):
    seen = []
    with pytest.raises(RanksDifferentlyError, match="ranks differently.*at least 1.1.*Nothing was written"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, **{**ANYTHING, **bound}, report=seen.append)
    assert isinstance(seen[0], Agreement)
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_weights_were_lost_is_refused(tiny_bert, tmp_path, monkeypatch):
    def scrambled(exact, folder):
        with_noise = exact.cross_encoder.model.classifier.weight.data
        kept = with_noise.clone()
        with_noise.mul_(-1.0)
        quantizers.export(exact, folder / "model.onnx")
        with_noise.copy_(kept)

    monkeypatch.setitem(quantizers.WRITERS, "onnx", scrambled)
    with pytest.raises(RanksDifferentlyError, match="rank correlation with float32 is -"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_never_touched(tiny_bert, tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match="output must be a folder that is not there yet, or empty"):
        quantize(ModelOptions(tiny_bert), tmp_path, REQUESTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_done_is_a_clear_error(tiny_bert, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of 'onnx', 'openvino', but got 'torch'"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", REQUESTS, backend="torch")
    with pytest.raises(ValueError, match="nothing to verify"):
        quantize(ModelOptions(tiny_bert), tmp_path / "out", [("the hut", [])])
    monkeypatch.setattr(quantizers, "LARGEST_ONNX", 1000)
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


def test_a_saved_prompt_is_not_lost_silently(tiny_bert, tmp_path):
    from sentence_transformers import CrossEncoder

    prompted = CrossEncoder(tiny_bert, prompts={"rank": "city "}, default_prompt_name="rank")
    prompted.save_pretrained(str(tmp_path / "prompted"))
    with pytest.raises(ValueError, match="saved with the prompt 'city '.*query_prefix"):
        quantize(ModelOptions(str(tmp_path / "prompted")), tmp_path / "out", REQUESTS)


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


values = st.lists(st.integers(-9, 9), min_size=2, max_size=20)


@given(values)
def test_ranks_and_correlation_are_those_of_scipy(numbers):
    stats = pytest.importorskip("scipy.stats")
    ours = np.asarray(numbers, dtype=float)
    theirs = np.roll(ours, 1)
    assert quantization._ranks(ours).tolist() == stats.rankdata(ours).tolist()
    if np.ptp(ours):
        expected = stats.spearmanr(ours, theirs).statistic
        assert quantization._correlation(ours, theirs) == pytest.approx(expected)
    else:
        assert quantization._correlation(ours, theirs) == 1.0


def test_overlap_counts_the_top_10_or_the_best_half():
    up = np.arange(40.0)
    assert quantization._overlap(up, up) == 1.0
    assert quantization._overlap(up, -up) == 0.0
    assert quantization._overlap(np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([4.0, 1.0, 2.0, 3.0])) == 0.5


@pytest.mark.parametrize("backend", FILES)
def test_the_command_prints_the_table_and_refuses_with_one_line(tiny_bert, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["quantize", tiny_bert, str(tmp_path / "out"), "--min-correlation", "-1", "--min-overlap", "0"]
    arguments += ["--backend", backend]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "rank correlation, mean" in done.output
    assert all((tmp_path / "out" / name).is_file() for name in FILES[backend])
    again = runner.invoke(app, arguments)
    assert again.exit_code == 2
    assert "output must be a folder" in again.output


def test_the_command_verifies_on_a_collection(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    handbook = REPOSITORY / "examples" / "handbook"
    done = runner.invoke(
        app,
        [
            *("quantize", tiny_bert, str(tmp_path / "out"), "--calibrate", str(handbook)),
            *("--queries", "3", "--depth", "4", "--min-correlation", "1.1"),
        ],
    )
    assert done.exit_code == 2
    assert "3 queries, 12 pairs" in done.output
    assert not (tmp_path / "out").exists()


def test_the_built_in_texts_are_one_ranking_a_query():
    assert len(set(TEXTS)) == len(TEXTS) >= 2 * quantization.TOP
    assert [query for query, _ in sample_requests()] == list(QUERIES)


@pytest.mark.integration
@pytest.mark.parametrize(("backend", "difference"), [("onnx", 0.3), ("openvino", 0.1)])
def test_the_real_model_in_int8_ranks_as_in_float32(models_dir, tmp_path, backend, difference):
    model = ModelOptions(str(models_dir / "ce-minilm-l12"))
    written = quantize(model, tmp_path / "int8", sample_requests()[:4], backend=backend)
    assert written.agreement.mean_difference < difference
    assert written.megabytes < 40
