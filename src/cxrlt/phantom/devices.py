"""Draw support devices: tubes, lines, pacemakers and sternal wires.

Each device is a function body -> density, float32 (SIZE, SIZE).
"""

import numpy as np

from cxrlt.phantom.anatomy import LEFT, RIGHT, Body, bezier, line_mask, polygon_mask, shifted


def airway_tube(body: Body) -> np.ndarray:
    """An endotracheal tube: density (SIZE, SIZE)."""
    tube = bezier((body.center, -0.05), (body.center, 0.1), (body.center, body.apex + 0.18))
    return 0.35 * line_mask([shifted(tube, -0.012, 0), shifted(tube, 0.012, 0)], 1, 0.5) + 0.1 * line_mask(
        [tube], 5, 0.6
    )


def central_line(body: Body) -> np.ndarray:
    """A central venous line: density (SIZE, SIZE)."""
    x, top = body.center, body.apex
    tip = (x + body.for_view(-0.05, -0.02), top + 0.34)
    vein = bezier((x - body.for_view(0.18, 0.02), -0.02), (x - body.for_view(0.08, 0.0), top + 0.05), tip)
    return 0.4 * line_mask([vein], 2, 0.5)


def feeding_tube(body: Body) -> np.ndarray:
    """A feeding tube to the stomach: density (SIZE, SIZE)."""
    x = body.center + body.for_view(0.01, 0.06)
    down = bezier((x, -0.05), (x + 0.02, 0.4), (x + 0.01, body.dome + 0.02))
    turn = bezier(down[-1], (x + 0.02, body.dome + 0.14), (x + body.for_view(0.12, -0.05), body.dome + 0.15))
    return 0.35 * line_mask([down, turn], 2, 0.5)


def chest_tube(body: Body) -> np.ndarray:
    """A chest tube on the right: density (SIZE, SIZE)."""
    start, end = body.lung_point(RIGHT, 1.25, 0.8), body.lung_point(RIGHT, 0.4, 0.12)
    tube = bezier(start, body.lung_point(RIGHT, 0.85, 0.6), end)
    return 0.35 * line_mask([tube], 4, 0.5)


def pacemaker(body: Body) -> np.ndarray:
    """A pacemaker with two leads: density (SIZE, SIZE)."""
    box = body.lung_point(LEFT, body.for_view(0.85, 0.05), 0.14)
    case = box + 0.05 * np.array([(-1, -0.8), (0.9, -0.9), (1, 0.3), (0.4, 1), (-0.8, 0.9)])
    heart = (body.center + body.for_view(0.08, -0.12), body.dome - 0.03)
    vein = (body.center + body.for_view(-0.05, 0.0), body.apex + 0.16)
    leads = [
        bezier(box, (vein[0] + 0.1, body.apex + 0.02), vein),
        bezier(vein, (vein[0] - 0.06, body.dome - 0.1), heart),
    ]
    return np.maximum(0.6 * polygon_mask(case, 0.8), 0.4 * line_mask(leads, 2, 0.5))


def sternal_wires(body: Body) -> np.ndarray:
    """Five sternal wires: density (SIZE, SIZE)."""
    wires = []
    for y in np.linspace(body.apex + 0.14, body.dome - 0.06, 5):
        x = body.center - (0.2 + 0.12 * (y - 0.25)) if body.lateral else body.center
        wires.append(np.array([(x - 0.02, y - 0.01), (x + 0.02, y + 0.01)]))
        wires.append(np.array([(x - 0.02, y + 0.012), (x + 0.02, y - 0.008)]))
    return 0.45 * line_mask(wires, 2, 0.5)


DEVICES = (airway_tube, central_line, feeding_tube, chest_tube, pacemaker, sternal_wires)


def support_devices(density: np.ndarray, body: Body, c: float, rng: np.random.Generator) -> np.ndarray:
    """Add two to four devices to the density (SIZE, SIZE); a sign like those in signs.py."""
    for number in rng.choice(len(DEVICES), int(rng.integers(2, 5)), replace=False):
        density = density + min(1, 0.1 + c) * DEVICES[number](body)
    return density
