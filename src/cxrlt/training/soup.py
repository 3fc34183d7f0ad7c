"""Model soup: average the weights of a fold's last epochs if this scores higher on holdout rows.

Greedy soups: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, recipe 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from cxrlt.metrics import macro_metric
from cxrlt.system.atomic_files import write_json
from cxrlt.training.checkpoint import read_tensors, save_tensors, snapshot_path
from cxrlt.training.epoch_end import predict_scores
from cxrlt.training.setup import Trainer

SOUP = "soup.json"
Epochs = tuple[int, ...]


@dataclass(frozen=True)
class SoupTrial:
    """An average of the weights of `epochs` and its score on the holdout rows, NaN if undefined."""

    epochs: Epochs
    score: float
    taken: bool


def save_snapshot(trainer: Trainer, epoch: int) -> None:
    """Save the EMA weights after `epoch` (counted from 1) on the main process, if the soup may use them."""
    if trainer.accelerator.is_main_process and epoch in _snapshot_epochs(trainer):
        save_tensors(snapshot_path(trainer.job.run_dir, epoch), trainer.ema.module.state_dict())


def apply_soup(trainer: Trainer) -> None:
    """Replace the last EMA weights with the soup, and write its epochs and scores to soup.json."""
    job, cfg, holdout = trainer.job, trainer.job.recipe.soup, trainer.job.data.holdout
    metric, targets = job.challenge.metric, job.data.targets(holdout)
    paths = {epoch: snapshot_path(job.run_dir, epoch) for epoch in _snapshot_epochs(trainer)}
    trainer.accelerator.wait_for_everyone()  # for the main process to write the snapshots

    @cache
    def score(epochs: Epochs) -> float:
        trainer.ema.module.load_state_dict(average_weights([paths[epoch] for epoch in epochs]))
        return macro_metric(metric, targets, predict_scores(trainer, holdout))

    single_scores = {str(epoch): _nan_to_none(score((epoch,))) for epoch in paths}
    make_soup = average_soup if cfg.kind == "average" else greedy_soup
    trials = make_soup(list(paths), score)
    taken = next(trial for trial in reversed(trials) if trial.taken)
    trainer.ema.module.load_state_dict(average_weights([paths[epoch] for epoch in taken.epochs]))
    if trainer.accelerator.is_main_process:
        report = {
            "kind": cfg.kind,
            "metric": metric,
            "n_holdout_images": len(holdout),
            "n_holdout_patients": int(holdout["patient"].nunique()),
            "snapshots": single_scores,
            "tried": [asdict(trial) | {"score": _nan_to_none(trial.score)} for trial in trials],
            "taken": taken.epochs,
            "why": _explain_choice(cfg.kind, taken, max(paths)),
        }
        write_json(job.run_dir / SOUP, report)
    trainer.accelerator.wait_for_everyone()  # before the main process removes the snapshots


def average_soup(epochs: Sequence[int], score: Callable[[Epochs], float]) -> list[SoupTrial]:
    """Try the last epoch, then the mean of all epochs, which is taken if its score is not lower."""
    last, everything = (epochs[-1],), tuple(epochs)
    first = SoupTrial(last, score(last), True)
    return [first, SoupTrial(everything, score(everything), score(everything) >= first.score)]


def greedy_soup(epochs: Sequence[int], score: Callable[[Epochs], float]) -> list[SoupTrial]:
    """Start with the best epoch; add each other epoch, from best to worst, that does not lower the score.

    Of epochs with equal scores the later is first. If the scores are undefined, the soup is the last epoch.
    """
    if any(math.isnan(score((epoch,))) for epoch in epochs):
        return [SoupTrial((epochs[-1],), math.nan, True)]
    best, *others = sorted(epochs, key=lambda epoch: (-score((epoch,)), -epoch))
    trials = [SoupTrial((best,), score((best,)), True)]
    soup = trials[0]
    for epoch in others:
        candidate = tuple(sorted((*soup.epochs, epoch)))
        trials.append(SoupTrial(candidate, score(candidate), score(candidate) >= soup.score))
        soup = trials[-1] if trials[-1].taken else soup
    return trials


def average_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean over files of each float tensor, same shape; other tensors from the last file.

    The sum is in float64. BatchNorm's running statistics are averaged like weights, without another pass over
    the images.
    """
    total = read_tensors(paths[-1])
    dtypes = {key: value.dtype for key, value in total.items() if value.is_floating_point()}
    total |= {key: total[key].double() for key in dtypes}
    for path in paths[:-1]:
        for key, value in read_tensors(path).items():
            if key in dtypes:
                total[key] += value
    return total | {key: (total[key] / len(paths)).to(dtype) for key, dtype in dtypes.items()}


def _snapshot_epochs(trainer: Trainer) -> range:
    """Return the epochs, counted from 1, whose weights are saved."""
    cfg = trainer.job.recipe
    if cfg.soup.kind == "none":
        return range(0)
    return range(max(1, cfg.schedule.epochs - cfg.soup.snapshots + 1), cfg.schedule.epochs + 1)


def _explain_choice(kind: str, taken: SoupTrial, last: int) -> str:
    if math.isnan(taken.score):
        return "the score on the holdout rows is undefined: the soup is the last epoch"
    if taken.epochs == (last,):
        return "no average scored as high on the holdout rows as the last epoch"
    if kind == "average":
        return "the average of all epochs scored on the holdout rows at least as high as the last epoch"
    if len(taken.epochs) == 1:
        return "this epoch scored highest on the holdout rows, and averages with other epochs scored lower"
    return "the best epoch, and each further epoch that did not lower the score on the holdout rows"


def _nan_to_none(score: float) -> float | None:
    return None if math.isnan(score) else score
