"""How figures are written, in the verdict, in the terminal and on the page alike."""

from pathlib import PurePath


def number(value: float | None, form: str, missing: str = "–") -> str:
    """Return a figure in a format, or what stands for one that is not known."""
    return missing if value is None else format(value, form)


def signed(value: float) -> str:
    """Return a difference with its sign; one that rounds to 0 is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"  # -0.0 + 0.0 is 0.0


def p_value(value: float | None) -> str:
    """Return a p for a table."""
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")


def p_phrase(value: float) -> str:
    """Return a p for a sentence."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def amount(value: float, unit: str = "") -> str:
    """Return a cost in three digits."""
    return (f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}").rstrip()


def short_name(name: str | None) -> str:
    """Return how a setting is shown: a model's folder, or one in a package, by its end, anything else as it is."""
    if name is None:
        return "-"
    return PurePath(name).name if name.startswith(("/", ".", "~", "package:")) else name
