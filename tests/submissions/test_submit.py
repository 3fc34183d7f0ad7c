import json
import shutil
import tomllib
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlt.challenges import get_challenge
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.submissions.submit import submit
from cxrlt.submissions.write import IncompleteError
from tiny import edit_parquet, make_simulated_runs

pytestmark = pytest.mark.slow


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="image")


@pytest.fixture
def own(tmp_path):
    """Runs of one fold table that a test may change."""
    own = make_simulated_runs(tmp_path, n_patients=60)
    own.add_run("one", skill=2.0, seed=1)
    return own


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_submission_is_the_sigmoid_of_what_is_evaluated(pair, split):
    written = submit(pair.challenge, pair.workspace, "one", split)
    expected = expit(load_final_logits("one", split, pair.current_data).logits.astype(np.float64))
    ids = pair.challenge.template(split, pair.workspace.inputs_dir("csv"))
    frame = read(written.csv_path)
    assert list(frame.index) == ids
    assert np.allclose(frame, expected.loc[ids], rtol=1e-10, atol=0)


def test_a_shuffled_test_table_gives_every_image_the_same_probabilities(own):
    before = read(submit(own.challenge, own.workspace, "one").csv_path)
    path = own.workspace.inputs_dir("csv") / "test.csv"
    pd.read_csv(path).sample(frac=1, random_state=3).to_csv(path, index=False)
    after = read(submit(own.challenge, own.workspace, "one").csv_path)
    assert list(after.index) != list(before.index)
    assert after.loc[before.index].equals(before)


def test_shuffled_predictions_give_the_same_bytes(own):
    before = submit(own.challenge, own.workspace, "one").zip_path.read_bytes()
    for path in own.workspace.run_dir("csv", "one").glob("fold*/test.parquet"):
        edit_parquet(path, lambda logits: logits.sample(frac=1, random_state=3))
    assert submit(own.challenge, own.workspace, "one").zip_path.read_bytes() == before


def test_the_weights_of_an_ensemble_decide_its_submission(own):
    own.add_run("two", skill=1.0, seed=2)
    make_ensemble(own.challenge, own.workspace, "mix", ["one", "two"])
    before = read(submit(own.challenge, own.workspace, "mix").csv_path)
    path = own.workspace.run_dir("csv", "mix") / "weights.json"
    weights = json.loads(path.read_text())
    path.write_text(json.dumps(weights | {"final": {"members": {"one": 0.0, "two": 1.0}}}))
    after = submit(own.challenge, own.workspace, "mix")
    assert not after.unchanged
    assert not np.allclose(read(after.csv_path), before)


def test_images_that_were_not_predicted_are_an_error_that_names_the_command(own):
    for path in own.workspace.run_dir("csv", "one").glob("fold*/test.parquet"):
        edit_parquet(path, lambda logits: logits.iloc[2:])
    with pytest.raises(IncompleteError, match="cxrlt predict one --challenge csv --split test --force"):
        submit(own.challenge, own.workspace, "one")


def test_a_run_without_predictions_is_an_error_that_names_the_command(own):
    for path in own.workspace.run_dir("csv", "one").glob("fold*/test.parquet"):
        path.unlink()
    with pytest.raises(UserError, match="cxrlt predict one --challenge csv --split test"):
        submit(own.challenge, own.workspace, "one")


def test_the_training_rows_cannot_be_submitted_to_a_challenge_without_that_split(pair):
    with pytest.raises(UserError, match="has no split 'dev'"):
        submit(replace(pair.challenge, splits=("train", "test")), pair.workspace, "one", "dev")


def test_classes_of_another_challenges_run_are_picked_by_name(own):
    other = replace(own.challenge, name="other", train_counts=dict.fromkeys(("Hernia", "Effusion"), 1))
    shutil.copytree(own.workspace.inputs_dir("csv"), own.workspace.inputs_dir("other"))
    frame = read(submit(other, own.workspace, "one", origin=own.challenge).csv_path)
    whole = read(submit(own.challenge, own.workspace, "one").csv_path)
    assert list(frame.columns) == ["Hernia", "Effusion"]
    assert frame.equals(whole[["Hernia", "Effusion"]])
    assert (own.workspace.submission_dir("other", "one") / "submission.zip").is_file()


def test_a_class_that_the_other_challenge_does_not_predict_is_an_error(workspace):
    task1, task2 = (get_challenge(f"cxrlt2024-task{task}") for task in (1, 2))
    with pytest.raises(UserError, match="does not predict Adenopathy, Azygos Lobe"):
        submit(task1, workspace, "one", origin=task2)


def test_the_code_of_a_submission_is_the_package_the_lock_and_the_configs_of_its_models(own):
    own.add_run("two", skill=1.0, seed=2)
    make_ensemble(own.challenge, own.workspace, "mix", ["one", "two"])
    written = submit(own.challenge, own.workspace, "mix", with_code=True)
    with zipfile.ZipFile(written.zip_path) as archive:
        names = archive.namelist()
        project = tomllib.loads(archive.read("code/pyproject.toml").decode())
    assert project["project"]["name"] == "cxrlt"
    assert names[0] == "submission.csv"
    assert {"code/run.sh", "code/requirements.txt", "code/src/cxrlt/cli.py"} <= set(names)
    assert "code/src/cxrlt/recipes/demo_resnet.yaml" in names
    assert "code/runs/mix/weights.json" in names
    assert any(name.startswith("code/runs/") and name.endswith("fold0/config.yaml") for name in names)
    assert not [name for name in names if name.endswith(".pyc") or name.startswith("/")]
    assert submit(own.challenge, own.workspace, "mix", with_code=True).unchanged
