"""Colours of figures and pages, in a light and a dark form, distinguishable by colour-blind readers.

The hues follow Okabe and Ito, "Color universal design" (2008), with the lightness changed until text is readable on
both backgrounds. Figures are drawn in the light form; `svg.py` turns each colour into a CSS variable, so that the
reader's browser chooses between light and dark.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """Colour of one role as `#rrggbb`, for light and for dark pages."""

    name: str
    light: str
    dark: str


PAGE = Colour("page", "#fdfdfc", "#14171b")
PANEL = Colour("panel", "#f4f5f6", "#1c2126")
INK = Colour("ink", "#1b1f24", "#e9edf1")
MUTED = Colour("muted", "#59626c", "#a3adb8")
RULE = Colour("rule", "#d9dde2", "#363d45")
BASE = Colour("base", "#4d5660", "#b6c0ca")
GOOD = Colour("good", "#0a6c50", "#4fd0a7")
BAD = Colour("bad", "#a8330b", "#ff9870")

ACCENTS = (
    Colour("accent-1", "#0a5fae", "#62b4ff"),
    Colour("accent-2", "#b0490a", "#f5a05a"),
    Colour("accent-3", "#00755f", "#3fd3a9"),
    Colour("accent-4", "#93368c", "#ee9fe6"),
    Colour("accent-5", "#6f5a00", "#e8d24f"),
    Colour("accent-6", "#2f3d9c", "#aab4ff"),
)
SOURCES = (*ACCENTS[2:], *ACCENTS[:2])
"""Colours of sources, in a different order than the colours of runs, so that a source does not look like a run."""

COLOURS = (PAGE, PANEL, INK, MUTED, RULE, BASE, GOOD, BAD, *ACCENTS)

_SHAPES = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"))


@dataclass(frozen=True)
class Mark:
    """Colour and shape of a model in the figures."""

    colour: Colour
    shape: str
    """Marker in matplotlib's notation."""
    glyph: str
    """Same shape as a character."""


BASE_MARK = Mark(BASE, "X", "✖")


def run_marks(num_runs: int) -> list[Mark]:
    """Return a mark for each run; the last run, the subject of the page, has the same mark on every page."""
    return [Mark(ACCENTS[place % len(ACCENTS)], *_SHAPES[place % len(_SHAPES)]) for place in reversed(range(num_runs))]


def variables(form: str) -> str:
    """Return the CSS declarations of all colours; `form` is `light` or `dark`."""
    return "".join(f"--{colour.name}:{getattr(colour, form)};" for colour in COLOURS)
