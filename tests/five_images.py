"""A minimal challenge: a submission template without tables."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.challenges.base import Challenge

IDS = ["c", "a", "b", "e", "d"]
CLASSES = ("Mass", "No Finding", "Round(ed) Atelectasis")


@dataclass(frozen=True, kw_only=True)
class FiveImages(Challenge):
    """A challenge whose template has five ids, not in alphabetical order."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        raise AssertionError("a submission needs only the template")

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return IDS


FIVE_IMAGES = FiveImages(
    name="five",
    title="Five images",
    train_counts=dict.fromkeys(CLASSES, 2),
    train_images=10,
    splits=("train", "dev", "test"),
    recipes=(),
)
