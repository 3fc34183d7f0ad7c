"""No out-of-fold row is predicted by a fit that used its labels; dev and test use the fit on all rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.ensembles.ensemble import make_ensemble, predict_ensemble
from cxrlt.ensembles.final_logits import STUDY_MEAN_FILE, load_final_logits
from cxrlt.ensembles.weights import EnsembleWeights
from cxrlt.predictions.run_names import WEIGHTS_FILE
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import PredictConfig, Recipe
from sampled_cases import sample_cases
from tiny import CLASSES, SimulatedRuns, edit_parquet, make_simulated_runs

pytestmark = pytest.mark.slow

MEMBERS = ["good", "poor", "third"]
FITTED = [
    {"kind": "greedy"},
    {"kind": "per_class"},
    {"kind": "stack"},
    {"kind": "stack", "context": True},
    {"kind": "per_class", "study_mean": "search"},
    {"kind": "stack", "context": True, "study_mean": "search"},
]


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """Three models so alike that a third of the labels decides their weights, on few patients."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("made"), n_patients=60)
    for seed, name in enumerate(MEMBERS):
        runs.add_run(name, skill=1.0 + 0.2 * seed, seed=seed)
    return runs


@pytest.fixture
def three(finished_runs: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return finished_runs.copy(tmp_path)


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


def fold_of(runs: SimulatedRuns) -> pd.Series:
    return runs.current_data.rows.fold


def change_labels(runs: SimulatedRuns, fold: int) -> None:
    """Studies of that fold exchange their labels, and one image disagrees with its study."""
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    inside = (fold_of(runs).loc[table["image"]] == fold).to_numpy()
    studies = table[inside].groupby("study")[CLASSES].first()
    shuffled = studies.sample(frac=1, random_state=5).set_axis(studies.index)
    table.loc[inside, CLASSES] = shuffled.loc[table["study"][inside]].to_numpy()
    two_images = table.index[inside & table["study"].duplicated().to_numpy()]
    table.loc[two_images[0], "Mass"] = 1 - table.loc[two_images[0], "Mass"]
    table.to_csv(path, index=False)


def make(runs: SimulatedRuns, **how: object) -> EnsembleWeights:
    return make_ensemble(*args(runs, "all", MEMBERS), **how).weights


@pytest.mark.parametrize(
    ("how", "fold"), sample_cases([(how, at % 3) for at, how in enumerate(FITTED)], every=3), ids=str
)
def test_the_labels_of_a_fold_change_none_of_its_predictions(
    three: SimulatedRuns, how: dict[str, object], fold: int
) -> None:
    weights, before = make(three, **how), load_final_logits("all", "oof", three.current_data).logits
    without = load_final_logits("all", "oof", three.current_data, exclude_fold=fold).logits
    inside = fold_of(three) == fold
    change_labels(three, fold)
    changed, after = make(three, **how), load_final_logits("all", "oof", three.current_data).logits
    pd.testing.assert_frame_equal(after[inside], before[inside], check_exact=True)
    again = load_final_logits("all", "oof", three.current_data, exclude_fold=fold).logits
    pd.testing.assert_frame_equal(again, without, check_exact=True)
    assert changed.final.to_json() != weights.final.to_json()
    assert not after[~inside].equals(before[~inside])


@pytest.mark.parametrize("option", ["auto", "search"])
def test_the_labels_of_a_fold_change_none_of_its_predictions_by_one_model(
    three: SimulatedRuns, option: str
) -> None:
    three.add_run("one", skill=1.2, recipe=Recipe(predict=PredictConfig(study_mean=option)))
    before = load_final_logits("one", "oof", three.current_data)
    change_labels(three, fold=1)
    after = load_final_logits("one", "oof", three.current_data)
    inside = fold_of(three) == 1
    pd.testing.assert_frame_equal(after.logits[inside], before.logits[inside], check_exact=True)
    pd.testing.assert_frame_equal(after.raw[inside], before.raw[inside], check_exact=True)
    assert not after.logits[~inside].equals(before.logits[~inside])


@pytest.mark.parametrize("how", sample_cases(FITTED, every=3, first=1), ids=str)
def test_a_fold_is_predicted_by_the_fit_without_it_and_this_fit_can_predict_all_rows(
    three: SimulatedRuns, how: dict[str, object]
) -> None:
    make(three, **how)
    usual, fold = load_final_logits("all", "oof", three.current_data).logits, fold_of(three)
    for k in range(3):
        without = load_final_logits("all", "oof", three.current_data, exclude_fold=k).logits
        assert without.index.equals(usual.index)
        pd.testing.assert_frame_equal(without[fold == k], usual[fold == k], check_exact=True)
        assert not without[fold != k].equals(usual[fold != k])


def test_exclude_fold_needs_out_of_fold_rows(three: SimulatedRuns) -> None:
    with pytest.raises(ValueError, match="needs out-of-fold rows, not test"):
        load_final_logits("good", "test", three.current_data, exclude_fold=0)


@pytest.mark.parametrize("how", sample_cases(FITTED[1:4], every=3), ids=str)
def test_dev_and_test_are_read_from_the_final_weights_and_rows_from_their_folds(
    three: SimulatedRuns, how: dict[str, object]
) -> None:
    make(three, **how)
    path = three.workspace.run_dir("csv", "all") / WEIGHTS_FILE
    whole = json.loads(path.read_text())
    before = {
        split: load_final_logits("all", split, three.current_data).logits for split in ("oof", "dev", "test")
    }
    fold = fold_of(three)

    path.write_text(json.dumps(whole | {"final": {"members": {"good": 0, "poor": 1, "third": 0}}}))
    after = {split: load_final_logits("all", split, three.current_data).logits for split in before}
    assert after["oof"].equals(before["oof"])
    assert all(np.abs(after[split] - before[split]).to_numpy().max() > 0.01 for split in ("dev", "test"))
    stored = read_predictions(predict_ensemble(*args(three, "all", "test")), CLASSES)[0]
    np.testing.assert_allclose(stored, after["test"], atol=1e-5)

    whole["by_fold"][1] = {"members": {"good": 0, "poor": 1, "third": 0}}
    path.write_text(json.dumps(whole))
    after = {split: load_final_logits("all", split, three.current_data).logits for split in before}
    assert after["test"].equals(before["test"])
    assert after["oof"][fold != 1].equals(before["oof"][fold != 1])
    assert not after["oof"][fold == 1].equals(before["oof"][fold == 1])


def test_view_weights_in_the_file_are_what_is_read(three: SimulatedRuns) -> None:
    make(three, kind="mean", study_mean="search")
    path = three.workspace.run_dir("csv", "all") / WEIGHTS_FILE
    whole, before = json.loads(path.read_text()), load_final_logits("all", "test", three.current_data).logits
    whole["study_mean"]["final"] = None
    path.write_text(json.dumps(whole))
    assert not load_final_logits("all", "test", three.current_data).logits.equals(before)


def test_what_a_run_chose_is_kept_beside_it_until_its_predictions_change(three: SimulatedRuns) -> None:
    run_dir = three.add_run("one", skill=1.2, recipe=Recipe(predict=PredictConfig(study_mean="search")))
    chosen = load_final_logits("one", "test", three.current_data).study_mean
    path = run_dir / STUDY_MEAN_FILE
    kept = json.loads(path.read_text())
    assert (kept["final"], tuple(kept["by_fold"])) == (chosen.final, chosen.by_fold)
    stamp = path.stat().st_mtime_ns
    assert load_final_logits("one", "oof", three.current_data).study_mean == chosen
    assert path.stat().st_mtime_ns == stamp
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: -logits)
    load_final_logits("one", "test", three.current_data)
    assert json.loads(path.read_text())["provenance"] != kept["provenance"]


def test_other_studies_of_a_patient_have_no_influence_without_context(three: SimulatedRuns) -> None:
    table = three.table("test")
    several = table.groupby("patient")["study"].nunique()
    patient = several.index[several > 1][0]
    changed, other = sorted(table["study"][table["patient"] == patient].unique())[:2]
    rows = {study: table.index[table["study"] == study] for study in (changed, other)}

    def test_logits(name: str) -> pd.DataFrame:
        return load_final_logits(name, "test", three.current_data).logits.loc[rows[other]]

    for kind in ("mean", "greedy", "per_class", "stack"):
        make_ensemble(*args(three, kind, MEMBERS), kind=kind)
    make_ensemble(*args(three, "context", MEMBERS), kind="stack", context=True)
    names = ("mean", "greedy", "per_class", "stack", "context")
    before = {name: test_logits(name) for name in names}
    for member in MEMBERS:
        for path in three.workspace.run_dir("csv", member).glob("fold*/test.parquet"):
            edit_parquet(path, lambda logits: logits + 5.0 * logits.index.isin(rows[changed])[:, None])
    for name in names:
        assert test_logits(name).equals(before[name]) == (name != "context")
