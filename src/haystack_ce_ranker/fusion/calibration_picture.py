"""The reliability plot: predicted probabilities against the share that came true."""

from collections.abc import Sequence

from haystack_ce_ranker import pictures
from haystack_ce_ranker.fusion.calibration import Labelled, reliability, together
from haystack_ce_ranker.pictures import Point


def reliability_plot(name: str, by_query: Sequence[Labelled]) -> str:
    """
    Draw the plot as an SVG file of its own.

    :param name: What stands at the beginning of its title.
    :param by_query: Probabilities that were held out, with what came true.
    :raises ImportError: If matplotlib is missing.
    """
    bins, error = reliability(*together(by_query))
    svg = pictures.agreement(
        [Point(one.predicted, one.observed, f"{one.count:,}", one.low, one.high) for one in bins],
        title=f"{name}, calibration error {error:.3f}",
        x_label="predicted probability of relevance, held out; numbers: documents",
        y_label="share that is relevant, 95 %",
        identity="reliability",
    )
    return pictures.standalone(svg)
