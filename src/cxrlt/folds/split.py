"""Which fold every image belongs to: patients whole, every label spread evenly."""

import numpy as np
import pandas as pd

from cxrlt.errors import UserError, listing

RARE_PATIENTS = 300
RARE_WEIGHT = 0.5


def split_patients(
    table: pd.DataFrame, classes: tuple[str, ...], n_folds: int, seed: int, placed: pd.Series | None = None
) -> pd.Series:
    """Fold (0 … n_folds - 1) of every image; index image_id.

    `table` has a column `patient` and one column per class, of which 1 counts as a positive. No patient is in
    two folds. The images in `placed` (fold, index image_id) keep their fold, new images of their patients go
    to the same one, and new patients are placed on top of what is there. Where the data set has no patients
    (all NA), rows are split by iterative stratification; with `placed` they are patients of their own.
    Raises UserError for fewer than two folds, more folds than patients, or a patient missing on some rows.
    """
    positive = (table[list(classes)] == 1).to_numpy(dtype=np.float64)
    rows_only = table["patient"].isna().all()
    patient = table.index.to_series() if rows_only else table["patient"]
    n_units, units = patient.nunique(), "rows" if rows_only else "patients"
    if placed is None and not 2 <= n_folds <= n_units:
        raise UserError(f"--n-folds {n_folds} must lie between 2 and the number of {units}, {n_units:,}.")
    if placed is None and rows_only:
        return pd.Series(_split_rows(positive, n_folds, seed), index=table.index, name="fold")
    if patient.isna().any():
        unknown = listing(patient.index[patient.isna()])
        raise UserError(f"rows without a patient: {unknown}. Give them one in the challenge's table.")
    code, patients = pd.factorize(patient, sort=True)
    fold_of = np.full(len(patients), -1, dtype=np.int64)
    if placed is not None:
        there = table.index.isin(placed.index)
        fold_of[code[there]] = placed.loc[table.index[there]].to_numpy(np.int64)
    _place_greedily(fold_of, _shares(positive, code, len(patients)), n_folds, seed)
    return pd.Series(fold_of[code], index=table.index, name="fold")


def _shares(positive: np.ndarray, patient: np.ndarray, n_patients: int) -> np.ndarray:
    """Patients x columns: shares of every label's positives, of rows, and of a rare class's patients."""
    counts = np.column_stack([np.bincount(patient, column, n_patients) for column in positive.T])
    rows = np.bincount(patient, minlength=n_patients)[:, None]
    has = (counts > 0).astype(np.float64)
    rare = has[:, has.sum(axis=0) <= RARE_PATIENTS]  # rows balance their images, these their patients
    columns = np.hstack([counts, rows, rare])
    shares = columns / np.maximum(columns.sum(axis=0), 1)
    shares[:, counts.shape[1] + 1 :] *= RARE_WEIGHT
    return shares


def _place_greedily(fold_of: np.ndarray, shares: np.ndarray, n_folds: int, seed: int) -> None:
    """Give each patient without a fold (-1 in `fold_of`) the one whose squared shares grow least.

    Patients come by largest share, ties by the seed.
    """
    tie = np.random.default_rng(seed).permutation(len(shares))
    load = np.stack([shares[fold_of == fold].sum(axis=0) for fold in range(n_folds)])
    for patient in np.lexsort((tie, -shares.max(axis=1))):
        if fold_of[patient] < 0:
            # (load + share)^2 - load^2 = 2 load share + share^2, and the last term is every fold's
            fold = int(np.argmin(load @ shares[patient]))
            load[fold] += shares[patient]
            fold_of[patient] = fold


def _split_rows(positive: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    # scikit-learn takes a second to import, which commands that only read folds need not wait for
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    fold_of = np.empty(len(positive), dtype=np.int64)
    splitter = MultilabelStratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(positive, positive)):
        fold_of[rows] = fold
    return fold_of
