"""Where labels go so that none covers another one, a point or a line, however near to each other the points lie."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_ANGLES = (0, 180, 45, 135, 315, 225, 90, 270, 22, 158, 338, 202, 68, 112, 292, 248)
_DISTANCES = (9, 14, 20, 28, 38, 50, 64, 80, 100, 124)
_LEADER_FROM = 18
"""A label farther from its point than so many points gets a line to it."""
_GAP = 2.0


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
    taken = [*obstacles, *(_around(axes, label) for label in labels)]
    texts = []
    for label in labels:
        text = axes.text(label.x, label.y, label.text, color=label.colour, weight=label.weight, fontsize=label.size)
        text.set_in_layout(False)
        distance, spot = min(_spots(axes, label, text), key=lambda spot: _cost(axes, spot[0], spot[1], taken))
        _move(axes, label, text, spot)
        if distance >= _LEADER_FROM:
            _draw_leader(axes, label, spot)
        taken.append(spot)
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


def _spots(axes: Axes, label: Label, text: Text) -> Iterator[tuple[float, Bbox]]:
    box = text.get_window_extent()
    x, y = axes.transData.transform((label.x, label.y))
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    for distance in _DISTANCES:
        for angle in _ANGLES:
            right, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            centre_x = x + right * (distance * scale + box.width / 2)
            centre_y = y + up * (distance * scale + box.height / 2)
            yield distance, Bbox.from_bounds(centre_x - box.width / 2, centre_y - box.height / 2, box.width, box.height)


def _cost(axes: Axes, distance: float, spot: Bbox, taken: Sequence[Bbox]) -> float:
    """Nearest wins among the free; among the taken, the least covered."""
    inside = Bbox.intersection(spot, axes.bbox)
    outside = _area(spot) - (_area(inside) if inside else 0.0)
    covered = sum(_area(common) for box in taken if (common := Bbox.intersection(spot.padded(_GAP), box)))
    return distance + 1000.0 * (outside + covered)


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


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
