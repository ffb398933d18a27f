"""Points with error bars, and their labels, which adjustText moves off other labels, points and lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

from mixcpt.report.figures import palette

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

Values: TypeAlias = tuple[float, float, float]
"""Value with the low and high end of its interval."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model in a figure: a mark with error bars and a label, in data coordinates."""

    name: str
    x: Values
    y: Values
    mark: palette.Mark
    is_main: bool
    """Whether the mark is filled and the label bold."""

    @property
    def place(self) -> tuple[float, float]:
        return self.x[0], self.y[0]


def draw_point(axes: Axes, point: Point) -> None:
    """Draw the mark and the error bars of a point."""
    (x, left, right), (y, bottom, top) = point.x, point.y
    colour = point.mark.colour.light
    line: dict[str, Any] = {"color": colour, "linewidth": 1.6 if point.is_main else 1.0, "zorder": 3}
    axes.plot([left, right], [y, y], **line)
    axes.plot([x, x], [bottom, top], **line)
    axes.plot(
        [x],
        [y],
        marker=point.mark.shape,
        markersize=9 if point.is_main else 7,
        color=colour,
        markerfacecolor=colour if point.is_main else palette.PAGE.light,
        markeredgewidth=1.5,
        linestyle="none",
        zorder=4,
    )


def label_points(axes: Axes, points: Sequence[Point], obstacles: Sequence[Bbox] = ()) -> list[Text]:
    """Draw the name near each point and return the texts; call it after the layout of the axes is final.

    adjustText finds a local optimum, so it starts from several arrangements until nothing overlaps. Labels keep off
    marks, error bars and `obstacles`, which are boxes in pixels.
    """
    from adjustText import adjust_text  # imports pyplot, which takes a second

    error_bars = list(chain.from_iterable(_error_bars(axes, point) for point in points))
    points = sorted(dict.fromkeys(points), key=lambda point: not point.is_main)
    places = axes.transData.transform([point.place for point in points])
    markers = [_box_around(x, y, _MARKER) for x, y in places]
    fixed = [box.padded(_PADDING) for box in [*obstacles, *error_bars, *markers]]
    texts = [_draw(axes, point) for point in points]
    extents = [text.get_window_extent() for text in texts]
    arrangements = []
    for turn in range(len(_DIRECTIONS)):
        for index, (text, place, extent) in enumerate(zip(texts, places, extents, strict=True)):
            side = np.array(_DIRECTIONS[(index + turn) % len(_DIRECTIONS)])
            text.set_position(place + side * (np.array(extent.size) / 2 + _GAP))
        adjust_text(texts, objects=fixed, target_x=places[:, 0], target_y=places[:, 1], ax=axes, **_FORCES)
        cost = _overlap_cost(texts, fixed)
        farthest = max(math.dist(place, _nearest(text, place)) for text, place in zip(texts, places, strict=True))
        arrangements.append((cost, farthest, [text.get_position() for text in texts]))
        if cost == 0:
            break
    _, _, positions = min(arrangements, key=lambda arrangement: arrangement[:2])
    for text, point, position in zip(texts, points, positions, strict=True):
        # in data coordinates, a text keeps its place at any resolution
        text.set_transform(axes.transData)
        x, y = axes.transData.inverted().transform(position)
        text.set_position((x, y))
        _draw_leader(axes, point, text)
    return texts


def line_boxes(axes: Axes, start: tuple[float, float], end: tuple[float, float], width: float = 6.0) -> list[Bbox]:
    """Return a chain of square boxes in pixels along a line between two points in data coordinates."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    num_steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / width))
    steps = np.linspace(0, 1, num_steps + 1)
    return [_box_around(x0 + (x1 - x0) * step, y0 + (y1 - y0) * step, width) for step in steps]


def _error_bars(axes: Axes, point: Point) -> list[Bbox]:
    """Return the boxes of the two error bars in pixels."""
    (x, left, right), (y, bottom, top) = point.x, point.y
    bars = (((left, y), (right, y)), ((x, bottom), (x, top)))
    return [Bbox(np.sort(axes.transData.transform(bar), axis=0)).padded(1) for bar in bars]


def _box_around(x: float, y: float, width: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - width / 2, width, width)


def _draw(axes: Axes, point: Point) -> Text:
    text = axes.text(
        0,
        0,
        point.name,
        color=point.mark.colour.light,
        weight="bold" if point.is_main else "normal",
        fontsize=11.0 if point.is_main else 9.5,
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


def _draw_leader(axes: Axes, point: Point, text: Text) -> None:
    """Connect a label with its point by a thin line if they are far apart."""
    place = axes.transData.transform(point.place)
    end = _nearest(text, place)
    if math.dist(place, end) >= _LEADER_FROM:
        (x, y), (end_x, end_y) = point.place, axes.transData.inverted().transform(end)
        axes.plot([x, end_x], [y, end_y], color=point.mark.colour.light, linewidth=0.7, alpha=0.7, zorder=1.5)


def _nearest(text: Text, point: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the point of a text's box that is nearest to a point, in pixels."""
    box = text.get_window_extent()
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
