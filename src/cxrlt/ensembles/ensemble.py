"""The stage `cxrlt ensemble`: average models as out-of-fold evidence says, and write down how."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cxrlt
from cxrlt.artifacts import Workspace, write_model
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.candidates import (
    BY_SIMPLICITY,
    N_DRAWS,
    STACK_CONTEXT,
    candidates,
    choose,
    compare,
    cross_fit,
)
from cxrlt.ensembles.current import made_of_evidence, made_of_final
from cxrlt.ensembles.final_logits import load_final_logits, read_oof
from cxrlt.ensembles.weights import Candidate, EnsembleRequest, EnsembleWeights, Kind, read_weights
from cxrlt.errors import UserError, listing
from cxrlt.predictions.present import Present
from cxrlt.predictions.run_names import WEIGHTS_FILE, is_ensemble, require_run
from cxrlt.predictions.store import PredictionsMeta, read_meta, require_current_oof, write_predictions
from cxrlt.predictions.study_mean import StudyMeanOption, choose_study_mean
from cxrlt.provenance import OutdatedError, in_words
from cxrlt.system.locks import exclusive

if TYPE_CHECKING:
    from cxrlt.inputs.images import ImageSource


@dataclass(frozen=True)
class EnsembleReport:
    """What `cxrlt ensemble` did: the weights, and the predictions written from them."""

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
    """Combine `members`: write weights.json, oof.parquet, and dev and test where all have them.

    Every kind is fitted on all out-of-fold rows, for dev and test, and without each fold, for that fold's
    rows. These give its nested score; the simplest kind that is not clearly behind the best is taken, or
    `kind`. With `context` stacking also sees views, counts of images, and scores of the same study and
    patient. Raises UserError for an unknown, repeated, refitted or incomplete member, for a kind that the
    challenge does not allow, and if `name` is taken by something else than this ensemble.
    """
    request = EnsembleRequest(kind=kind, context=context, study_mean=study_mean)
    run_dir = workspace.run_dir(challenge.name, name)
    _require_members(challenge, workspace, name, members)
    _require_possible(challenge, request)
    present = Present(challenge, workspace)
    made_of = made_of_evidence(members, present)
    notes = present.rows.notes(challenge.name)
    with exclusive(run_dir):
        skipped = is_ensemble(run_dir) and not force
        if skipped:
            weights = read_weights(run_dir, challenge)
            _require_same(run_dir, weights, members, request)
            if found := present.differing(weights.made_of, made_of, None):
                notes.insert(0, f"fitted again, for there are {in_words(found)} now")
                skipped = False
        if skipped:
            for member in members:
                require_current_oof(member, present)
        else:
            weights = _combine(members, request, present)
            write_model(run_dir / WEIGHTS_FILE, weights)
        paths = _predict_available(name, present)
    done = f"ensemble {name}: already done ({run_dir})"
    text = done if skipped else _describe(challenge, name, weights, paths)
    return EnsembleReport(weights, paths, skipped, "\n".join([text, *(f"  {note}" for note in notes)]))


def predict_run(source: "ImageSource", name: str, split: str, *, force: bool = False) -> list[Path]:
    """As `predict`, for an ensemble too: its members first, then what its weights.json makes of them."""
    from cxrlt.predictions.predict import predict  # torch takes seconds, and the rest does without it

    require_run(source.challenge, source.workspace, name)
    models = models_of(source, name)
    if split == "train_set" and models != (name,):
        raise UserError(f"--split train_set is of single models, and {name} is an ensemble: name a member.")
    for model in models:
        paths = predict(source, model, split, force=force)
    if models == (name,):
        return paths
    path = predict_ensemble(source.challenge, source.workspace, name, split, force=force)
    print(f"predict {name} {split}: {path}")
    return [path]


def models_of(source: "ImageSource", name: str) -> tuple[str, ...]:
    """The members of an ensemble; a model is its own."""
    run_dir = source.workspace.run_dir(source.challenge.name, name)
    return read_weights(run_dir, source.challenge).members if is_ensemble(run_dir) else (name,)


def predict_ensemble(
    challenge: Challenge, workspace: Workspace, name: str, split: str, *, force: bool = False
) -> Path:
    """Write `split`.parquet of an ensemble ("oof", "dev" or "test"): the logits that weights.json stands for.

    A file made of the same weights and the same predictions of the members is left alone, unless `force`.
    """
    with exclusive(workspace.run_dir(challenge.name, name)):
        return _write_split(name, split, Present(challenge, workspace), force)


def is_predicted(name: str, split: str, present: Present) -> bool:
    """Whether an ensemble's `split`.parquet is what weights.json and the members' predictions make now."""
    path = present.workspace.run_dir(present.challenge.name, name) / f"{split}.parquet"
    try:
        return read_meta(path).made_of == made_of_final(name, split, present)
    except UserError:  # missing or damaged
        return False


def _write_split(name: str, split: str, present: Present, force: bool = False) -> Path:
    run_dir = present.workspace.run_dir(present.challenge.name, name)
    path = run_dir / f"{split}.parquet"
    if not force and is_predicted(name, split, present):
        return path
    final = load_final_logits(name, split, present)
    meta = PredictionsMeta(
        challenge=present.challenge.name,
        name=name,
        fold="all",
        split=split,
        tta="members'",
        study_mean=final.study_mean.text,
        version=cxrlt.__version__,
        made_of=made_of_final(name, split, present),
    )
    write_predictions(path, final.logits, meta)
    return path


def _combine(names: Sequence[str], request: EnsembleRequest, present: Present) -> EnsembleWeights:
    challenge, rows = present.challenge, present.rows
    frames = {name: read_oof(name, present).frame for name in names}
    mean = sum(frames.values()) / len(frames)
    study_mean = choose_study_mean(challenge, mean, rows.table, request.study_mean)
    kinds = candidates(challenge, len(names), request.context)
    wanted = STACK_CONTEXT if request.context and request.kind == "stack" else request.kind
    if wanted and wanted not in kinds:
        kinds = tuple(kind for kind in BY_SIMPLICITY if kind in {*kinds, wanted})
    fitted = cross_fit(kinds, challenge, frames, rows, study_mean)
    nested = compare(challenge, fitted, rows, N_DRAWS)
    kind, why = (wanted, "as asked for") if wanted else choose(nested)
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
        asked=request,
        made_of=made_of_evidence(names, present),
    )


def _require_possible(challenge: Challenge, request: EnsembleRequest) -> None:
    if challenge.task == "single_label" and (request.kind in ("per_class", "stack") or request.context):
        flag = "--context" if request.context else f"--kind {request.kind}"
        raise UserError(
            f"{flag} weighs members class by class, but {challenge.name} has one class per image, whose "
            "scores must stay comparable within a row: use --kind mean or greedy, or leave it out."
        )
    if request.context and request.kind not in (None, "stack"):
        raise UserError(f"--context is seen by stacking alone: it does not go with --kind {request.kind}.")


def _require_same(
    run_dir: Path, weights: EnsembleWeights, members: Sequence[str], request: EnsembleRequest
) -> None:
    differing = []
    if set(weights.members) != set(members):
        differing.append(f"the ensemble of {listing(weights.members)}")
    for flag, value in weights.asked:
        if value != getattr(request, flag, None):
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
    for member in members:
        require_run(challenge, workspace, member)
    inner = [member for member in members if is_ensemble(workspace.run_dir(challenge.name, member))]
    if inner:
        raise UserError(f"--members: {listing(inner)} is an ensemble itself. Name its members instead.")
    run_dir = workspace.run_dir(challenge.name, name)
    if run_dir.is_dir() and not is_ensemble(run_dir) and any(folder.is_dir() for folder in run_dir.iterdir()):
        raise UserError(f"{run_dir} already holds a trained model. Give the ensemble a name of its own.")


def _predict_available(name: str, present: Present) -> tuple[Path, ...]:
    """The out-of-fold predictions, and those of each split that every fold of every member has predicted.

    A split that some fold has to predict again waits until it has: `cxrlt predict` then writes both.
    """
    challenge, workspace = present.challenge, present.workspace
    members = read_weights(workspace.run_dir(challenge.name, name), challenge).used
    folders = [
        f for m in members for f in workspace.run_dir(challenge.name, m).glob("fold[0-9]*") if f.is_dir()
    ]
    paths = [_write_split(name, "oof", present)]
    for split in ("dev", "test"):
        if all((folder / f"{split}.parquet").is_file() for folder in folders):
            with suppress(OutdatedError):
                paths.append(_write_split(name, split, present))
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
