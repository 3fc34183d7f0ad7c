"""The stage `cxrlt ensemble`: average models as out-of-fold evidence says, and write down how."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cxrlt
from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.locks import exclusive
from cxrlt.predictions.candidates import (
    BY_SIMPLICITY,
    N_DRAWS,
    STACK_CONTEXT,
    candidates,
    choose,
    compare,
    cross_fit,
)
from cxrlt.predictions.fingerprint import evidence_fingerprint, final_fingerprint, predictions_fingerprint
from cxrlt.predictions.identity import OutdatedError
from cxrlt.predictions.runs import TrainRows, read_final, read_oof, read_train_rows
from cxrlt.predictions.store import read_meta, write_predictions
from cxrlt.predictions.view_weights import StudyMeanOption, choose_study_mean
from cxrlt.predictions.weights import (
    Candidate,
    EnsembleWeights,
    Kind,
    is_ensemble,
    read_weights,
)

FINGERPRINT = "made_of"


@dataclass(frozen=True)
class EnsembleReport:
    """What `cxrlt ensemble` did: the weights, and the predictions written from them."""

    weights: EnsembleWeights
    paths: tuple[Path, ...]
    skipped: bool
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Asked:
    """What the user wants of an ensemble; `kind` None: what the evidence says."""

    kind: Kind | None = None
    context: bool = False
    study_mean: StudyMeanOption = "auto"


def make_ensemble(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    members: Sequence[str],
    *,
    kind: Kind | None = None,
    context: bool = False,
    study_mean: StudyMeanOption = "auto",
    force: bool = False,
) -> EnsembleReport:
    """Combine `members`: write weights.json, oof.parquet, and dev and test where all have them.

    Every kind is fitted on all out-of-fold rows, for dev and test, and without each fold, for that fold's
    rows. These give its nested score; the simplest kind that is not clearly behind the best is taken, or
    `kind`. With `context` stacking also sees views, counts of images, and scores of the same study and
    patient. Raises UserError for an unknown, repeated, refitted or incomplete member, for a kind that the
    challenge does not allow, and if `name` is taken by something else than this ensemble.
    """
    asked = Asked(kind, context, study_mean)
    run_dir = workspace.run_dir(challenge.name, name)
    _require_members(challenge, workspace, name, members)
    _require_possible(challenge, asked)
    rows = read_train_rows(challenge, workspace)
    made_of = _made_from(challenge, workspace, members, rows)
    with exclusive(run_dir):
        if is_ensemble(run_dir) and not force:
            weights = read_weights(run_dir, challenge)
            _require_same(run_dir, weights, members, asked)
            if weights.fingerprint == made_of:
                paths = _predict_available(challenge, workspace, name)
                return EnsembleReport(weights, paths, True, f"ensemble {name}: already done ({run_dir})")
        weights = _combine(challenge, workspace, members, asked, rows, made_of)
        weights.write(run_dir, challenge.name)
        paths = _predict_available(challenge, workspace, name)
    return EnsembleReport(weights, paths, False, _describe(challenge, name, weights, paths))


def predict_ensemble(
    challenge: Challenge, workspace: Workspace, name: str, split: str, *, force: bool = False
) -> Path:
    """Write `split`.parquet of an ensemble ("oof", "dev" or "test"): the logits that weights.json stands for.

    A file made of the same weights and the same predictions of the members is left alone, unless `force`.
    """
    with exclusive(workspace.run_dir(challenge.name, name)):
        return _write_split(challenge, workspace, name, split, force)


def is_predicted(challenge: Challenge, workspace: Workspace, name: str, split: str) -> bool:
    """Whether an ensemble's `split`.parquet is what weights.json and the members' predictions make now."""
    path = workspace.run_dir(challenge.name, name) / f"{split}.parquet"
    try:
        return read_meta(path).get(FINGERPRINT) == final_fingerprint(challenge, workspace, name, split)
    except UserError:  # missing or damaged
        return False


def _write_split(
    challenge: Challenge, workspace: Workspace, name: str, split: str, force: bool = False
) -> Path:
    run_dir = workspace.run_dir(challenge.name, name)
    weights, path = read_weights(run_dir, challenge), run_dir / f"{split}.parquet"
    if not force and is_predicted(challenge, workspace, name, split):
        return path
    logits = read_final(challenge, workspace, name, split).logits
    meta = {
        "challenge": challenge.name,
        "name": name,
        "fold": "all",
        "seed": "",
        "split": split,
        "tta": "members'",
    }
    meta |= {"study_mean": weights.study_mean.text, "folds_sha256": weights.folds_sha256}
    made_of = final_fingerprint(challenge, workspace, name, split)
    write_predictions(path, logits, meta | {"version": cxrlt.__version__, FINGERPRINT: made_of})
    return path


def _combine(
    challenge: Challenge,
    workspace: Workspace,
    names: Sequence[str],
    asked: Asked,
    rows: TrainRows,
    made_of: str,
) -> EnsembleWeights:
    frames = {name: read_oof(challenge, workspace, name).frame for name in names}
    mean = sum(frames.values()) / len(frames)
    study_mean = choose_study_mean(challenge, mean, rows.table, asked.study_mean)
    kinds, wanted = candidates(challenge, len(names), asked.context), _wanted(asked)
    if wanted and wanted not in kinds:
        kinds = tuple(kind for kind in BY_SIMPLICITY if kind in {*kinds, wanted})
    fitted = cross_fit(kinds, challenge, frames, rows, study_mean)
    nested = compare(challenge, fitted, rows, N_DRAWS)
    kind, why = (wanted, "as asked for") if wanted else choose(nested)
    return EnsembleWeights(
        kind,
        why,
        tuple(names),
        fitted[kind].final,
        fitted[kind].by_fold,
        study_mean,
        nested,
        N_DRAWS,
        vars(asked),
        rows.folds.sha256,
        made_of,
        predictions_fingerprint([workspace.run_dir(challenge.name, member) for member in names], "oof"),
    )


def _wanted(asked: Asked) -> str | None:
    return STACK_CONTEXT if asked.kind == "stack" and asked.context else asked.kind


def _require_possible(challenge: Challenge, asked: Asked) -> None:
    if challenge.task == "single_label" and (asked.kind in ("per_class", "stack") or asked.context):
        flag = "--context" if asked.context else f"--kind {asked.kind}"
        raise UserError(
            f"{flag} weighs members class by class, but {challenge.name} has one class per image, whose "
            "scores must stay comparable within a row: use --kind mean or greedy, or leave it out."
        )
    if asked.context and asked.kind not in (None, "stack"):
        raise UserError(f"--context is seen by stacking alone: it does not go with --kind {asked.kind}.")


def _require_same(run_dir: Path, weights: EnsembleWeights, members: Sequence[str], asked: Asked) -> None:
    differing = []
    if set(weights.members) != set(members):
        differing.append(f"the ensemble of {listing(weights.members)}")
    for flag, value in weights.asked.items():
        if value != getattr(asked, flag, None):
            differing.append(f"made with --{flag.replace('_', '-')} {value}")
    if differing:
        raise UserError(
            f"{run_dir} already is {' and '.join(differing)}. "
            "Give this one a name of its own, or --force to replace it."
        )


def _require_members(challenge: Challenge, workspace: Workspace, name: str, members: Sequence[str]) -> None:
    twice = {member for member in members if list(members).count(member) > 1}
    if not members or twice:
        wrong = f"{listing(sorted(twice))} named more than once" if twice else "none named"
        raise UserError(f"--members: {wrong}. Name each model once.")
    inner = [member for member in members if is_ensemble(workspace.run_dir(challenge.name, member))]
    if inner:
        raise UserError(f"--members: {listing(inner)} is an ensemble itself. Name its members instead.")
    run_dir = workspace.run_dir(challenge.name, name)
    if run_dir.is_dir() and not is_ensemble(run_dir) and any(folder.is_dir() for folder in run_dir.iterdir()):
        raise UserError(f"{run_dir} already holds a trained model. Give the ensemble a name of its own.")


def _made_from(challenge: Challenge, workspace: Workspace, members: Sequence[str], rows: TrainRows) -> str:
    folders = [workspace.run_dir(challenge.name, member) for member in members]
    return evidence_fingerprint(folders, rows.table, challenge.classes)


def _predict_available(challenge: Challenge, workspace: Workspace, name: str) -> tuple[Path, ...]:
    """The out-of-fold predictions, and those of each split that every fold of every member has predicted.

    A split that some fold is to predict anew waits until it has: `cxrlt predict` then writes both.
    """
    members = read_weights(workspace.run_dir(challenge.name, name), challenge).used
    folders = [
        f for m in members for f in workspace.run_dir(challenge.name, m).glob("fold[0-9]*") if f.is_dir()
    ]
    paths = [_write_split(challenge, workspace, name, "oof")]
    for split in ("dev", "test"):
        if all((folder / f"{split}.parquet").is_file() for folder in folders):
            with suppress(OutdatedError):
                paths.append(_write_split(challenge, workspace, name, split))
    return tuple(paths)


def _describe(challenge: Challenge, name: str, weights: EnsembleWeights, paths: Sequence[Path]) -> str:
    shares = listing(f"{member} {share:.3g}" for member, share in weights.final.shares.items())
    over = "" if weights.kind in ("mean", "greedy") else " (weights averaged over classes)"
    lines = [
        f"ensemble {name}: {weights.kind} of {shares}{over}; {weights.study_mean.text}",
        f"  {weights.kind}: {weights.why}",
    ]
    lines += [_line(challenge, kind, figures, weights) for kind, figures in weights.nested.items()]
    return "\n".join([*lines, *(f"  {path}" for path in paths)])


def _line(challenge: Challenge, kind: str, figures: Candidate, weights: EnsembleWeights) -> str:
    line = f"  nested OOF {challenge.metric}  {kind:<13} {figures.score:.4f}"
    if len(weights.nested) == 1:
        return line
    if figures.behind == 0:
        return f"{line}  best (intervals: patients drawn {weights.n_draws:,} times)"
    return f"{line}  behind by {figures.behind:.4f} [{figures.low:.4f}, {figures.high:.4f}]"
