"""Draw the findings on a radiograph, simplified to their main signs.

Every sign is a function (density, body, c, rng) -> density; densities are float32 (SIZE, SIZE). c in (0, 1]
is the conspicuity: the contrast of the sign is proportional to c. rng has the same state for all images of a
patient, so that a sign keeps its side and place in every view; so random numbers must be drawn before
anything that depends on the view.
"""

import numpy as np

from cxrlt.phantom.anatomy import (
    ABDOMEN,
    HEART,
    LEFT,
    LUNG,
    RIGHT,
    Body,
    bezier,
    ellipse,
    line_mask,
    polygon_mask,
    set_density,
    shifted,
    smooth_noise,
)

Density = np.ndarray
Rng = np.random.Generator


def irregular_blob(center: np.ndarray, radius: float, rng: Rng, blur: float = 3) -> np.ndarray:
    """Return the mask (SIZE, SIZE) of a blob with an irregular outline."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    reach = radius * rng.uniform(0.7, 1.2, (14, 1))
    return polygon_mask(center + reach * np.stack([np.cos(angle), np.sin(angle)], -1), blur)


def soft_ellipse(center: np.ndarray, radii: tuple[float, float], blur: float = 8) -> np.ndarray:
    """Return the mask (SIZE, SIZE) of a blurred ellipse."""
    return polygon_mask(ellipse(center, radii), blur)


def random_side(rng: Rng) -> int:
    """Return RIGHT or LEFT."""
    return int(rng.integers(2))


def diaphragm_line(body: Body, side: int, u: tuple[float, float], lift: float = 0.0) -> np.ndarray:
    """Return the line (24, 2) of the diaphragm from u[0] to u[1], moved up by `lift`."""
    return body.lung_point(side, np.linspace(*u, 24), 1.0) - (0, lift)


def atelectasis(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Plate-like densities in a lung base, and a raised diaphragm."""
    side, tilts = random_side(rng), rng.uniform(-0.045, 0.045, 3)
    plates = []
    for number, tilt in enumerate(tilts):
        v = 0.72 + 0.08 * number
        ends = body.lung_point(side, np.array([0.3, 0.85]), np.array([v - tilt, v + tilt]))
        plates.append(bezier(ends[0], ends.mean(0) - (0, 0.01), ends[1]))
    density = density + 0.26 * c * line_mask(plates, 4, 0.9) * body.lungs_mask
    raised = polygon_mask(body.lung_region(side, (0, 1), (0.93, 1.0)), 1.5)
    return set_density(density, raised * c * 0.8, HEART)


def calcification(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A bright curved line in the aortic arch."""
    x, y = body.aortic_knob
    if body.lateral:
        arc = bezier((x - 0.06, y + 0.06), (x + 0.02, y - 0.12), (x + 0.08, y + 0.08))
    else:
        arc = ellipse(body.aortic_knob, (0.045, 0.05))[24:56]
    return density + 0.6 * c * line_mask([arc], 3, 0.6)


def cardiomegaly(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """An enlarged heart."""
    growth = 1 + 0.55 * c
    return set_density(
        density, polygon_mask(body.heart_outline(growth), 2), np.maximum(density, HEART - 0.04)
    )


def consolidation(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A dense area with air bronchograms."""
    side, v = random_side(rng), rng.uniform(0.6, 0.75)
    center = body.lung_point(side, body.for_view(0.5, 0.7), v)
    density = set_density(density, irregular_blob(center, 0.13, rng, 3) * body.lungs_mask * c * 0.95, HEART)
    tips = center + 0.1 * rng.uniform(-1, 1, (4, 2))
    hilum = body.lung_point(side, body.for_view(0.2, 0.5), 0.5)
    airways = [bezier(hilum, (hilum + tip) / 2 + (0, 0.01), tip) for tip in tips]
    return density - 0.14 * c * line_mask(airways, 3, 0.8) * body.lungs_mask


def edema(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Bat-wing opacities and Kerley B lines on both sides."""
    for side in (RIGHT, LEFT):
        wing = soft_ellipse(body.lung_point(side, body.for_view(0.32, 0.5), 0.5), (0.1, 0.15), 10)
        density = density + body.for_view(0.22, 0.13) * c * wing * body.lungs_mask
        rows = rng.uniform(0.55, 0.98, 12)
        kerley = [body.lung_point(side, np.array([0.86, 0.99]), row) for row in rows]
        density = density + 0.26 * c * line_mask(kerley, 1, 0.5) * body.lungs_mask
    return density


def emphysema(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Dark lungs with flat diaphragms and bullae."""
    for side in (RIGHT, LEFT):
        ends = diaphragm_line(body, side, (0.1, 1))[[0, -1]]
        flat = bezier(ends[0], shifted(ends.mean(0), 0, 0.05), ends[1])
        below = polygon_mask(np.concatenate([diaphragm_line(body, side, (0.1, 1)), flat[::-1]]), 1.2)
        density = set_density(density, below * c * 0.8, LUNG + 0.05)
    density = set_density(density, body.lungs_mask * c * 0.6, LUNG - 0.05)
    for side in (RIGHT, LEFT):
        for u, v in rng.uniform((0.3, 0.1), (0.8, 0.35), (3, 2)):
            density = density + 0.1 * c * line_mask(
                [ellipse(body.lung_point(side, u, v), (0.035, 0.03))], 1, 0.6
            )
    return density


def wide_mediastinum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A wide upper mediastinum."""
    wide, top = body.mediastinum + 0.04 * c, body.apex
    shape = [(-0.6, -0.1), (0.6, -0.1), (1.0, 0.12), (0.95, 0.3), (0.5, 0.42), (-0.5, 0.42), (-0.95, 0.3)]
    outline = (body.center - 0.03 * body.lateral, top) + np.array([*shape, (-1.0, 0.12)]) * (wide + 0.01, 1)
    return set_density(
        density,
        polygon_mask(outline, 2.5) * body.for_view(1, 0.5 * c + 0.2),
        np.maximum(density, HEART - 0.05),
    )


def fibrosis(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A net of short lines in both lung bases."""
    net = []
    for side in (RIGHT, LEFT):
        knots = rng.uniform((0.2, 0.62), (0.97, 1.0), (60, 2))
        for u, v in knots:
            center, tilt = body.lung_point(side, u, v), rng.uniform(0, np.pi)
            arm = 0.02 * np.array([np.cos(tilt), np.sin(tilt)])
            net.append(np.array([center - arm, center + arm]))
    return density + 0.3 * c * line_mask(net, 1, 0.5) * body.lungs_mask


def fracture(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Displaced fractures of three neighbouring ribs."""
    side, first, where = random_side(rng), int(rng.integers(3, 5)), int(rng.integers(11, 13))
    for number in (first - 1, first, first + 1):
        rib = body.rib_line(side, number)
        inner, outer = rib[where - 3 : where + 1], shifted(rib[where : where + 4], 0, 0.022)
        density = density - 0.05 * c * line_mask([rib[where - 1 : where + 3]], 7, 0.8)
        density = density + 0.26 * c * line_mask([inner, outer], 6, 0.7)
        density = density - 0.2 * c * line_mask(
            [rib[where] + np.array([(-0.01, -0.02), (0.012, 0.035)])], 2, 0.6
        )
    return density


def hernia(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A hiatal hernia: a bubble with an air-fluid level behind the heart."""
    radius = rng.uniform(0.085, 0.1)
    center = (body.center + body.for_view(0.03, 0.09), body.dome - 0.06)
    x, y = center
    outline = ellipse(center, (radius * 1.15, radius))
    bubble = polygon_mask(outline, 1)
    level = polygon_mask(np.array([(x - 0.2, y), (x + 0.2, y), (x + 0.2, y + 0.2), (x - 0.2, y + 0.2)]), 0.8)
    density = density - 0.26 * c * bubble * (1 - level) + 0.06 * c * bubble * level
    return density + 0.22 * c * line_mask([outline], 3, 0.8)


def infiltration(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Several faint patches in one lung."""
    side = random_side(rng)
    for u, v in rng.uniform((0.25, 0.3), (0.8, 0.65), (7, 2)):
        patch = irregular_blob(body.lung_point(side, u, v), 0.04, rng, 2)
        density = density + 0.21 * c * patch * body.lungs_mask
    return density


def cavity(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A cavity: a ring with a dark centre."""
    side, u, w, v = random_side(rng), rng.uniform(0.45, 0.65), rng.uniform(0.4, 0.7), rng.uniform(0.22, 0.4)
    center = body.lung_point(side, body.for_view(u, w), v)
    density = density - 0.06 * c * soft_ellipse(center, (0.045, 0.045), 2)
    return density + 0.38 * c * line_mask([ellipse(center, (0.06, 0.056))], 6, 1.0)


def opacity(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A large faint opacity without a clear border."""
    side, u, v = random_side(rng), rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.8)
    veil = soft_ellipse(body.lung_point(side, body.for_view(u, 0.6), v), (0.12, 0.13), 8)
    return density + (0.2 + 0.02 * smooth_noise(rng, 20)) * c * veil * body.lungs_mask


def mass(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A large dense mass with spicules."""
    side, u, w, v = random_side(rng), rng.uniform(0.4, 0.65), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.5)
    center, radius = body.lung_point(side, body.for_view(u, w), v), rng.uniform(0.08, 0.1)
    rays = rng.uniform(0, 2 * np.pi, 12)
    spikes = [center + np.outer((0.8, 1.4), radius * np.array([np.cos(a), np.sin(a)])) for a in rays]
    return density + 0.42 * c * np.maximum(
        irregular_blob(center, radius, rng, 1.5), 0.4 * line_mask(spikes, 1, 0.6)
    )


def nodule(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Two to five small nodules."""
    for u, w, v in rng.uniform((0.3, 0.25, 0.2), (0.85, 0.8, 0.7), (int(rng.integers(2, 6)), 3)):
        side, radius = random_side(rng), rng.uniform(0.024, 0.034)
        density = density + 0.42 * c * soft_ellipse(
            body.lung_point(side, body.for_view(u, w), v), (radius, radius), 1.0
        )
    return density


def effusion(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Fluid with a meniscus at one base or both."""
    side, height = random_side(rng), 0.1 + 0.25 * c * rng.uniform(0.6, 1.2)
    sides = (RIGHT, LEFT) if rng.random() < 0.3 else (side,)
    u = np.linspace(0, 1, 24)
    for one in sides:
        meniscus = body.lung_point(one, u, 1 - height * (0.35 + body.for_view(1.3, 1.0) * u**5))
        pool = polygon_mask(np.concatenate([meniscus, diaphragm_line(body, one, (0, 1), -0.01)[::-1]]), 1.8)
        density = set_density(density, pool * min(1, 0.1 + c), np.maximum(density, ABDOMEN - 0.03))
    return density


def plaque(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Pleural plaques with calcification of the diaphragm."""
    for side in (RIGHT, LEFT):
        spots = rng.uniform((0.55, 0.35), (0.85, 0.8), (3, 2))
        for u, v in spots:
            leaf = irregular_blob(body.lung_point(side, u, v), 0.03, rng, 0.8)
            density = density + 0.3 * c * np.clip(leaf + 0.3 * smooth_noise(rng, 40) * leaf, 0, 1.5)
        density = density + 0.4 * c * line_mask([diaphragm_line(body, side, (0.35, 0.75), 0.004)], 3, 0.8)
    return density


def pleural_thickening(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A dense band along the chest wall and the apex of one lung."""
    side = random_side(rng)
    cap, band = (
        body.lung_region(side, (0, 1), (-0.02, 0.09)),
        body.lung_region(side, (0.87, 1.03), (0.05, 0.95)),
    )
    return set_density(density, np.maximum(polygon_mask(cap, 1.5), polygon_mask(band, 1.5)) * c, ABDOMEN)


def pneumomediastinum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Dark streaks along the heart and in the upper mediastinum."""
    heart = body.heart_outline(1.08) if not body.lateral else body.heart_outline(1.1)
    x, m, top = body.center, body.mediastinum, body.apex
    streaks = [heart[28:44] if not body.lateral else heart[20:44]]
    for sign in (-1, 1):
        for reach in (0.55, 1.15):
            start = (x + sign * m * reach, -0.02)
            streaks.append(bezier(start, (x + sign * m * reach * 1.3, 0.12), (x + sign * m * 1.1, top + 0.4)))
    rims = [shifted(streak, 0.012, 0) for streak in streaks]
    return density - 0.26 * c * line_mask(streaks, 3, 0.8) + 0.16 * c * line_mask(rims, 1, 0.6)


def pneumonia(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A granular opacity of one lobe."""
    side, start = random_side(rng), rng.uniform(0.48, 0.56)
    lobe = body.lung_region(
        side, body.for_view(0, 0.0) + np.array((0.0, body.for_view(0.95, 0.55))), (start, start + 0.3)
    )
    grain = 0.8 + 0.25 * smooth_noise(rng, 22)
    return density + 0.22 * c * polygon_mask(lobe, 1.8) * grain * body.lungs_mask


def pneumoperitoneum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Free air below the diaphragm."""
    sides = (RIGHT, LEFT) if rng.random() < 0.5 else (RIGHT,)
    for side in sides:
        top = diaphragm_line(body, side, (0.12, 0.92), -0.018)
        depth = 0.05 * np.sin(np.linspace(0, np.pi, 24))
        bottom = diaphragm_line(body, side, (0.12, 0.92), -0.02) + np.stack([0 * depth, depth], -1)
        air = polygon_mask(np.concatenate([top, bottom[::-1]]), 0.9)
        density = set_density(density, air * c * 0.95, LUNG - 0.05)
        density = density + 0.07 * c * line_mask([diaphragm_line(body, side, (0.1, 0.95), -0.008)], 2, 0.6)
    return density


def pneumothorax(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A dark band without vessels at the chest wall, with the line of the pleura."""
    side, size = random_side(rng), rng.uniform(0.3, 0.5)
    v = np.linspace(0, 0.85, 24)
    gap = size * (1 - 0.6 * v / 0.85)
    edge = body.lung_point(side, 1 - gap * body.for_view(1, 0.6), np.maximum(v, gap * 0.4))
    wall = body.lung_point(side, 1.0, v)
    roof = body.lung_point(side, np.linspace(1, 1 - gap[0], 12), 0.0)
    air = polygon_mask(np.concatenate([edge[::-1], roof[::-1], wall]), 0.8)
    density = set_density(density, air * c * 0.85, LUNG - 0.13)
    return density + 0.24 * c * line_mask([edge], 2, 0.6) * body.lungs_mask


def subcutaneous_emphysema(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Dark streaks in the soft tissue of chest wall and neck."""
    streaks = []
    for side in (RIGHT, LEFT):
        for u, v in rng.uniform((1.08, 0.15), (1.3, 0.9), (26, 2)):
            start = body.lung_point(side, u, v)
            streaks.append(
                bezier(start, start + rng.normal(0, 0.012, 2), shifted(start, rng.normal(0, 0.02), 0.07))
            )
        for u in rng.uniform(0.0, 1.0, 7):
            start = body.lung_point(side, u, -0.02) - (0, 0.04)
            sway = 0.08 if side == LEFT else -0.08
            streaks.append(bezier(start, shifted(start, sway / 2, -0.03), shifted(start, sway, -0.01)))
    return density - 0.2 * c * line_mask(streaks, 2, 0.6)


def tortuous_aorta(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A wide, curved aorta."""
    x, y = body.aortic_knob
    if body.lateral:
        path = bezier((x - 0.05, y + 0.1), (x + 0.26, y - 0.12), (x + 0.16, body.dome + 0.03))
    else:
        path = bezier((x - 0.03, y - 0.01), (x + 0.12 + 0.09 * c, y + 0.1), (x - 0.02, body.dome))
    aorta = np.maximum(
        line_mask([path], 17, 1.5), polygon_mask(ellipse(body.aortic_knob, (0.058, 0.055)), 1.5)
    )
    return set_density(
        density, aorta * min(1, 0.15 + c), np.maximum(density, HEART - body.for_view(0.03, 0.12))
    )
