"""What classes say about each other, put into finished logits: off unless a recipe asks for it.

Both have hurt where they were measured, by third place of CXR-LT 2026 on its own validation rows: gating by
"Normal" cost an ASL model .010 to .046 mAP (the winner gates at a power of .5, on a distribution-balanced
loss's probabilities), and smoothing over the graph of labels .0006 to .0053.
"""

import numpy as np
import pandas as pd
from scipy.special import expit, log_expit

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.metrics.resampling import Floats
from cxrlt.recipe import PredictConfig


def gate(logits: pd.DataFrame, no_finding: str, power: float) -> pd.DataFrame:
    """Logits of p_c (1 - p of `no_finding`)^power for every other class; NaN stays NaN."""
    values = logits.astype(np.float64)
    absent = power * log_expit(-values[[no_finding]].to_numpy())
    log_p = log_expit(values.to_numpy()) + absent
    gated = pd.DataFrame(log_p - _log1m_exp(log_p), logits.index, logits.columns)
    return gated.assign(**{no_finding: values[no_finding]}) if power else values


def smooth(logits: pd.DataFrame, neighbours: pd.DataFrame, share: float) -> pd.DataFrame:
    """Logits of (1 - share) p + share x (neighbours p), `neighbours` as `label_graph` makes them."""
    names = list(logits.columns)
    mixing = (1 - share) * np.eye(len(names)) + share * neighbours.loc[names, names].to_numpy()
    values = logits.to_numpy(np.float64)
    present, absent = (expit(sign * values) @ mixing.T for sign in (1, -1))  # rows of `mixing` sum to 1
    return pd.DataFrame(np.log(present) - np.log(absent), logits.index, logits.columns)


def label_graph(labels: pd.DataFrame) -> pd.DataFrame:
    """Row c: how often each other class is there where c is, P(d | c), divided by the sum of the row.

    `labels` are 1, 0 or NaN; a pair counts in the rows where both are known. A class that never meets another
    is its own only neighbour.
    """
    values = labels.to_numpy(np.float64)
    present, known = (values == 1).astype(np.float64), (~np.isnan(values)).astype(np.float64)
    together, alone = present.T @ present, present.T @ known
    conditional = np.divide(together, alone, out=np.zeros_like(together), where=alone > 0)
    np.fill_diagonal(conditional, 0)
    total = conditional.sum(axis=1, keepdims=True)
    share = np.divide(conditional, total, out=np.eye(len(total)), where=total > 0)
    return pd.DataFrame(share, labels.columns, labels.columns)


def postprocess(
    challenge: Challenge, logits: pd.DataFrame, options: PredictConfig, labels: pd.DataFrame
) -> pd.DataFrame:
    """`logits` gated, then smoothed, as `options` say; `labels` are those that co-occurrence is counted in.

    Raises UserError for one class per row, and for a gate where no class means that nothing was found.
    """
    if not (options.gate or options.smooth):
        return logits
    if challenge.task == "single_label":
        raise UserError(
            f"{challenge.name} has one class per row: set predict.gate and predict.smooth to 0 in the recipe."
        )
    if options.gate:
        if challenge.no_finding is None:
            raise UserError(
                f"predict.gate {options.gate:g} needs a class for images without a finding, which "
                f"{challenge.name} does not have: set it to 0 in the recipe."
            )
        logits = gate(logits, challenge.no_finding, options.gate)
    if options.smooth:
        logits = smooth(logits, label_graph(labels[list(logits.columns)]), options.smooth)
    return logits


def _log1m_exp(log_p: Floats) -> Floats:
    """log(1 - p) for log p < 0, without loss where p is near 1; near p = 0 it is lost in the logit anyway."""
    with np.errstate(divide="ignore"):  # of a p that rounds to 1
        return np.log(-np.expm1(log_p))
