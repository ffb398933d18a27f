"""Conversion of matplotlib figures to SVG with the colours and fonts of the page and no external reference."""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mixcpt.report.figures import palette

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # keeps text selectable, searchable and readable by a screen reader
    "svg.hashsalt": "mixcpt",  # makes ids, and with them the file, deterministic
    "text.parse_math": False,  # shows dollar signs in names literally
    "font.family": "DejaVu Sans",  # wide: labels placed with it do not overlap in another font
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": palette.MUTED.light,
    "axes.labelcolor": palette.INK.light,
    "axes.titlecolor": palette.INK.light,
    "text.color": palette.INK.light,
    "xtick.color": palette.MUTED.light,
    "ytick.color": palette.MUTED.light,
    "grid.color": palette.RULE.light,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SVG = "http://www.w3.org/2000/svg"
_REFERENCE = re.compile(r"url\(#|^#")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True)
class Picture:
    """An inline figure with its caption, which is also its text alternative."""

    svg: Markup
    caption: str


@contextmanager
def drawing() -> Iterator[None]:
    """Use the project's style for all drawing inside the context."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # the reader's browser supplies glyphs that this font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches; call it inside `drawing()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def inline(figure: Figure, name: str, description: str) -> Markup:
    """Return the figure as an `<svg>` element for a page; `name` makes its ids unique on the page."""
    return Markup(ElementTree.tostring(_element(figure, name, description), encoding="unicode"))


def picture(figure: Figure, name: str, caption: str) -> Picture:
    """Return the figure with a caption that is also its text alternative."""
    return Picture(inline(figure, name, caption), caption)


def standalone(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an SVG file that follows the colour scheme of the reader's system."""
    root = _element(figure, name, description)
    root.set("xmlns", _SVG)
    background = ElementTree.Element("rect", width="100%", height="100%", rx="6", fill="var(--page)")
    style = ElementTree.Element("style")
    style.text = (
        f":root{{{palette.variables('light')}}}"
        f"@media (prefers-color-scheme: dark){{:root{{{palette.variables('dark')}}}}}"
    )
    root[1:1] = [style, background]
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def save(figure: Figure, path: Path, name: str, description: str) -> None:
    """Write the figure to `path`: `.svg`, or `.png` in the light form."""
    if path.suffix == ".svg":
        path.write_text(standalone(figure, name, description), encoding="utf-8")
    else:
        with drawing():
            figure.savefig(path, dpi=200, facecolor=palette.PAGE.light)


def _element(figure: Figure, name: str, description: str) -> ElementTree.Element:
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _attribute(key, value, name) for key, value in element.items()}
    for definitions in [child for child in root if child.find("style") is not None]:
        root.remove(definitions)  # a rule for `*` would style the whole page
    return _described(root, name, description)


def _attribute(key: str, value: str, name: str) -> str:
    """Return an attribute value with the colours and fonts of the page and ids that belong to this figure."""
    if key == "id":
        return f"{name}-{value}"
    if key == "d":
        return _NUMBER.sub(lambda number: f"{float(number.group()):.2f}", " ".join(value.split()))
    if key == "style":
        value = re.sub(r"font-family: [^;]*", f"font-family: {_FONTS}", value)
        for colour in palette.COLOURS:
            value = value.replace(f": {colour.light}", f": var(--{colour.name}, {colour.light})")
    return _REFERENCE.sub(rf"\g<0>{name}-", value)


def _described(root: ElementTree.Element, name: str, description: str) -> ElementTree.Element:
    """Add the description for screen readers and return the element."""
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-description"}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    text = ElementTree.Element("desc", id=f"{name}-description")
    text.text = description
    root.insert(0, text)
    return root
