"""How each finding looks on a radiograph, simplified to what a reader would point at.

Every sign is a function (density, body, c, rng) -> density. c in (0, 1] is the conspicuity: the contrast
of the sign is proportional to it. rng is the same for all pictures of a patient, so that a sign keeps its
side and place from view to view; it is drawn from before anything that depends on the view.
"""

import numpy as np

from cxrlt.phantom.anatomy import (
    ABDOMEN,
    HEART,
    LEFT,
    LUNG,
    RIGHT,
    Body,
    area,
    bend,
    clouds,
    fill,
    lines,
    moved,
    oval,
)

Density = np.ndarray
Rng = np.random.Generator


def blotch(center: np.ndarray, radius: float, rng: Rng, blur: float = 3) -> np.ndarray:
    """A lump with an uneven outline."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    reach = radius * rng.uniform(0.7, 1.2, (14, 1))
    return area(center + reach * np.stack([np.cos(angle), np.sin(angle)], -1), blur)


def haze(center: np.ndarray, radii: tuple[float, float], blur: float = 8) -> np.ndarray:
    return area(oval(center, radii), blur)


def side_of(rng: Rng) -> int:
    return int(rng.integers(2))


def dome_line(body: Body, side: int, u: tuple[float, float], lift: float = 0.0) -> np.ndarray:
    """The diaphragm between two u, moved up by `lift`."""
    return body.at(side, np.linspace(*u, 24), 1.0) - (0, lift)


def atelectasis(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, tilts = side_of(rng), rng.uniform(-0.045, 0.045, 3)
    plates = []
    for number, tilt in enumerate(tilts):
        v = 0.72 + 0.08 * number
        ends = body.at(side, np.array([0.3, 0.85]), np.array([v - tilt, v + tilt]))
        plates.append(bend(ends[0], ends.mean(0) - (0, 0.01), ends[1]))
    density = density + 0.26 * c * lines(plates, 4, 0.9) * body.lungs
    raised = area(body.region(side, (0, 1), (0.93, 1.0)), 1.5)
    return fill(density, raised * c * 0.8, HEART)


def calcification(density: Density, body: Body, c: float, rng: Rng) -> Density:
    x, y = body.knob
    if body.lateral:
        arc = bend((x - 0.06, y + 0.06), (x + 0.02, y - 0.12), (x + 0.08, y + 0.08))
    else:
        arc = oval(body.knob, (0.045, 0.05))[24:56]
    return density + 0.6 * c * lines([arc], 3, 0.6)


def cardiomegaly(density: Density, body: Body, c: float, rng: Rng) -> Density:
    growth = 1 + 0.55 * c
    return fill(density, area(body.heart_outline(growth), 2), np.maximum(density, HEART - 0.04))


def consolidation(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, v = side_of(rng), rng.uniform(0.6, 0.75)
    center = body.at(side, body.pick(0.5, 0.7), v)
    density = fill(density, blotch(center, 0.13, rng, 3) * body.lungs * c * 0.95, HEART)
    tips = center + 0.1 * rng.uniform(-1, 1, (4, 2))
    hilum = body.at(side, body.pick(0.2, 0.5), 0.5)
    airways = [bend(hilum, (hilum + tip) / 2 + (0, 0.01), tip) for tip in tips]
    return density - 0.14 * c * lines(airways, 3, 0.8) * body.lungs


def edema(density: Density, body: Body, c: float, rng: Rng) -> Density:
    for side in (RIGHT, LEFT):
        wing = haze(body.at(side, body.pick(0.32, 0.5), 0.5), (0.1, 0.15), 10)
        density = density + body.pick(0.22, 0.13) * c * wing * body.lungs
        rows = rng.uniform(0.55, 0.98, 12)
        kerley = [body.at(side, np.array([0.86, 0.99]), row) for row in rows]
        density = density + 0.26 * c * lines(kerley, 1, 0.5) * body.lungs
    return density


def emphysema(density: Density, body: Body, c: float, rng: Rng) -> Density:
    for side in (RIGHT, LEFT):
        ends = dome_line(body, side, (0.1, 1))[[0, -1]]
        flat = bend(ends[0], moved(ends.mean(0), 0, 0.05), ends[1])
        below = area(np.concatenate([dome_line(body, side, (0.1, 1)), flat[::-1]]), 1.2)
        density = fill(density, below * c * 0.8, LUNG + 0.05)
    density = fill(density, body.lungs * c * 0.6, LUNG - 0.05)
    for side in (RIGHT, LEFT):
        for u, v in rng.uniform((0.3, 0.1), (0.8, 0.35), (3, 2)):
            density = density + 0.1 * c * lines([oval(body.at(side, u, v), (0.035, 0.03))], 1, 0.6)
    return density


def wide_mediastinum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    wide, top = body.mediastinum + 0.04 * c, body.apex
    shape = [(-0.6, -0.1), (0.6, -0.1), (1.0, 0.12), (0.95, 0.3), (0.5, 0.42), (-0.5, 0.42), (-0.95, 0.3)]
    outline = (body.center - 0.03 * body.lateral, top) + np.array([*shape, (-1.0, 0.12)]) * (wide + 0.01, 1)
    return fill(density, area(outline, 2.5) * body.pick(1, 0.5 * c + 0.2), np.maximum(density, HEART - 0.05))


def fibrosis(density: Density, body: Body, c: float, rng: Rng) -> Density:
    net = []
    for side in (RIGHT, LEFT):
        knots = rng.uniform((0.2, 0.62), (0.97, 1.0), (60, 2))
        for u, v in knots:
            center, tilt = body.at(side, u, v), rng.uniform(0, np.pi)
            arm = 0.02 * np.array([np.cos(tilt), np.sin(tilt)])
            net.append(np.array([center - arm, center + arm]))
    return density + 0.3 * c * lines(net, 1, 0.5) * body.lungs


def fracture(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, first, where = side_of(rng), int(rng.integers(3, 5)), int(rng.integers(11, 13))
    for number in (first - 1, first, first + 1):
        rib = body.rib(side, number)
        inner, outer = rib[where - 3 : where + 1], moved(rib[where : where + 4], 0, 0.022)
        density = density - 0.05 * c * lines([rib[where - 1 : where + 3]], 7, 0.8)
        density = density + 0.26 * c * lines([inner, outer], 6, 0.7)
        density = density - 0.2 * c * lines([rib[where] + np.array([(-0.01, -0.02), (0.012, 0.035)])], 2, 0.6)
    return density


def hernia(density: Density, body: Body, c: float, rng: Rng) -> Density:
    radius = rng.uniform(0.085, 0.1)
    center = (body.center + body.pick(0.03, 0.09), body.dome - 0.06)
    x, y = center
    outline = oval(center, (radius * 1.15, radius))
    bubble = area(outline, 1)
    level = area(np.array([(x - 0.2, y), (x + 0.2, y), (x + 0.2, y + 0.2), (x - 0.2, y + 0.2)]), 0.8)
    density = density - 0.26 * c * bubble * (1 - level) + 0.06 * c * bubble * level
    return density + 0.22 * c * lines([outline], 3, 0.8)


def infiltration(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side = side_of(rng)
    for u, v in rng.uniform((0.25, 0.3), (0.8, 0.65), (7, 2)):
        patch = blotch(body.at(side, u, v), 0.04, rng, 2)
        density = density + 0.21 * c * patch * body.lungs
    return density


def cavity(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, u, w, v = side_of(rng), rng.uniform(0.45, 0.65), rng.uniform(0.4, 0.7), rng.uniform(0.22, 0.4)
    center = body.at(side, body.pick(u, w), v)
    density = density - 0.06 * c * haze(center, (0.045, 0.045), 2)
    return density + 0.38 * c * lines([oval(center, (0.06, 0.056))], 6, 1.0)


def opacity(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, u, v = side_of(rng), rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.8)
    veil = haze(body.at(side, body.pick(u, 0.6), v), (0.12, 0.13), 8)
    return density + (0.2 + 0.02 * clouds(rng, 20)) * c * veil * body.lungs


def mass(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, u, w, v = side_of(rng), rng.uniform(0.4, 0.65), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.5)
    center, radius = body.at(side, body.pick(u, w), v), rng.uniform(0.08, 0.1)
    rays = rng.uniform(0, 2 * np.pi, 12)
    spikes = [center + np.outer((0.8, 1.4), radius * np.array([np.cos(a), np.sin(a)])) for a in rays]
    return density + 0.42 * c * np.maximum(blotch(center, radius, rng, 1.5), 0.4 * lines(spikes, 1, 0.6))


def nodule(density: Density, body: Body, c: float, rng: Rng) -> Density:
    for u, w, v in rng.uniform((0.3, 0.25, 0.2), (0.85, 0.8, 0.7), (int(rng.integers(2, 6)), 3)):
        side, radius = side_of(rng), rng.uniform(0.024, 0.034)
        density = density + 0.42 * c * haze(body.at(side, body.pick(u, w), v), (radius, radius), 1.0)
    return density


def effusion(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, height = side_of(rng), 0.1 + 0.25 * c * rng.uniform(0.6, 1.2)
    sides = (RIGHT, LEFT) if rng.random() < 0.3 else (side,)
    u = np.linspace(0, 1, 24)
    for one in sides:
        meniscus = body.at(one, u, 1 - height * (0.35 + body.pick(1.3, 1.0) * u**5))
        pool = area(np.concatenate([meniscus, dome_line(body, one, (0, 1), -0.01)[::-1]]), 1.8)
        density = fill(density, pool * min(1, 0.1 + c), np.maximum(density, ABDOMEN - 0.03))
    return density


def plaque(density: Density, body: Body, c: float, rng: Rng) -> Density:
    for side in (RIGHT, LEFT):
        spots = rng.uniform((0.55, 0.35), (0.85, 0.8), (3, 2))
        for u, v in spots:
            leaf = blotch(body.at(side, u, v), 0.03, rng, 0.8)
            density = density + 0.3 * c * np.clip(leaf + 0.3 * clouds(rng, 40) * leaf, 0, 1.5)
        density = density + 0.4 * c * lines([dome_line(body, side, (0.35, 0.75), 0.004)], 3, 0.8)
    return density


def thick_pleura(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side = side_of(rng)
    cap, band = body.region(side, (0, 1), (-0.02, 0.09)), body.region(side, (0.87, 1.03), (0.05, 0.95))
    return fill(density, np.maximum(area(cap, 1.5), area(band, 1.5)) * c, ABDOMEN)


def pneumomediastinum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    heart = body.heart_outline(1.08) if not body.lateral else body.heart_outline(1.1)
    x, m, top = body.center, body.mediastinum, body.apex
    streaks = [heart[28:44] if not body.lateral else heart[20:44]]
    for sign in (-1, 1):
        for reach in (0.55, 1.15):
            start = (x + sign * m * reach, -0.02)
            streaks.append(bend(start, (x + sign * m * reach * 1.3, 0.12), (x + sign * m * 1.1, top + 0.4)))
    rims = [moved(streak, 0.012, 0) for streak in streaks]
    return density - 0.26 * c * lines(streaks, 3, 0.8) + 0.16 * c * lines(rims, 1, 0.6)


def pneumonia(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, start = side_of(rng), rng.uniform(0.48, 0.56)
    lobe = body.region(side, body.pick(0, 0.0) + np.array((0.0, body.pick(0.95, 0.55))), (start, start + 0.3))
    grain = 0.8 + 0.25 * clouds(rng, 22)
    return density + 0.22 * c * area(lobe, 1.8) * grain * body.lungs


def pneumoperitoneum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    sides = (RIGHT, LEFT) if rng.random() < 0.5 else (RIGHT,)
    for side in sides:
        top = dome_line(body, side, (0.12, 0.92), -0.018)
        depth = 0.05 * np.sin(np.linspace(0, np.pi, 24))
        bottom = dome_line(body, side, (0.12, 0.92), -0.02) + np.stack([0 * depth, depth], -1)
        air = area(np.concatenate([top, bottom[::-1]]), 0.9)
        density = fill(density, air * c * 0.95, LUNG - 0.05)
        density = density + 0.07 * c * lines([dome_line(body, side, (0.1, 0.95), -0.008)], 2, 0.6)
    return density


def pneumothorax(density: Density, body: Body, c: float, rng: Rng) -> Density:
    side, size = side_of(rng), rng.uniform(0.3, 0.5)
    v = np.linspace(0, 0.85, 24)
    gap = size * (1 - 0.6 * v / 0.85)
    edge = body.at(side, 1 - gap * body.pick(1, 0.6), np.maximum(v, gap * 0.4))
    wall = body.at(side, 1.0, v)
    roof = body.at(side, np.linspace(1, 1 - gap[0], 12), 0.0)
    air = area(np.concatenate([edge[::-1], roof[::-1], wall]), 0.8)
    density = fill(density, air * c * 0.85, LUNG - 0.13)
    return density + 0.24 * c * lines([edge], 2, 0.6) * body.lungs


def skin_air(density: Density, body: Body, c: float, rng: Rng) -> Density:
    streaks = []
    for side in (RIGHT, LEFT):
        for u, v in rng.uniform((1.08, 0.15), (1.3, 0.9), (26, 2)):
            start = body.at(side, u, v)
            streaks.append(
                bend(start, start + rng.normal(0, 0.012, 2), moved(start, rng.normal(0, 0.02), 0.07))
            )
        for u in rng.uniform(0.0, 1.0, 7):
            start = body.at(side, u, -0.02) - (0, 0.04)
            sway = 0.08 if side == LEFT else -0.08
            streaks.append(bend(start, moved(start, sway / 2, -0.03), moved(start, sway, -0.01)))
    return density - 0.2 * c * lines(streaks, 2, 0.6)


def tortuous_aorta(density: Density, body: Body, c: float, rng: Rng) -> Density:
    x, y = body.knob
    if body.lateral:
        path = bend((x - 0.05, y + 0.1), (x + 0.26, y - 0.12), (x + 0.16, body.dome + 0.03))
    else:
        path = bend((x - 0.03, y - 0.01), (x + 0.12 + 0.09 * c, y + 0.1), (x - 0.02, body.dome))
    aorta = np.maximum(lines([path], 17, 1.5), area(oval(body.knob, (0.058, 0.055)), 1.5))
    return fill(density, aorta * min(1, 0.15 + c), np.maximum(density, HEART - body.pick(0.03, 0.12)))
