"""Measure how balanced a split is: fold sizes, leakage, and label rates per fold."""

import numpy as np
import pandas as pd

from cxrlt.errors import listing


def balance(table: pd.DataFrame, classes: tuple[str, ...], fold: pd.Series) -> dict[str, object]:
    """Return fold sizes, a leakage check and, per class, positives, positive patients and rates per fold.

    `table` (index image_id) has a column `patient` and one column per class; `fold` (int, index image_id) is
    the fold of each row. Lists are in the order of the folds. A rate is positives / annotated rows; its CV is
    the coefficient of variation over the folds (population standard deviation / mean). `scarce` are the
    classes with fewer positive patients than folds; `absent` are other classes without a positive patient in
    some fold. `leaked_share` is the share of the rows whose patient has a row in another fold. A row
    without a patient counts as a patient.
    """
    labels = table[list(classes)]
    n_folds = int(fold.max()) + 1
    patient = table["patient"].fillna(table.index.to_series())
    positives = (labels == 1).groupby(fold).sum()
    rates = positives / labels.notna().groupby(fold).sum().replace(0, np.nan)
    cv = rates.std(ddof=0) / rates.mean()
    sizes = fold.value_counts().sort_index()
    patients = pd.DataFrame(
        {name: _positive_patients(patient, labels[name] == 1, fold, n_folds) for name in classes}
    )
    enough = patients.sum() >= n_folds
    known_cv = cv.dropna()
    leaked = fold.groupby(patient).transform("nunique") > 1
    return {
        "n_rows": len(table),
        "n_patients": int(table["patient"].nunique()),
        "patients_in_two_folds": int(patient[leaked].nunique()),
        "leaked_share": float(leaked.mean()),
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


def _positive_patients(patient: pd.Series, positive: pd.Series, fold: pd.Series, n_folds: int) -> pd.Series:
    """Return the number of patients with a positive row, per fold."""
    return patient[positive].groupby(fold[positive]).nunique().reindex(range(n_folds), fill_value=0)


def describe(figures: dict, title: str, group_word: str = "patient") -> str:
    """Format the result of `balance` as a few lines of text; `group_word` names what `patient` holds."""
    sizes, groups = figures["sizes"], f"{group_word}s"
    patients = (
        f"{figures['n_patients']:,} {groups}" if figures["n_patients"] else "no patient column: split by rows"
    )
    leakage = f"{figures['patients_in_two_folds']:,} {groups} in two folds"
    lines = [
        f"{title}: {figures['n_rows']:,} rows ({patients}) in {len(sizes)} folds",
        f"  sizes      {listing(f'{size:,}' for size in sizes)} "
        f"(at most {figures['size_spread']:.2%} from the mean)",
        f"  leakage    {leakage if figures['n_patients'] else 'not known without patients'}",
    ]
    if figures.get("by") == "image":
        lines.append(f"  {describe_leakage(figures['leaked_share'], group_word)}")
    if figures["label_cv_mean"] is not None:
        lines.append(
            f"  label rates over the folds: CV {figures['label_cv_mean']:.4f} on average, "
            f"at most {figures['label_cv_worst']:.4f} ({figures['label_cv_worst_class']})"
        )
    if figures["scarce"]:
        lines.append(
            f"  fewer positive {groups} than folds: {listing(figures['scarce'])}\n"
            "    (used in training; excluded from a mean where the metric is undefined)"
        )
    if figures["absent"]:
        lines.append(f"  no positive {group_word} in some fold: {listing(figures['absent'])}")
    return "\n".join(lines)


def describe_leakage(share: float, group_word: str) -> str:
    """Return the sentence about a split by image in which this share of the images leaks."""
    return (
        f"split by image: {share:.0%} of the images share a {group_word} with another fold: "
        "out-of-fold scores are too high (leakage)"
    )
