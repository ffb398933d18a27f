"""Labels of points, moved by adjustText so that none covers another label, a point or a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

_DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Directions of a label from its point, diagonals first because error bars cross the others."""
_GAP = 12.0
"""Distance of a label from its point before adjustText moves it, in pixels."""
_PADDING = 3.0
"""Least distance between a label and an obstacle, in pixels."""
_MARKER = 8.0
"""Width of a marker that labels must not cover, in pixels."""
_TEXT_WEIGHT = 100
"""Cost of two overlapping labels relative to a label on an obstacle."""
_LEADER_FROM = 25.0
"""Distance in pixels from which a line connects a label with its point."""
_FORCES: dict[str, Any] = {
    "iter_lim": 100,  # a limit in steps instead of seconds: the same figure on every machine
    "time_lim": None,
    "force_text": (0.3, 0.5),
    "force_static": (0.1, 0.2),
    "force_explode": 0.0,
    "avoid_self": False,
    "prevent_crossings": False,
}


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a point in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    is_bold: bool = False
    size: float = 11.0


def place_labels(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Bbox] = ()) -> list[Text]:
    """Draw each label near its point and return the texts; call it after the layout of the axes is final.

    adjustText finds a local optimum, so it starts from several arrangements until nothing overlaps.

    Args:
        axes: Axes with the points.
        labels: Labels, most important first.
        obstacles: Boxes in pixels that labels must not cover.
    """
    from adjustText import adjust_text  # imports pyplot, which takes a second

    points = axes.transData.transform([(label.x, label.y) for label in labels])
    markers = [_box_around(x, y, _MARKER) for x, y in points]
    fixed = [box.padded(_PADDING) for box in [*obstacles, *markers]]
    texts = [_draw(axes, label) for label in labels]
    extents = [text.get_window_extent() for text in texts]
    arrangements = []
    for turn in range(len(_DIRECTIONS)):
        for index, (text, point, extent) in enumerate(zip(texts, points, extents, strict=True)):
            side = np.array(_DIRECTIONS[(index + turn) % len(_DIRECTIONS)])
            text.set_position(point + side * (np.array(extent.size) / 2 + _GAP))
        adjust_text(texts, objects=fixed, target_x=points[:, 0], target_y=points[:, 1], ax=axes, **_FORCES)
        cost = _overlap_cost(texts, fixed)
        farthest = max(math.dist(point, _nearest(text, point)) for text, point in zip(texts, points, strict=True))
        arrangements.append((cost, farthest, [text.get_position() for text in texts]))
        if cost == 0:
            break
    _, _, positions = min(arrangements, key=lambda arrangement: arrangement[:2])
    for text, label, position in zip(texts, labels, positions, strict=True):
        _fix_to_data(axes, text, position)
        _draw_leader(axes, label, text)
    return texts


def cross_boxes(axes: Axes, x: Sequence[float], y: Sequence[float]) -> list[Bbox]:
    """Return the boxes in pixels of the two error bars of a point; `x` and `y` hold value, low and high."""
    bars = (((x[1], y[0]), (x[2], y[0])), ((x[0], y[1]), (x[0], y[2])))
    return [Bbox(np.sort(axes.transData.transform(bar), axis=0)).padded(1) for bar in bars]


def line_boxes(axes: Axes, start: tuple[float, float], end: tuple[float, float], width: float = 6.0) -> list[Bbox]:
    """Return a chain of square boxes in pixels along a line between two points in data coordinates."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    num_steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / width))
    steps = np.linspace(0, 1, num_steps + 1)
    return [_box_around(x0 + (x1 - x0) * step, y0 + (y1 - y0) * step, width) for step in steps]


def _box_around(x: float, y: float, width: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - width / 2, width, width)


def _draw(axes: Axes, label: Label) -> Text:
    text = axes.text(
        0,
        0,
        label.text,
        color=label.colour,
        weight="bold" if label.is_bold else "normal",
        fontsize=label.size,
        transform=IdentityTransform(),  # in pixels, because adjustText fails on an inverted axis
        ha="center",
        va="center",
    )
    text.set_in_layout(False)
    return text


def _overlap_cost(texts: Sequence[Text], obstacles: Sequence[Bbox]) -> int:
    boxes = [text.get_window_extent() for text in texts]
    num_texts = sum(bool(box.overlaps(other)) for box, other in combinations(boxes, 2))
    num_obstacles = sum(bool(box.overlaps(other)) for box, other in product(boxes, obstacles))
    return _TEXT_WEIGHT * num_texts + num_obstacles


def _fix_to_data(axes: Axes, text: Text, position: tuple[float, float]) -> None:
    """Anchor a text in data coordinates, so that it keeps its place at any resolution."""
    text.set_transform(axes.transData)
    x, y = axes.transData.inverted().transform(position)
    text.set_position((x, y))


def _draw_leader(axes: Axes, label: Label, text: Text) -> None:
    """Connect a label with its point by a thin line if they are far apart."""
    point = axes.transData.transform((label.x, label.y))
    end = _nearest(text, point)
    if math.dist(point, end) >= _LEADER_FROM:
        end_x, end_y = axes.transData.inverted().transform(end)
        axes.plot([label.x, end_x], [label.y, end_y], color=label.colour, linewidth=0.7, alpha=0.7, zorder=1.5)


def _nearest(text: Text, point: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the point of a text's box that is nearest to a point, in pixels."""
    box = text.get_window_extent()
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
