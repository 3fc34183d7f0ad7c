"""The stage `cxrlt ensemble`: fit the weights of an ensemble on out-of-fold scores and save them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cxrlt
from cxrlt.artifacts import Workspace, write_artifact
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.candidates import (
    KINDS,
    STACK_CONTEXT,
    candidate_kinds,
    choose_kind,
    compare_kinds,
    cross_fit,
)
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores
from cxrlt.ensembles.provenance import final_provenance, initial_weights_notes, oof_provenance
from cxrlt.ensembles.weights import EnsembleRequest, EnsembleWeights, Kind, NestedScore, read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import WEIGHTS_FILE, is_ensemble, require_run
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.store import PredictionsMeta, read_meta, require_current_oof, write_predictions
from cxrlt.predictions.study_mean import StudyMeanOption, choose_study_mean
from cxrlt.provenance import OutdatedError, describe_differences
from cxrlt.system.locks import lock_folder

if TYPE_CHECKING:
    from cxrlt.inputs.images import ImageSource


@dataclass(frozen=True)
class EnsembleReport:
    """The result of `cxrlt ensemble`: the weights, and the paths of the predictions made with them."""

    weights: EnsembleWeights
    paths: tuple[Path, ...]
    skipped: bool
    text: str

    def __str__(self) -> str:
        return self.text


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
    """Combine `members`: write weights.json, oof.parquet, and dev and test if all members predicted them.

    Every kind of ensemble is fitted on all out-of-fold rows, for dev and test, and without each fold, for the
    rows of this fold, which gives its nested score. Without `kind` the simplest kind is taken that is not
    clearly worse than the best. `context` gives stacking more features: views, counts of images, and scores
    of the same study and patient. Raises UserError for an unknown, repeated, refitted or incomplete member,
    for a kind that the challenge does not allow, and if `name` belongs to a model or to another ensemble.
    """
    request = EnsembleRequest(kind=kind, context=context, study_mean=study_mean)
    run_dir = workspace.run_dir(challenge.name, name)
    _require_members(challenge, workspace, name, members)
    _require_possible(challenge, request)
    current = CurrentData(challenge, workspace)
    provenance = oof_provenance(members, current)
    notes = [*current.rows.notes(challenge), *initial_weights_notes(members, challenge, workspace)]
    with lock_folder(run_dir):
        skipped = is_ensemble(run_dir) and not force
        if skipped:
            weights = read_weights(run_dir, challenge)
            _require_same(run_dir, weights, members, request)
            if found := current.find_differences(weights.provenance, provenance, None):
                notes.insert(0, f"fitting again, as there are {describe_differences(found)} now")
                skipped = False
        if skipped:
            for member in members:
                require_current_oof(member, current)
        else:
            weights = _combine(members, request, current)
            write_artifact(run_dir / WEIGHTS_FILE, weights)
        paths = _predict_available(name, current)
    done = f"ensemble {name}: already done ({run_dir})"
    text = done if skipped else _describe(challenge, name, weights, paths)
    return EnsembleReport(weights, paths, skipped, "\n".join([text, *(f"  {note}" for note in notes)]))


def predict_run(source: "ImageSource", name: str, split: str, *, force: bool = False) -> list[Path]:
    """Predict with a model, or with an ensemble: first with its members, then by its weights.json.

    Raises UserError for an unknown name, for split "train_set" of an ensemble, and as `predict` does.
    """
    from cxrlt.predictions.predict import predict  # here, because importing torch takes seconds

    require_run(source.challenge, source.workspace, name)
    models = member_models(source, name)
    if split == "train_set" and models != (name,):
        raise UserError(f"--split train_set needs a single model, and {name} is an ensemble. Use a member.")
    for model in models:
        paths = predict(source, model, split, force=force)
    if models == (name,):
        return paths
    path = predict_ensemble(source.challenge, source.workspace, name, split, force=force)
    print(f"predict {name} {split}: {path}")
    return [path]


def member_models(source: "ImageSource", name: str) -> tuple[str, ...]:
    """Return the members of an ensemble, or `(name,)` for a model."""
    run_dir = source.workspace.run_dir(source.challenge.name, name)
    return read_weights(run_dir, source.challenge).members if is_ensemble(run_dir) else (name,)


def predict_ensemble(
    challenge: Challenge, workspace: Workspace, name: str, split: str, *, force: bool = False
) -> Path:
    """Write `split`.parquet ("oof", "dev" or "test") of an ensemble and return its path.

    A current file is skipped, unless `force`. Raises UserError as `load_final_logits` does.
    """
    with lock_folder(workspace.run_dir(challenge.name, name)):
        return _write_split(name, split, CurrentData(challenge, workspace), force)


def is_predicted(name: str, split: str, current: CurrentData) -> bool:
    """Return whether an ensemble's `split`.parquet matches its weights.json and its members' predictions."""
    path = current.workspace.run_dir(current.challenge.name, name) / f"{split}.parquet"
    try:
        return read_meta(path).provenance == final_provenance(name, split, current)
    except UserError:  # missing or damaged
        return False


def _write_split(name: str, split: str, current: CurrentData, force: bool = False) -> Path:
    run_dir = current.workspace.run_dir(current.challenge.name, name)
    path = run_dir / f"{split}.parquet"
    if not force and is_predicted(name, split, current):
        return path
    final = load_final_logits(name, split, current)
    meta = PredictionsMeta(
        challenge=current.challenge.name,
        name=name,
        fold="all",
        split=split,
        tta="members'",
        study_mean=final.study_mean.text,
        version=cxrlt.__version__,
        provenance=final_provenance(name, split, current),
    )
    write_predictions(path, final.logits, meta)
    return path


def _combine(names: Sequence[str], request: EnsembleRequest, current: CurrentData) -> EnsembleWeights:
    challenge, rows = current.challenge, current.rows
    frames = {name: load_oof_scores(name, current).frame for name in names}
    first, *others = frames.values()
    mean = sum(others, start=first) / len(frames)
    study_mean = choose_study_mean(challenge, mean, rows.table, request.study_mean)
    kinds = candidate_kinds(challenge, len(names), request.context)
    wanted = STACK_CONTEXT if request.context and request.kind == "stack" else request.kind
    if wanted and wanted not in kinds:
        kinds = tuple(kind for kind in KINDS if kind in {*kinds, wanted})
    fitted = cross_fit(kinds, challenge, frames, rows, study_mean)
    nested = compare_kinds(challenge, fitted, rows, N_DRAWS)
    kind, why = (wanted, "as requested") if wanted else choose_kind(nested)
    return EnsembleWeights(
        challenge=challenge.name,
        kind=kind,
        why=why,
        members=tuple(names),
        classes=challenge.classes,
        final=fitted[kind].final,
        by_fold=fitted[kind].by_fold,
        study_mean=study_mean,
        nested=nested,
        n_draws=N_DRAWS,
        request=request,
        provenance=oof_provenance(names, current),
    )


def _require_possible(challenge: Challenge, request: EnsembleRequest) -> None:
    if challenge.task == "single_label" and (request.kind in ("per_class", "stack") or request.context):
        flag = "--context" if request.context else f"--kind {request.kind}"
        raise UserError(
            f"{flag} needs weights per class, but {challenge.name} is a single-label task, whose scores must "
            f"stay comparable within a row. Use --kind mean or greedy, or remove {flag}."
        )
    if request.context and request.kind not in (None, "stack"):
        raise UserError(f"--context works only with stacking. Remove --context or --kind {request.kind}.")


def _require_same(
    run_dir: Path, weights: EnsembleWeights, members: Sequence[str], request: EnsembleRequest
) -> None:
    differing = []
    if set(weights.members) != set(members):
        differing.append(f"--members {' '.join(weights.members)}")
    for flag, value in weights.request:
        if value != getattr(request, flag, None):
            differing.append(f"--{flag.replace('_', '-')} {value}")
    if differing:
        raise UserError(
            f"{run_dir} already has another ensemble, made with {' '.join(differing)}. "
            "Choose another name for this one, or use --force to replace it."
        )


def _require_members(challenge: Challenge, workspace: Workspace, name: str, members: Sequence[str]) -> None:
    twice = {member for member in members if list(members).count(member) > 1}
    if not members or twice:
        wrong = f"{listing(sorted(twice))} named more than once" if twice else "none named"
        raise UserError(f"--members: {wrong}. Name every member exactly once.")
    for member in members:
        require_run(challenge, workspace, member)
    inner = [member for member in members if is_ensemble(workspace.run_dir(challenge.name, member))]
    if inner:
        raise UserError(f"--members: {listing(inner)} is an ensemble. Use its members instead.")
    run_dir = workspace.run_dir(challenge.name, name)
    if run_dir.is_dir() and not is_ensemble(run_dir) and any(folder.is_dir() for folder in run_dir.iterdir()):
        raise UserError(f"{run_dir} already has a trained model. Choose another name for the ensemble.")


def _predict_available(name: str, current: CurrentData) -> tuple[Path, ...]:
    """Write the out-of-fold predictions, and those of each split that all folds of all members predicted.

    A split with outdated predictions of a fold is skipped: `cxrlt predict` writes it later.
    """
    challenge, workspace = current.challenge, current.workspace
    members = read_weights(workspace.run_dir(challenge.name, name), challenge).active_members
    folders = [
        f for m in members for f in workspace.run_dir(challenge.name, m).glob("fold[0-9]*") if f.is_dir()
    ]
    paths = [_write_split(name, "oof", current)]
    for split in ("dev", "test"):
        if all((folder / f"{split}.parquet").is_file() for folder in folders):
            with suppress(OutdatedError):
                paths.append(_write_split(name, split, current))
    return tuple(paths)


def _describe(challenge: Challenge, name: str, weights: EnsembleWeights, paths: Sequence[Path]) -> str:
    shares = listing(f"{member} {share:.3g}" for member, share in weights.final.shares.items())
    over = "" if weights.kind in ("mean", "greedy") else " (weights averaged over classes)"
    lines = [
        f"ensemble {name}: {weights.kind} of {shares}{over}; {weights.study_mean.text}",
        f"  {weights.kind}: {weights.why}",
    ]
    lines += [_score_line(challenge, kind, score, weights) for kind, score in weights.nested.items()]
    return "\n".join([*lines, *(f"  {path}" for path in paths)])


def _score_line(challenge: Challenge, kind: str, score: NestedScore, weights: EnsembleWeights) -> str:
    line = f"  nested OOF {challenge.metric}  {kind:<13} {score.score:.4f}"
    if len(weights.nested) == 1:
        return line
    if score.behind == 0:
        return f"{line}  best (intervals: {weights.n_draws:,} bootstrap samples of patients)"
    return f"{line}  lower by {score.behind:.4f} [{score.low:.4f}, {score.high:.4f}]"
