"""Images of a run report, only with --with-images: the clearest hits, misses and false alarms of a class.

Heat maps show where the model of the fold that did not see the image finds the class (Grad-CAM).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.images import ImageSource
from cxrlt.models.backbone import XRayModel
from cxrlt.models.heat_map import heat_map
from cxrlt.predictions.predict import load_model
from cxrlt.predictions.trained_folds import TrainedFold, find_trained_folds
from cxrlt.reports.figures import SMALL_FONT, new_figure
from cxrlt.reports.report_data import ReportData

N_IMAGES = 3
"""Images of each kind: our choice."""
INCHES = 1.3  # side of a picture
KINDS = ("missed", "false alarm", "hit")


@dataclass(frozen=True)
class Example:
    """One image of a kind, with the probability of the class."""

    kind: str
    image_id: str
    probability: float


def choose_examples(labels: pd.Series, probabilities: pd.Series) -> list[Example]:
    """Return the positives with the lowest and highest probability, and the negatives with the highest.

    Both are (n_images,), by image id; labels are 1, 0 or NaN.
    """
    positive, negative = (probabilities[labels == value] for value in (1, 0))
    chosen = (positive.nsmallest(N_IMAGES), negative.nlargest(N_IMAGES), positive.nlargest(N_IMAGES))
    return [
        Example(kind, str(image_id), float(value))
        for kind, values in zip(KINDS, chosen, strict=True)
        for image_id, value in values.items()
    ]


class ImageFigures:
    """Draws the images of every class with the fold models of the best single model of a report."""

    def __init__(self, data: ReportData, source: ImageSource) -> None:
        self.data, self.name = data, data.models[0]
        current = data.current
        trained = find_trained_folds(data.run_dir(self.name), current.folds, data.challenge.name)
        self.trained: Mapping[str, TrainedFold] = {fold.fold: fold for fold in trained}
        recipe = trained[0].recipe
        self.size, self.has_maps = recipe.data.size, not recipe.uses_fusion
        self.cache: ImageCache = source.load_train_rows(current.rows.table, recipe.data.cache_size)[1]
        self.models: dict[str, XRayModel] = {}

    def figure(self, class_name: str, probabilities: pd.Series) -> Figure:
        """Return the images of a class, each with its heat map: a row per kind."""
        labels = self.data.labels.loc[probabilities.index, class_name]
        examples = choose_examples(labels, probabilities)
        figure = new_figure(len(KINDS) * (INCHES + 0.3), 2 * N_IMAGES * INCHES)
        grid = figure.subplots(len(KINDS), 2 * N_IMAGES, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for kind, row in zip(KINDS, grid, strict=True):
            for number, example in enumerate(each for each in examples if each.kind == kind):
                picture, drawn = row[2 * number], row[2 * number + 1]
                image = self._image(example.image_id)
                picture.imshow(image, cmap="gray", vmin=0, vmax=255)
                picture.set_title(f"{kind}, p {example.probability:.2f}", fontsize=SMALL_FONT - 1)
                heat = self._heat(example.image_id, class_name)
                if heat is not None:
                    drawn.imshow(image, cmap="gray", vmin=0, vmax=255)
                    drawn.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        return figure

    def _image(self, image_id: str) -> NDArray[np.uint8]:
        """Return what the model sees: the centre of the cached image, uint8 (size, size[, 3])."""
        margin = (self.cache.size - self.size) // 2
        window = slice(margin, margin + self.size)
        return np.ascontiguousarray(self.cache[image_id][window, window])

    def _heat(self, image_id: str, class_name: str) -> NDArray[np.float32] | None:
        """Return the heat map by the model that did not see the image, float32 (size, size)."""
        if not self.has_maps:
            return None
        fold = str(self.data.current.rows.fold[image_id])
        if fold not in self.models:
            n_classes, channels = len(self.data.challenge.classes), self.data.challenge.channels
            self.models[fold] = load_model(self.trained[fold], n_classes, channels).eval()
        classes = self.trained[fold].record.classes
        found = heat_map(self.models[fold], _to_tensor(self._image(image_id)), classes.index(class_name))
        if found is None:
            return None
        drawn = cv2.resize(found.numpy(), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return np.asarray(drawn, np.float32)


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
