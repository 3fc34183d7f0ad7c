import pandas as pd
import pytest

from cxrlt.challenges.views import parse_view, parse_views


@pytest.mark.parametrize(
    "projection",
    [
        "AP", "PA", "ap", " PA ", "AP AXIAL", "PA LLD", "AP LLD", "AP RLD", "PA RLD", "AP_horizontal",
        "Frontal", "antero-posterior", "postero-anterior", "ANTEROPOSTERIOR", "AP left lateral decubitus",
    ],
)  # fmt: skip
def test_a_beam_along_the_body_axis_is_frontal(projection):
    assert parse_view(projection) == "frontal"


@pytest.mark.parametrize(
    "projection", ["LATERAL", "LL", "RL", "L", "left lateral", "XTABLE LATERAL", "Lateral"]
)
def test_a_beam_from_the_side_is_lateral(projection):
    assert parse_view(projection) == "lateral"


@pytest.mark.parametrize(
    "projection", ["", "LAO", "RAO", "LPO", "left anterior oblique", "SWIMMERS", "L5 S1"]
)
def test_blanks_obliques_and_the_rest_are_unknown(projection):
    assert parse_view(projection) == "unknown"


def test_the_second_column_is_used_where_the_first_is_blank():
    position = pd.Series(["", "AP", "", "LAO"])
    meaning = pd.Series(["lateral", "lateral", "", "lateral"])
    assert parse_views(position, meaning).tolist() == ["lateral", "frontal", "unknown", "unknown"]
