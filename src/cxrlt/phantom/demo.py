"""The demo challenges: generated chest radiographs in the files and folders of the CXR-LT 2023 download.

A measuring instrument, not medicine: it shows what a loss or a trick does to long tails, label noise and
several pictures per study, on findings whose conspicuity is known.
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
from cxrlt.phantom.anatomy import draw_body, draw_normal, draw_turn, expose, pose
from cxrlt.phantom.cases import SPLIT_SHARES, Patient, Picture, Study, draw_patients
from cxrlt.phantom.findings import CLASSES, FINDINGS
from cxrlt.phantom.single import draw_single_patients
from cxrlt.system.atomic_dir import atomic_dir, remove_leftovers_beside
from cxrlt.system.atomic_files import cannot_write, write_json
from cxrlt.system.locks import replacing
from cxrlt.system.processes import in_processes


@dataclass(frozen=True)
class Phantom:
    """A demo's patients, `draw_patients(n_patients, seed)`, and the mark of its generator.

    `version` changes whenever the same seed would give other pictures or labels; numbers compare within one.
    """

    version: str
    draw_patients: Callable[[int, int], list[Patient]]


PHANTOMS = {
    "demo": Phantom("1", draw_patients),
    "demo-single": Phantom("single-1", draw_single_patients),
}
N_PATIENTS = 1120
MIMIC_SHARE = 0.10
MASK_SIZE = 32
METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path"]
CODE_MEANING = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral", "": ""}
MARKER, TRUTH = "demo.json", "truth"
TEMPLATES = {"test": "sample_submission.csv", "development": "development_sample_submission.csv"}
CONTENTS = {MARKER, TRUTH, "files", *(f"{split}.csv" for split in SPLIT_SHARES), *TEMPLATES.values()}
ANATOMY, LESION, EXPOSURE = range(10, 13)


@dataclass(frozen=True)
class Drawing:
    """What one picture shows: class index, conspicuity, finding or mimic, and where (packed bits)."""

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
    """Generate a demo's radiographs, tables and truth in `inputs_dir` (by default about 3,400 images).

    Returns a sentence about what there is now.

    The files appear all at once, when all are written. A finished demo with the same version and seed
    (and number of patients, if one is asked for) is left as it is. Raises UserError if the folder holds
    anything else, or another demo and not `force`.
    """
    inputs_dir = inputs_dir.resolve()
    if (inputs_dir / MARKER).is_file() and not force:
        remove_leftovers_beside(inputs_dir)
        return reuse(challenge, inputs_dir, n_patients, seed)
    with replacing(inputs_dir):
        if (inputs_dir / MARKER).is_file() and not force:  # made by another process meanwhile
            return reuse(challenge, inputs_dir, n_patients, seed)
        refuse_foreign_files(inputs_dir)
        n_patients = N_PATIENTS if n_patients is None else n_patients
        if n_patients < 3:
            raise UserError(
                f"{n_patients} patients cannot fill train, development and test: ask for 3 or more."
            )
        with atomic_dir(inputs_dir) as folder:
            mark = draw_demo(folder, challenge, n_patients, seed, workers or joblib.cpu_count())
    return sentence(challenge, inputs_dir, mark, "made")


def sentence(challenge: str, inputs_dir: Path, mark: dict, state: str) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in mark["counts"].items())
    return f"{challenge}: {state}, {counts} images of {mark['n_patients']:,} patients ({inputs_dir})"


def draw_demo(folder: Path, challenge: str, n_patients: int, seed: int, workers: int) -> dict:
    """Everything a demo consists of; what its MARKER says."""
    patients = PHANTOMS[challenge].draw_patients(n_patients, seed)
    try:
        drawings = draw_pictures(patients, seed, folder, workers)
        counts = write_tables(patients, folder, seed)
        write_truth(patients, drawings, folder)
    except OSError as error:
        raise UserError(cannot_write(error.filename or folder, error)) from error
    mark = {"version": PHANTOMS[challenge].version, "seed": seed, "n_patients": n_patients, "counts": counts}
    write_json(folder / MARKER, mark)
    return mark


def refuse_foreign_files(inputs_dir: Path) -> None:
    """UserError if the folder, about to be replaced, holds anything but a finished demo."""
    if inputs_dir.exists() and not inputs_dir.is_dir():
        raise UserError(f"{inputs_dir} is a file. Move it elsewhere, or give another folder with --inputs.")
    names = {entry.name for entry in inputs_dir.iterdir()} if inputs_dir.is_dir() else set()
    foreign = names - CONTENTS if MARKER in names else names
    if foreign:
        raise UserError(
            f"{inputs_dir} holds files that are not the demo's ({listing(sorted(foreign))}). "
            "Move them elsewhere, or give another folder with --inputs."
        )


def reuse(challenge: str, inputs_dir: Path, n_patients: int | None, seed: int) -> str:
    found = read_json(inputs_dir / MARKER, f"cxrlt demo {challenge}")
    if not isinstance(found.get("counts"), dict) or not isinstance(found.get("n_patients"), int):
        raise UserError(f"{inputs_dir / MARKER} is damaged. Make the demo again with --force.")
    version = PHANTOMS[challenge].version
    wanted = {"version": version, "seed": seed, "n_patients": n_patients or found["n_patients"]}
    other = [
        f"{key} {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value
    ]
    if other:
        raise UserError(
            f"{inputs_dir} holds another demo ({listing(other)}). "
            "Replace it with --force, or give another folder with --inputs."
        )
    return sentence(challenge, inputs_dir, found, "already done")


def image_path(patient: Patient, study: Study, picture: Picture) -> str:
    subject = f"p{patient.subject_id}"
    return f"files/{subject[:3]}/{subject}/{study.study_id}/{picture.dicom_id}.jpg"


def draw_pictures(patients: list[Patient], seed: int, folder: Path, workers: int) -> list[Drawing]:
    """Draw and write every picture; what is drawn where, in the order of the patients."""
    for patient in patients:
        for study in patient.studies:
            (folder / image_path(patient, study, study.pictures[0])).parent.mkdir(parents=True)
    jobs = (joblib.delayed(draw_patient_pictures)(patient, seed, folder) for patient in patients)
    done = in_processes(jobs, workers, "draw", in_order=True)
    bar = tqdm(done, total=len(patients), desc="demo", unit="patient", disable=not sys.stderr.isatty())
    return [drawing for drawings in bar for drawing in drawings]


def draw_patient_pictures(patient: Patient, seed: int, folder: Path) -> list[Drawing]:
    cv2.setNumThreads(0)
    drawings = []
    for number, study in enumerate(patient.studies):
        for position, picture in enumerate(study.pictures):
            rng = np.random.default_rng([seed, EXPOSURE, patient.number, number, position])
            image, shown = draw_picture(patient, study, picture, seed, rng)
            _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
            # its folder is there, or has been removed with all that a killed process was drawing
            (folder / image_path(patient, study, picture)).write_bytes(encoded)
            drawings += shown
    return drawings


def draw_picture(
    patient: Patient, study: Study, picture: Picture, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[Drawing]]:
    """One radiograph (SIZE, SIZE) uint8 and what it shows."""
    body = pose(draw_body(np.random.default_rng([seed, ANATOMY, patient.number])), picture.view, rng)
    density, turn, drawings = draw_normal(body, rng), draw_turn(rng), []
    for index, finding in enumerate(FINDINGS):
        lesion = np.random.default_rng([seed, LESION, patient.number, index])
        fading = (finding.lateral if body.lateral else 1.0) * rng.uniform(0.85, 1.0)
        is_mimicked, strength = rng.random() < MIMIC_SHARE, rng.uniform(0.4, 1.0)
        conspicuity = float(study.conspicuity[index] * fading)
        if conspicuity:
            drawn, kind = finding.draw(density, body, conspicuity, lesion), "finding"
        elif finding.mimic and is_mimicked:
            conspicuity = float(strength * fading)
            drawn, kind = finding.mimic(density, body, conspicuity, rng), "mimic"
        else:
            continue
        drawings.append(Drawing(picture.dicom_id, index, conspicuity, kind, mask_of(drawn - density, turn)))
        density = drawn.astype(np.float32)
    return expose(density, turn, rng), drawings


def mask_of(change: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Packed bits (MASK_SIZE**2 / 8,) of where a drawing changed the picture most."""
    change = cv2.warpAffine(np.abs(change).astype(np.float32), turn, change.shape)
    coarse = cv2.resize(change, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA)
    return np.packbits(coarse > 0.25 * coarse.max())


def table(patients: list[Patient], split: str, seed: int) -> pd.DataFrame:
    """Metadata, then the labels as reported, one row per picture; 3 % of the views are blank."""
    rows = []
    for patient in (patient for patient in patients if patient.split == split):
        blank = np.random.default_rng([seed, patient.number]).random((len(patient.studies), 3)) < 0.03
        for number, study in enumerate(patient.studies):
            for position, picture in enumerate(study.pictures):
                view = "" if blank[number, position] else picture.view
                names = [picture.dicom_id, patient.subject_id, study.study_id, view, CODE_MEANING[view]]
                rows.append([*names, image_path(patient, study, picture), *study.reported])
    return pd.DataFrame(rows, columns=[*METADATA, *CLASSES])


def write_tables(patients: list[Patient], folder: Path, seed: int) -> dict[str, int]:
    """The challenge's own files; images per split."""
    counts = {}
    for split in SPLIT_SHARES:
        df = table(patients, split, seed)
        counts[split] = len(df)
        (df if split == "train" else df[METADATA]).to_csv(folder / f"{split}.csv", index=False)
        if split != "train":
            blank = df[["dicom_id", *CLASSES]].assign(**dict.fromkeys(CLASSES, 0))
            blank.to_csv(folder / TEMPLATES[split], index=False)
    return counts


def write_truth(patients: list[Patient], drawings: list[Drawing], folder: Path) -> None:
    """For scoring only: clean and noisy labels, conspicuity and masks."""
    truth = folder / TRUTH
    truth.mkdir()
    for split in SPLIT_SHARES:
        studies = [study for patient in patients if patient.split == split for study in patient.studies]
        # The noisy labels of train are train.csv itself.
        for kind in ("clean",) if split == "train" else ("clean", "noisy"):
            rows = [
                [picture.dicom_id, *(study.labels if kind == "clean" else study.reported)]
                for study in studies
                for picture in study.pictures
            ]
            pd.DataFrame(rows, columns=["dicom_id", *CLASSES]).to_csv(
                truth / f"{split}_{kind}.csv", index=False
            )
    rows = [(one.dicom_id, CLASSES[one.index], round(one.conspicuity, 4), one.kind) for one in drawings]
    columns = ["dicom_id", "class", "conspicuity", "kind"]
    pd.DataFrame(rows, columns=columns).to_csv(truth / "conspicuity.csv", index=False)
    np.savez_compressed(truth / "masks.npz", masks=np.stack([drawing.mask for drawing in drawings]))
