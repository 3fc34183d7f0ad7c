"""Shadows that are no findings but look like one: each is drawn in pictures without that finding.

The same signature as a sign: (density, body, c, rng) -> density.
"""

import numpy as np

from cxrlt.phantom.anatomy import LEFT, RIGHT, Body, area, bend, fill, lines, moved, oval
from cxrlt.phantom.signs import haze, side_of

Density = np.ndarray
Rng = np.random.Generator


def cartilage(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Chalky ends of the first ribs, near the aortic knob."""
    for side in (RIGHT, LEFT):
        spots = body.at(side, body.pick(0.3, 0.1), 0.17) + rng.normal(0, 0.012, (5, 2))
        density = density + 0.25 * c * lines([np.stack([spot, spot + 0.008]) for spot in spots], 2, 0.6)
    return density


def breast_shadow(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Dense over one lung base only, its lower edge sharp and crossing the diaphragm."""
    center = body.at(side_of(rng), body.pick(0.55, 0.0), 0.85)
    return density + 0.13 * c * area(oval(center, (0.14, 0.13)), 2.5)


def crowded_bases(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Vessels pressed together by a shallow breath: long parallel lines, not a net."""
    paths = []
    for side in (RIGHT, LEFT):
        for u in rng.uniform(0.1, 0.8, 9):
            paths.append(body.at(side, np.array([u * 0.7, u]), np.array([0.6, 0.98])))
    return density + 0.13 * c * lines(paths, 2, 0.8) * body.lungs


def crossing_ribs(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A bright lozenge where two ribs cross."""
    rib = body.rib(side_of(rng), int(rng.integers(3, 6)))[10:13]
    return density + 0.12 * c * lines([rib, moved(rib, 0, 0.01)], 5, 0.8)


def stomach_bubble(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Air in the stomach: round, below the left diaphragm and away from it."""
    size = rng.uniform(0.05, 0.08)
    center = moved(body.at(LEFT, body.pick(0.45, 0.4), 1.0), 0, 0.045 + size * 0.7)
    return density - 0.26 * c * area(oval(center, (size * 1.3, size * 0.8)), 2)


def electrode(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A monitor's electrode on the skin: a small button and ring."""
    center = body.at(side_of(rng), rng.uniform(0.4, 0.9), rng.uniform(0.1, 0.3))
    ring = lines([oval(center, (0.026, 0.026))], 1, 0.5)
    return density + 0.35 * c * np.maximum(ring, haze(center, (0.01, 0.01), 0.8))


def monitor_lead(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A monitor's cable: thin, lying across the chest and leaving the picture."""
    start, end = (rng.uniform(0.15, 0.85), 1.05), body.at(side_of(rng), rng.uniform(0.4, 0.9), 0.15)
    middle = rng.uniform(0.2, 0.8, 2)
    return density + 0.22 * c * lines([bend(start, middle, end)], 1, 0.5)


def full_hilum(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A big hilar vessel: less dense than a mass, and always at the hilum."""
    center = body.at(side_of(rng), body.pick(0.15, 0.5), 0.43)
    return density + 0.16 * c * haze(center, (0.045, 0.065), 3)


def nipples(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """A pair at the same height, low and lateral."""
    v = rng.uniform(0.78, 0.86)
    for side in (RIGHT, LEFT):
        density = density + 0.2 * c * haze(body.at(side, body.pick(0.65, 0.03), v), (0.02, 0.02), 1.2)
    return density


def companion_shadow(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Soft tissue along the second ribs: thin, on both sides."""
    edges = [body.at(side, np.linspace(0.35, 0.95, 17), 0.05) for side in (RIGHT, LEFT)]
    return density + 0.1 * c * lines(edges, 4, 1.2)


def mach_band(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """The eye's dark rim around the heart, without a white line beyond it."""
    return density - 0.1 * c * lines([body.heart_outline(1.06)[24:56]], 2, 1.2)


def colon_gas(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Bowel under the right diaphragm: a row of bubbles with walls."""
    for u in (0.3, 0.5, 0.7):
        center = moved(body.at(RIGHT, u, 1.0), 0, 0.07)
        density = density - 0.18 * c * area(oval(center, (0.035, 0.028)), 1.5)
    return density


def skin_fold(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """An edge, dense on one side and fading, that runs on outside the lung."""
    side, shift = side_of(rng), rng.uniform(-0.1, 0.1)
    start, end = body.at(side, 0.5 + shift, -0.1), body.at(side, 0.85 + shift, 1.15)
    fold = bend(start, body.at(side, 0.75 + shift, 0.4), end)
    inward = np.array([0.05 if side == RIGHT else -0.05, 0.0])
    return density + 0.09 * c * area(np.concatenate([fold, (fold + inward)[::-1]]), 1.0)


def hair(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """Plaits over neck and shoulder: streaks that are white."""
    start = np.array([body.center + rng.choice([-0.14, 0.14]), -0.05])
    starts, sways = start + rng.normal(0, 0.02, (6, 2)), rng.normal(0, 0.04, 6)
    plait = [bend(s, moved(s, 0.02, 0.1), moved(s, sway, 0.2)) for s, sway in zip(starts, sways, strict=True)]
    return density + 0.12 * c * lines(plait, 2, 0.6)


def spine_edge(density: Density, body: Body, c: float, rng: Rng) -> Density:
    """The straight line of soft tissue left of the spine."""
    x, y = body.center + body.pick(0.08, 0.12), body.apex + 0.2
    strip = np.array([(x, y), (x + 0.015, body.dome)])
    return fill(density, lines([strip], 6, 1.5) * c * 0.5, np.maximum(density, 0.5))
