"""The run files that an evaluation writes are read again by its own reader, whatever the ids hold."""

import pytest

from haystack_ce_ranker.data.tables import load_run
from haystack_ce_ranker.evaluation.showing.files import trec


@pytest.mark.parametrize("query_id", ["q1", "a query", "q\u00a01"])
@pytest.mark.parametrize("document_id", ["d1", "Annual report 2023.pdf", "d\u2028\x851"])
def test_a_run_file_is_read_again_as_it_was_written(tmp_path, query_id, document_id):
    rankings = {query_id: {document_id: 0.1 + 0.2, "other": -1e-300}, "q2": {document_id: 1.0}}
    path = tmp_path / "run.trec"
    path.write_text(trec(rankings, "run"), encoding="utf-8", newline="\n")
    assert load_run(path) == rankings


def test_a_run_without_spaces_in_its_ids_has_trecs_usual_form():
    assert trec({"q1": {"d1": 2.5, "d2": 1.5}}, "bm25") == "q1 Q0 d1 1 2.5 bm25\nq1 Q0 d2 2 1.5 bm25\n"
