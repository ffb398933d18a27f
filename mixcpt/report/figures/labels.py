"""Axis labels that fit into their figure: long ones are wrapped, and cut only if many lines are not enough."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.text import Text

from mixcpt.report import words

_SHARE = 0.84
"""Maximum share of a figure's width or height that a label may take; the axes are not in its exact middle."""
_MIN_CHARACTERS = 8
_MAX_LINES = 3


def label_axes(axes: Axes, *, x: str = "", y: str = "", share: float = 1.0) -> None:
    """Set the labels of both axes, wrapped to the size of the figure.

    Args:
        axes: Axes of a figure; wrapping needs no final layout.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        share: Part of the figure's height that these axes take.
    """
    width, height = axes.figure.bbox.width, axes.figure.bbox.height
    if x:
        axes.set_xlabel(x)
        fit(axes.xaxis.label, _SHARE * width)
    if y:
        axes.set_ylabel(y)
        fit(axes.yaxis.label, _SHARE * share * height)


def fit(text: Text, limit: float) -> None:
    """Wrap a text so that it is at most `limit` pixels long in its direction."""
    whole = text.get_text()
    for characters in range(len(whole), _MIN_CHARACTERS - 1, -2):
        lines = textwrap.wrap(whole, characters) or [whole]
        if len(lines) > _MAX_LINES:
            shown = lines[: _MAX_LINES - 1]
            lines = [*shown, words.shortened(" ".join(lines[_MAX_LINES - 1 :]), characters)]
        text.set_text("\n".join(lines))
        box = text.get_window_extent()
        if max(box.width, box.height) <= limit:
            return
