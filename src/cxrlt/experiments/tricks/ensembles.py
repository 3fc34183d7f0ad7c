"""Ensembles of one seed's runs."""

from collections.abc import Sequence

from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.experiments.plan import Run
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.registry import TRICKS
from cxrlt.predictions.run_names import is_ensemble


def ensemble(experiment: TrickExperiment, run: Run, members: Sequence[str]) -> None:
    """Make the ensemble `run` of `members`; one of other members that has its name is replaced.

    Raises UserError if BASE would be its only member, but for tricks of BASE alone.
    """
    trick, workspace = TRICKS[run.variant], experiment.source.workspace
    if not trick.alone and len(members) < 2:
        raise UserError("there is nothing to combine with BASE, as no other training was finished.")
    directory = workspace.run_dir(experiment.challenge.name, run.name)
    others = is_ensemble(directory) and set(read_weights(directory, experiment.challenge).members) != set(
        members
    )
    report = make_ensemble(
        experiment.challenge,
        workspace,
        run.name,
        members,
        kind=trick.kind,
        context=trick.alone,
        study_mean="off",
        force=experiment.plan.force or others,
    )
    print(report)
