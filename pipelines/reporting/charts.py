"""Draws charts as inline SVG with the font and colours of the page, in light and dark mode.

matplotlib draws with placeholder colours, which are then replaced by CSS variables that the page defines.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = 8
_INK, _MUTED, _GRID = "#fe0001", "#fe0002", "#fe0003"
_SERIES = [f"#fd000{n}" for n in range(1, SERIES + 1)]
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--line"} | {
    colour: f"--series-{n}" for n, colour in enumerate(_SERIES, 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lakeloop",
    # A "$" in a label, such as a version or a path, does not begin a formula.
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": _INK,
}
_WIDTH = 7.6  # inches; the page scales the figure


def stacked_bars(
    name: str, *, labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str, title: str
) -> str:
    """One horizontal bar for each label, stacked from the series in their order; its sum is written at its end.

    Args:
        name: a name that is unique in the page, for the ids inside the SVG.
        labels: the bars' labels from top to bottom.
        series: name → one value for each label; at most eight series.
        unit: the unit of the values, for the axis.
        title: what the figure shows, for screen readers; the numbers are added to it.
    """
    import matplotlib as mpl

    totals = [sum(values[i] for values in series.values()) for i in range(len(labels))]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(height=0.85 + 0.36 * len(labels))
        left = [0.0] * len(labels)
        for colour, (key, values) in zip(_SERIES, series.items(), strict=False):
            axes.barh(range(len(labels)), values, left=left, height=0.62, color=colour, label=key)
            left = [start + value for start, value in zip(left, values, strict=True)]
        for row, total in enumerate(totals):
            axes.annotate(_short(total), (total, row), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.45, -0.55)
        axes.set_xlim(0, (max(totals, default=0) or 1) * 1.1)
        axes.set_xlabel(unit)
        axes.grid(axis="x", color=_GRID, linewidth=0.6)
        _legend(axes, columns=min(len(series), 4))
        numbers = "; ".join(
            f"{label}: " + ", ".join(f"{key} {_short(values[i])}" for key, values in series.items() if values[i])
            for i, label in enumerate(labels)
        )
        return _svg(figure, name, f"{title} ({unit}). {numbers}.")


def histogram(name: str, *, values: Sequence[float], marks: Mapping[str, float], unit: str, title: str) -> str:
    """A histogram of the values (at least one) in 6 to 24 equal bins, with a vertical line at each mark."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        figure, axes = _axes(height=2.5)
        axes.hist(values, bins=min(24, max(6, len(values) // 2)), color=_SERIES[0], rwidth=0.92)
        top = axes.get_ylim()[1]
        for row, (label, at) in enumerate(marks.items()):
            axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            text = f"{label} {_short(at)}"
            axes.annotate(text, (at, top), xytext=(4, -2 - 13 * row), textcoords="offset points", va="top")
        axes.set_ylim(0, top * 1.08)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(unit)
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        marks_text = ", ".join(f"{label} {_short(at)}" for label, at in marks.items())
        return _svg(figure, name, f"{title} ({unit}). {len(values)} values from {_short(min(values))} to "
                    f"{_short(max(values))}; {marks_text}.")  # fmt: skip


def _axes(*, height: float) -> tuple[Figure, Any]:
    # Not with pyplot, which keeps figures and a backend for the whole process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _legend(axes: Any, *, columns: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0, handlelength=0.9,
        handleheight=0.9, columnspacing=1.4, labelcolor=_INK,
    )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _svg(figure: Figure, name: str, description: str) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    # A page has several figures: prefix the ids so that they are unique.
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    label = f'role="img" aria-label="{escape(description)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view_box[0]} {label}>{body}'
