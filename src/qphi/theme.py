"""How the figures look: sizes, colours that colour-blind readers can tell apart, and PNG bytes.

Figures are made with matplotlib's objects, never with pyplot, so that nothing global is touched or kept.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "CLASSES",
    "DENSITY",
    "DPI",
    "FAINT",
    "INK",
    "MUTED",
    "SECOND",
    "SIZE",
    "class_colours",
    "figure",
    "plain",
    "png",
    "spread",
    "style",
]

DPI = 200  # two pixels of the file for one of the page: 100 page pixels to the inch of a figure
INK, MUTED, FAINT = "#1f2933", "#66727f", "#e4e8ec"
ACCENT, SECOND = "#0072b2", "#d55e00"  # Okabe & Ito's blue and vermilion: distinct for every colour vision
# Paul Tol's "muted" scheme, its grey darkened so that it stands out on white.
CLASSES = (
    "#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee",
    "#882255", "#44aa99", "#999933", "#aa4499", "#555555",
)  # fmt: skip
DENSITY = LinearSegmentedColormap.from_list("density", ["#e3edf6", "#9dc3e0", "#3f87bd", "#0b4a7d"])
SIZE = 9.5  # points


def figure(
    width: float = 9.0, height: float = 4.0, *, margins: tuple[float, float, float, float] | None = None
) -> Figure:
    """An empty figure; 9 inches are the 900 pixels of the page's column.

    `margins` are left, right, bottom and top, in inches. Without them matplotlib finds room by itself, which
    takes as long as drawing does.
    """
    drawn = Figure((width, height), dpi=DPI, facecolor="white", layout=None if margins else "constrained")
    if margins is not None:
        left, right, bottom, top = margins
        drawn.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return drawn


def style(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: str | None = "y") -> Axes:
    """Quiet axes: no box, faint grid, muted ticks, a title on the left."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)
    axes.tick_params(colors=MUTED, labelsize=SIZE - 1, width=0.6, length=3)
    axes.set_xlabel(x, color=INK, fontsize=SIZE)
    axes.set_ylabel(y, color=INK, fontsize=SIZE)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=SIZE + 0.5, fontweight="bold")
    if grid in ("x", "y", "both"):
        axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    return axes


def class_colours(count: int) -> list[str]:
    """One colour for each of `count` classes; they repeat after ten, so name the classes too."""
    return [CLASSES[index % len(CLASSES)] for index in range(count)]


def plain(text: object) -> str:
    """Text that matplotlib shows as it is: a dollar sign in a label is not the start of a formula."""
    return str(text).replace("$", r"\$")


def png(drawn: Figure) -> bytes:
    """The figure as PNG bytes, the same bytes every time."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks is drawn as boxes: worth no line on the user's terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        drawn.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def spread(values: Sequence[float] | np.ndarray, share: float = 0.04) -> tuple[float, float]:
    """Limits that hold every finite value, with a margin; (0, 1) when there is none."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = share * (high - low) or 0.05 * max(abs(high), 1.0)
    return low - margin, high + margin
