"""The real model on real collections: the figures that the project is built on."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import load_collection, load_run
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

pytestmark = pytest.mark.integration


def ndcg(scorer, collection, run):
    requests = [(collection.queries[q], [collection.documents[d].content for d in run[q]]) for q in collection.queries]
    results, _ = scorer.score_many(requests)
    rankings = {}
    for query_id, scores in zip(collection.queries, results, strict=True):
        logits = {d: s.logit for d, s in zip(run[query_id], scores.documents, strict=True)}
        order = sorted(logits, key=lambda d: -logits[d])
        rankings[query_id] = ranked_scores(order, [logits[d] for d in order])
    return mean(ndcg_at_10(rankings, collection.judgments))


def test_dl19_is_ranked_as_published(models_dir, data_dir):
    collection = load_collection(data_dir / "dl19")
    run = load_run(data_dir / "dl19" / "run.bm25.tsv", collection=collection, depth=100)
    first = {q: ranked_scores(list(run[q])) for q in collection.queries}
    assert mean(ndcg_at_10(first, collection.judgments)) == pytest.approx(0.5058, abs=0.0005)
    exact = CrossEncoderScorer(loading.load("torch", ModelOptions(str(models_dir / "ce-minilm-l12"), threads=1)))
    small = CrossEncoderScorer(loading.load("onnx", ModelOptions(str(models_dir / "ce-minilm-l12-int8"), threads=1)))
    figure = ndcg(exact, collection, run)
    assert figure == pytest.approx(0.7216, abs=0.001)
    assert ndcg(small, collection, run) == pytest.approx(figure, abs=0.005)


def test_scores_equal_those_of_sentence_transformers(models_dir, data_dir):
    collection = load_collection(data_dir / "dl19")
    run = load_run(data_dir / "dl19" / "run.bm25.tsv", collection=collection, depth=5)
    pairs = [
        (collection.queries[q], collection.documents[d].content) for q in list(collection.queries)[:10] for d in run[q]
    ]
    folder = str(models_dir / "ce-minilm-l12")
    expected = CrossEncoder(folder).predict(pairs, activation_fn=torch.nn.Identity())
    ours = CrossEncoderScorer(loading.load("torch", ModelOptions(folder))).score_pairs(*zip(*pairs, strict=True))
    assert np.abs(ours - expected).max() < 1e-4
