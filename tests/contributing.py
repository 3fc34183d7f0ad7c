"""The example files of CONTRIBUTING.md, and a way to add them for one test."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrlt.challenges import CHALLENGES
from cxrlt.heads import HEADS
from cxrlt.heads.registry import _CLASSES
from cxrlt.losses import LOSSES
from cxrlt.metrics import METRICS
from cxrlt.recipe import RECIPES_DIR
from doc_pages import ROOT, Page


class ContributingPage(Page):
    """CONTRIBUTING.md."""

    def files(self, section: str) -> list[tuple[str, str]]:
        """Path and text of each file that a section says to write."""
        pattern = r"Write `(\S+\.(?:py|yaml))`.*?^```\w+\n(.*?)^```"
        return re.findall(pattern, self.section(section), flags=re.S | re.M)


PAGE = ContributingPage(ROOT / "CONTRIBUTING.md")
SECTIONS = ("Add a loss", "Add a head", "Add a metric", "Add a challenge", "Add a recipe")
EXAMPLES = [(section, PAGE.files(section)[0]) for section in SECTIONS]


def add_examples(add_module: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the examples, and add the example recipe to a copy of the folder of recipes."""
    recipes = folder / "recipes"
    shutil.copytree(RECIPES_DIR, recipes)
    for _, (path, text) in EXAMPLES:
        if (ROOT / path).exists():  # somebody has followed the example
            continue
        if path.endswith(".yaml"):
            (recipes / Path(path).name).write_text(text, encoding="utf-8")
        else:
            add_module(f"example_{Path(path).stem}", text, LOSSES, HEADS, _CLASSES, METRICS, CHALLENGES)
    monkeypatch.setattr("cxrlt.recipe.load.RECIPES_DIR", recipes)
