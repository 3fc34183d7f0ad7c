import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError
from cxrlt.experiments.costs import load_or_measure_step_times
from cxrlt.experiments.experiment import Run
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.experiments.score import TRAIN_OOF_GAP, RunLogits, read_logits, read_truths, score_run
from cxrlt.experiments.variants import OptimSettings
from cxrlt.metrics import macro_metric
from cxrlt.predictions.store import open_predictions, read_predictions, write_predictions
from cxrlt.submissions.evaluate import evaluate


@pytest.fixture(scope="module")
def experiment(source, finished_losses) -> LossExperiment:
    return LossExperiment(source, finished_losses[0])


def tuned_run(experiment, index, seed) -> Run:
    """Return a finished run with its tuned setting."""
    variant = experiment.variants[index]
    setting = read_json(experiment.results_dir / "tuned.json", "")["settings"][variant.name]
    return experiment.run(variant, seed, OptimSettings(setting["lr"], setting["clip_grad"]))


def score(experiment, run, truth, n_draws=2):
    logits = read_logits(experiment, run)
    return score_run(experiment, run, RunLogits(logits, logits), truth, n_draws)


def folds_of(frame, experiment):
    return experiment.fold_assignment.frame["fold"].loc[frame.index]


@pytest.fixture(scope="module")
def run(experiment) -> Run:
    return tuned_run(experiment, 1, 0)


def test_a_train_set_is_the_rows_of_the_next_fold_and_over_all_folds_the_left_out_ones(experiment, run):
    excluded, trained = read_logits(experiment, run), read_logits(experiment, run, "train_set")
    assert set(excluded.index) == set(trained.index) == set(experiment.fold_assignment.frame.index)
    for frame, folds in ((excluded, [0, 1, 2]), (trained, [1, 2, 0])):
        assert list(folds_of(frame, experiment).unique()) == folds
    assert not np.allclose(excluded, trained.loc[excluded.index])


def test_a_run_scores_what_evaluate_gives_it_without_a_mean_over_studies(experiment, source, run):
    own, again = read_truths(experiment)
    scored = score(experiment, run, own, 20)
    evaluation = evaluate(experiment.challenge, source.workspace, run.name, n_draws=20)
    assert evaluation.study_mean.startswith("not averaged")
    assert scored.metrics["mAP"].value == pytest.approx(evaluation.overall.metrics["mAP"].value)
    np.testing.assert_array_equal(
        scored.metrics["mAP"].draws, score(experiment, run, again, 20).metrics["mAP"].draws
    )
    assert next(iter(scored.metrics)) == experiment.challenge.metric


def test_the_gap_is_zero_if_train_and_oof_predictions_are_equal(experiment, run, tmp_path):
    own = read_truths(experiment)[0]
    kept = {}
    logits = read_logits(experiment, run)
    for fold in experiment.folds:
        path = experiment.fold_dir(run, fold) / "train_set.parquet"
        kept[path] = path.read_bytes()
        frame, meta = read_predictions(path, experiment.challenge.classes)
        write_predictions(path, logits.loc[frame.index], meta, open_predictions(path).pixels)
    try:
        assert score(experiment, run, own).extra_values[TRAIN_OOF_GAP] == pytest.approx(0)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert score(experiment, run, own).extra_values[TRAIN_OOF_GAP] != 0


def test_one_fold_is_scored_alone(source, finished_losses):
    one = LossExperiment(source, finished_losses[0].__class__(**{**vars(finished_losses[0]), "folds": (2,)}))
    run = tuned_run(one, 0, 1)
    logits, own = read_logits(one, run), read_truths(one)[0]
    assert set(one.fold_assignment.frame.loc[logits.index, "fold"]) == {2}
    labels = own.labels.loc[logits.index].to_numpy(float)
    alone = macro_metric("mAP", labels, logits.to_numpy())
    assert score(one, run, own).metrics["mAP"].value == pytest.approx(alone)


def test_predictions_of_other_rows_are_refused(experiment, run):
    path = experiment.fold_dir(run, 0) / "oof.parquet"
    content = path.read_bytes()
    frame, meta = read_predictions(path, experiment.challenge.classes)
    write_predictions(path, frame.iloc[1:], meta, open_predictions(path).pixels)
    try:
        with pytest.raises(UserError, match=r"oof.parquet.*--force"):
            read_logits(experiment, run)
    finally:
        path.write_bytes(content)


def test_step_times_are_multiples_of_the_first_and_measured_once(experiment):
    runs = [tuned_run(experiment, index, 0) for index in range(len(experiment.variants))]
    first = load_or_measure_step_times(experiment, runs)
    assert first["bce"]["step_time"] == 1
    assert first["asl"]["step_time"] > 0
    assert load_or_measure_step_times(experiment, runs) == first
    assert pd.Series({name: value["step_time_noise"] for name, value in first.items()}).ge(0).all()
