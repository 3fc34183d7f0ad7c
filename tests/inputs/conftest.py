from collections.abc import Callable
from pathlib import Path

import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge

SPEC = (
    "train: train.csv\ndev: dev.csv\ntest: test.csv\nid: image\npatient: patient\nsuffix: .png\nimages: '*'\n"
)


@pytest.fixture
def csv_workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """Make a `csv` challenge of one class, with these patients per split and all images.

    Image k of a split is called <split><k>.
    """

    def make(patients: bool = True, **of_split: list[str]) -> Workspace:
        inputs = tmp_path / "inputs" / "csv"
        (inputs / "images").mkdir(parents=True)
        (inputs / "challenge.yaml").write_text(SPEC if patients else SPEC.replace("patient: patient\n", ""))
        for split in ("train", "dev", "test"):
            names = of_split.get(split, [split])
            header = "image,patient,Mass\n" if patients else "image,Mass\n"
            rows = [
                [f"{split}{k}", *([name] if patients else []), str(k % 2)] for k, name in enumerate(names)
            ]
            (inputs / f"{split}.csv").write_text(header + "".join(",".join(row) + "\n" for row in rows))
            for row in rows:
                (inputs / "images" / f"{row[0]}.png").write_bytes(b"")
        return Workspace(tmp_path)

    return make


@pytest.fixture
def demo_train_only(tmp_path: Path) -> Workspace:
    """Return the folders of a demo that only has train.csv, with one image."""
    challenge = get_challenge("demo")
    folder = tmp_path / "inputs" / "demo"
    folder.mkdir(parents=True)
    header = ["dicom_id", "subject_id", "study_id", "ViewPosition", "path", *challenge.classes]
    row = ["a", "1", "s1", "AP", "files/a.jpg", *["0"] * len(challenge.classes)]
    (folder / "train.csv").write_text(",".join(header) + "\n" + ",".join(row) + "\n")
    return Workspace(tmp_path)
