"""Costs in standard units: conversions by hand, and nothing made up where a figure is not known."""

import math

import pytest

from haystack_ce_ranker.machine.units import UNKNOWN, WORLD, Grid, Units, explained, in_standard_units


def test_a_query_is_converted_as_by_hand():
    found = in_standard_units(0.5, [(2e12, 1e12), (6e12, 3e12)], joules=7.2, grid=Grid(500.0, "here"))
    assert found.flops_per_query == 4e12
    assert found.padding_flops_per_query == 2e12
    assert found.qpp == pytest.approx(250.0)  # 4 TFLOPs fit 250 times into a PetaFLOP
    assert found.rpp == pytest.approx(125.0)
    assert found.wh_per_1000_queries == pytest.approx(2.0)  # 7,200 J
    assert found.co2_g_per_1000_queries == pytest.approx(1.0)  # 0.002 kWh of 500 g


@pytest.mark.parametrize(
    "work",
    [[(None, 0.0), (6e12, 3e12)], [(0.0, 0.0)], []],
    ids=["one query is not known", "nothing read", "no query"],
)
def test_without_flops_only_energy_is_known(work):
    found = in_standard_units(0.5, work, joules=3.6)
    assert found == Units(wh_per_1000_queries=1.0, co2_g_per_1000_queries=pytest.approx(WORLD.g_per_kwh / 1000))


def test_a_query_that_read_nothing_counts_among_others():
    assert in_standard_units(0.5, [(0.0, 0.0), (6e12, 0.0)], joules=None).flops_per_query == 3e12


def test_without_joules_there_is_no_energy_and_no_co2():
    assert in_standard_units(0.5, [(None, 0.0)], joules=None) == UNKNOWN


def test_the_heads_tell_measured_from_estimated_and_what_plays_no_part_from_what_is_not_known():
    units = in_standard_units(0.5, [(2e12, 0.0)], joules=3.6)
    read = units.labelled(reads=True, source="measured")
    assert read["GFLOPs, text"] == 2000.0
    assert read["GFLOPs, padding"] == 0.0
    assert {"Wh/1,000, measured", "g CO2/1,000, measured"} <= read.keys()
    assert list(units.labelled(reads=False, source="estimated")) == ["Wh/1,000, estimated", "g CO2/1,000, estimated"]
    assert set(UNKNOWN.labelled(reads=True, source=None).values()) == {None}
    assert UNKNOWN.labelled(reads=False, source=None) == {}


def test_the_grid_is_named_with_its_source():
    assert f"{WORLD.g_per_kwh:g} g/kWh ({WORLD.source})" in explained(WORLD)
    assert "30 g/kWh (as given)" in explained(Grid(30))
    assert "CO2" not in explained(None)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "500", None])
def test_an_intensity_that_is_none_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="grid_intensity"):
        Grid(wrong)
