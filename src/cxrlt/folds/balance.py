"""How even a split is: figures that decide whether a fold's score means what the others' mean."""

import numpy as np
import pandas as pd

from cxrlt.errors import listing


def balance(table: pd.DataFrame, classes: tuple[str, ...], fold: pd.Series) -> dict[str, object]:
    """Sizes, leak check and, per class, positives, patients and rates per fold (lists in fold order).

    A rate is positives over annotated rows; its CV is the population coefficient of variation over folds.
    `scarce` are classes with fewer positive patients than folds, `absent` those that some fold lacks although
    they have enough. Where the data set has no patients, every row counts as one.
    """
    labels = table[list(classes)]
    n_folds = int(fold.max()) + 1
    unit = table["patient"] if table["patient"].notna().all() else table.index.to_series()
    positives = (labels == 1).groupby(fold).sum()
    rates = positives / labels.notna().groupby(fold).sum().replace(0, np.nan)
    cv = rates.std(ddof=0) / rates.mean()
    sizes = fold.value_counts().sort_index()
    patients = pd.DataFrame({name: _units(unit, labels[name] == 1, fold, n_folds) for name in classes})
    enough = patients.sum() >= n_folds
    known_cv = cv.dropna()
    return {
        "n_rows": len(table),
        "n_patients": int(table["patient"].nunique()),
        "patients_in_two_folds": int((fold.groupby(unit).nunique() > 1).sum()),
        "sizes": sizes.tolist(),
        "size_spread": float((sizes / sizes.mean() - 1).abs().max()),
        "label_cv_mean": float(known_cv.mean()) if len(known_cv) else None,
        "label_cv_worst": float(known_cv.max()) if len(known_cv) else None,
        "label_cv_worst_class": str(known_cv.idxmax()) if len(known_cv) else None,
        "scarce": [name for name in classes if not enough[name]],
        "absent": [name for name in classes if enough[name] and (patients[name] == 0).any()],
        "classes": {
            name: {
                "positives": positives[name].tolist(),
                "positive_patients": patients[name].tolist(),
                "rates": [None if np.isnan(rate) else float(rate) for rate in rates[name]],
                "cv": None if np.isnan(cv[name]) else float(cv[name]),
            }
            for name in classes
        },
    }


def _units(unit: pd.Series, positive: pd.Series, fold: pd.Series, n_folds: int) -> pd.Series:
    """Patients with a positive row, per fold."""
    return unit[positive].groupby(fold[positive]).nunique().reindex(range(n_folds), fill_value=0)


def describe(figures: dict, title: str) -> str:
    """The figures as a few lines a person reads."""
    sizes = figures["sizes"]
    who = f"{figures['n_patients']:,} patients" if figures["n_patients"] else "no patient column: rows split"
    lines = [
        f"{title}: {figures['n_rows']:,} rows ({who}) in {len(sizes)} folds",
        f"  sizes      {listing(f'{size:,}' for size in sizes)} (at most {figures['size_spread']:.2%} off)",
        f"  leak check {figures['patients_in_two_folds']} patients in two folds",
    ]
    if figures["label_cv_mean"] is not None:
        lines.append(
            f"  label rates vary by {figures['label_cv_mean']:.4f} on average over folds (CV), "
            f"{figures['label_cv_worst']:.4f} at worst ({figures['label_cv_worst_class']})"
        )
    if figures["scarce"]:
        lines.append(
            f"  fewer positive patients than folds: {listing(figures['scarce'])} "
            "(trained on; left out of a mean where undefined)"
        )
    if figures["absent"]:
        lines.append(f"  absent from a fold: {listing(figures['absent'])}")
    return "\n".join(lines)
