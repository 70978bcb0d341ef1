"""Figures: what is drawn, read back from matplotlib's objects, and SVG that is fit to stand inside a page."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from coadvise.reports.plots.accuracy import DotRow, Level, dot_plot, learning_curves, run_curves
from coadvise.reports.plots.disagreement import Disagreement, disagreement_figure, shown_classes
from coadvise.reports.plots.headroom import Panel, Point, pairs_figure
from coadvise.reports.plots.learning_rate import range_test_figure
from coadvise.reports.plots.narrow import narrow
from coadvise.reports.plots.similarity import KlMap, kl_maps
from coadvise.reports.plots.slope import Dot, slope_figure
from coadvise.reports.plots.style import draw, kind_styles, style
from coadvise.reports.plots.tokens import looks_figure
from coadvise.significance import summarise


def image(classes: int, label: int, outputs: dict[str, list[float]] | None = None) -> Disagreement:
    png = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(png, "PNG")
    return Disagreement(png.getvalue(), 3, label, outputs or {"m": np.eye(classes)[0].tolist()})


def test_svg_is_inline_unique_and_follows_the_page() -> None:
    before = dict(matplotlib.rcParams)
    rows = [DotRow("a & <b> $x$ _y", [0.8, 0.9], summarise([0.8, 0.9]), style(1))]
    one, two = (draw(name, 'say "<hi>"', lambda: dot_plot(rows, [("t", 0.99)])) for name in ("one", "two"))
    assert dict(matplotlib.rcParams) == before, "drawing must leave no global state behind"
    assert one.svg.startswith("<svg") and "var(--ink)" in one.svg and "DOCTYPE" not in one.svg
    broad, narrow = ElementTree.fromstring(f"<div>{one.svg}</div>")
    for root in (broad, narrow):
        assert root.get("aria-label") == 'say "<hi>"' and root.get("role") == "img"
        assert "a & <b> $x$ _y" in "".join(root.itertext())
    width, small = (float(root.get("viewBox", "").split()[2]) for root in (broad, narrow))
    assert small < 0.6 * width
    ids = [e.get("id") for d in (one, two) for e in ElementTree.fromstring(f"<div>{d.svg}</div>").iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert Image.open(io.BytesIO(one.png)).size[0] > 600
    assert draw("one", 'say "<hi>"', lambda: dot_plot(rows, [("t", 0.99)])).svg == one.svg


def test_a_kind_looks_the_same_in_every_figure_of_teachers() -> None:
    kinds = ("inv", "conv + inv", "conv")
    slope = slope_figure([Dot(kind, kind, place, place) for place, kind in enumerate(kinds)], (1.0, 0.0)).axes[0]
    points = [Point(kind, kind, 0.1 * place, 1.0, 0.9, 1.1) for place, kind in enumerate(reversed(kinds))]
    pairs = pairs_figure([Panel("title", "points", points)]).axes[0]
    arms = {"conv + inv": style(0), "conv": style(1), "inv": style(2)}  # in the order of the experiment of kinds
    drawn = {line.get_label(): line for line in slope.lines if line.get_label() in kinds}
    bars = {bar.get_label(): bar.lines[0] for bar in pairs.containers}
    for kind, look in arms.items():
        assert drawn[kind].get_color() == look.color == bars[kind].get_color()
        assert drawn[kind].get_marker() == look.marker == bars[kind].get_marker()
    assert len(set(kind_styles(["a + b", "a", "b", "b + c", "c", "a + c"]).values())) == 6
    assert kind_styles(["conv", "inv"]) == {"conv": style(1), "inv": style(2)}


def test_coordinates_that_differ_in_their_last_bits_make_the_same_svg() -> None:
    """As those do that a constrained layout finds: it depends on where objects lie in memory."""

    def framed(left: float) -> Figure:
        figure = Figure(figsize=(4, 3))
        figure.add_axes((left, 0.1, 0.7, 0.8)).plot([0, 1], [0, 1])
        return figure

    same, near = (draw("one", "a line", lambda left=left: framed(left)).svg for left in (0.2, 0.2 + 1e-12))
    assert same == near and "clip0" in same


def test_on_a_narrow_screen_panels_stand_below_each_other_and_nothing_is_lost() -> None:
    curve = [(1.0, 0.1), (2.0, 0.3)]
    figure = learning_curves([(name, [curve], style(i)) for i, name in enumerate(("first", "second", "third"))])
    figure.savefig(io.BytesIO())
    lines = [len(axes.lines) for axes in figure.axes]
    assert narrow(figure)
    figure.savefig(io.BytesIO())
    whole, late = (axes.get_position() for axes in figure.axes)
    assert late.y1 < whole.y0 and abs(late.x0 - whole.x0) < 1e-6 and min(whole.width, late.width) > 0.7
    assert [len(axes.lines) for axes in figure.axes] == lines
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second", "third"]
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert len({round(box.x0) for box in boxes}) == 1, "one below the other"
    assert not narrow(Figure((4, 3))) and narrow(Figure((8, 3))) is False, "nothing in it"


def test_dots_lie_at_the_accuracies_and_no_interval_beyond_100() -> None:
    rows = [DotRow("a", [0.97, 1.0], summarise([0.97, 1.0]), style(0))]
    lines = dot_plot(rows, []).axes[0].get_lines()
    bar, dots, mean = (np.asarray(line.get_xdata(), dtype=float) for line in lines)
    assert bar.max() == 100.0
    assert dots == pytest.approx([97, 100]) and mean == pytest.approx([98.5])


def test_mean_curve_only_where_all_seeds_have_a_value() -> None:
    curves = [[(1, 0.1), (2, 0.3), (4, 0.8)], [(1, 0.3), (2, 0.5)]]
    figure = learning_curves([("a", curves, style(1))])
    thin, _, mean = figure.axes[0].get_lines()
    assert list(thin.get_xdata()) == [1, 2, 4]
    assert list(mean.get_xdata()) == [1, 2] and list(mean.get_ydata()) == pytest.approx([20, 40])


def test_teachers_and_chance_are_lines_across_the_curves_of_a_run() -> None:
    curve = [(1, 0.2), (2, 0.4)]
    levels = [Level("teacher conv", 0.918), Level("chance", 0.1)]
    axes = run_curves({}, [], {"class token": curve}, levels=levels).axes[-1]
    flat = [line for line in axes.get_lines() if len(set(line.get_ydata())) == 1]  # type: ignore[arg-type]
    assert [line.get_ydata()[0] for line in flat] == pytest.approx([91.8, 10.0])  # type: ignore[index]
    low, high = axes.get_ylim()
    assert low < 10 and 91.8 < high <= 102
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["class token", "teacher conv 91.8", "chance 10.0"]


def test_ticks_of_a_run_of_one_log_line_are_whole_steps() -> None:
    figure = run_curves({"class token": [(12, 2.3)]}, [(12, 1e-3)], {"class token": [(1, 0.1)]})
    figure.draw_without_rendering()
    shown = [float(x) for axes in figure.axes[1:] for x in axes.get_xticks()]
    assert shown and all(x == int(x) for x in shown)


@pytest.mark.parametrize(("tokens", "look"), [(2, "small"), (4, "small"), (5, "only")])
def test_where_tokens_look_has_a_row_for_each_image_and_fits_a_telephone(tokens: int, look: str) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 12)).save(jpeg, "JPEG")
    maps = {f"t{i} token": np.eye(4) for i in range(tokens)}
    rows = [(jpeg.getvalue(), "surest hit\ncat ✓", maps)] * 2
    figure = looks_figure(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes[: 1 + tokens]] == ["surest hit\ncat ✓", *maps]
    assert len(figure.axes) == 2 * (1 + tokens)
    assert f'class="plot {look}"' in draw("looks", "", lambda: looks_figure(rows)).svg


def test_kl_map_frames_the_nearest_token_of_each_complete_column() -> None:
    one = KlMap("t", ["class", "conv"], ["CNN", "INN"], [[0.3, None], [0.2, 0.1]])
    axes = kl_maps([one]).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.100", "0.200", "0.300"]
    assert [(round(p.get_x(), 2), round(p.get_y(), 2)) for p in axes.patches] == [(0.03, 1.06)]


def test_cells_of_kl_maps_have_one_size() -> None:
    small = KlMap("t", ["class", "conv"], ["CNN"], [[0.3], [0.2]])
    large = KlMap("u", ["class", "conv", "inv", "mean"], ["CNN", "INN", "x"], [[0.1, 0.2, 0.3]] * 4)
    figure = kl_maps([small, large])
    figure.draw_without_rendering()
    sizes = []
    for axes in figure.axes:
        (left, bottom), (right, top) = axes.transData.transform([(0, 1), (1, 0)])
        sizes += [right - left, top - bottom]
    assert sizes[:2] == pytest.approx(sizes[2:], rel=0.01)


def test_many_classes_show_the_true_the_predicted_and_the_likeliest() -> None:
    shares = {m: np.full(20, 0.01).tolist() for m in ("a", "b")}
    for model, c, p in (("a", 7, 0.5), ("a", 11, 0.3), ("b", 2, 0.6), ("b", 13, 0.2)):
        shares[model][c] = p
    assert shown_classes(image(20, 19, shares)) == [2, 7, 11, 13, 19]
    assert shown_classes(image(10, 3)) == list(range(10))


def test_every_model_gets_its_bars_and_its_verdict() -> None:
    outputs = {"a": [0.7, 0.2, 0.1], "b": [0.1, 0.8, 0.1]}
    figure = disagreement_figure([image(3, 0, outputs), image(3, 1, {"a": [0.2, 0.5, 0.3]})], ["x", "y", "z"])
    texts = ["".join(t.get_text() for t in axes.texts) for axes in figure.axes]
    assert texts == ["", "✓ 0.70", "✗ 0.80", "", "✓ 0.50", ""]
    widths = [bar.get_width() for bar in figure.axes[2].patches if bar.get_height() < 0.8]
    assert widths == pytest.approx(outputs["b"])


def test_styles_differ_for_any_number_of_arms() -> None:
    assert len({style(i) for i in range(31)}) == 31


def test_a_picture_survives_the_way_into_the_page() -> None:
    drawing = draw("d", "alt", lambda: disagreement_figure([image(3, 0)], ["x", "y", "z"]))
    assert "data:image/png;base64," in drawing.svg


@pytest.mark.parametrize("empty", [lambda: run_curves({}, [], {}), lambda: learning_curves([])])
def test_nothing_to_draw_is_no_error(empty) -> None:  # type: ignore[no-untyped-def]
    assert draw("e", "nothing", empty).png


def test_an_explosion_does_not_press_the_losses_of_a_range_test_flat() -> None:
    rates = np.geomspace(1e-5, 1, 50).tolist()
    losses = [2.0 - 0.02 * i for i in range(45)] + [1.5, 5.0, 50.0, 500.0, 5000.0]
    axes = range_test_figure(rates, losses, losses, {"suggested": 1e-3, "turn": 1e-2}, "optim.lr").axes[0]
    dots, curve, *marked = axes.get_lines()
    assert list(dots.get_ydata()) == list(curve.get_ydata()) == losses
    assert [next(iter(line.get_xdata())) for line in marked] == [1e-3, 1e-2] and axes.get_xscale() == "log"
    bottom, top = axes.get_ylim()
    assert bottom < 1.1 and 2.0 < top < 3.0
    axes.figure.draw_without_rendering()
    assert {"0.0001", "0.001", "1"} <= {text.get_text() for text in axes.get_xticklabels()}


@pytest.mark.parametrize("said", ["Glyph 26085 missing from font(s)", 'Creating legend with loc="best" can be slow'])
def test_what_matplotlib_says_of_itself_is_not_shown(said: str) -> None:
    def build() -> Figure:
        warnings.warn(said, UserWarning, stacklevel=1)
        return Figure()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw("x", "", build)
