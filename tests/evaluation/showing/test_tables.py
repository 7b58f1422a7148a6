"""The table and the verdict in the terminal: every figure in its column, readable at 100 columns, markup as text."""

from dataclasses import replace

import pytest
from rich.console import Console

from fake_results import BM25, NASTY, altered, answering, bare, by_name, completed, cross_encoders, many, nasty, sweep
from haystack_ce_ranker.evaluation.showing.tables import results_table, units_table, verdict_text
from haystack_ce_ranker.machine.units import WORLD, Grid, Units

MODEL = "ms-marco-MiniLM-L12-v2"


def found(**changes):
    systems = BM25 | cross_encoders({10: 0.6, 50: 0.7}, model=MODEL) | cross_encoders({50: 0.49}, kind="hybrid")
    return completed(sweep(systems | changes))


def shown(given, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(results_table(given))
    return console.export_text()


def row(text, name):
    """The lines of a system's row as words: its first, and what stands below it."""
    lines = text.splitlines()
    place = next(place for place, line in enumerate(lines) if line.strip().startswith(name))
    return lines[place].split(), lines[place + 1].split()


def test_a_row_has_quality_with_its_interval_the_difference_with_its_p_and_the_costs():
    given = found()
    text = shown(given)
    first, second = row(text, "bm25")
    assert first == ["bm25", "0.5000", "-", "0.500", "1.0", "2.0", "0", "0.02"]
    assert second == ["0.460-0.540"]
    first, second = row(text, "hybrid small@50")
    assert first[2:] == ["0.4900", "-0.0100", "0.500", "201.0", "402.0", "4,500", "5"]
    p = by_name(given)["hybrid small@50"].versus.p_corrected
    assert second == ["0.450-0.530", "p", f"{p:.3f}"]
    assert "p <0.001" in text
    assert "baseline: bm25; p is corrected for the number of systems; *: the choice" in " ".join(text.split())


def test_the_choice_is_marked_and_nothing_else():
    given = found()
    assert given.verdict.choice == f"cross-encoder {MODEL}@10"
    marked = [line for line in shown(given, width=160).splitlines() if " * " in line]
    assert [line.split(" * ")[0].strip() for line in marked] == [f"cross-encoder {MODEL}@10"]


def test_measured_and_estimated_joules_are_never_in_one_column():
    given = altered(found(), "bm25", energy_source="measured: RAPL", joules_per_query=0.7)
    table = results_table(given)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["joules\nestimated"] == ["-", "1", "5", "5"]
    assert columns["joules\nmeasured"] == ["0.7", "-", "-", "-"]


READ = Units(2.5e12, 5e11, 240.0, 400.0, 1.5, 0.6675)
ONLY_ENERGY = Units(wh_per_1000_queries=0.002, co2_g_per_1000_queries=0.0009)


def in_units():
    given = replace(found(), grid=WORLD)
    given = altered(given, "bm25", units=ONLY_ENERGY)
    return altered(given, f"cross-encoder {MODEL}@10", units=READ, energy_source="measured: RAPL")


def test_standard_units_have_a_table_of_their_own():
    (table,) = units_table(in_units())
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["GFLOPs\ntext"] == ["-", "2,500", "not known", "not known"]
    assert columns["GFLOPs\npadding"] == ["-", "500", "not known", "not known"]
    assert (columns["RPP"][1], columns["QPP"][1]) == ("240", "400")
    assert columns["Wh/1,000\nmeasured"] == ["-", "1.5", "-", "-"]
    assert columns["Wh/1,000\nestimated"] == ["0.002", "-", "-", "-"]
    assert columns["g CO2/1,000\nestimated"] == ["0.0009", "-", "-", "-"]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert WORLD.source in " ".join(text.split())
    (other,) = units_table(replace(in_units(), grid=Grid(30.0)))
    assert "30 g/kWh (as given)" in str(other.caption)


def test_without_any_unit_there_is_no_table():
    assert units_table(bare()) == []


@pytest.mark.parametrize("make", [found, many, bare], ids=lambda make: make.__name__)
def test_a_hundred_columns_are_enough_for_every_figure(make):
    given = make()
    for one in given.systems[1:]:
        given = altered(given, one.name, energy_source="measured: RAPL" if one.energy_source else None)
    text = shown(given)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for one in given.systems:
        for figure in (f"{one.quality:.4f}", f"{one.latency_ms.p95:,.1f}", f"{one.tokens_per_query:,.0f}"):
            assert figure in text


def test_names_are_text_and_long_ones_are_folded_not_cut():
    given = nasty()
    given = replace(given, systems=(replace(given.systems[0], name="[red]x[/red]"), *given.systems))
    text = shown(given)
    assert "[red]x[/red]" in text
    assert "…" not in text
    letters = "".join(text.split())
    assert "".join(NASTY.split())[:20] in letters


def test_depths_of_one_kind_stand_together():
    systems = {}
    for depth in (10, 50):
        systems |= cross_encoders({depth: 0.6}) | cross_encoders({depth: 0.6}, kind="hybrid")
    text = shown(completed(sweep(BM25 | systems)), width=160)
    places = [
        text.index(name) for name in ("encoder small@10", "encoder small@50", "hybrid small@10", "hybrid small@50")
    ]
    assert places == sorted(places)


def test_columns_without_a_figure_are_left_out():
    headers = [str(column.header) for column in results_table(bare()).columns]
    assert headers == ["system", "nDCG@10", "MRR@10", "p50 ms", "p95 ms", "tokens"]
    assert results_table(bare()).caption is None


def test_the_verdict_is_every_answer_with_its_reason_and_then_what_may_mislead():
    given = found()
    given = answering(given, *given.verdict.answers, cautions=("Few queries.",))
    lines = verdict_text(given.verdict)
    answers = given.verdict.answers
    assert lines[: 2 * len(answers) : 2] == [f"{one.question} {one.answer}" for one in answers]
    assert lines[1] == f"  {answers[0].reason}"
    assert lines[-2] == "Mind: Few queries."
    assert lines[-1].startswith("Not compared: strategy: only best_passages was measured; backend")
    assert verdict_text(bare().verdict) == []


def test_the_verdict_begins_with_do_not_re_rank_where_that_only_costs():
    given = sweep(BM25 | cross_encoders({10: 0.4}))
    told = verdict_text(given.verdict)
    assert told[0] == given.verdict.do_not_rerank
    assert told[0].startswith("Do not re-rank here: bm25 alone")
    assert told[1].startswith("Is re-ranking worth it here? No")
    assert not verdict_text(found().verdict)[0].startswith("Do not")
