"""Split images into folds, grouped by patient and stratified by every label."""

import numpy as np
import pandas as pd

from cxrlt.errors import UserError, listing

MAX_RARE_PATIENTS = 300
"""A class with at most this many positive patients is rare: its patients are stratified too, not only images.

Measured on the 78,506 training images of NIH-CXR-LT with 5 folds: Pneumomediastinum then has 13 to 17
positive patients per fold instead of 9 to 18.
"""
RARE_WEIGHT = 0.5
"""Weight of the patients of a rare class, relative to images. From the same measurement: the mean CV of label
rates rises from 0.0032 to 0.0043."""


def split_patients(
    table: pd.DataFrame, classes: tuple[str, ...], n_folds: int, seed: int, existing: pd.Series | None = None
) -> pd.Series:
    """Return the fold (0 … n_folds - 1) of every image: int64, index image_id.

    `table` (index image_id) has a column `patient` and one column per class (1 = positive). No patient is in
    two folds. Images in `existing` (fold, index image_id) keep their fold; new images of the same patient get
    that fold; new patients are added greedily. If the data set has no patients (all NA), rows are split by
    iterative stratification; with `existing`, every row counts as a patient. Raises UserError for fewer than
    two folds, more folds than patients, or if only some rows have a patient.
    """
    positive = (table[list(classes)] == 1).to_numpy(dtype=np.float64)
    rows_only = table["patient"].isna().all()
    patient = table.index.to_series() if rows_only else table["patient"]
    n_units, units = patient.nunique(), "rows" if rows_only else "patients"
    if existing is None and not 2 <= n_folds <= n_units:
        raise UserError(f"--n-folds {n_folds} must be between 2 and the number of {units}, {n_units:,}.")
    if existing is None and rows_only:
        return pd.Series(_split_rows(positive, n_folds, seed), index=table.index, name="fold")
    if patient.isna().any():
        unknown = listing(patient.index[patient.isna()])
        raise UserError(
            f"rows without a patient: {unknown}. Fill in their patients in the challenge's table."
        )
    code, patients = pd.factorize(patient, sort=True)
    fold_of = np.full(len(patients), -1, dtype=np.int64)
    if existing is not None:
        has_fold = table.index.isin(existing.index)
        fold_of[code[has_fold]] = existing.loc[table.index[has_fold]].to_numpy(np.int64)
    _assign_greedily(fold_of, _patient_shares(positive, code, len(patients)), n_folds, seed)
    return pd.Series(fold_of[code], index=table.index, name="fold")


def _patient_shares(positive: np.ndarray, patient: np.ndarray, n_patients: int) -> np.ndarray:
    """Return each patient's shares (n_patients, n_columns) of what the folds should balance.

    The columns are the positive images of every class, all images, and the positive patients of rare classes.
    """
    counts = np.column_stack([np.bincount(patient, column, n_patients) for column in positive.T])
    rows = np.bincount(patient, minlength=n_patients)[:, None]
    is_positive = (counts > 0).astype(np.float64)
    rare = is_positive[:, is_positive.sum(axis=0) <= MAX_RARE_PATIENTS]
    columns = np.hstack([counts, rows, rare])
    shares = columns / np.maximum(columns.sum(axis=0), 1)
    shares[:, counts.shape[1] + 1 :] *= RARE_WEIGHT
    return shares


def _assign_greedily(fold_of: np.ndarray, shares: np.ndarray, n_folds: int, seed: int) -> None:
    """Assign each patient without a fold (-1 in `fold_of`) to the fold whose squared shares grow least.

    Patients with the largest share come first; the seed breaks ties. `fold_of` (n_patients,) is changed.
    """
    tie = np.random.default_rng(seed).permutation(len(shares))
    load = np.stack([shares[fold_of == fold].sum(axis=0) for fold in range(n_folds)])
    for patient in np.lexsort((tie, -shares.max(axis=1))):
        if fold_of[patient] < 0:
            # (load + share)^2 - load^2 = 2 load share + share^2; the last term is the same for every fold
            fold = int(np.argmin(load @ shares[patient]))
            load[fold] += shares[patient]
            fold_of[patient] = fold


def _split_rows(positive: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    # imported here, as scikit-learn takes a second, and commands that only read folds do not need it
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    fold_of = np.empty(len(positive), dtype=np.int64)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(positive, positive)):
        fold_of[rows] = fold
    return fold_of
