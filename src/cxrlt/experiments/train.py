"""Training the runs of an experiment, several side by side."""

from collections.abc import Sequence
from functools import partial

from cxrlt.errors import UserError
from cxrlt.experiments.plan import Experiment, Run
from cxrlt.experiments.workers import Task, Workers
from cxrlt.training.train import train


def train_runs(
    experiment: Experiment, workers: Workers, runs: Sequence[Run], folds: Sequence[int], title: str
) -> dict[str, str]:
    """Train what is not trained yet. Returns what failed: "run fold" -> reason."""
    tasks = []
    for run, fold in experiment.todo(runs, folds):
        label = f"{run.name} fold {fold}"
        do = partial(train, experiment.source, run.plan(fold, experiment.plan.force))
        tasks.append(Task(label, do, experiment.log_of(label)))
    return workers.run(tasks, title)


def require_none_failed(failures: dict[str, str]) -> None:
    """Raises UserError naming what failed and why."""
    if failures:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failures.items())
        raise UserError(
            f"{len(failures)} of the experiment's tasks failed. {reasons} The same command goes on."
        )
