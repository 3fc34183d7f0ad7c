"""One model from the averaged weights of a fold's last epochs, if rows it was not trained on agree.

Greedy soups: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, recipe 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor

from cxrlt.folds.split import split_patients
from cxrlt.metrics import macro_metric
from cxrlt.system.atomic_files import write_json
from cxrlt.training.checkpoint import read_tensors, save_tensors, snapshot_path
from cxrlt.training.epoch_end import scores_on
from cxrlt.training.setup import Trainer, seed_of

SOUP = "soup.json"
MOST_PARTS = 20
"""Of a fold's patients, some of which judge its soup: more and smaller ones spread labels less evenly."""
Epochs = tuple[int, ...]


@dataclass(frozen=True)
class SoupTrial:
    """An average of the weights of `epochs` and its score on the held-out rows, NaN if undefined."""

    epochs: Epochs
    score: float
    taken: bool


def soup_holdout(
    rows: pd.DataFrame, classes: tuple[str, ...], share: float, seed: int, fold: str
) -> pd.Index:
    """Ids of the rows that judge a soup, and are not trained on: of about `share` of the patients.

    `rows` are those that `fold` does not leave out. Patients stay whole and labels are spread as over folds.
    A label with too few patients for every part stays with the rows that are trained on.
    """
    most = min(MOST_PARTS, rows["patient"].nunique() or len(rows))
    taken = max(Fraction(share).limit_denominator(most), Fraction(1, most))
    part = split_patients(rows, classes, taken.denominator, seed_of("inner", seed, fold) % 2**32)
    return rows.index[part >= taken.denominator - taken.numerator]  # the first parts get what is rarest


def keep_snapshot(trainer: Trainer, epoch: int) -> None:
    """Keep the averaged weights after `epoch` (from 1), on the main process, if the soup may need them."""
    if trainer.accelerator.is_main_process and epoch in _epochs(trainer):
        save_tensors(snapshot_path(trainer.job.run_dir, epoch), trainer.ema.module.state_dict())


def apply_soup(trainer: Trainer) -> None:
    """Put the soup in the place of the last averaged weights, and say in soup.json which epochs are in it."""
    job, cfg, holdout = trainer.job, trainer.job.recipe.soup, trainer.job.data.soup_holdout
    metric, targets = job.challenge.metric, job.data.targets(holdout)
    paths = {epoch: snapshot_path(job.run_dir, epoch) for epoch in _epochs(trainer)}
    trainer.accelerator.wait_for_everyone()  # the main process has written them

    @cache
    def score_of(epochs: Epochs) -> float:
        trainer.ema.module.load_state_dict(mean_of([paths[epoch] for epoch in epochs]))
        return macro_metric(metric, targets, scores_on(trainer, holdout))

    alone = {str(epoch): _number(score_of((epoch,))) for epoch in paths}
    tried = average(list(paths), score_of) if cfg.kind == "average" else greedy(list(paths), score_of)
    taken = next(one for one in reversed(tried) if one.taken)
    trainer.ema.module.load_state_dict(mean_of([paths[epoch] for epoch in taken.epochs]))
    if trainer.accelerator.is_main_process:
        report = {
            "kind": cfg.kind,
            "metric": metric,
            "n_holdout_images": len(holdout),
            "n_holdout_patients": int(holdout["patient"].nunique()),
            "snapshots": alone,
            "tried": [asdict(one) | {"score": _number(one.score)} for one in tried],
            "taken": taken.epochs,
            "why": _why(cfg.kind, taken, max(paths)),
        }
        write_json(job.run_dir / SOUP, report)
    trainer.accelerator.wait_for_everyone()  # the main process will remove them


def average(epochs: Sequence[int], score_of: Callable[[Epochs], float]) -> list[SoupTrial]:
    """The last epoch, then the mean of all, which is taken if it does not score less."""
    last, everything = (epochs[-1],), tuple(epochs)
    first = SoupTrial(last, score_of(last), True)
    return [first, SoupTrial(everything, score_of(everything), score_of(everything) >= first.score)]


def greedy(epochs: Sequence[int], score_of: Callable[[Epochs], float]) -> list[SoupTrial]:
    """The best epoch, then every other from the best down, taken if the mean with it does not score less.

    Of equal epochs the later comes first; where the held-out rows define no score the last epoch stays alone.
    """
    if any(math.isnan(score_of((epoch,))) for epoch in epochs):
        return [SoupTrial((epochs[-1],), math.nan, True)]
    best, *others = sorted(epochs, key=lambda epoch: (-score_of((epoch,)), -epoch))
    tried = [SoupTrial((best,), score_of((best,)), True)]
    soup = tried[0]
    for epoch in others:
        epochs_with = tuple(sorted((*soup.epochs, epoch)))
        tried.append(SoupTrial(epochs_with, score_of(epochs_with), score_of(epochs_with) >= soup.score))
        soup = tried[-1] if tried[-1].taken else soup
    return tried


def mean_of(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Means of the tensors of several files, summed in float64; what is no float comes from the last file.

    The running statistics of BatchNorm are averaged like weights; no image passes through the network again.
    """
    total = read_tensors(paths[-1])
    kinds = {key: value.dtype for key, value in total.items() if value.is_floating_point()}
    total |= {key: total[key].double() for key in kinds}
    for path in paths[:-1]:
        for key, value in read_tensors(path).items():
            if key in kinds:
                total[key] += value
    return total | {key: (total[key] / len(paths)).to(dtype) for key, dtype in kinds.items()}


def _epochs(trainer: Trainer) -> range:
    """The epochs, from 1, whose weights are kept."""
    cfg = trainer.job.recipe
    if cfg.soup.kind == "none":
        return range(0)
    return range(max(1, cfg.schedule.epochs - cfg.soup.snapshots + 1), cfg.schedule.epochs + 1)


def _why(kind: Literal["average", "greedy"], taken: SoupTrial, last: int) -> str:
    if math.isnan(taken.score):
        return "the held-out rows define no score, so the last epoch stays as it is"
    if taken.epochs == (last,):
        return "no average scored as high on the held-out rows as the last epoch"
    if kind == "average":
        return "the average of all scored on the held-out rows no less than the last epoch"
    if len(taken.epochs) == 1:
        return "this epoch scored highest on the held-out rows, and averages with others less"
    return "from the best epoch down, each with which the average scored no less on the held-out rows"


def _number(score: float) -> float | None:
    return None if math.isnan(score) else score
