"""What every stage does after every change of a finished run's inputs: never ignore it silently.

docs/robustness.md has the table that these tests check ("When data or a recipe changes").
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.folds.make import extend_folds, make_folds
from cxrlt.predictions.predict import predict
from cxrlt.recipe import TTAConfig, load_recipe, save_recipe
from cxrlt.reports.score_table import calibration_table, leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.record import SubmissionRecords
from cxrlt.submissions.submit import submit
from cxrlt.training.record import read_run_record
from cxrlt.training.train import TrainPlan, train
from interruptions import n_rows, on_each_forward, stop_in_update
from tiny import make_tiny, tiny_recipe, tiny_source
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

RECIPE = tiny_recipe(**{"schedule.epochs": 1, "predict": {"study_mean": "off"}})


@pytest.fixture(scope="module")
def finished_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one run of two folds, predicted, combined, calibrated and submitted."""
    source = make_tiny(tmp_path_factory.mktemp("changes"), n_patients=8, n_folds=2)
    args = (source.challenge, source.workspace)
    train(source, TrainPlan("model", RECIPE))
    for split in ("oof", "dev", "test"):
        predict(source, "model", split)
    make_ensemble(*args, "alone", ["model"])
    calibrate(*args, "model", n_draws=5)
    submit(*args, "model", variant="calibrated")
    submit(*args, "model")
    return source.workspace.root


@pytest.fixture
def root(finished_root: Path, tmp_path: Path) -> Iterator[Path]:
    """The same root, put back as it was after the test."""
    kept = {name: shutil.copytree(finished_root / name, tmp_path / name) for name in ("folds", "submissions")}
    csv, kept_csv = finished_root / "inputs" / "csv", tmp_path / "csv"
    shutil.copytree(csv, kept_csv)
    yield finished_root
    for name, copy in kept.items():
        shutil.rmtree(finished_root / name)
        shutil.copytree(copy, finished_root / name)
    shutil.rmtree(csv)
    shutil.copytree(kept_csv, csv)


def table_of(root: Path, split: str) -> Path:
    return root / "inputs" / "csv" / f"{split}.csv"


def change_labels(root: Path) -> None:
    path = table_of(root, "train")
    table = pd.read_csv(path)
    table.assign(Effusion=1 - table["Effusion"]).to_csv(path, index=False)


def add_rows(root: Path, split: str = "train") -> None:
    """Two patients more, with pictures of their own."""
    path = table_of(root, split)
    table = pd.read_csv(path)
    new = table[:4].assign(image=[f"new{n}" for n in range(4)], patient=["q0", "q0", "q1", "q1"])
    new = new.assign(study=new["patient"], path=[f"pictures/new{n}.png" for n in range(4)])
    for number, name in enumerate(new["path"]):
        picture = cv2.imread(str(path.parent / table["path"][number]), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path.parent / name), cv2.rotate(picture, cv2.ROTATE_180))
    pd.concat([table, new]).to_csv(path, index=False)


def remove_rows(root: Path, split: str = "train") -> None:
    path = table_of(root, split)
    table = pd.read_csv(path)
    table[table["patient"] != table["patient"][0]].to_csv(path, index=False)


def replace_pixels(root: Path, split: str = "train") -> None:
    path = table_of(root, split)
    for name in pd.read_csv(path)["path"][:3]:
        file = path.parent / name
        cv2.imwrite(str(file), 255 - cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))


def change_recipe(root: Path, section: str, **over: object) -> None:
    """As a user would who edits config.yaml beside the weights."""
    for path in (root / "folds" / "csv" / "model").glob("fold*/config.yaml"):
        recipe = load_recipe(None, path)
        part = getattr(recipe, section).model_copy(update=over)
        save_recipe(recipe.model_copy(update={section: part}), path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "labels": change_labels,
    "rows added": add_rows,
    "rows removed": remove_rows,
    "train pixels": replace_pixels,
    "train pixels, predicted again": lambda root: (replace_pixels(root), predict_oof(root)),
    "test pixels": lambda root: replace_pixels(root, "test"),
    "test rows added": lambda root: add_rows(root, "test"),
    "test rows removed": lambda root: remove_rows(root, "test"),
    "weights field": lambda root: change_recipe(root, "optim", lr=0.5),
    "logits field": lambda root: change_recipe(root, "predict", tta=TTAConfig(flip=False)),
    "scores field": lambda root: change_recipe(root, "predict", study_mean="on"),
    "field of nothing": lambda root: change_recipe(root, "data", n_workers=0),
}


def args(root: Path) -> tuple:
    source = tiny_source(root)
    return source.challenge, source.workspace


def predict_oof(root: Path) -> None:
    predict(tiny_source(root), "model", "oof")


STAGES: dict[str, Callable[[Path], object]] = {
    "train": lambda root: train(tiny_source(root), TrainPlan("model", current_recipe(root))),
    "predict oof": predict_oof,
    "predict test": lambda root: predict(tiny_source(root), "model", "test"),
    "evaluate": lambda root: print(score_table(evaluate(*args(root), "model", n_draws=5))),
    "leaderboard": lambda root: print(leaderboard_table(leaderboard(*args(root), n_draws=5))),
    "ensemble": lambda root: print(make_ensemble(*args(root), "alone", ["model"])),
    "calibrate": lambda root: print(calibration_table(calibrate(*args(root), "model", n_draws=5))),
    "submit": lambda root: print(submit(*args(root), "model")),
}


def current_recipe(root: Path):
    """The recipe of the run with what config.yaml has now that changes no weights."""
    there = load_recipe(None, root / "folds" / "csv" / "model" / "fold0" / "config.yaml")
    return RECIPE.model_copy(update={"predict": there.predict, "data": there.data})


REFUSES, SAYS, QUIET = "refuses", "says", "quiet"
OTHER_LABELS = r"trained on other labels \(Effusion\).*\(folds 0, 1\)"
NOT_IN_FOLDS = "4 rows of the training table are not in the folds: cxrlt folds csv --extend"
GONE = "2 rows of the folds are no longer in the training table.*cxrlt folds csv --extend"
OTHER_PIXELS = "trained on other pixels than the current ones"
OOF_PIXELS = r"oof\.parquet is outdated: \d of its 8 images have changed pixels: .*cxrlt predict model"
EDITED = r"config\.yaml is not what this fold was trained with: another recipe \(optim\.lr\)"
LR = r"another recipe \(optim\.lr\)"
TTA = r"another recipe \(predict\.tta\.flip\)"
DONE = "already done"

TABLE: dict[str, dict[str, tuple[str, str]]] = {
    "labels": {
        "train": (
            REFUSES,
            r"model was trained: other labels \(Effusion\) \(folds 0, 1\).*--force; or .*--keep-trained",
        ),
        "predict oof": (QUIET, DONE),
        "predict test": (QUIET, DONE),
        "evaluate": (SAYS, OTHER_LABELS),
        "leaderboard": (SAYS, OTHER_LABELS),
        "ensemble": (SAYS, r"fitting again, as there are other labels \(Effusion\)"),
        "calibrate": (SAYS, OTHER_LABELS),
        "submit": (SAYS, OTHER_LABELS),
    },
    "rows added": {
        "train": (SAYS, NOT_IN_FOLDS),
        "predict oof": (SAYS, NOT_IN_FOLDS),
        "predict test": (QUIET, DONE),
        "evaluate": (SAYS, NOT_IN_FOLDS),
        "leaderboard": (SAYS, NOT_IN_FOLDS),
        "ensemble": (SAYS, NOT_IN_FOLDS),
        "calibrate": (SAYS, NOT_IN_FOLDS),
        "submit": (QUIET, DONE),
    },
    "rows removed": {
        "train": (REFUSES, r"2 rows of folds\.csv are no longer in the training table.*--extend"),
        "predict oof": (SAYS, rf"(?s){GONE}.*2 images were removed"),
        "predict test": (QUIET, DONE),
        "evaluate": (SAYS, GONE),
        "leaderboard": (SAYS, GONE),
        "ensemble": (SAYS, rf"(?s)fitting again, as there are other labels.*{GONE}"),
        "calibrate": (SAYS, GONE),
        "submit": (SAYS, "trained on other rows"),
    },
    "train pixels": {
        "train": (REFUSES, "model was trained: other pixels .*--keep-trained"),
        "predict oof": (SAYS, r"\d images have changed pixels"),
        "predict test": (QUIET, DONE),
        "evaluate": (REFUSES, OOF_PIXELS),
        "leaderboard": (REFUSES, OOF_PIXELS),
        "ensemble": (REFUSES, OOF_PIXELS),
        "calibrate": (REFUSES, OOF_PIXELS),
        "submit": (REFUSES, OOF_PIXELS),
    },
    "train pixels, predicted again": {
        "train": (REFUSES, "model was trained: other pixels .*--keep-trained"),
        "predict oof": (QUIET, DONE),
        "predict test": (QUIET, DONE),
        "evaluate": (SAYS, OTHER_PIXELS),
        "leaderboard": (SAYS, OTHER_PIXELS),
        "ensemble": (SAYS, "fitting again, as there are other predictions"),
        "calibrate": (SAYS, OTHER_PIXELS),
        "submit": (SAYS, OTHER_PIXELS),
    },
    "test pixels": {
        "train": (QUIET, DONE),
        "predict oof": (QUIET, DONE),
        "predict test": (SAYS, "predicting again, as 3 images have changed pixels"),
        "evaluate": (QUIET, "model on csv oof"),
        "leaderboard": (QUIET, "model"),
        "ensemble": (QUIET, DONE),
        "calibrate": (QUIET, "model on csv"),
        "submit": (
            REFUSES,
            r"test\.parquet is outdated: 3 of its 16 images have changed pixels.*--split test",
        ),
    },
    "test rows added": {
        "train": (QUIET, DONE),
        "predict oof": (QUIET, DONE),
        "predict test": (SAYS, "4 images are new"),
        "evaluate": (QUIET, "model on csv oof"),
        "leaderboard": (QUIET, "model"),
        "ensemble": (QUIET, DONE),
        "calibrate": (QUIET, "model on csv"),
        "submit": (REFUSES, "4 of the template's 20 ids have no prediction.*cxrlt predict model"),
    },
    "test rows removed": {
        "train": (QUIET, DONE),
        "predict oof": (QUIET, DONE),
        "predict test": (SAYS, "2 images were removed"),
        "evaluate": (QUIET, "model on csv oof"),
        "leaderboard": (QUIET, "model"),
        "ensemble": (QUIET, DONE),
        "calibrate": (QUIET, "model on csv"),
        "submit": (SAYS, "valid, 14 rows"),
    },
    "weights field": {
        "train": (REFUSES, r"already holds another run \(optim\.lr: 0\.5 -> 0\.002\)"),
        "predict oof": (REFUSES, EDITED),
        "predict test": (REFUSES, EDITED),
        "evaluate": (REFUSES, LR),
        "leaderboard": (REFUSES, LR),
        "ensemble": (REFUSES, LR),
        "calibrate": (REFUSES, LR),
        "submit": (REFUSES, LR),
    },
    "logits field": {
        "train": (QUIET, DONE),
        "predict oof": (SAYS, TTA),
        "predict test": (SAYS, TTA),
        "evaluate": (REFUSES, TTA),
        "leaderboard": (REFUSES, TTA),
        "ensemble": (REFUSES, TTA),
        "calibrate": (REFUSES, TTA),
        "submit": (REFUSES, TTA),
    },
    "scores field": {
        "train": (QUIET, DONE),
        "predict oof": (QUIET, DONE),
        "predict test": (QUIET, DONE),
        "evaluate": (QUIET, "model on csv oof"),
        "leaderboard": (QUIET, "model"),
        "ensemble": (QUIET, DONE),
        "calibrate": (QUIET, "model on csv"),
        "submit": (SAYS, "valid, 16 rows"),
    },
    "field of nothing": {
        "train": (QUIET, DONE),
        "predict oof": (QUIET, DONE),
        "predict test": (QUIET, DONE),
        "evaluate": (QUIET, "model on csv oof"),
        "leaderboard": (QUIET, "model"),
        "ensemble": (QUIET, DONE),
        "calibrate": (QUIET, "model on csv"),
        "submit": (QUIET, DONE),
    },
}
WARNINGS = (
    "other labels",
    "other pixels",
    "other rows",
    "not in the folds",
    "no longer in",
    "outdated",
    "the data have changed",
    "changed pixels",
    "again, as",
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("change", CHANGES)
def test_every_stage_reacts_to_every_change_as_in_the_table(
    root: Path, change: str, stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome, words = TABLE[change][stage]
    CHANGES[change](root)
    capfd.readouterr()
    if outcome == REFUSES:
        with pytest.raises(UserError, match=words):
            STAGES[stage](root)
        return
    STAGES[stage](root)
    printed = "".join(capfd.readouterr())
    assert pd.Series([printed]).str.contains(words).all(), printed
    if outcome == QUIET:
        assert not any(warning in printed for warning in WARNINGS), printed


def test_the_table_has_a_cell_for_every_change_and_stage() -> None:
    assert {change: set(cells) for change, cells in TABLE.items()} == {
        change: set(STAGES) for change in CHANGES
    }


def test_a_training_that_was_begun_does_not_go_on_with_other_labels(root: Path) -> None:
    plan = TrainPlan("begun", tiny_recipe(**{"schedule.epochs": 2}), folds=(0,))
    with stop_in_update(1):
        train(tiny_source(root), plan)
    for change in (change_labels, replace_pixels):
        change(root)
        with pytest.raises(
            UserError,
            match=r"training of begun started: other .*\(fold 0\). Restore the former data.*--force",
        ):
            train(tiny_source(root), plan)
    (job,) = train(tiny_source(root), replace(plan, force=True))
    assert job.is_finished


def test_a_kept_run_is_noted_and_is_refused_if_the_data_change_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_labels(root)
    train(tiny_source(root), TrainPlan("model", RECIPE, keep_trained=True))
    record = read_run_record(root / "folds/csv/model/fold0", "csv")
    assert record.kept["labels"] != record.provenance["labels"]
    for _ in range(2):
        capsys.readouterr()
        train(tiny_source(root), TrainPlan("model", RECIPE))
        assert (
            "the data have changed since training (other labels (Effusion)); keeping the weights"
            in capsys.readouterr().out
        )
    replace_pixels(root)
    with pytest.raises(UserError, match=r"other labels \(Effusion\) and other pixels"):
        train(tiny_source(root), TrainPlan("model", RECIPE))


def test_the_record_of_a_submission_has_its_notes(root: Path) -> None:
    change_labels(root)
    submit(*args(root), "model")
    path = root / "submissions/csv/model/provenance.json"
    (note,) = SubmissionRecords.model_validate_json(path.read_text()).root["test"].notes
    assert note.startswith("trained on other labels (Effusion)")


def test_a_refit_refuses_to_miss_rows(root: Path) -> None:
    add_rows(root)
    with raises_user_error("--refit", "4 rows", "cxrlt folds csv --extend"):
        train(tiny_source(root), TrainPlan("all", RECIPE, refit=True))


def test_another_tta_is_taken_over_without_training(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = root / "folds/csv/model/fold0/weights.safetensors"
    before = weights.stat().st_mtime_ns
    plain = RECIPE.predict.model_copy(update={"tta": TTAConfig(flip=False)})
    train(tiny_source(root), TrainPlan("model", RECIPE.model_copy(update={"predict": plain})))
    assert "predict.tta.flip: True -> False (the weights do not change)" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=TTA):
        evaluate(*args(root), "model", n_draws=5)
    predict_oof(root)
    evaluate(*args(root), "model", n_draws=5)


def test_only_replaced_images_are_predicted_again(root: Path) -> None:
    rows = []
    before = read_logits(root, "test")
    replace_pixels(root, "test")
    with on_each_forward(lambda model, inputs, _: rows.append(n_rows(inputs))):
        predict(tiny_source(root), "model", "test")
    assert set(rows) == {3}
    after = read_logits(root, "test")
    same_weights = (after == before).all(axis=1)
    assert set(after.index[~same_weights]) == set(pd.read_csv(table_of(root, "test"))["image"][:3])


def read_logits(root: Path, split: str) -> pd.DataFrame:
    path = root / "folds/csv/model/fold0" / f"{split}.parquet"
    return pd.read_parquet(path).set_index("image_id").drop(columns="pixels")


def test_an_extended_split_moves_no_row_and_keeps_weights_usable(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = root / "folds/csv/folds.csv"
    before = pd.read_csv(folds, index_col="image_id")
    add_rows(root)
    assert "4 rows added, 0 removed" in extend_folds(*args(root))
    after = pd.read_csv(folds, index_col="image_id")
    assert after.loc[before.index].equals(before)
    assert after.groupby("patient")["fold"].nunique().max() == 1
    with pytest.raises(UserError, match=r"model was trained: other rows .*--keep-trained"):
        train(tiny_source(root), TrainPlan("model", RECIPE))
    with pytest.raises(UserError, match=r"lacks \d rows of fold"):
        evaluate(*args(root), "model", n_draws=5)
    capsys.readouterr()
    predict_oof(root)
    assert "images are new" in capsys.readouterr().out
    notes = evaluate(*args(root), "model", n_draws=5).notes
    assert any("trained on other rows than the current ones" in note for note in notes)
    assert submit(*args(root), "model").n_rows == 16


def test_an_extended_split_takes_rows_out_that_are_gone(root: Path) -> None:
    remove_rows(root)
    assert "0 rows added, 2 removed" in extend_folds(*args(root))
    predict_oof(root)
    evaluate(*args(root), "model", n_draws=5)


def test_a_split_made_again_is_another_one_even_after_it_was_extended(root: Path) -> None:
    add_rows(root)
    extend_folds(*args(root))
    make_folds(*args(root), n_folds=2, seed=3, force=True)
    with pytest.raises(UserError, match=r"trained on another split than the current folds\.csv"):
        predict_oof(root)


def test_a_patient_who_moved_is_not_extended_but_split_again(root: Path) -> None:
    path = table_of(root, "train")
    table = pd.read_csv(path)
    table["patient"] = table["patient"].where(table["patient"] != table["patient"][2], table["patient"][0])
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"2 rows have another patient in the split.*--force"):
        extend_folds(*args(root))


def test_without_a_cache_the_score_notes_that_images_were_not_compared(root: Path) -> None:
    hidden = (root / "inputs/cache").rename(root / "inputs/elsewhere")
    try:
        notes = evaluate(*args(root), "model", n_draws=5).notes
    finally:
        hidden.rename(root / "inputs/cache")
    assert any("pixels of 16 images could not be compared with the predicted ones" in note for note in notes)


def test_partial_scores_calibrates_and_submits_finished_folds_only(root: Path) -> None:
    shutil.rmtree(root / "folds/csv/model/fold1")
    for stage in (evaluate, submit):
        with pytest.raises(UserError, match="--fold 1"):
            stage(*args(root), "model")
    evaluation = evaluate(*args(root), "model", n_draws=5, partial=True)
    assert evaluation.n_rows == 8
    said = "uses only the finished folds 0 of 2 (--partial)"
    assert evaluation.notes == (said,)
    written = submit(*args(root), "model", partial=True)
    assert said in str(written)
    with pytest.raises(UserError, match="Only fold 0 of model is finished"):
        calibrate(*args(root), "model", n_draws=5, partial=True)
    with pytest.raises(UserError, match="--partial needs a single model"):
        evaluate(*args(root), "alone", n_draws=5, partial=True)


def test_a_comment_and_another_order_of_columns_change_nothing(root: Path) -> None:
    for path in (root / "folds/csv/model").glob("fold*/config.yaml"):
        path.write_text("# mine\n" + path.read_text())
    path = table_of(root, "train")
    table = pd.read_csv(path)
    table[table.columns[::-1]].iloc[::-1].to_csv(path, index=False)
    evaluation = evaluate(*args(root), "model", n_draws=5)
    assert not evaluation.notes
    assert make_ensemble(*args(root), "alone", ["model"]).skipped
    assert submit(*args(root), "model", variant="calibrated").unchanged is False
    train(tiny_source(root), TrainPlan("model", RECIPE))


def test_images_touched_but_not_changed_change_nothing(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (root / "inputs/csv/pictures").iterdir():
        path.touch()
    predict_oof(root)
    printed = "".join(capfd.readouterr())
    assert printed.count("already done") == 2 and "to decode" not in printed


def test_check_lists_what_is_outdated_why_and_what_renews_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["check", "csv", "--root", str(root)]
    main(check)
    assert "outdated" not in capsys.readouterr().out
    change_labels(root)
    replace_pixels(root, "test")
    main(check)
    printed = capsys.readouterr().out
    for line in (
        "model fold 0 (trained on other labels (Effusion)): cxrlt train RECIPE --name model",
        "test predictions of model, folds 0, 1 (made with other pixels): cxrlt predict model",
        "ensemble alone (fitted on other labels (Effusion)): cxrlt ensemble alone --members model",
        "calibration of model (fitted on other predictions): cxrlt calibrate model",
    ):
        assert line in printed


def test_patients_who_share_a_picture_are_one_with_group_duplicates(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(table_of(root, "train"))
    one, other = (root / "inputs/csv" / path for path in table.groupby("patient")["path"].first()[:2])
    shutil.copy(one, other)
    folds = ["folds", "csv", "--n-folds", "2", "--root", str(root)]
    main(["cache", "csv", "--size", "32", "--root", str(root)])
    assert "identical" in capsys.readouterr().err
    main([*folds, "--group-duplicates", "--force"])
    split = pd.read_csv(root / "folds/csv/folds.csv", index_col="image_id")
    both = table.loc[table["patient"].isin(sorted(set(table["patient"]))[:2]), "image"]
    assert split.loc[both, "patient"].nunique() == split.loc[both, "fold"].nunique() == 1
    main(folds)
    assert "already done" in capsys.readouterr().out
    add_rows(root)
    main(["cache", "csv", "--size", "32", "--root", str(root)])
    main(["folds", "csv", "--extend", "--root", str(root)])
    after = pd.read_csv(root / "folds/csv/folds.csv", index_col="image_id")
    assert after.loc[split.index].equals(split)


def test_an_unreadable_image_that_is_repaired_is_predicted_and_marks_the_training(tmp_path: Path) -> None:
    source = replace(make_tiny(tmp_path, n_patients=8, n_folds=2), quarantine=True)
    file = tmp_path / "inputs/csv" / pd.read_csv(table_of(tmp_path, "train"))["path"][0]
    content = file.read_bytes()
    file.write_bytes(b"no image")
    train(source, TrainPlan("model", RECIPE))
    predict(source, "model", "oof")
    assert evaluate(*args(tmp_path), "model", n_draws=5).notes == (
        "1 of 16 rows have no prediction and do not count",
    )
    train(source, TrainPlan("model", RECIPE))
    file.write_bytes(content)
    with raises_user_error("oof.parquet", "1 of its 8", "pixels"):
        evaluate(*args(tmp_path), "model", n_draws=5)
    predict(source, "model", "oof")
    (note,) = evaluate(*args(tmp_path), "model", n_draws=5).notes
    assert note.startswith("trained on other pixels")


def test_an_ensemble_notes_changes_of_its_members_and_of_its_own_fit(root: Path) -> None:
    change_labels(root)
    notes = evaluate(*args(root), "alone", n_draws=5).notes
    assert notes[0].startswith("model: trained on other labels (Effusion)")
    assert notes[1].startswith(
        "its weights were fitted on other labels (Effusion) than the current ones: cxrlt ensemble"
    )
    make_ensemble(*args(root), "alone", ["model"])
    assert len(evaluate(*args(root), "alone", n_draws=5).notes) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [(add_rows, "4 of 20 rows have no prediction and do not count"), (remove_rows, None)],
)
def test_new_dev_rows_are_noted_and_removed_dev_rows_do_not_count(
    root: Path, change: Callable[..., None], words: str | None
) -> None:
    change(root, "dev")
    evaluation = evaluate(*args(root), "model", "dev", n_draws=5)
    assert evaluation.notes == ((words,) if words else ())
    assert evaluation.n_rows == (16 if words else 14)


def test_replaced_pixels_of_dev_are_refused_until_they_are_predicted(root: Path) -> None:
    replace_pixels(root, "dev")
    with pytest.raises(UserError, match=r"dev\.parquet is outdated: 3 of its 16 images .*--split dev"):
        evaluate(*args(root), "model", "dev", n_draws=5)
    predict(tiny_source(root), "model", "dev")
    assert evaluate(*args(root), "model", "dev", n_draws=5).notes == ()
