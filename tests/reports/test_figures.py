import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib.image import imread
from matplotlib.text import Text

from cxrlt.metrics import Interval, auroc, average_precision, has_both_values
from cxrlt.reports.figures import (
    class_counts_figure,
    classes_by_count,
    co_occurrence_figure,
    display_name,
    save_figure,
)
from cxrlt.reports.loss_figures import (
    class_metric_figure,
    confusion_figure,
    differences_figure,
    loss_curves_figure,
    mean_probability_figure,
    precision_recall_curve,
    precision_recall_figure,
    roc_curve,
    roc_figure,
    sensitivity_figure,
)
from cxrlt.reports.palette import COLOURS, GROUP_COLOURS, LOSS_COLOURS, assign_styles

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
LABELS = pd.DataFrame(
    {"Mass": [1, 1, 0, 0], "Lung_Opacity": [1, 1, 1, 0], "Never": [0.0] * 4, "No Finding": [0, 0, 0, 1]}
)
SCORES = {
    name: pd.DataFrame(RNG.normal(size=LABELS.shape), columns=LABELS.columns) for name in ("bce", "ral")
}


def text_of(figure):
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def line_colours(axes):
    return [colors.to_hex(line.get_color()) for line in axes.lines]


def test_classes_are_sorted_by_frequency():
    assert classes_by_count(LABELS) == ["Lung_Opacity", "Mass", "No Finding", "Never"]


def test_counts_are_drawn_on_a_logarithmic_scale_in_the_colours_of_their_groups():
    groups = {"head": ["Lung_Opacity"], "medium": ["Mass", "No Finding"], "tail": ["Never"]}
    bars, findings = class_counts_figure(LABELS, groups).axes
    assert bars.get_xscale() == "log"
    widths = {colors.to_hex(bar.get_facecolor()): bar.get_width() for bar in bars.patches}
    assert widths[GROUP_COLOURS["head"].lower()] == 3
    assert bars.get_yticklabels()[0].get_text() == "Lung Opacity"
    assert [bar.get_height() for bar in findings.patches] == [1, 1, 2]
    assert findings.get_xticklabels()[0].get_text() == "no finding"


def test_co_occurrence_is_the_share_of_a_rows_images():
    (image,) = co_occurrence_figure(LABELS).axes[0].images
    share = np.ma.filled(image.get_array(), np.nan)
    assert share[0, 1] == pytest.approx(2 / 3)  # of three opacities two have a mass
    assert share[1, 0] == 1
    assert np.isnan(np.diag(share)).all()


def test_every_class_with_both_values_has_a_panel_with_a_line_per_loss():
    for figure in (roc_figure(LABELS, SCORES), precision_recall_figure(LABELS, SCORES)):
        assert titles(figure) == ["Lung Opacity (3)", "Mass (2)", "No Finding (1)"]
        for axes in figure.axes[:3]:
            assert line_colours(axes)[1:] == [LOSS_COLOURS["bce"].lower(), LOSS_COLOURS["ral"].lower()]


def test_curves_have_the_area_of_their_metric():
    positive, score = RNG.random(300) < 0.2, RNG.normal(size=300).round(1)
    x, y = roc_curve(positive, score)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(
        auroc(positive[:, None], score[:, None])[0]
    )
    recall, precision = precision_recall_curve(positive, score)
    area = np.sum(np.diff(np.append(0, recall)) * precision)
    assert area == pytest.approx(average_precision(positive[:, None], score[:, None])[0])


def test_losses_are_drawn_by_sign_and_class():
    p = np.linspace(0.1, 0.9, 9)
    curve = (-np.log(p), -np.log1p(-p))
    figure = loss_curves_figure(p, {"bce": {"Mass": curve, "Rare": curve}}, {"Mass": "Mass", "Rare": "Rare"})
    positive, rare, negative, _ = figure.axes
    assert len(positive.lines) == 1
    np.testing.assert_allclose(positive.lines[0].get_ydata(), curve[0])
    np.testing.assert_allclose(negative.lines[0].get_ydata(), curve[1])
    assert (positive.get_title(), rare.get_title(), negative.get_title()) == ("Mass", "Rare", "")


def test_a_loss_that_covers_another_is_dashed():
    p = np.linspace(0.1, 0.9, 9)
    curves = {
        name: {"Mass": (-np.log(p), p * factor)} for name, factor in (("asl", 1), ("apl", 1), ("ral", 2))
    }
    positive, negative = loss_curves_figure(p, curves, {"Mass": "Mass"}).axes
    assert [line.is_dashed() for line in positive.lines] == [False, True, True]
    assert [line.is_dashed() for line in negative.lines] == [False, True, False]


def test_mean_probabilities_are_plotted_at_their_class():
    frame = pd.DataFrame({"positives": [0.7, 0.6], "negatives": [0.2, 0.1]}, index=["Mass", "Rare"])
    (axes,) = mean_probability_figure({"bce": frame, "ral": frame}).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.7, 0.6], [0.2, 0.1]] * 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Mass", "Rare"]


def test_the_metric_of_a_class_has_its_interval():
    frame = pd.DataFrame({"F1": [0.5, 0.2], "F1 low": [0.4, 0.1], "F1 high": [0.7, 0.6]}, ["Mass", "Rare"])
    (axes,) = class_metric_figure({"ce": frame, "lmf": frame + 0.1}, "F1").axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 0.2], pytest.approx([0.6, 0.3])]
    low, high = np.array(axes.collections[-1].get_segments())[:, :, 0].T
    assert [*low] == pytest.approx([0.5, 0.2])
    assert [*high] == pytest.approx([0.8, 0.7])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Mass", "Rare"]


def test_a_confusion_matrix_shows_the_shares_of_each_row_and_nothing_for_a_class_without_images():
    shares = pd.DataFrame([[0.75, 0.25], [np.nan, np.nan]], ["Mass", "Rare"], ["Mass", "Rare"])
    axes, other = confusion_figure({"ce": shares, "lmf": shares}).axes
    assert (axes.get_title(), other.get_title()) == ("ce", "lmf")
    assert [(*text.get_position(), text.get_text()) for text in axes.texts] == [(0, 0, "75"), (1, 0, "25")]
    (image,) = axes.images
    assert np.ma.filled(image.get_array(), -1).tolist() == [[0.75, 0.25], [-1, -1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Mass", "Rare"]


def test_differences_and_settings_show_every_row():
    interval = Interval(0.01, -0.02, 0.03, 0)
    (axes,) = differences_figure({"asl": interval, "ral": interval}, "mAP", "bce").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["asl", "ral"]
    frame = pd.DataFrame({"mAP": [0.2, 0.3], "gap": [0.1, 0.1]}, index=["paper", "clip0"])
    panels = sensitivity_figure({"with": frame, "without": frame}).axes
    assert [axes.get_xlabel() for axes in panels] == ["mAP", "gap"]


def test_a_loss_has_a_unique_colour_in_all_figures():
    for names in (["bce", "ral"], ["ral", "class_aware", "bce", "asl"], ["hill", "ral_single", "ral"]):
        chosen = assign_styles(names)
        assert chosen["ral"] == (LOSS_COLOURS["ral"], "-")
        assert len(set(chosen.values())) == len(names)
    assert len(set(assign_styles([f"variant {n}" for n in range(14)]).values())) == 14
    assert not set(GROUP_COLOURS.values()) & set(COLOURS)


def test_a_figure_is_a_png_of_150_dots_per_inch(tmp_path):
    figure = co_occurrence_figure(LABELS)
    save_figure(figure, tmp_path / "figures" / "co.png")
    height, width = imread(tmp_path / "figures" / "co.png").shape[:2]
    assert (width, height) == pytest.approx(figure.get_size_inches() * 150, abs=1)


def test_differences_use_the_given_colours():
    differences = {"gem": Interval(0.1, 0.0, 0.2, 0), "flip": Interval(0.0, -0.1, 0.1, 0)}
    figure = differences_figure(differences, "mAP", "base", {"gem": COLOURS[3], "flip": COLOURS[7]})
    drawn = line_colours(figure.axes[0])
    assert {COLOURS[3].lower(), COLOURS[7].lower()} <= set(drawn)


NAMES = ["Cost $$", "a $5 b $x", r"$\alpha", "x_1^2", "结节 🫁", "<b>"]


def all_figures(names):
    """Return every figure, with these names for classes, runs, losses, settings, metrics and panels."""
    rng = np.random.default_rng(1)
    labels = pd.DataFrame(rng.random((40, len(names))) < 0.4, columns=names).astype(float)
    scores = {name: pd.DataFrame(rng.normal(size=labels.shape), columns=names) for name in names[:4]}
    p, interval = np.linspace(0.1, 0.9, 9), Interval(0.01, -0.02, 0.03, 0)
    curves = {loss: {name: (-np.log(p), -np.log1p(-p)) for name in names} for loss in names}
    means = pd.DataFrame({"positives": 0.7, "negatives": 0.2}, index=names)
    settings = pd.DataFrame(0.2, index=names, columns=names[:2])
    classes = pd.DataFrame(0.2, index=names, columns=["F1", "F1 low", "F1 high"])
    shares = pd.DataFrame(0.2, index=names, columns=names)
    return [
        (class_counts_figure(labels, {"head": names}), names),
        (co_occurrence_figure(labels), names),
        (loss_curves_figure(p, curves, {name: name for name in names}), names),
        (mean_probability_figure(dict.fromkeys(names[:2], means)), names),
        (class_metric_figure(dict.fromkeys(names[:2], classes), "F1"), names),
        (confusion_figure(dict.fromkeys(names[:3], shares)), names),
        (roc_figure(labels, scores), names),
        (precision_recall_figure(labels, scores), names),
        (differences_figure(dict.fromkeys(names[1:], interval), "mAP", names[0]), names),
        (sensitivity_figure(dict.fromkeys(names[:2], settings)), names),
    ]


@pytest.mark.filterwarnings("error")
def test_figures_show_names_without_mathtext(tmp_path):
    for number, (figure, names) in enumerate(all_figures(NAMES)):
        save_figure(figure, tmp_path / f"{number}.png")
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
        shown = text_of(figure)
        assert all(name in shown or display_name(name) in shown for name in names)
        assert "mathdefault" not in shown


def test_logarithmic_axes_have_powers_of_ten():
    p = np.linspace(0.001, 0.999, 99)
    figure = loss_curves_figure(p, {"bce": {"Mass": (-np.log(p), -np.log1p(-p))}}, {"Mass": "Mass"})
    figure.draw_without_rendering()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"10⁻²", "10⁻¹", "10⁰"} <= set(shown)


def test_with_very_many_classes_figures_show_the_most_frequent_and_a_note():
    rng, names = np.random.default_rng(0), [f"class {n}" for n in range(1200)]
    labels = pd.DataFrame(rng.random((30, 1200)) < np.linspace(1.3, 0.1, 1200), columns=names).astype(float)
    scores = {"bce": pd.DataFrame(rng.normal(size=labels.shape), columns=names)}
    means = pd.DataFrame({"positives": 0.7, "negatives": 0.2}, index=classes_by_count(labels))
    figures = [
        class_counts_figure(labels, {"head": names}),
        co_occurrence_figure(labels),
        mean_probability_figure({"bce": means}),
        class_metric_figure({"bce": means.assign(**{"F1": 0.2, "F1 low": 0.1, "F1 high": 0.3})}, "F1"),
        confusion_figure({"ce": pd.DataFrame(0.2, index=means.index, columns=means.index)}),
        roc_figure(labels, scores),
    ]
    for figure in figures:
        assert max(figure.get_size_inches()) < 30
        (note,) = re.findall(r"the 60 most frequent of ([\d,]+) classes", text_of(figure))
        assert note == (f"{sum(has_both_values(labels)):,}" if figure is figures[-1] else "1,200")
    ticks = [label.get_text() for label in figures[1].axes[0].get_yticklabels()]
    assert ticks == classes_by_count(labels)[:60]
