"""Where labels go so that none covers another one, a point or a line, however near to each other the points lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_ANGLES = (0, 180, 45, 135, 315, 225, 90, 270, 22, 158, 338, 202, 68, 112, 292, 248)
_DISTANCES = (9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 100.0, 124.0)
_LEADER_FROM = 18
"""A label farther from its point than so many points gets a line to it."""
_GAP = 2.0
_PENALTY = 1000.0
"""Any overlap counts more than any distance."""

Boxes = Float[np.ndarray, "boxes 4"]
"""Left, bottom, right, top in display units."""
Numbers = Float[np.ndarray, " boxes"]


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point, both in the units of the axes' data."""

    text: str
    x: float
    y: float
    colour: str
    weight: str = "normal"
    size: float = 11.0


def place(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Bbox] = ()) -> list[Text]:
    """Returns the texts drawn for `labels`, most important first; call when the axes have their final place.

    Each label takes the nearest free spot around its point. `obstacles` are boxes in display units to keep off.
    """
    taken = [box.extents for box in [*obstacles, *(_around(axes, label) for label in labels)]]
    texts = []
    for label in labels:
        text = axes.text(label.x, label.y, label.text, color=label.colour, weight=label.weight, fontsize=label.size)
        text.set_in_layout(False)
        distances, spots = _spots(axes, label, text)
        best = int(np.argmin(distances + _PENALTY * _misplaced(spots, np.array(taken), np.array(axes.bbox.extents))))
        _move(axes, label, text, Bbox.from_extents(*spots[best]))
        if distances[best] >= _LEADER_FROM:
            _draw_leader(axes, label, Bbox.from_extents(*spots[best]))
        taken.append(spots[best])
        texts.append(text)
    return texts


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns `heights` moved apart to at least `gap`, as little as this greedy pass can, kept within low..high."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [0.0] * len(heights)
    floor = low
    for index in order:
        placed[index] = max(heights[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _spots(axes: Axes, label: Label, text: Text) -> tuple[Numbers, Boxes]:
    """Returns where the text could go, and how far from its point each spot is, in points."""
    box = text.get_window_extent()
    point = axes.transData.transform((label.x, label.y))
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    distances, angles = (grid.ravel() for grid in np.meshgrid(_DISTANCES, np.radians(_ANGLES), indexing="ij"))
    half = np.array([box.width / 2, box.height / 2])
    centres = point + np.stack([np.cos(angles), np.sin(angles)], axis=1) * (distances[:, None] * scale + half)
    return distances, np.hstack([centres - half, centres + half])


def _misplaced(spots: Boxes, taken: Float[np.ndarray, "others 4"], frame: Float[np.ndarray, "4"]) -> Numbers:
    """Returns for each spot the area that covers something or lies outside the frame."""
    padded = spots + _GAP * np.array([-1, -1, 1, 1])
    outside = _area(spots) - _common(spots, frame[None])[:, 0]
    return np.asarray(_common(padded, taken).sum(axis=1) + outside)


def _common(ours: Boxes, theirs: Float[np.ndarray, "others 4"]) -> Float[np.ndarray, "boxes others"]:
    """Returns the area that each of our boxes shares with each of theirs."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2))


def _around(axes: Axes, label: Label) -> Bbox:
    x, y = axes.transData.transform((label.x, label.y))
    return Bbox.from_bounds(x - 4, y - 4, 8, 8)


def _move(axes: Axes, label: Label, text: Text, spot: Bbox) -> None:
    """Puts the text onto its spot, anchored on the side of its point: a narrower font then stays close to it."""
    x = axes.transData.transform((label.x, label.y))[0]
    side = "left" if spot.x0 >= x else "right" if spot.x1 <= x else "center"
    anchor_x = {"left": spot.x0, "right": spot.x1, "center": (spot.x0 + spot.x1) / 2}[side]
    text_x, text_y = axes.transData.inverted().transform((anchor_x, (spot.y0 + spot.y1) / 2))
    text.set_position((text_x, text_y))
    text.set_horizontalalignment(side)  # type: ignore[arg-type]
    text.set_verticalalignment("center")


def _draw_leader(axes: Axes, label: Label, spot: Bbox) -> None:
    x, y = axes.transData.transform((label.x, label.y))
    nearest = (min(max(x, spot.x0), spot.x1), min(max(y, spot.y0), spot.y1))
    end_x, end_y = axes.transData.inverted().transform(nearest)
    axes.plot([label.x, end_x], [label.y, end_y], color=label.colour, linewidth=0.7, alpha=0.7, zorder=1.5)


def _area(boxes: Boxes) -> Numbers:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
