"""Submissions of calibrated probabilities."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlt import cli
from cxrlt.calibration import VARIANTS
from cxrlt.calibration.calibrate import calibrate
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.metrics import average_precision
from cxrlt.submissions.submit import submit
from probability_metrics import class_ece, class_f1
from tiny import CLASSES, SimulatedRuns, edit_parquet, make_simulated_runs, shift_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flattened_runs(tmp_path_factory) -> SimulatedRuns:
    flattened_runs = make_simulated_runs(tmp_path_factory.mktemp("squeezed"))
    shift_predictions(flattened_runs.add_run("one", skill=2.0, seed=1))
    return flattened_runs


@pytest.fixture
def own(flattened_runs, tmp_path) -> SimulatedRuns:
    return flattened_runs.copy(tmp_path)


def read(written) -> pd.DataFrame:
    return pd.read_csv(written.csv_path, index_col="image")


def of_all(own: SimulatedRuns, name: str = "one", **options: object) -> dict[str, pd.DataFrame]:
    return {
        variant: read(submit(own.challenge, own.workspace, name, "dev", variant=variant, **options))
        for variant in VARIANTS
    }


@pytest.mark.parametrize("name", ["one", "both"])
def test_all_variants_rank_equally_and_have_the_promised_probabilities(own: SimulatedRuns, name: str) -> None:
    shift_predictions(own.add_run("two", skill=1.5, seed=2))
    make_ensemble(own.challenge, own.workspace, "both", ["one", "two"])
    frames = of_all(own, name)
    labels = own.table("dev").loc[frames["raw"].index, CLASSES].to_numpy(np.float64)
    for variant in ("calibrated", "f1"):
        assert frames[variant].rank().equals(frames["raw"].rank())
        np.testing.assert_allclose(
            average_precision(labels, frames[variant]), average_precision(labels, frames["raw"]), atol=1e-12
        )
    assert class_ece(labels, frames["calibrated"]).mean() < class_ece(labels, frames["raw"]).mean()
    assert class_f1(labels, frames["f1"]).mean() > class_f1(labels, frames["raw"]).mean()


def test_a_calibrated_submission_is_the_sigmoid_of_the_calibrated_logits(own: SimulatedRuns) -> None:
    calibration = calibrate(own.challenge, own.workspace, "one", method="isotonic", n_draws=20).calibration
    logits = load_final_logits("one", "dev", own.current_data).logits
    for variant, frame in of_all(own).items():
        expected = expit(calibration.apply(logits, variant).astype(np.float64)).loc[frame.index]
        np.testing.assert_allclose(frame, expected, rtol=1e-10)


def test_a_missing_or_stale_calibration_is_fitted_first(own: SimulatedRuns, capsys) -> None:
    run_dir = own.workspace.run_dir("csv", "one")
    submit(own.challenge, own.workspace, "one", variant="f1")
    first = (run_dir / "calibration.json").read_bytes()
    assert "calibrate one: " in capsys.readouterr().out
    assert submit(own.challenge, own.workspace, "one", variant="f1").unchanged
    assert capsys.readouterr().out == ""
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: logits.iloc[::-1] * 1.2)
    submit(own.challenge, own.workspace, "one", variant="f1")
    assert json.loads((run_dir / "calibration.json").read_bytes()) != json.loads(first)


def test_another_challenges_run_brings_its_own_calibration(own: SimulatedRuns) -> None:
    other = replace(own.challenge, name="other", train_counts=dict.fromkeys(("Hernia", "Effusion"), 1))
    shutil.copytree(own.workspace.inputs_dir("csv"), own.workspace.inputs_dir("other"))
    whole = of_all(own)
    for variant, frame in whole.items():
        written = submit(other, own.workspace, "one", "dev", origin=own.challenge, variant=variant)
        assert read(written).equals(frame[["Hernia", "Effusion"]])
    assert (own.workspace.run_dir("csv", "one") / "calibration.json").is_file()
    assert not own.workspace.run_dir("other", "one").exists()


def test_the_maps_are_part_of_the_code_of_a_calibrated_submission(own: SimulatedRuns) -> None:
    def code_of(variant: str) -> list[str]:
        written = submit(own.challenge, own.workspace, "one", variant=variant, with_code=True)
        return zipfile.ZipFile(written.zip_path).namelist()

    assert "code/runs/one/calibration.json" in code_of("calibrated")
    assert "code/runs/one/calibration.json" not in code_of("raw")


def test_a_refit_can_only_be_submitted_raw(own: SimulatedRuns) -> None:
    own.make_refit("one")
    assert submit(own.challenge, own.workspace, "one").n_rows
    with pytest.raises(UserError, match="no out-of-fold predictions to calibrate on"):
        submit(own.challenge, own.workspace, "one", variant="f1")


def test_one_class_per_row_can_only_be_submitted_raw(own: SimulatedRuns) -> None:
    single = replace(own.challenge, task="single_label", metric="macro-F1")
    with pytest.raises(UserError, match="cannot be calibrated: csv is a single-label task"):
        submit(single, own.workspace, "one", origin=own.challenge, variant="calibrated")


def test_the_commands_calibrate_and_submit(own: SimulatedRuns, capsys) -> None:
    where = ["--challenge", "csv", "--root", str(own.workspace.root)]
    cli.main(["calibrate", "one", *where, "--method", "logistic"])
    assert "one on csv: logistic, as requested" in capsys.readouterr().out
    cli.main(["submit", "one", *where, "--probabilities", "f1"])
    assert "submission: valid" in capsys.readouterr().out
    shown = pd.read_csv(own.workspace.submission_dir("csv", "one") / "submission.csv", index_col="image")
    assert shown.equals(read(submit(own.challenge, own.workspace, "one", variant="f1")))
