"""A challenge is registered where it is defined, and nowhere else."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import cxrlt.challenges
from cxrlt import cli
from cxrlt.challenges import CHALLENGES, challenge, challenge_names
from cxrlt.challenges.registry import _modules
from tiny import CLASSES, make_tiny

MINE = """
from cxrlt.challenges import challenge, columns
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.csv_file import read_csv


class Mine(Challenge):
    def read(self, split, inputs_dir):
        file = read_csv(inputs_dir / f"{split}.csv")
        return columns.build_table(
            file,
            image_id=columns.read_ids(file, "image"),
            patient=columns.read_ids(file, "patient"),
            study=columns.read_ids(file, "study"),
            view=None,
            path=columns.read_paths(file, "path"),
            class_labels=columns.read_labels(file, self.classes, required=split == "train"),
        )

    def template(self, split, inputs_dir):
        return self.read(split, inputs_dir).index.tolist()


@challenge("mine")
def mine(name):
    counts = {"Effusion": 50, "Mass": 20, "Hernia": 1}
    return Mine(name, "Mine", counts, 200, ("train", "dev", "test"), recipes=("demo_resnet",), n_folds=2)
"""


@pytest.fixture
def mine(add_module, tmp_path):
    """The folder of a challenge in a module of its own, with its tables and pictures."""
    add_module("my_challenge", MINE, CHALLENGES)
    make_tiny(tmp_path)
    (tmp_path / "inputs" / "csv").rename(tmp_path / "inputs" / "mine")
    return tmp_path


def test_a_challenge_of_another_module_is_checked_and_split_into_folds(mine, capsys):
    assert "mine" in challenge_names()
    cli.main(["check", "mine", "--root", str(mine)])
    checked = capsys.readouterr().out
    assert all(name in checked for name in CLASSES)
    cli.main(["folds", "mine", "--root", str(mine)])
    patients = {}
    for line in (mine / "folds" / "mine" / "folds.csv").read_text().splitlines()[1:]:
        _, patient, fold = line.split(",")
        assert patients.setdefault(patient, fold) == fold
    assert set(patients.values()) == {"0", "1"}


def test_two_challenges_with_one_name_are_refused(mine):
    with pytest.raises(ValueError, match="two challenges have the name 'mine'"):
        challenge("mine")(lambda name: None)


def test_the_names_read_in_the_source_are_those_that_the_modules_register():
    for module in pkgutil.iter_modules(cxrlt.challenges.__path__):
        importlib.import_module(f"cxrlt.challenges.{module.name}")
    assert sorted(_modules()) == sorted(CHALLENGES)


def test_the_names_are_known_without_waiting_for_pandas_or_torch():
    code = (
        "import sys; from cxrlt.challenges import challenge_names; assert 'demo' in challenge_names(); "
        "import cxrlt.cli; "
        "late = [name for name in ('numpy', 'pandas', 'scipy', 'timm', 'torch') if name in sys.modules]; "
        "sys.exit(str(late) if late else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
