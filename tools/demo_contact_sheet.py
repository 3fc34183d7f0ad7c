"""Draw the README's picture: one example of every class of the demo.

cxrlt demo
python tools/demo_contact_sheet.py inputs/demo docs/demo_contact_sheet.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrlt.errors import UserError
from cxrlt.phantom.demo import TRUTH
from cxrlt.phantom.findings import CLASSES
from cxrlt.system.atomic_files import atomic_path

COLUMNS, CAPTION = 7, 18


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs_dir", type=Path, help="the demo's folder")
    parser.add_argument("path", type=Path, help="of the PNG")
    parser.add_argument("--cell", type=int, default=200, help="pixels of an example's side")
    return parser.parse_args(words)


def main() -> None:
    flags = parse()
    demo_contact_sheet(flags.inputs_dir, flags.path, flags.cell)


def demo_contact_sheet(inputs_dir: Path, path: Path, cell: int) -> None:
    """Write a grey PNG with a plain example of each class, then hard normals: pictures with doubles only."""
    truth = pd.read_csv(inputs_dir / TRUTH / "test_clean.csv", index_col="dicom_id")
    test = pd.read_csv(inputs_dir / "test.csv", index_col="dicom_id", keep_default_na=False)
    drawn = pd.read_csv(inputs_dir / TRUTH / "conspicuity.csv")
    frontal = test.index[test["ViewPosition"].isin(["AP", "PA"])]
    chosen = [(plainest(name, truth.loc[frontal], drawn), name) for name in CLASSES]
    chosen += [(dicom_id, "hard normal") for dicom_id in hardest_normals(truth.loc[frontal], drawn)]
    cells = [captioned(inputs_dir / test.at[dicom_id, "path"], text, cell) for dicom_id, text in chosen]
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    with atomic_path(path) as temporary:
        encoded = cv2.imencode(".png", np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        temporary.write_bytes(encoded.tobytes())


def plainest(name: str, truth: pd.DataFrame, drawn: pd.DataFrame) -> str:
    """The positive with few other findings and shadows in which the class is best seen."""
    positives = truth.index[truth[name] == 1]
    require_examples(len(positives), 1, name)
    clutter = drawn[drawn["class"] != name].groupby("dicom_id")["conspicuity"].sum()
    own = drawn[(drawn["class"] == name) & (drawn["kind"] == "finding")].set_index("dicom_id")["conspicuity"]
    plain = np.minimum(own.reindex(positives, fill_value=0), 0.8)
    score = plain * 4 - clutter.reindex(positives, fill_value=0)
    return str(score.idxmax())


def hardest_normals(truth: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    """As many normals as fill the last row: those with the most doubles of findings."""
    normals = truth.index[(truth["No Finding"] == 1) & (truth["Support Devices"] == 0)]
    doubles = drawn[drawn["dicom_id"].isin(normals)].groupby("dicom_id")["conspicuity"].sum()
    n_wanted = -len(CLASSES) % COLUMNS
    require_examples(len(doubles), n_wanted, "doubles only")
    return list(doubles.nlargest(n_wanted).index)


def require_examples(n_found: int, n_wanted: int, what: str) -> None:
    if n_found < n_wanted:
        raise UserError(
            f"Too few frontal test pictures show {what}. Make more: cxrlt demo --force --patients N"
        )


def captioned(path: Path, text: str, cell: int) -> np.ndarray:
    image = cv2.resize(
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (cell, cell), interpolation=cv2.INTER_AREA
    )
    caption = np.full((CAPTION, cell), 255, np.uint8)
    cv2.putText(caption, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
    # The noise hides that only 32 greys are left, and the file is half as big.
    return np.vstack([caption, image & 0xF8])


if __name__ == "__main__":
    main()
