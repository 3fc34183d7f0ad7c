import ast
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.image import imread
from matplotlib.text import Text

import cxrlt
from cxrlt.inputs.contact_sheet import LiteralFigure

NAMES = ("Cost $$", "a $5 b $x", "$x_1^2$", r"\alpha", "x_1^2", r"$\frac{1$")
PACKAGE = Path(cxrlt.__file__).parent


def drawn(figure: LiteralFigure) -> set[str]:
    figure.draw_without_rendering()
    texts = figure.findobj(Text)
    assert not any(text.get_parse_math() for text in texts)
    return {text.get_text() for text in texts}


@pytest.mark.parametrize("name", NAMES)
def test_every_text_of_a_figure_is_shown_as_it_is_written(name: str) -> None:
    figure = LiteralFigure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=f"{name} of the legend")
    axes.set_title(f"{name} of the title")
    axes.set_xlabel(f"{name} of the axis")
    axes.set_yticks([0, 1], [f"{name} of a tick", ""])
    axes.annotate(f"{name} of an arrow", (0, 0), (1, 1), arrowprops={})
    axes.legend()
    figure.suptitle(f"{name} of the figure")
    places = ("legend", "title", "axis", "tick", "arrow", "figure")
    texts = drawn(figure)
    assert all(any(text.startswith(name) and text.endswith(place) for text in texts) for place in places)


def test_a_name_is_drawn_literally(tmp_path: Path) -> None:
    for number, name in enumerate(("a $5$ b", "a 5 b")):
        figure = LiteralFigure(figsize=(1, 1))
        figure.text(0, 0.5, name)
        figure.savefig(tmp_path / f"{number}.png")
    with_signs, without = ((imread(tmp_path / f"{number}.png")[..., 0] < 0.5).sum() for number in (0, 1))
    assert with_signs > without


def test_letters_that_the_font_lacks_leave_no_warning(tmp_path: Path) -> None:
    figure = LiteralFigure()
    axes = figure.subplots()
    axes.set_title("结节 🫁")
    axes.set_yticks([0], ["肺"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").size


def test_the_settings_of_matplotlib_are_as_before() -> None:
    LiteralFigure().draw_without_rendering()
    assert rcParams["text.parse_math"]


def test_no_figure_is_made_in_another_way() -> None:
    calls = {
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Figure")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "matplotlib"
            and node.names[0].name == "pyplot"
        )
        or (isinstance(node, ast.Import) and node.names[0].name.startswith("matplotlib"))
    }
    assert calls == set()


def test_the_ticks_of_numbers_stay_numbers() -> None:
    figure = LiteralFigure()
    figure.subplots().plot(np.arange(5))
    assert {"0", "1", "2"} <= {text.partition(".")[0] for text in drawn(figure)}
