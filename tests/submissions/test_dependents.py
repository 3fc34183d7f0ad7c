"""What --force outdates is listed once, with what renews it; what came out the same outdates nothing."""

import json
import shutil
from pathlib import Path

import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.provenance import digest_of_weights
from cxrlt.submissions.dependents import outdated, outdated_listing
from cxrlt.submissions.record import RECORD, outdated_line
from cxrlt.submissions.submit import submit
from tiny import SimulatedRuns, edit_parquet, set_up_challenge

pytestmark = pytest.mark.slow


def of(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """Two models, a third in a study, an ensemble of two with its calibration, and submissions."""
    runs = set_up_challenge(tmp_path_factory.mktemp("made"), n_patients=60)
    for seed, name in enumerate(("one", "two", "study/three")):
        runs.add_run(name, skill=2, seed=seed)
    make_ensemble(*of(runs, "both", ["one", "two"]))
    make_ensemble(*of(runs, "study/pair", ["two", "study/three"]), kind="mean", study_mean="off")
    calibrate(*of(runs, "both"), n_draws=10)
    for name in ("one", "two", "both"):
        submit(*of(runs, name))
    submit(*of(runs, "both"), variant="f1")
    return runs


@pytest.fixture
def whole(made: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return made.copy(tmp_path)


def words(runs: SimulatedRuns, *names: str) -> list[str]:
    return [str(each) for each in outdated(*of(runs), names or None)]


def test_nothing_is_outdated_where_nothing_was_done(whole: SimulatedRuns) -> None:
    assert outdated_listing(*of(whole)) is None


def test_other_out_of_fold_predictions_outdate_what_was_fitted_on_them_and_what_was_submitted(
    whole: SimulatedRuns,
) -> None:
    edit_parquet(whole.workspace.run_dir("csv", "one") / "fold0" / "oof.parquet", lambda logits: logits + 1)
    assert words(whole, "one") == [
        "ensemble both (fitted on other predictions of its members): "
        "cxrlt ensemble both --members one two --challenge csv --force",
        "calibration of both (fitted on other predictions): cxrlt calibrate both --challenge csv",
        "submission of one for test: cxrlt submit one --challenge csv --split test",
    ]
    assert words(whole, "two") == words(whole, "one")[:2]
    assert words(whole, "study/three") == []


def test_an_ensemble_of_a_study_is_found_and_its_command_makes_the_same_kind(whole: SimulatedRuns) -> None:
    path = whole.workspace.run_dir("csv", "study/three") / "fold2" / "oof.parquet"
    edit_parquet(path, lambda logits: logits * 2)
    (line,) = words(whole, "study/three")
    assert line.endswith(
        "cxrlt ensemble study/pair --members two study/three --kind mean --study-mean off "
        "--challenge csv --force"
    )


def test_other_predictions_of_test_outdate_the_submissions_and_the_ensembles_file(
    whole: SimulatedRuns,
) -> None:
    edit_parquet(whole.workspace.run_dir("csv", "one") / "fold0" / "test.parquet", lambda logits: -logits)
    assert words(whole, "one") == [
        "test predictions of both (made of others): cxrlt predict both --challenge csv --split test",
        "submission of both for test: cxrlt submit both --challenge csv --split test --probabilities f1",
        "submission of one for test: cxrlt submit one --challenge csv --split test",
    ]


def test_other_weights_outdate_the_predictions_of_their_folds(whole: SimulatedRuns) -> None:
    run_dir = whole.workspace.run_dir("csv", "two")
    for fold in (0, 2):
        (run_dir / f"fold{fold}" / "weights.safetensors").write_bytes(b"trained anew")
    (run_dir / "fold2" / "dev.parquet").unlink()
    lines = words(whole, "two")
    assert [line.split(": ")[0] for line in lines[:3]] == [
        "oof predictions of two, folds 0, 2 (made with other weights)",
        "dev predictions of two, folds 0, 2 (made with other weights; not there)",
        "test predictions of two, folds 0, 2 (made with other weights)",
    ]
    assert lines[1].endswith(": cxrlt predict two --challenge csv --split dev")


def test_a_fold_that_started_from_weights_which_were_replaced_is_to_be_trained_anew(
    whole: SimulatedRuns,
) -> None:
    directory = whole.workspace.run_dir("csv", "two") / "fold1"
    origin = {"run": "csv:one", "fold": "1", "weights": "0" * 64, "rows": "0" * 64}
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"started_from": origin}))
    assert words(whole, "one") == [
        "two fold 1 (started from former weights): "
        "cxrlt train RECIPE --name two --challenge csv --fold 1 --force"
    ]
    assert words(whole, "study/three") == []
    same = digest_of_weights(whole.workspace.run_dir("csv", "one") / "fold1" / "weights.safetensors")
    origin["weights"] = same
    (directory / "run.json").write_text(json.dumps(record | {"started_from": origin}))
    assert words(whole, "one") == []


def test_folds_made_anew_outdate_everything_and_the_same_folds_nothing(
    whole: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(whole.workspace.root), "--force"]
    main(["folds", "csv", "--n-folds", "3", *root])
    assert "outdated now" not in capsys.readouterr().out
    main(["folds", "csv", "--n-folds", "3", "--seed", "4", *root])
    printed = capsys.readouterr().out
    assert printed.count("outdated now") == 1
    for name in (
        "one (trained on another split",
        "ensemble both",
        "calibration of both",
        "submission of two",
    ):
        assert f"  {name}" in printed


def test_an_ensemble_made_anew_says_what_it_outdates(
    whole: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ensemble", "both", "--members", "one", "two", "--challenge", "csv", "--force"]
    command += ["--root", str(whole.workspace.root)]
    main(command)
    assert "outdated now" not in capsys.readouterr().out
    main([*command, "--kind", "stack"])
    printed = capsys.readouterr().out
    assert "  calibration of both" in printed
    assert "  submission of both for test: cxrlt submit both" in printed


def test_a_submission_tells_that_it_is_outdated_until_it_is_written_anew(
    whole: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole.workspace.submission_dir("csv", "one")
    file = folder / "submission.zip"
    assert outdated_line(file, *of(whole)) is None
    edit_parquet(whole.workspace.run_dir("csv", "one") / "fold1" / "test.parquet", lambda logits: -logits)
    validate = ["validate", str(file), "--challenge", "csv", "--root", str(whole.workspace.root)]
    main(validate)
    assert "Renew it with: cxrlt submit one --challenge csv --split test" in capsys.readouterr().out
    main(["score", str(file), "--truth", str(whole.workspace.inputs_dir("csv") / "test.csv"), *validate[2:]])
    assert "outdated: predictions have changed" in capsys.readouterr().out
    submit(*of(whole, "one"))
    main(validate)
    assert "outdated" not in capsys.readouterr().out
    elsewhere = shutil.copy(file, whole.workspace.root / "submission.zip")
    assert outdated_line(Path(elsewhere), *of(whole)) is None


@pytest.mark.parametrize("text", ["", "[]", '{"test": []}', '{"test": {"name": 1}}', "\xff"])
def test_a_damaged_record_says_nothing_and_is_written_anew(whole: SimulatedRuns, text: str) -> None:
    folder = whole.workspace.submission_dir("csv", "one")
    before = (folder / RECORD).read_bytes()
    (folder / RECORD).write_text(text, encoding="latin-1")
    assert outdated_line(folder / "submission.zip", *of(whole)) is None
    submit(*of(whole, "one"))
    assert (folder / RECORD).read_bytes() == before


def test_the_record_of_a_submission_is_not_in_its_zip(whole: SimulatedRuns) -> None:
    import zipfile

    with zipfile.ZipFile(whole.workspace.submission_dir("csv", "one") / "submission.zip") as archive:
        assert archive.namelist() == ["submission.csv"]
