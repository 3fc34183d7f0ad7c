"""Support devices: tubes, lines, pacemakers and sternal wires, drawn as signs are."""

import numpy as np

from cxrlt.phantom.anatomy import LEFT, RIGHT, Body, area, bend, lines, moved


def airway_tube(body: Body) -> np.ndarray:
    tube = bend((body.center, -0.05), (body.center, 0.1), (body.center, body.apex + 0.18))
    return 0.35 * lines([moved(tube, -0.012, 0), moved(tube, 0.012, 0)], 1, 0.5) + 0.1 * lines([tube], 5, 0.6)


def central_line(body: Body) -> np.ndarray:
    x, top = body.center, body.apex
    tip = (x + body.pick(-0.05, -0.02), top + 0.34)
    vein = bend((x - body.pick(0.18, 0.02), -0.02), (x - body.pick(0.08, 0.0), top + 0.05), tip)
    return 0.4 * lines([vein], 2, 0.5)


def feeding_tube(body: Body) -> np.ndarray:
    x = body.center + body.pick(0.01, 0.06)
    down = bend((x, -0.05), (x + 0.02, 0.4), (x + 0.01, body.dome + 0.02))
    turn = bend(down[-1], (x + 0.02, body.dome + 0.14), (x + body.pick(0.12, -0.05), body.dome + 0.15))
    return 0.35 * lines([down, turn], 2, 0.5)


def chest_tube(body: Body) -> np.ndarray:
    start, end = body.at(RIGHT, 1.25, 0.8), body.at(RIGHT, 0.4, 0.12)
    tube = bend(start, body.at(RIGHT, 0.85, 0.6), end)
    return 0.35 * lines([tube], 4, 0.5)


def pacemaker(body: Body) -> np.ndarray:
    box = body.at(LEFT, body.pick(0.85, 0.05), 0.14)
    case = box + 0.05 * np.array([(-1, -0.8), (0.9, -0.9), (1, 0.3), (0.4, 1), (-0.8, 0.9)])
    heart = (body.center + body.pick(0.08, -0.12), body.dome - 0.03)
    vein = (body.center + body.pick(-0.05, 0.0), body.apex + 0.16)
    leads = [
        bend(box, (vein[0] + 0.1, body.apex + 0.02), vein),
        bend(vein, (vein[0] - 0.06, body.dome - 0.1), heart),
    ]
    return np.maximum(0.6 * area(case, 0.8), 0.4 * lines(leads, 2, 0.5))


def sternal_wires(body: Body) -> np.ndarray:
    wires = []
    for y in np.linspace(body.apex + 0.14, body.dome - 0.06, 5):
        x = body.center - (0.2 + 0.12 * (y - 0.25)) if body.lateral else body.center
        wires.append(np.array([(x - 0.02, y - 0.01), (x + 0.02, y + 0.01)]))
        wires.append(np.array([(x - 0.02, y + 0.012), (x + 0.02, y - 0.008)]))
    return 0.45 * lines(wires, 2, 0.5)


DEVICES = (airway_tube, central_line, feeding_tube, chest_tube, pacemaker, sternal_wires)


def support_devices(density: np.ndarray, body: Body, c: float, rng: np.random.Generator) -> np.ndarray:
    """Two to four devices, white by up to their own density."""
    for number in rng.choice(len(DEVICES), int(rng.integers(2, 5)), replace=False):
        density = density + min(1, 0.1 + c) * DEVICES[number](body)
    return density
