"""The findings of the demo's images: one row per class, in the order of the challenge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from cxrlt.phantom import mimics, signs
from cxrlt.phantom.anatomy import Body
from cxrlt.phantom.devices import support_devices

DrawFunction = Callable[[np.ndarray, Body, float, np.random.Generator], np.ndarray]
"""(density, body, conspicuity, rng) -> density; densities are float32 (SIZE, SIZE)."""

DRIVERS = ("failure", "critical", "infection", "smoking", "tumour", "age")
"""Hidden causes with a value for each patient and study. They make findings occur together."""


@dataclass(frozen=True)
class Finding:
    """A class: how it is drawn, its causes and its mimic.

    `chronic` is the share of its random part that stays the same in all studies of a patient. `lateral` is
    the factor of its conspicuity on a lateral view. `drivers` are the loadings on DRIVERS. `mimic` is drawn
    in images without the finding.
    """

    name: str
    draw: DrawFunction | None
    lateral: float
    chronic: float
    drivers: Mapping[str, float] = field(default_factory=dict)
    mimic: DrawFunction | None = None


FINDINGS = (
    Finding("Atelectasis", signs.atelectasis, 0.7, 0.3, {"critical": 0.4, "failure": 0.3}),
    Finding("Calcification of the Aorta", signs.calcification, 0.6, 0.9, {"age": 0.7}, mimics.cartilage),
    Finding("Cardiomegaly", signs.cardiomegaly, 0.7, 0.8, {"failure": 0.55, "age": 0.2}),
    Finding("Consolidation", signs.consolidation, 0.7, 0.2, {"infection": 0.6}, mimics.breast_shadow),
    Finding("Edema", signs.edema, 0.8, 0.2, {"failure": 0.65, "critical": 0.25}),
    Finding("Emphysema", signs.emphysema, 0.8, 0.9, {"smoking": 0.6}),
    Finding("Enlarged Cardiomediastinum", signs.wide_mediastinum, 0.6, 0.6, {"age": 0.4}),
    Finding("Fibrosis", signs.fibrosis, 0.8, 0.9, {"smoking": 0.4}, mimics.crowded_bases),
    Finding("Fracture", signs.fracture, 0.6, 0.7, {"age": 0.3}, mimics.crossing_ribs),
    Finding("Hernia", signs.hernia, 0.9, 0.9, {"age": 0.4}, mimics.stomach_bubble),
    Finding("Infiltration", signs.infiltration, 0.7, 0.2, {"infection": 0.5}),
    Finding("Lung Lesion", signs.cavity, 0.8, 0.8, {"tumour": 0.5}, mimics.electrode),
    Finding("Lung Opacity", signs.opacity, 0.7, 0.2, {"infection": 0.5, "failure": 0.3}),
    Finding("Mass", signs.mass, 0.8, 0.8, {"tumour": 0.7}, mimics.full_hilum),
    Finding("No Finding", None, 1.0, 0.0),
    Finding("Nodule", signs.nodule, 0.8, 0.8, {"tumour": 0.5, "smoking": 0.2}, mimics.nipples),
    Finding("Pleural Effusion", signs.effusion, 0.9, 0.4, {"failure": 0.5, "critical": 0.2}),
    Finding("Pleural Other", signs.plaque, 0.8, 0.9, {"age": 0.4}, mimics.cartilage),
    Finding("Pleural Thickening", signs.pleural_thickening, 0.5, 0.9, {"age": 0.3}, mimics.companion_shadow),
    Finding("Pneumomediastinum", signs.pneumomediastinum, 0.7, 0.2, {"critical": 0.5}, mimics.mach_band),
    Finding("Pneumonia", signs.pneumonia, 0.8, 0.2, {"infection": 0.65}),
    Finding("Pneumoperitoneum", signs.pneumoperitoneum, 0.8, 0.2, {"critical": 0.4}, mimics.colon_gas),
    Finding("Pneumothorax", signs.pneumothorax, 0.5, 0.3, {"critical": 0.5}, mimics.skin_fold),
    Finding("Subcutaneous Emphysema", signs.subcutaneous_emphysema, 0.8, 0.3, {"critical": 0.6}, mimics.hair),
    Finding("Support Devices", support_devices, 0.9, 0.5, {"critical": 0.7}, mimics.monitor_lead),
    Finding("Tortuous Aorta", signs.tortuous_aorta, 0.7, 0.9, {"age": 0.7}, mimics.spine_edge),
)
CLASSES = tuple(finding.name for finding in FINDINGS)
NO_FINDING, DEVICES = CLASSES.index("No Finding"), CLASSES.index("Support Devices")
