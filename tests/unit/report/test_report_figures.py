"""Figures of the report: readable near points, in both colour schemes and for colour-blind readers; escaped names."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mixcpt.evaluate import TaskDelta
from mixcpt.report.figures import palette, svg
from mixcpt.report.figures.bars import draw_bars
from mixcpt.report.figures.curves import describe_curves, draw_curves
from mixcpt.report.figures.tradeoff import draw_tradeoff, save_tradeoff
from mixcpt.report.sections.provenance import Cost
from mixcpt.report.sections.training import by_source
from mixcpt.report.summary import ModelSummary, RunSummary, Summary, TaskValue

HOSTILE = "<script>alert('$x$')</script>"


def value(
    task: str, group: str, now: float, base: float, *, width: float = 0.04, metric: str = "accuracy"
) -> TaskValue:
    higher = metric == "accuracy"
    delta = now - base
    change = TaskDelta(
        task=task,
        group=group,
        metric=metric,
        higher_is_better=higher,
        n=100,
        passages=100,
        chance=0.0,
        base=base,
        value=now,
        delta=delta,
        low=delta - width,
        high=delta + width,
        p_value=0.5,
        p_holm=0.5,
        detectable=0.1,
        gained=1,
        lost=1,
    )
    return TaskValue(
        task=task, group=group, metric=metric, higher_is_better=higher, n=100, value=now, stderr=0.01, change=change
    )


def model(run: str, role: str, learned: TaskValue, kept: TaskValue) -> ModelSummary:
    return ModelSummary(run=run, role=role, form="chat", tasks={"learned": learned, "kept": kept})


def run_of(name: str, final: ModelSummary, pretrained: ModelSummary | None = None) -> RunSummary:
    cost = Cost(stage="total", seconds=1.0)
    return RunSummary(name=name, method="lssd", pretrained=pretrained, final=final, stages=[], cost=cost)


def summary_of_runs(base: ModelSummary, runs: Sequence[RunSummary]) -> Summary:
    return Summary(
        base_name="tiny",
        base=base,
        runs=runs,
        headline_domain="learned",
        headline_general="kept",
        confidence=0.95,
        pairs=[],
    )


def summary_of(
    finals: dict[str, tuple[float, float]], *, pretrained: tuple[float, float] | None = None, metric: str = "accuracy"
) -> Summary:
    """Return runs by name with (learned, kept); the base is at (0.05, 0.95)."""

    def at(run: str, role: str, place: tuple[float, float]) -> ModelSummary:
        learned = value("learned", "domain", place[0], 0.05, metric=metric)
        kept = value("kept", "general", place[1], 0.95, metric=metric)
        return model(run, role, learned, kept)

    runs = [
        run_of(name, at(name, "final", place), at(name, "pretrained", pretrained) if pretrained else None)
        for name, place in finals.items()
    ]
    return summary_of_runs(at("", "base", (0.05, 0.95)), runs)


def boxes(texts: Sequence[Text]) -> dict[str, tuple[float, float, float, float]]:
    return {text.get_text(): tuple(text.get_window_extent().extents) for text in texts}  # type: ignore[misc]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def assert_readable(figure: Figure, names: Sequence[str]) -> None:
    """Assert that every name is shown inside the figure and no two texts of the axes overlap."""
    (axes,) = figure.axes
    shown = boxes([text for text in axes.texts if text.get_text()])
    assert set(names) <= set(shown)
    assert_apart_and_inside(figure, shown)


def assert_apart_and_inside(figure: Figure, shown: dict[str, tuple[float, float, float, float]]) -> None:
    for (first, a), (second, b) in combinations(shown.items(), 2):
        assert overlap(a, b) == 0, f"{first!r} covers {second!r}"
    for name, (left, bottom, right, top) in shown.items():
        assert left >= 0 and bottom >= 0 and right <= figure.bbox.width and top <= figure.bbox.height, name


NEAR = {
    "same place in the middle": {"alpha": (0.5, 0.5), "beta": (0.5, 0.5), "gamma": (0.5, 0.5)},
    "same place in the best corner": {"traditional": (1.0, 1.0), "mixcpt": (1.0, 1.0), "third-run": (0.99, 1.0)},
    "all where the base is": {"alpha": (0.05, 0.95), "beta": (0.05, 0.95), "gamma": (0.06, 0.94)},
    "worst corner": {"alpha": (0.0, 0.0), "beta": (0.0, 0.01), "gamma": (0.01, 0.0)},
    "long names": {"a-very-long-name-of-a-run-1": (0.9, 0.9), "a-very-long-name-of-a-run-2": (0.9, 0.91)},
}


@pytest.mark.parametrize("finals", NEAR.values(), ids=NEAR.keys())
@pytest.mark.parametrize("pretrained", [None, (0.5, 0.5)])
def test_tradeoff_labels_of_near_points_do_not_overlap(
    finals: dict[str, tuple[float, float]], pretrained: tuple[float, float] | None
) -> None:
    figure = draw_tradeoff(summary_of(finals, pretrained=pretrained))
    assert_readable(figure, ["base", *finals])


def test_tradeoff_labels_keep_off_the_markers() -> None:
    figure = draw_tradeoff(summary_of(NEAR["same place in the middle"]))
    (axes,) = figure.axes
    x, y = axes.transData.transform((0.5, 0.5))
    for name, box in boxes(axes.texts).items():
        assert not name or overlap(box, (x - 4, y - 4, x + 4, y + 4)) == 0


def test_tradeoff_of_a_measure_where_less_is_better_still_points_up_and_right() -> None:
    summary = summary_of({"better": (0.02, 0.5)}, metric="bits_per_byte")
    (axes,) = draw_tradeoff(summary).axes
    base, better = axes.transData.transform([(0.95, 0.05), (0.5, 0.02)])
    assert better[0] > base[0] and better[1] > base[1]


def test_tradeoff_of_close_accuracies_is_not_squeezed_into_the_whole_scale() -> None:
    (axes,) = draw_tradeoff(summary_of({"close": (0.08, 0.93)})).axes
    assert axes.get_xlim()[1] - axes.get_xlim()[0] < 0.5


def test_tradeoff_gives_a_point_lost_the_length_of_a_point_gained() -> None:
    for finals in ({"one": (0.99, 0.85)}, {"one": (0.20, 0.94)}, {"one": (0.06, 0.70)}):
        (axes,) = draw_tradeoff(summary_of(finals)).axes
        assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))


def test_last_run_has_the_same_mark_for_any_number_of_runs() -> None:
    assert palette.run_marks(1)[-1] == palette.run_marks(2)[-1] == palette.run_marks(5)[-1]
    assert len(set(palette.run_marks(6))) == 6


def test_tradeoff_without_intervals_is_drawn() -> None:
    nan = math.nan
    lonely = TaskDelta(
        task="learned",
        group="domain",
        metric="accuracy",
        higher_is_better=True,
        n=1,
        passages=1,
        chance=0.0,
        base=0.05,
        value=1.0,
        delta=0.95,
        low=nan,
        high=nan,
        p_value=1.0,
        p_holm=1.0,
        detectable=nan,
        gained=1,
        lost=0,
    )
    learned = TaskValue(
        task="learned",
        group="domain",
        metric="accuracy",
        higher_is_better=True,
        n=1,
        value=1.0,
        stderr=None,
        change=lonely,
    )
    summary = summary_of({"one": (0.9, 0.9)})
    final = model("one", "final", learned, summary.runs[0].final.tasks["kept"])
    figure = draw_tradeoff(summary_of_runs(summary.base, [run_of("one", final)]))
    text = svg.inline(figure, "t", "")
    assert "nan" not in text.lower().replace("nano", "")


def test_saved_tradeoff_is_a_picture_file_with_both_colour_schemes(tmp_path: Path) -> None:
    summary = summary_of({"mixcpt": (0.9, 0.9)})
    save_tradeoff(summary, tmp_path / "t.svg")
    save_tradeoff(summary, tmp_path / "t.png")
    text = (tmp_path / "t.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text and "mixcpt" in "".join(root.itertext())
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_inline_svg_is_the_same_twice_and_shares_no_id_with_another() -> None:
    def ids(name: str) -> set[str]:
        text = svg.inline(draw_tradeoff(summary_of({"mixcpt": (0.9, 0.9)})), name, "description")
        return {element.attrib["id"] for element in ElementTree.fromstring(text).iter() if "id" in element.attrib}

    def drawn() -> str:
        return svg.inline(draw_tradeoff(summary_of({"mixcpt": (0.9, 0.9)})), "first", "description")

    assert drawn() == drawn()
    assert ids("first") and not ids("first") & ids("second")


def test_inline_svg_shows_hostile_names_as_text_and_names_nothing_outside() -> None:
    summary = summary_of({HOSTILE: (0.9, 0.9)})
    history = [{"step": 1, f"train/{HOSTILE.replace('/', '')}/ce": 1.0, "train/t0/ce": 2.0, "train/ce": 1.5}]
    series = by_source(history, "ce")
    for text in (
        svg.inline(draw_tradeoff(summary), "t", HOSTILE),
        svg.inline(draw_bars(summary, "accuracy"), "b", HOSTILE),
        svg.inline(draw_curves(series, HOSTILE, "nats", top=2.0, sources=list(series)), "c", HOSTILE),
    ):
        root = ElementTree.fromstring(text)
        assert not [element for element in root.iter() if "script" in str(element.tag)]
        assert "<script>alert('$x$')" in "".join(root.itertext()), "shown literally, including dollar signs"
        assert "http" not in text and "url(" not in text.replace("url(#", "")


def test_every_reference_inside_an_inline_svg_resolves() -> None:
    root = ElementTree.fromstring(
        svg.inline(draw_bars(summary_of({"mixcpt": (0.9, 0.9)}), "accuracy"), "b", "description")
    )
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    references = {element.attrib["href"].removeprefix("#") for element in root.iter() if "href" in element.attrib}
    assert references and references <= ids


@pytest.mark.parametrize(
    "ends", [[1.0] * 9, [3.0, 2.99, 2.98], [1.0, 1.05, 1.1, 2.0, 0.5, 0.52, 0.1, 0.0, 3.0], [1.0] * 30]
)
def test_curve_legend_is_inside_the_figure_without_overlaps_in_the_order_of_line_ends(ends: list[float]) -> None:
    names = {f"source-{index}": end for index, end in enumerate(ends)}
    history = [{"step": step, **{f"train/{name}/ce": end for name, end in names.items()}} for step in (1, 2, 3)]
    series = by_source([entry | {"train/ce": 1.5} for entry in history], "ce")
    figure = draw_curves(series, "Cross-entropy", "nats", top=3.0, sources=list(names))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert_apart_and_inside(figure, boxes(legend.get_texts()))
    expected = sorted({"all": 1.5, **names}.items(), key=lambda source: -source[1])
    assert [text.get_text() for text in legend.get_texts()] == [name for name, _ in expected]


def test_single_curve_has_no_legend() -> None:
    figure = draw_curves({"": [(1, 2.0), (2, 1.0)]}, "Loss", "nats", top=2.0, sources=[])
    assert figure.axes[0].get_legend() is None


def test_series_are_split_by_source_without_values_that_are_not_finite() -> None:
    history = [
        {"step": 10, "train/ce": 2.0, "train/a/ce": 1.0, "train/b/ce": 3.0, "train/a/kl": 0.5},
        {"step": 20, "train/ce": 1.0, "train/a/ce": 0.5, "train/b/ce": math.nan, "train/rewards/chosen": 1.0},
    ]
    series = by_source(history, "ce")
    assert series == {"": [(10, 2.0), (20, 1.0)], "a": [(10, 1.0), (20, 0.5)], "b": [(10, 3.0)]}
    assert describe_curves(series) == "First and last value: all 2 → 1; a 1 → 0.5; b 3 → 3."
    assert by_source([{"step": 1, "train/ce": 2.0, "train/a/ce": 2.0}], "ce") == {"a": [(1, 2.0)]}


def test_source_has_the_same_colour_in_every_figure() -> None:
    sources = ["a", "b", *(f"s{index}" for index in range(7))]

    def styles(*shown: str) -> dict[str, tuple[object, object]]:
        series = {source: [(1, 1.0), (2, 0.5)] for source in shown}
        (axes,) = draw_curves(series, "Loss", "nats", top=1.0, sources=sources).axes
        drawn = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        return dict(zip(shown, drawn, strict=True))

    everything = styles("", *sources)
    assert styles("b", "a") == {"b": everything["b"], "a": everything["a"]}
    assert len(set(everything.values())) == len(everything)


def test_long_history_keeps_its_first_and_last_point() -> None:
    history = [{"step": step, "train/loss": float(step)} for step in range(1, 5001)]
    (axes,) = draw_curves(by_source(history, "loss"), "Loss", "nats", top=5000.0, sources=[]).axes
    steps = list(axes.lines[0].get_xdata())
    assert steps[0] == 1 and steps[-1] == 5000 and len(steps) < 400


# Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB.
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.clip(XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089]), 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    first, second = sorted(float(XYZ[1] @ linear(colour)) for colour in (a, b))
    return (second + 0.05) / (first + 0.05)


@pytest.mark.parametrize("form", ["light", "dark"])
def test_text_colours_are_readable_on_page_and_panel(form: str) -> None:
    grounds = [getattr(ground, form) for ground in (palette.PAGE, palette.PANEL)]
    for colour in (palette.INK, palette.MUTED, palette.BASE, palette.GOOD, palette.BAD, *palette.ACCENTS):
        assert min(contrast(getattr(colour, form), ground) for ground in grounds) >= 4.5, colour.name


@pytest.mark.parametrize("form", ["light", "dark"])
@pytest.mark.parametrize("eye", [np.eye(3), PROTAN, DEUTAN], ids=["usual", "protanopia", "deuteranopia"])
def test_first_run_and_source_colours_differ_for_every_eye(form: str, eye: np.ndarray) -> None:
    for colours in (palette.ACCENTS[:3], palette.SOURCES[:3]):
        seen = [lab(eye @ linear(getattr(colour, form))) for colour in colours]
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 15
