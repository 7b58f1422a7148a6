"""
What a query costs in standard units: quality and queries for a PetaFLOP, watt-hours, and grams of CO2.

RPP and QPP are those of "Efficiency-Effectiveness Reranking FLOPs for LLM-based Rerankers" (arXiv 2507.06223). Grams
are the operational part of the SCI (ISO/IEC 21031), energy times the grid's intensity. What making the hardware emitted
is not in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from haystack_ce_ranker import checks

_JOULES_PER_WH = 3600.0


@dataclass(frozen=True)
class Grid:
    """
    What a kilowatt-hour emits.

    :ivar g_per_kwh: Grams of CO2.
    :ivar source: Who says so.
    """

    g_per_kwh: float
    source: str = "as given"

    def __post_init__(self) -> None:
        checks.number("grid_intensity", self.g_per_kwh, least=0)


WORLD = Grid(445.0, "the world's average of 2024: IEA, Electricity 2025")


@dataclass(frozen=True)
class Units:
    """
    What a query costs in standard units, and what it is worth for them; null where it is not known.

    :ivar flops_per_query: Mean FLOPs of the matrix products in CrossEncoderRanker's models, for the tokens that they
        read, by the closed form of the model's kind; a multiplication and an addition are two. Null where none of them
        reads, or no form is known for one. What finds the candidates, and other rankers, are not counted.
    :ivar padding_flops_per_query: The same for the padding beside those tokens.
    :ivar rpp: Ranking quality per PetaFLOP: nDCG@10 for each 10^15 of `flops_per_query`.
    :ivar qpp: Queries per PetaFLOP.
    :ivar wh_per_1000_queries: Watt-hours that 1,000 queries take.
    :ivar co2_g_per_1000_queries: Grams of CO2 that 1,000 queries emit, by the intensity under `grid`.
    """

    flops_per_query: float | None = None
    padding_flops_per_query: float | None = None
    rpp: float | None = None
    qpp: float | None = None
    wh_per_1000_queries: float | None = None
    co2_g_per_1000_queries: float | None = None

    def labelled(self, *, reads: bool, source: str | None) -> dict[str, float | None]:
        """
        Return the figures by the heads of their columns. What plays no part is omitted, and None is not known.

        :param reads: Whether a model reads anything.
        :param source: `measured` or `estimated`: the two never stand in one column.
        """
        giga = [None if one is None else one / 1e9 for one in (self.flops_per_query, self.padding_flops_per_query)]
        compute = {"GFLOPs, text": giga[0], "GFLOPs, padding": giga[1], "RPP": self.rpp, "QPP": self.qpp}
        energy = {"Wh/1,000": self.wh_per_1000_queries, "g CO2/1,000": self.co2_g_per_1000_queries}
        known = {f"{label}, {source}": value for label, value in energy.items() if value is not None}
        return {**(compute if reads else {}), **known}


UNKNOWN = Units()


def in_standard_units(
    quality: float, work: Sequence[tuple[float | None, float]], *, joules: float | None, grid: Grid = WORLD
) -> Units:
    """
    Return what a query costs on average.

    :param quality: nDCG@10.
    :param work: FLOPs of each query for text and for padding. If one of the former is None or none is above 0, all that
        rests on them is unknown.
    :param joules: Mean of the queries.
    """
    wh = None if joules is None else 1000.0 * joules / _JOULES_PER_WH
    grams = None if wh is None else wh / 1000.0 * grid.g_per_kwh
    known = [text for text, _ in work if text is not None]
    if len(known) < len(work) or not any(known):
        return Units(wh_per_1000_queries=wh, co2_g_per_1000_queries=grams)
    mean = fmean(known)
    return Units(mean, fmean(padding for _, padding in work), quality * 1e15 / mean, 1e15 / mean, wh, grams)


def explained(grid: Grid | None) -> str:
    """Say what the columns of `Units.labelled` mean."""
    emitted = "" if grid is None else f", and the CO2 of that at {grid.g_per_kwh:g} g/kWh ({grid.source})"
    return (
        "FLOPs a query are those of the matrix products in CrossEncoderRanker's models for the text that they read and "
        "for padding; nothing else is counted. RPP: nDCG@10 per PetaFLOP of text. QPP: queries per PetaFLOP of text. "
        f"Wh for 1,000 queries{emitted}."
    )
