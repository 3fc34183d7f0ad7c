"""One model from the averaged weights of a fold's last epochs, if rows it was not trained on agree.

Greedy soups: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, recipe 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from torch import Tensor

from cxrlt.metrics import macro_metric
from cxrlt.system.atomic_files import write_json
from cxrlt.training.checkpoint import read_tensors, save_tensors, snapshot_path
from cxrlt.training.setup import Trainer
from cxrlt.training.validate import scores_on

SOUP = "soup.json"
Epochs = tuple[int, ...]


@dataclass(frozen=True)
class Tried:
    """An average of the weights of `epochs` and its score on the inner rows, NaN where they define none."""

    epochs: Epochs
    score: float
    taken: bool


def keep_snapshot(trainer: Trainer, epoch: int) -> None:
    """Keep the averaged weights after `epoch` (from 1), on the main process, if the soup may need them."""
    if trainer.accelerator.is_main_process and epoch in _epochs(trainer):
        save_tensors(snapshot_path(trainer.job.run_dir, epoch), trainer.ema.module.state_dict())


def pour(trainer: Trainer) -> None:
    """Put the soup in the place of the last averaged weights, and say in soup.json which epochs are in it."""
    job, cfg = trainer.job, trainer.job.recipe.soup
    paths = {epoch: snapshot_path(job.run_dir, epoch) for epoch in _epochs(trainer)}
    trainer.accelerator.wait_for_everyone()  # the main process has written them

    @cache
    def score_of(epochs: Epochs) -> float:
        trainer.ema.module.load_state_dict(mean_of([paths[epoch] for epoch in epochs]))
        return macro_metric(job.metric, job.targets(job.inner), scores_on(trainer, job.inner))

    alone = {str(epoch): _number(score_of((epoch,))) for epoch in paths}
    tried = average(list(paths), score_of) if cfg.kind == "average" else greedy(list(paths), score_of)
    taken = next(one for one in reversed(tried) if one.taken)
    trainer.ema.module.load_state_dict(mean_of([paths[epoch] for epoch in taken.epochs]))
    if trainer.accelerator.is_main_process:
        report = {
            "kind": cfg.kind,
            "metric": job.metric,
            "n_inner_images": len(job.inner),
            "n_inner_patients": int(job.inner["patient"].nunique()),
            "snapshots": alone,
            "tried": [asdict(one) | {"score": _number(one.score)} for one in tried],
            "taken": taken.epochs,
            "why": _why(cfg.kind, taken, max(paths)),
        }
        write_json(job.run_dir / SOUP, report)
    trainer.accelerator.wait_for_everyone()  # the main process will remove them


def average(epochs: Sequence[int], score_of: Callable[[Epochs], float]) -> list[Tried]:
    """The last epoch, then the mean of all, which is taken if it does not score less."""
    last, everything = (epochs[-1],), tuple(epochs)
    first = Tried(last, score_of(last), True)
    return [first, Tried(everything, score_of(everything), score_of(everything) >= first.score)]


def greedy(epochs: Sequence[int], score_of: Callable[[Epochs], float]) -> list[Tried]:
    """The best epoch, then every other from the best down, taken if the mean with it does not score less.

    Of equal epochs the later comes first; where the inner rows define no score the last epoch stays alone.
    """
    if any(math.isnan(score_of((epoch,))) for epoch in epochs):
        return [Tried((epochs[-1],), math.nan, True)]
    best, *others = sorted(epochs, key=lambda epoch: (-score_of((epoch,)), -epoch))
    tried = [Tried((best,), score_of((best,)), True)]
    soup = tried[0]
    for epoch in others:
        epochs_with = tuple(sorted((*soup.epochs, epoch)))
        tried.append(Tried(epochs_with, score_of(epochs_with), score_of(epochs_with) >= soup.score))
        soup = tried[-1] if tried[-1].taken else soup
    return tried


def mean_of(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Means of the tensors of several files, summed in float64; what is no float comes from the last file.

    The running statistics of BatchNorm are averaged like weights: nothing is passed through the network anew.
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


def _why(kind: Literal["average", "greedy"], taken: Tried, last: int) -> str:
    if math.isnan(taken.score):
        return "the inner rows define no score, so the last epoch stays as it is"
    if taken.epochs == (last,):
        return "no average scored as high on the inner rows as the last epoch"
    if kind == "average":
        return "the average of all scored on the inner rows no less than the last epoch"
    if len(taken.epochs) == 1:
        return "this epoch scored highest on the inner rows, and averages with others less"
    return "from the best epoch down, each with which the average scored no less on the inner rows"


def _number(score: float) -> float | None:
    return None if math.isnan(score) else score
