import numpy as np
import pytest

from cxrlt.challenges import get_challenge
from cxrlt.phantom.anatomy import SIZE, Body, draw_normal_chest, pose_body, sample_body
from cxrlt.phantom.findings import CLASSES, DRIVERS, FINDINGS, Finding

pytestmark = pytest.mark.slow

DRAWN = [finding for finding in FINDINGS if finding.draw]
MIMICKED = [finding for finding in FINDINGS if finding.mimic]


def normal(view: str) -> tuple[Body, np.ndarray]:
    body = pose_body(sample_body(np.random.default_rng(0)), view, np.random.default_rng(1))
    return body, draw_normal_chest(body, np.random.default_rng(2))


def change(draw: object, view: str, c: float) -> np.ndarray:
    body, density = normal(view)
    return draw(density.copy(), body, c, np.random.default_rng(3)) - density


def test_there_is_one_row_per_class_in_the_order_of_the_challenge() -> None:
    assert get_challenge("demo").classes == CLASSES
    assert [finding.name for finding in FINDINGS if not finding.draw] == ["No Finding"]


def test_every_rare_class_has_a_mimic() -> None:
    rare = get_challenge("demo").groups["tail"]
    assert {finding.name for finding in MIMICKED} >= set(rare)


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name)
def test_causes_are_known_and_leave_room_for_chance(finding: Finding) -> None:
    assert set(finding.drivers) <= set(DRIVERS)
    assert sum(loading**2 for loading in finding.drivers.values()) < 1


@pytest.mark.parametrize("view", ["AP", "PA", "LATERAL"])
@pytest.mark.parametrize("finding", DRAWN, ids=lambda finding: finding.name)
def test_a_finding_is_seen_better_the_more_conspicuous_it_is(finding: Finding, view: str) -> None:
    faint, plain = (np.abs(change(finding.draw, view, c)).sum() for c in (0.1, 0.9))
    assert 0 < faint < 0.5 * plain
    assert np.abs(change(finding.draw, view, 0.9)).max() > 0.06


@pytest.mark.parametrize("finding", MIMICKED, ids=lambda finding: finding.name)
def test_a_mimic_changes_a_normal_image(finding: Finding) -> None:
    assert np.abs(change(finding.mimic, "PA", 1.0)).max() > 0.04


@pytest.mark.parametrize("view", ["AP", "PA", "LATERAL"])
def test_the_lungs_are_the_darkest_part_of_the_trunk(view: str) -> None:
    body, density = normal(view)
    abdomen = density[int(0.95 * SIZE), SIZE // 4 : -SIZE // 4]
    assert density[body.lungs_mask > 0.99].mean() < 0.75 * abdomen.mean()


def test_an_ap_view_widens_the_heart() -> None:
    patient = sample_body(np.random.default_rng(0))
    widths = {view: pose_body(patient, view, np.random.default_rng(1)).heart for view in ("AP", "PA")}
    assert widths["AP"] > widths["PA"]


def test_images_of_a_patient_are_similar() -> None:
    def outline(patient: int, image: int) -> np.ndarray:
        return pose_body(
            sample_body(np.random.default_rng(patient)), "PA", np.random.default_rng(image)
        ).lungs_mask

    same = np.abs(outline(0, 10) - outline(0, 11)).mean()
    other = np.mean([np.abs(outline(0, 10) - outline(n, 11)).mean() for n in range(1, 9)])
    assert same < other
