"""Ensembles of one seed's runs."""

from collections.abc import Sequence

from cxrlt.errors import UserError
from cxrlt.predictions.ensemble import make_ensemble
from cxrlt.predictions.weights import is_ensemble, read_weights
from cxrlt.studies.plan import Run
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.studies.tricks.registry import TRICKS


def ensemble(study: TrickStudy, run: Run, members: Sequence[str]) -> None:
    """Make the ensemble `run` of `members`; one of other members that has its name is replaced.

    Raises UserError if BASE would be its only member, but for tricks of BASE alone.
    """
    trick, workspace = TRICKS[run.variant], study.source.workspace
    if not trick.alone and len(members) < 2:
        raise UserError("there is nothing to combine with BASE, as no other training was finished.")
    directory = workspace.run_dir(study.challenge.name, run.name)
    others = is_ensemble(directory) and set(read_weights(directory, study.challenge).members) != set(members)
    report = make_ensemble(
        study.challenge,
        workspace,
        run.name,
        members,
        kind=trick.kind,
        context=trick.alone,
        study_mean="off",
        force=study.plan.force or others,
    )
    print(report)
