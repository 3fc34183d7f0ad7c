"""The demo challenges: generated chest radiographs, in the file layout of the CXR-LT 2023 download.

The demo has no medical value. It measures what a loss or a trick does with a long tail, label noise and
several images per study, on findings with a known conspicuity.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError, listing
from cxrlt.phantom.anatomy import draw_normal_chest, pose_body, render_radiograph, sample_affine, sample_body
from cxrlt.phantom.cases import SPLIT_SHARES, Image, Patient, Study, sample_patients
from cxrlt.phantom.findings import CLASSES, FINDINGS
from cxrlt.phantom.single import sample_single_patients
from cxrlt.system.atomic_dir import atomic_dir, remove_leftovers_beside
from cxrlt.system.atomic_files import cannot_write, write_json
from cxrlt.system.locks import lock_beside
from cxrlt.system.processes import map_in_processes


@dataclass(frozen=True)
class Phantom:
    """The generator of a demo: `sample_patients(n_patients, seed)` and its version.

    `version` must change whenever the same seed gives other images or labels: scores can only be compared
    within one version.
    """

    version: str
    sample_patients: Callable[[int, int], list[Patient]]


PHANTOMS = {
    "demo": Phantom("1", sample_patients),
    "demo-single": Phantom("single-1", sample_single_patients),
}
N_PATIENTS = 1120
"""Default number of patients: about 3,400 images."""
MIMIC_SHARE = 0.10
"""Probability of a mimic in an image without the finding."""
MASK_SIZE = 32
"""Side of the masks in truth/masks.npz."""
METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path"]
CODE_MEANING = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral", "": ""}
MARKER, TRUTH = "demo.json", "truth"
TEMPLATES = {"test": "sample_submission.csv", "development": "development_sample_submission.csv"}
CONTENTS = {MARKER, TRUTH, "files", *(f"{split}.csv" for split in SPLIT_SHARES), *TEMPLATES.values()}
# Purposes of random number generators, continued from cases.py.
ANATOMY, LESION, EXPOSURE = range(10, 13)


@dataclass(frozen=True)
class DrawnFinding:
    """A finding or mimic in an image: class index, conspicuity, kind, and place (packed bits of a mask)."""

    dicom_id: str
    index: int
    conspicuity: float
    kind: str
    mask: np.ndarray


def make_demo(
    inputs_dir: Path,
    n_patients: int | None = None,
    seed: int = 0,
    *,
    challenge: str = "demo",
    force: bool = False,
    workers: int | None = None,
) -> str:
    """Generate the radiographs, tables and truth of a demo in `inputs_dir`; return a message.

    The folder is renamed into place when all files are written. A finished demo with the same version, seed
    and (if given) number of patients is kept. Raises UserError if the folder contains other files, or another
    demo without `force`, or for fewer than 3 patients.
    """
    inputs_dir = inputs_dir.resolve()
    if (inputs_dir / MARKER).is_file() and not force:
        remove_leftovers_beside(inputs_dir)
        return reuse_demo(challenge, inputs_dir, n_patients, seed)
    with lock_beside(inputs_dir):
        if (inputs_dir / MARKER).is_file() and not force:  # another process may have made it meanwhile
            return reuse_demo(challenge, inputs_dir, n_patients, seed)
        refuse_foreign_files(inputs_dir)
        n_patients = N_PATIENTS if n_patients is None else n_patients
        if n_patients < 3:
            raise UserError(
                f"{n_patients} patients are too few for train, development and test: use 3 or more."
            )
        with atomic_dir(inputs_dir) as folder:
            mark = draw_demo(folder, challenge, n_patients, seed, workers or joblib.cpu_count())
    return describe_demo(challenge, inputs_dir, mark, "made")


def describe_demo(challenge: str, inputs_dir: Path, mark: dict, state: str) -> str:
    """Return a sentence with the state, the counts and the folder of a demo."""
    counts = ", ".join(f"{count:,} {split}" for split, count in mark["counts"].items())
    return f"{challenge}: {state}, {counts} images of {mark['n_patients']:,} patients ({inputs_dir})"


def draw_demo(folder: Path, challenge: str, n_patients: int, seed: int, workers: int) -> dict:
    """Write all files of a demo into `folder`. Return the content of its MARKER file.

    Raises UserError if the disk is full.
    """
    patients = PHANTOMS[challenge].sample_patients(n_patients, seed)
    try:
        drawings = draw_images(patients, seed, folder, workers)
        counts = write_tables(patients, folder, seed)
        write_truth(patients, drawings, folder)
    except OSError as error:
        raise UserError(cannot_write(error.filename or folder, error)) from error
    mark = {"version": PHANTOMS[challenge].version, "seed": seed, "n_patients": n_patients, "counts": counts}
    write_json(folder / MARKER, mark)
    return mark


def refuse_foreign_files(inputs_dir: Path) -> None:
    """Raise UserError if the folder, which will be replaced, contains other files than those of a demo."""
    if inputs_dir.exists() and not inputs_dir.is_dir():
        raise UserError(f"{inputs_dir} is a file. Move it, or set another folder with --inputs.")
    names = {entry.name for entry in inputs_dir.iterdir()} if inputs_dir.is_dir() else set()
    foreign = names - CONTENTS if MARKER in names else names
    if foreign:
        raise UserError(
            f"{inputs_dir} contains files that do not belong to the demo ({listing(sorted(foreign))}). "
            "Move them, or set another folder with --inputs."
        )


def reuse_demo(challenge: str, inputs_dir: Path, n_patients: int | None, seed: int) -> str:
    """Return the message about a finished demo. Raises UserError if it is damaged or another demo."""
    found = read_json(inputs_dir / MARKER, f"cxrlt demo {challenge}")
    if not isinstance(found.get("counts"), dict) or not isinstance(found.get("n_patients"), int):
        raise UserError(f"{inputs_dir / MARKER} is damaged. Make the demo again with --force.")
    version = PHANTOMS[challenge].version
    wanted = {"version": version, "seed": seed, "n_patients": n_patients or found["n_patients"]}
    differences = [
        f"{key} {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value
    ]
    if differences:
        raise UserError(
            f"{inputs_dir} contains another demo ({listing(differences)}). "
            "Replace it with --force, or set another folder with --inputs."
        )
    return describe_demo(challenge, inputs_dir, found, "already done")


def image_path(patient: Patient, study: Study, image: Image) -> str:
    """Return the path of an image below the folder of the demo, as in MIMIC-CXR-JPG."""
    subject = f"p{patient.subject_id}"
    return f"files/{subject[:3]}/{subject}/{study.study_id}/{image.dicom_id}.jpg"


def draw_images(patients: list[Patient], seed: int, folder: Path, workers: int) -> list[DrawnFinding]:
    """Draw and write all images. Return the drawn findings in the order of the patients.

    Raises UserError if a worker process is killed.
    """
    for patient in patients:
        for study in patient.studies:
            (folder / image_path(patient, study, study.images[0])).parent.mkdir(parents=True)
    jobs = (joblib.delayed(draw_patient_images)(patient, seed, folder) for patient in patients)
    done = map_in_processes(jobs, workers, "draw", ordered=True)
    bar = tqdm(done, total=len(patients), desc="demo", unit="patient", disable=not sys.stderr.isatty())
    return [drawing for drawings in bar for drawing in drawings]


def draw_patient_images(patient: Patient, seed: int, folder: Path) -> list[DrawnFinding]:
    """Draw and write the images of a patient. Return the drawn findings."""
    cv2.setNumThreads(0)
    drawings = []
    for number, study in enumerate(patient.studies):
        for position, image in enumerate(study.images):
            rng = np.random.default_rng([seed, EXPOSURE, patient.number, number, position])
            pixels, drawn = draw_image(patient, study, image, seed, rng)
            _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
            # do not create the folder here: if it is missing, the demo of a killed process was removed
            (folder / image_path(patient, study, image)).write_bytes(encoded.tobytes())
            drawings += drawn
    return drawings


def draw_image(
    patient: Patient, study: Study, image: Image, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[DrawnFinding]]:
    """Return one radiograph (SIZE, SIZE) uint8 and its drawn findings."""
    body = pose_body(sample_body(np.random.default_rng([seed, ANATOMY, patient.number])), image.view, rng)
    density, affine, drawings = draw_normal_chest(body, rng), sample_affine(rng), []
    for index, finding in enumerate(FINDINGS):
        lesion = np.random.default_rng([seed, LESION, patient.number, index])
        fading = (finding.lateral if body.lateral else 1.0) * rng.uniform(0.85, 1.0)
        is_mimicked, strength = rng.random() < MIMIC_SHARE, rng.uniform(0.4, 1.0)
        conspicuity = float(study.conspicuity[index] * fading)
        if conspicuity:
            assert finding.draw is not None  # only No Finding has none, and its conspicuity is 0
            drawn, kind = finding.draw(density, body, conspicuity, lesion), "finding"
        elif finding.mimic and is_mimicked:
            conspicuity = float(strength * fading)
            drawn, kind = finding.mimic(density, body, conspicuity, rng), "mimic"
        else:
            continue
        drawings.append(
            DrawnFinding(image.dicom_id, index, conspicuity, kind, change_mask(drawn - density, affine))
        )
        density = drawn.astype(np.float32)
    return render_radiograph(density, affine, rng), drawings


def change_mask(change: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return where the density (SIZE, SIZE) changed most: packed bits uint8 (MASK_SIZE**2 / 8,)."""
    change = cv2.warpAffine(np.abs(change).astype(np.float32), affine, change.shape)
    coarse = cv2.resize(change, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA)
    return np.packbits(coarse > 0.25 * coarse.max())


def metadata_table(patients: list[Patient], split: str, seed: int) -> pd.DataFrame:
    """Return one row per image of a split: METADATA and reported labels; 3 % of the views are blank."""
    rows = []
    for patient in (patient for patient in patients if patient.split == split):
        blank = np.random.default_rng([seed, patient.number]).random((len(patient.studies), 3)) < 0.03
        for number, study in enumerate(patient.studies):
            for position, image in enumerate(study.images):
                view = "" if blank[number, position] else image.view
                names = [image.dicom_id, patient.subject_id, study.study_id, view, CODE_MEANING[view]]
                rows.append([*names, image_path(patient, study, image), *study.reported])
    return pd.DataFrame(rows, columns=[*METADATA, *CLASSES])


def write_tables(patients: list[Patient], folder: Path, seed: int) -> dict[str, int]:
    """Write the tables and templates of the challenge. Return the number of images by split."""
    counts = {}
    for split in SPLIT_SHARES:
        df = metadata_table(patients, split, seed)
        counts[split] = len(df)
        (df if split == "train" else df[METADATA]).to_csv(folder / f"{split}.csv", index=False)
        if split != "train":
            blank = df[["dicom_id", *CLASSES]].assign(**dict.fromkeys(CLASSES, 0))
            blank.to_csv(folder / TEMPLATES[split], index=False)
    return counts


def write_truth(patients: list[Patient], drawings: list[DrawnFinding], folder: Path) -> None:
    """Write the truth, for scoring only: clean and noisy labels, conspicuity and masks."""
    truth = folder / TRUTH
    truth.mkdir()
    for split in SPLIT_SHARES:
        studies = [study for patient in patients if patient.split == split for study in patient.studies]
        # The noisy labels of train are in train.csv.
        for kind in ("clean",) if split == "train" else ("clean", "noisy"):
            labels = [
                [image.dicom_id, *(study.labels if kind == "clean" else study.reported)]
                for study in studies
                for image in study.images
            ]
            pd.DataFrame(labels, columns=["dicom_id", *CLASSES]).to_csv(
                truth / f"{split}_{kind}.csv", index=False
            )
    rows = [(one.dicom_id, CLASSES[one.index], round(one.conspicuity, 4), one.kind) for one in drawings]
    columns = ["dicom_id", "class", "conspicuity", "kind"]
    pd.DataFrame(rows, columns=columns).to_csv(truth / "conspicuity.csv", index=False)
    np.savez_compressed(truth / "masks.npz", masks=np.stack([drawing.mask for drawing in drawings]))
