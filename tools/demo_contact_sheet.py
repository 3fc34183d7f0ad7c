"""Draw the README's contact sheet: one example of every class of the demo.

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

N_COLUMNS, CAPTION_HEIGHT = 7, 18


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs_dir", type=Path, help="the demo's folder")
    parser.add_argument("path", type=Path, help="PNG to write")
    parser.add_argument("--cell", type=int, default=200, help="side of an example in pixels")
    return parser.parse_args(argv)


def main() -> None:
    """Write the contact sheet."""
    args = parse()
    demo_contact_sheet(args.inputs_dir, args.path, args.cell)


def demo_contact_sheet(inputs_dir: Path, path: Path, cell: int) -> None:
    """Write a grey PNG with a clear example of each class, then hard normals: images with mimics only.

    Raises UserError if the demo has too few examples.
    """
    truth = pd.read_csv(inputs_dir / TRUTH / "test_clean.csv", index_col="dicom_id")
    test = pd.read_csv(inputs_dir / "test.csv", index_col="dicom_id", keep_default_na=False)
    drawings = pd.read_csv(inputs_dir / TRUTH / "conspicuity.csv")
    frontal = test.index[test["ViewPosition"].isin(["AP", "PA"])]
    chosen = [(clearest_example(name, truth.loc[frontal], drawings), name) for name in CLASSES]
    chosen += [(dicom_id, "hard normal") for dicom_id in hardest_normals(truth.loc[frontal], drawings)]
    cells = [with_caption(inputs_dir / test.at[dicom_id, "path"], text, cell) for dicom_id, text in chosen]
    rows = [np.hstack(cells[start : start + N_COLUMNS]) for start in range(0, len(cells), N_COLUMNS)]
    with atomic_path(path) as temporary:
        encoded = cv2.imencode(".png", np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        temporary.write_bytes(encoded.tobytes())


def clearest_example(name: str, truth: pd.DataFrame, drawings: pd.DataFrame) -> str:
    """Return the id of the positive that shows the class best, with few other findings.

    `truth`: index dicom_id, one column per class. `drawings`: a row per drawn finding, with its conspicuity.
    """
    positives = truth.index[truth[name] == 1]
    require_examples(len(positives), 1, name)
    clutter = drawings[drawings["class"] != name].groupby("dicom_id")["conspicuity"].sum()
    conspicuities = drawings[(drawings["class"] == name) & (drawings["kind"] == "finding")].set_index(
        "dicom_id"
    )["conspicuity"]
    conspicuity = np.minimum(conspicuities.reindex(positives, fill_value=0), 0.8)
    score = conspicuity * 4 - clutter.reindex(positives, fill_value=0)
    return str(score.idxmax())


def hardest_normals(truth: pd.DataFrame, drawings: pd.DataFrame) -> list[str]:
    """Return the ids of the normal images with the strongest mimics of findings, to fill the last row.

    Arguments as in `clearest_example`.
    """
    normals = truth.index[(truth["No Finding"] == 1) & (truth["Support Devices"] == 0)]
    mimics = drawings[drawings["dicom_id"].isin(normals)].groupby("dicom_id")["conspicuity"].sum()
    n_wanted = -len(CLASSES) % N_COLUMNS
    require_examples(len(mimics), n_wanted, "mimics only")
    return list(mimics.nlargest(n_wanted).index)


def require_examples(n_found: int, n_wanted: int, what: str) -> None:
    """Raise UserError if there are fewer examples than wanted."""
    if n_found < n_wanted:
        raise UserError(
            f"Too few frontal test images show {what}. Generate more: cxrlt demo --force --patients N"
        )


def with_caption(path: Path, text: str, cell: int) -> np.ndarray:
    """Return the image (cell, cell) with a caption above: uint8 (CAPTION_HEIGHT + cell, cell)."""
    image = cv2.resize(
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (cell, cell), interpolation=cv2.INTER_AREA
    )
    caption = np.full((CAPTION_HEIGHT, cell), 255, np.uint8)
    cv2.putText(caption, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
    # 32 grey levels halve the file size; the noise hides the difference.
    return np.vstack([caption, image & 0xF8])


if __name__ == "__main__":
    main()
