"""What a ranker reads is told as it happened: as its own passes, its own report, or not at all."""

import pytest
from haystack import Document, component

from fakes import import_torch
from haystack_ce_ranker.inspecting.readings import Reader, Reading, added
from haystack_ce_ranker.inspecting.watching import Call
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

QUERY = "the hut in snow"
DOCUMENTS = [
    Document(id="long", content="the hut is in the snow " * 60, meta={"title": "a hut"}),
    Document(id="short", content="a car in berlin"),
    Document(id="short", content="a car in berlin"),
    Document(id="blank", content=" "),
    Document(id="none"),
]


def stock(model, **parameters):
    module = pytest.importorskip(
        "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity"
    )
    ranker = module.SentenceTransformersSimilarityRanker(model=model, **parameters)
    ranker.warm_up()
    return ranker


def read(ranker, documents=DOCUMENTS, query=QUERY):
    reader = Reader(ranker)
    return reader.read(call(ranker, documents, query)), reader


def call(ranker, documents=DOCUMENTS, query=QUERY):
    given = {"query": query, "documents": documents}
    return Call(("ranker",), given, ranker.run(**given), 0.25)


def lengths(ranker, texts):
    tokenizer = ranker._cross_encoder.tokenizer
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_a_stock_ranker_reads_what_fits_beside_the_query(tiny_bert):
    ranker = stock(tiny_bert, batch_size=2)
    found, reader = read(ranker)
    query, long, short = lengths(ranker, [QUERY, DOCUMENTS[0].content, DOCUMENTS[1].content])
    assert (found.candidates, found.without_text, found.pairs, found.milliseconds) == (4, 2, 4, 250.0)
    assert (found.cut, found.query_cut) == (1, 0)
    assert found.text_tokens == long + short
    assert found.unread_tokens == long - (128 - 3 - query)
    assert found.unread_share == found.unread_tokens / found.text_tokens
    assert reader.most == 128


@pytest.mark.parametrize("size", [1, 2, 16])
def test_what_is_told_to_be_computed_is_what_the_model_computed(size, tiny_bert):
    """The read tokens follow from lengths, the computed ones from the model's passes: both must agree."""
    full = [one for one in DOCUMENTS if (one.content or "").strip()]
    ranker = stock(tiny_bert, batch_size=size)
    found, _ = read(ranker, full)
    query = lengths(ranker, [QUERY])[0]
    assert found.filled_tokens == found.text_tokens - found.unread_tokens + 2 * (query + 3)
    expected = found.filled_tokens if size == 1 else 2 * 128
    assert found.computed_tokens == expected
    assert found.padding_share == 1 - found.filled_tokens / expected


def test_prefixes_suffixes_and_metadata_are_text_as_well(tiny_bert):
    plain, _ = read(stock(tiny_bert))
    parameters = {"query_prefix": "the ", "document_prefix": "a ", "document_suffix": " car"}
    ranker = stock(tiny_bert, meta_fields_to_embed=["title"], **parameters)
    found, _ = read(ranker)
    assert found.text_tokens == plain.text_tokens + 4 * 2 + 2
    assert found.unread_tokens == plain.unread_tokens + 2 + 2 + 1  # the query takes one more


def test_a_query_that_is_cut_is_noticed(tiny_bert):
    found, _ = read(stock(tiny_bert), query="the hut in snow " * 60)
    assert found.query_cut == 1


def test_each_run_is_told_for_itself(tiny_bert):
    ranker = stock(tiny_bert)
    reader = Reader(ranker)
    first, second = (reader.read(call(ranker)) for _ in range(2))
    assert first == second
    assert added([first, second]).computed_tokens == 2 * first.computed_tokens


def test_the_ranker_of_haystack_2_is_read_like_the_other(tiny_bert):
    """A stand-in: its class is gone, but its attributes and how it calls its model are known."""
    torch = import_torch()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    @component
    class TransformersSimilarityRanker:
        query_prefix, document_prefix, meta_fields_to_embed, embedding_separator = "", "", [], "\n"
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)

        @component.output_types(documents=list[Document])
        def run(self, query: str, documents: list[Document]):
            kept = {one.id: one for one in documents}.values()
            pairs = [[query, one.content or ""] for one in kept]
            features = self.tokenizer(pairs, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                for place in range(len(pairs)):
                    self.model(**{key: value[place : place + 1] for key, value in features.items()})
            return {"documents": list(kept)}

    found, _ = read(TransformersSimilarityRanker())
    other, _ = read(stock(tiny_bert))
    assert (found.cut, found.unread_tokens, found.text_tokens) == (other.cut, other.unread_tokens, other.text_tokens)
    assert found.computed_tokens == 4 * 128
    assert found.filled_tokens == other.filled_tokens


def test_our_ranker_says_itself_what_it_reads(tiny_bert):
    ranker = CrossEncoderRanker(model=tiny_bert)
    ranker.warm_up()
    given = {"query": QUERY, "documents": DOCUMENTS}
    run = Call(("ranker",), given, ranker.run(**given), 0.25)
    found, report = Reader(ranker).read(run), run.returned["report"]
    assert (found.candidates, found.without_text) == (4, 2)
    assert found.unscored == len(report["unscored"])
    assert (found.pairs, found.cut, found.query_cut) == (report["pairs"], report["documents_cut"], 0)
    assert (found.unread_tokens, found.text_tokens) == (report["tokens_unread"], report["content_tokens"])
    assert found.filled_tokens == report["tokens"]
    assert found.padding_share == pytest.approx(report["padding_share"], abs=0.01)


def test_of_a_ranker_that_runs_elsewhere_only_the_candidates_are_known():
    @component
    class ServedRanker:
        model = "a-name"

        @component.output_types(documents=list[Document])
        def run(self, query: str, documents: list[Document]):
            return {"documents": documents}

    found, reader = read(ServedRanker())
    assert not reader.known
    assert found == Reading(4, 2, 250.0)
    assert (found.unread_share, found.padding_share) == (None, None)
    assert added([found, Reading(1, 0, 1.0, 3)]) == Reading(5, 2, 251.0)
