"""What --force outdates is listed once, with the commands that renew it; equal results outdate nothing."""

import json
import shutil
from pathlib import Path

import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.provenance import digest_of_weights
from cxrlt.submissions.outdated import describe_outdated, find_outdated
from cxrlt.submissions.record import RECORD, outdated_message
from cxrlt.submissions.submit import submit
from tiny import SimulatedRuns, edit_parquet, make_simulated_runs

pytestmark = pytest.mark.slow


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """Two models, a third in a study, an ensemble of two with its calibration, and submissions."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("made"), n_patients=60)
    for seed, name in enumerate(("one", "two", "study/three")):
        runs.add_run(name, skill=2, seed=seed)
    make_ensemble(*args(runs, "both", ["one", "two"]))
    make_ensemble(*args(runs, "study/pair", ["two", "study/three"]), kind="mean", study_mean="off")
    calibrate(*args(runs, "both"), n_draws=10)
    for name in ("one", "two", "both"):
        submit(*args(runs, name))
    submit(*args(runs, "both"), variant="f1")
    return runs


@pytest.fixture
def complete_runs(finished_runs: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return finished_runs.copy(tmp_path)


def outdated_lines(runs: SimulatedRuns, *names: str) -> list[str]:
    return [str(each) for each in find_outdated(*args(runs), names or None)]


def test_nothing_is_outdated_where_nothing_was_done(complete_runs: SimulatedRuns) -> None:
    assert describe_outdated(*args(complete_runs)) is None


def test_other_out_of_fold_predictions_outdate_what_was_fitted_on_them_and_what_was_submitted(
    complete_runs: SimulatedRuns,
) -> None:
    edit_parquet(
        complete_runs.workspace.run_dir("csv", "one") / "fold0" / "oof.parquet", lambda logits: logits + 1
    )
    assert outdated_lines(complete_runs, "one") == [
        "ensemble both (fitted on other predictions of its members): "
        "cxrlt ensemble both --members one two --challenge csv --force",
        "calibration of both (fitted on other predictions): cxrlt calibrate both --challenge csv",
        "submission of one for test: cxrlt submit one --challenge csv --split test",
    ]
    assert outdated_lines(complete_runs, "two") == outdated_lines(complete_runs, "one")[:2]
    assert outdated_lines(complete_runs, "study/three") == []


def test_an_ensemble_of_a_study_is_found_and_its_command_makes_the_same_kind(
    complete_runs: SimulatedRuns,
) -> None:
    path = complete_runs.workspace.run_dir("csv", "study/three") / "fold2" / "oof.parquet"
    edit_parquet(path, lambda logits: logits * 2)
    (line,) = outdated_lines(complete_runs, "study/three")
    assert line.endswith(
        "cxrlt ensemble study/pair --members two study/three --kind mean --study-mean off "
        "--challenge csv --force"
    )


def test_other_predictions_of_test_outdate_the_submissions_and_the_ensembles_file(
    complete_runs: SimulatedRuns,
) -> None:
    edit_parquet(
        complete_runs.workspace.run_dir("csv", "one") / "fold0" / "test.parquet", lambda logits: -logits
    )
    assert outdated_lines(complete_runs, "one") == [
        "test predictions of both (made from other predictions of its members): "
        "cxrlt predict both --challenge csv --split test",
        "submission of both for test: cxrlt submit both --challenge csv --split test --probabilities f1",
        "submission of one for test: cxrlt submit one --challenge csv --split test",
    ]


def test_other_weights_outdate_the_predictions_of_their_folds(complete_runs: SimulatedRuns) -> None:
    run_dir = complete_runs.workspace.run_dir("csv", "two")
    for fold in (0, 2):
        (run_dir / f"fold{fold}" / "weights.safetensors").write_bytes(b"trained again")
    (run_dir / "fold2" / "dev.parquet").unlink()
    lines = outdated_lines(complete_runs, "two")
    assert [line.split(": ")[0] for line in lines[:3]] == [
        "oof predictions of two, folds 0, 2 (made with other weights)",
        "dev predictions of two, folds 0, 2 (made with other weights; missing)",
        "test predictions of two, folds 0, 2 (made with other weights)",
    ]
    assert lines[1].endswith(": cxrlt predict two --challenge csv --split dev")


def test_a_fold_whose_initial_weights_were_replaced_must_be_trained_again(
    complete_runs: SimulatedRuns,
) -> None:
    directory = complete_runs.workspace.run_dir("csv", "two") / "fold1"
    origin = {"run": "csv:one", "fold": "1", "weights": "0" * 64, "rows": "0" * 64}
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"started_from": origin}))
    assert outdated_lines(complete_runs, "one") == [
        "two fold 1 (its initial weights were replaced): "
        "cxrlt train RECIPE --name two --challenge csv --fold 1 --force"
    ]
    assert outdated_lines(complete_runs, "study/three") == []
    same_weights = digest_of_weights(
        complete_runs.workspace.run_dir("csv", "one") / "fold1" / "weights.safetensors"
    )
    origin["weights"] = same_weights
    (directory / "run.json").write_text(json.dumps(record | {"started_from": origin}))
    assert outdated_lines(complete_runs, "one") == []


def test_new_folds_outdate_everything_and_the_same_folds_nothing(
    complete_runs: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(complete_runs.workspace.root), "--force"]
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


def test_renewing_an_ensemble_lists_what_it_outdates(
    complete_runs: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ensemble", "both", "--members", "one", "two", "--challenge", "csv", "--force"]
    command += ["--root", str(complete_runs.workspace.root)]
    main(command)
    assert "outdated now" not in capsys.readouterr().out
    main([*command, "--kind", "stack"])
    printed = capsys.readouterr().out
    assert "  calibration of both" in printed
    assert "  submission of both for test: cxrlt submit both" in printed


def test_a_submission_is_reported_as_outdated_until_it_is_written_again(
    complete_runs: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = complete_runs.workspace.submission_dir("csv", "one")
    file = folder / "submission.zip"
    assert outdated_message(file, *args(complete_runs)) is None
    edit_parquet(
        complete_runs.workspace.run_dir("csv", "one") / "fold1" / "test.parquet", lambda logits: -logits
    )
    validate = ["validate", str(file), "--challenge", "csv", "--root", str(complete_runs.workspace.root)]
    main(validate)
    assert "Renew it with: cxrlt submit one --challenge csv --split test" in capsys.readouterr().out
    main(
        [
            "score",
            str(file),
            "--truth",
            str(complete_runs.workspace.inputs_dir("csv") / "test.csv"),
            *validate[2:],
        ]
    )
    assert "outdated: predictions have changed" in capsys.readouterr().out
    submit(*args(complete_runs, "one"))
    main(validate)
    assert "outdated" not in capsys.readouterr().out
    elsewhere = shutil.copy(file, complete_runs.workspace.root / "submission.zip")
    assert outdated_message(Path(elsewhere), *args(complete_runs)) is None


@pytest.mark.parametrize("text", ["", "[]", '{"test": []}', '{"test": {"name": 1}}', "\xff"])
def test_a_damaged_record_is_ignored_and_written_again(complete_runs: SimulatedRuns, text: str) -> None:
    folder = complete_runs.workspace.submission_dir("csv", "one")
    before = (folder / RECORD).read_bytes()
    (folder / RECORD).write_text(text, encoding="latin-1")
    assert outdated_message(folder / "submission.zip", *args(complete_runs)) is None
    submit(*args(complete_runs, "one"))
    assert (folder / RECORD).read_bytes() == before


def test_the_record_of_a_submission_is_not_in_its_zip(complete_runs: SimulatedRuns) -> None:
    import zipfile

    with zipfile.ZipFile(complete_runs.workspace.submission_dir("csv", "one") / "submission.zip") as archive:
        assert archive.namelist() == ["submission.csv"]
