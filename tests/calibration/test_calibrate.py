import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cxrlt.calibration import METHODS, VARIANTS
from cxrlt.calibration.artifact import CALIBRATION, CalibrationRecord, fit_calibration, read_calibration
from cxrlt.calibration.calibrate import NestedLogits, calibrate
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.metrics import average_precision
from cxrlt.metrics.calibration import LOCAL_ECE, LOG_LOSS, MF1
from cxrlt.recipe import PredictConfig, Recipe
from probability_metrics import class_f1, class_log_loss
from tiny import (
    CLASSES,
    SimulatedRuns,
    edit_parquet,
    make_simulated_runs,
    remove_negative_labels,
    shift_predictions,
)
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

OFF = Recipe(predict=PredictConfig(study_mean="off"))


def args(runs: SimulatedRuns, name: str = "model") -> tuple:
    return runs.challenge, runs.workspace, name


def read(runs: SimulatedRuns, name: str = "model"):
    return read_calibration(name, runs.current_data)


def nested(runs: SimulatedRuns, name: str = "model") -> NestedLogits:
    return NestedLogits.read(name, runs.current_data)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """A model whose probabilities are too near to .5, and that tests leave as it is."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("shared"), n_patients=200)
    shift_predictions(runs.add_run("model", skill=2.5, recipe=OFF))
    return runs


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    runs = make_simulated_runs(tmp_path_factory.mktemp("one"))
    runs.add_run("model", skill=2.5, recipe=OFF)
    return runs


@pytest.fixture
def model(one_model: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return one_model.copy(tmp_path)


def test_calibration_makes_probabilities_mean_something_and_leaves_the_ranking(shared: SimulatedRuns) -> None:
    report = calibrate(*args(shared), n_draws=200)
    raw, calibrated, f1 = (report.variants[variant] for variant in VARIANTS)
    assert raw.metrics[LOCAL_ECE].value > 0.2 > 0.06 > calibrated.metrics[LOCAL_ECE].value
    assert calibrated.differences[LOG_LOSS].high < 0
    assert f1.differences[MF1].low > 0
    assert raw.ranking == pytest.approx(calibrated.ranking, abs=1e-12)
    assert raw.ranking == pytest.approx(f1.ranking, abs=1e-12)


def test_the_simplest_method_within_noise_of_the_best_is_chosen(shared: SimulatedRuns) -> None:
    report = calibrate(*args(shared), n_draws=200)
    assert list(report.behind) == list(METHODS)
    assert min(gap.value for gap in report.behind.values()) == 0
    first = next(method for method, gap in report.behind.items() if gap.low <= 0)
    assert report.calibration.method == first == "logistic"
    assert report.behind["temperature"].low > 0
    forced = calibrate(*args(shared), method="isotonic", n_draws=50)
    assert forced.forced
    assert forced.calibration.method == read(shared).method == "isotonic"


def test_what_is_written_is_read_back_by_class_name(shared: SimulatedRuns) -> None:
    for method in METHODS:
        report = calibrate(*args(shared), method=method, n_draws=20)
        assert read(shared) == report.calibration
        assert set(json.loads(report.path.read_text())["calibration"]["maps"]) == set(CLASSES)


def test_the_final_maps_are_fitted_on_all_out_of_fold_rows(shared: SimulatedRuns) -> None:
    report = calibrate(*args(shared), method="logistic", n_draws=20)
    rows = shared.current_data.rows
    logits = load_final_logits("model", "oof", shared.current_data).logits
    assert report.calibration == fit_calibration("logistic", logits, rows.table[CLASSES])


def test_dev_and_test_keep_their_order_and_average_precision(shared: SimulatedRuns) -> None:
    logits, table = load_final_logits("model", "dev", shared.current_data).logits, shared.table("dev")
    labels = table.loc[logits.index, CLASSES].to_numpy(np.float64)
    for method in METHODS:
        calibration = calibrate(*args(shared), method=method, n_draws=20).calibration
        for variant in ("calibrated", "f1"):
            mapped = calibration.apply(logits, variant)
            assert mapped.rank().equals(logits.rank())
            scores = [average_precision(labels, expit(frame.to_numpy())) for frame in (logits, mapped)]
            np.testing.assert_allclose(*scores, rtol=0, atol=1e-12)


def test_the_f1_variant_has_at_one_half_the_f1_of_the_thresholds(shared: SimulatedRuns) -> None:
    calibration = calibrate(*args(shared), n_draws=20).calibration
    logits, table = load_final_logits("model", "dev", shared.current_data).logits, shared.table("dev")
    labels = table.loc[logits.index, CLASSES]
    calibrated = expit(calibration.apply(logits, "calibrated"))
    thresholds = [calibration.thresholds[name] for name in CLASSES]
    at_half = class_f1(labels, expit(calibration.apply(logits, "f1")))
    assert at_half == pytest.approx(class_f1(labels, calibrated, thresholds), abs=1e-12)
    assert at_half.mean() > class_f1(labels, expit(logits)).mean()


@pytest.mark.parametrize("name", ["model", "both"])
def test_labels_of_a_fold_change_nothing_in_how_its_rows_are_calibrated(
    model: SimulatedRuns, name: str
) -> None:
    if name == "both":
        model.add_run("other", skill=1.5, seed=2, recipe=OFF)
        make_ensemble(*args(model, "both"), ["model", "other"], kind="mean", study_mean="off")
    before = nested(model, name)
    path = model.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path, index_col="image")
    ids = before.fold.index[before.fold == 1]
    table.loc[ids, CLASSES] = 1 - table.loc[ids, CLASSES]
    table.to_csv(path)
    after = nested(model, name)
    assert not after.labels.equals(before.labels)
    others = before.fold.index[before.fold != 1]
    for method in METHODS:
        mapped, again = before.logits(method), after.logits(method)
        for variant in VARIANTS:
            assert again[variant].loc[ids].equals(mapped[variant].loc[ids])
        for variant in ("calibrated", "f1"):
            assert not again[variant].loc[others].equals(mapped[variant].loc[others])


def test_blank_predictions_and_unknown_labels_do_not_count(model: SimulatedRuns) -> None:
    run_dir = model.workspace.run_dir("csv", "model")
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: logits.iloc[4:].reindex(logits.index))
    path = model.workspace.inputs_dir("csv") / "train.csv"
    pd.read_csv(path).assign(Hernia=lambda table: table["Hernia"].where(table.index % 2 == 0)).to_csv(path)
    before = nested(model)
    assert len(before.ids) == len(model.current_data.rows.table) - 4
    report = calibrate(*args(model), n_draws=20)
    assert np.isfinite([figure.value for figure in report.variants["f1"].metrics.values()]).all()
    blank = report.calibration.apply(pd.DataFrame(np.nan, ["a"], CLASSES), "f1")
    assert blank.isna().all(axis=None)


def test_classes_with_one_positive_or_none_are_calibrated_too(model: SimulatedRuns) -> None:
    path = model.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    table.assign(Hernia=0, Mass=(table.index == 0).astype(int)).to_csv(path, index=False)
    for method in METHODS:
        report = calibrate(*args(model), method=method, n_draws=20)
        mapped = report.calibration.apply(load_final_logits("model", "test", model.current_data).logits, "f1")
        assert np.isfinite(mapped).all(axis=None)
    assert report.n_positive["Mass"] == 1


@pytest.mark.parametrize("what", ["predictions", "labels", "folds", "recipe"])
def test_a_calibration_of_other_evidence_is_refused_with_the_command(model: SimulatedRuns, what: str) -> None:
    calibrate(*args(model), n_draws=20)
    run_dir, path = model.workspace.run_dir("csv", "model"), model.workspace.inputs_dir("csv") / "train.csv"
    if what == "predictions":
        edit_parquet(run_dir / "fold2" / "oof.parquet", lambda logits: logits + 0.1)
    elif what == "labels":
        table = pd.read_csv(path)
        table.assign(Mass=1 - table["Mass"]).to_csv(path, index=False)
    elif what == "folds":
        make_folds(model.challenge, model.workspace, 3, seed=1, force=True)
    else:
        config = run_dir / "fold0" / "config.yaml"
        config.write_text(config.read_text().replace("study_mean: 'off'", "study_mean: 'on'"))
    with raises_user_error("cxrlt calibrate model --challenge csv"):
        read(model)


def test_a_comment_in_a_recipe_is_no_other_evidence(model: SimulatedRuns) -> None:
    report = calibrate(*args(model), n_draws=20)
    with (model.workspace.run_dir("csv", "model") / "fold0" / "config.yaml").open("a") as file:
        file.write("# edited\n")
    assert read(model) == report.calibration


def test_changed_weights_of_an_ensemble_make_its_calibration_stale(model: SimulatedRuns) -> None:
    model.add_run("other", skill=1.5, seed=2, recipe=OFF)
    make_ensemble(*args(model, "both"), ["model", "other"])
    report = calibrate(*args(model, "both"), n_draws=20)
    assert read(model, "both") == report.calibration
    path = model.workspace.run_dir("csv", "both") / "weights.json"
    path.write_text(path.read_text() + "\n")
    assert read(model, "both") == report.calibration
    make_ensemble(*args(model, "both"), ["model", "other"], kind="stack", force=True)
    with pytest.raises(UserError, match=r"another ensemble.*cxrlt calibrate both"):
        read(model, "both")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["calibration"].update(method="magic") or values,
        lambda values: {"method": "logistic"},
        lambda values: values["calibration"]["maps"]["Mass"].update(slope=-1.0) or values,
        lambda values: values["calibration"]["thresholds"].update(Mass=0) or values,
        lambda values: values["calibration"]["maps"]["Mass"].update(steps=[[1, 0], [0, 1]]) or values,
        lambda values: values["calibration"]["maps"].pop("Mass") and values,
        lambda values: [],
    ],
)
def test_an_unusable_file_is_refused_with_the_command(shared: SimulatedRuns, change) -> None:
    path = calibrate(*args(shared), n_draws=20).path
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"calibration\.json.*Renew it with: cxrlt calibrate model") as error:
        read(shared)
    assert "--force" not in str(error.value), "cxrlt calibrate has no such flag"


def test_without_a_file_the_command_that_makes_it_is_named(model: SimulatedRuns) -> None:
    with raises_user_error(CALIBRATION, "cxrlt calibrate model"):
        read(model)


def test_one_class_per_row_and_a_refit_cannot_be_calibrated(model: SimulatedRuns) -> None:
    single = replace(model.challenge, task="single_label", metric="macro-F1")
    with pytest.raises(UserError, match="cannot be calibrated: csv is a single-label task"):
        calibrate(single, model.workspace, "model")
    run_dir = model.workspace.run_dir("csv", "model")
    (run_dir / "fold0").rename(run_dir / "refit")
    with pytest.raises(UserError, match="no out-of-fold predictions to calibrate on"):
        calibrate(*args(model))


def test_labels_that_leave_nothing_to_fit_are_an_error(model: SimulatedRuns) -> None:
    path = model.workspace.inputs_dir("csv") / "train.csv"
    pd.read_csv(path).assign(**dict.fromkeys(CLASSES, 0)).to_csv(path, index=False)
    with pytest.raises(UserError, match="no class has both"):
        calibrate(*args(model))


def test_a_threshold_is_moved_to_one_half(shared: SimulatedRuns) -> None:
    calibration = calibrate(*args(shared), n_draws=20).calibration
    logits = pd.DataFrame({name: [0.0, 1.0] for name in CLASSES})
    gap = calibration.apply(logits, "calibrated") - calibration.apply(logits, "f1")
    for name in CLASSES:
        assert gap[name].to_numpy() == pytest.approx(logit(calibration.thresholds[name]))


def test_a_class_that_has_only_positives_in_a_fold_does_not_raise_its_ranking(runs: SimulatedRuns) -> None:
    remove_negative_labels(runs, "Effusion", fold=1)
    runs.add_run("model", skill=2.5, recipe=OFF)
    report, rows = calibrate(*args(runs), n_draws=20), nested(runs)
    folds = []
    for fold, frame in rows.without.items():
        inside = rows.fold == fold
        ap = average_precision(rows.labels[inside], frame[inside])
        assert np.isnan(ap).tolist() == [fold == 1, False, False]
        folds.append(np.nanmean(ap))
    assert report.variants["raw"].ranking == pytest.approx(np.mean(folds))


@pytest.mark.filterwarnings("error")
def test_a_class_with_positives_and_blanks_only_is_out_of_every_figure(runs: SimulatedRuns) -> None:
    remove_negative_labels(runs, "Effusion")
    runs.add_run("model", skill=2.5, recipe=OFF)
    raw, rows = calibrate(*args(runs), n_draws=20).variants["raw"], nested(runs)
    logits, labels = rows.logits("temperature")["raw"], rows.labels
    assert raw.metrics[LOG_LOSS].value == pytest.approx(class_log_loss(labels, logits)[1:].mean())
    assert raw.metrics[MF1].value == pytest.approx(class_f1(labels, expit(logits))[1:].mean())


VALID_MAP = {"slope": 1.0, "offset": 0.0, "steps": [[-1, 0], [0, 0], [1, 2]]}


@pytest.mark.parametrize(
    ("line", "threshold", "sentence"),
    [
        ({"slope": 0.0}, 0.5, "is not increasing"),
        ({"steps": [[0, 0], [0, 1]]}, 0.5, "is not increasing"),
        ({"steps": [[0, 1], [1, 0]]}, 0.5, "is not increasing"),
        ({}, 0.0, "between 0 and 1"),
        ({}, 1.0, "between 0 and 1"),
    ],
)
def test_a_map_must_be_increasing_and_a_threshold_between_0_and_1(line, threshold, sentence) -> None:
    def record(line: dict, threshold: float) -> CalibrationRecord:
        calibration = {"method": "isotonic", "maps": {"Mass": line}, "thresholds": {"Mass": threshold}}
        return CalibrationRecord(challenge="csv", calibration=calibration, provenance={})

    assert record(VALID_MAP, 0.5).calibration.maps["Mass"].slope == 1
    with pytest.raises(ValueError, match=sentence):
        record(VALID_MAP | line, threshold)
