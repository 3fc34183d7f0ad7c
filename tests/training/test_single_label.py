"""Training where every image has exactly one class."""

import dataclasses

import pandas as pd
import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_predictions
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import n_rows, on_each_forward
from sampled_cases import sample_cases
from tiny import CLASSES, load_weights, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

WEIGHTED = [
    {"loss.name": "ce", "loss.options": {"class_weights": "effective"}},
    {"loss.name": "lmf"},
    {"loss.name": "ldam", "model.head.name": "cosine", "loss.options": {"reweight_epoch": 1}},
]


def trained(source, name, **over):
    (job,) = train(source, TrainPlan(name, tiny_recipe(**over), folds=(0,)))
    return job


@pytest.mark.parametrize("over", sample_cases(WEIGHTED, first=1), ids=lambda over: over["loss.name"])
def test_parts_of_a_batch_add_up_where_the_loss_divides_by_the_weights_of_its_rows(single_source, over):
    whole = trained(single_source, f"{over['loss.name']}-at-once", **over)
    for largest in (4, 3):
        name = f"{over['loss.name']}-by-{largest}"
        parts = load_weights(trained(single_source, name, **over, **{"optim.max_batch_per_device": largest}))
        for key, value in load_weights(whole).items():
            assert torch.allclose(value, parts[key], atol=2e-5), key


@pytest.mark.parametrize("loss", sample_cases(["ce", "balanced_softmax", "asl"], first=1))
def test_the_log_and_the_predictions_agree_on_what_the_classifier_reaches(single_source, loss):
    job = trained(single_source, f"log-{loss}", **{"loss.name": loss, "predict.tta": {"flip": False}})
    log = pd.read_csv(job.run_dir / "log.csv")
    (path,) = predict(single_source, f"log-{loss}", "oof")
    logits = read_predictions(path, CLASSES)[0]
    scores = torch.softmax(torch.tensor(logits.to_numpy()), dim=1).numpy()
    targets = job.data.targets(job.data.valid.loc[logits.index])
    for name in ("macro-F1", "mAP", "mAUROC"):
        assert log[f"oof_{name}"].iloc[-1] == pytest.approx(macro_metric(name, targets, scores))


def test_the_epochs_line_and_log_begin_with_the_challenges_own_metric(single_source, capsys):
    challenge = dataclasses.replace(single_source.challenge, metric="kappa")
    source = dataclasses.replace(single_source, challenge=challenge)
    job = trained(source, "kappa", **{"loss.name": "ce", "schedule.epochs": 1})
    log = pd.read_csv(job.run_dir / "log.csv")
    assert [key for key in log if key.startswith("oof_")] == [
        "oof_kappa",
        "oof_macro-F1",
        "oof_mAP",
        "oof_mAUROC",
    ]
    assert f"OOF kappa {log['oof_kappa'].iloc[0]:.4f}, macro-F1" in capsys.readouterr().out


def test_the_best_epoch_is_the_best_by_the_challenges_own_metric(single_source):
    over = {"loss.name": "lmf", "predict.weights": "best"}
    (job,) = create_fold_jobs(single_source, TrainPlan("best-f1", tiny_recipe(**over), folds=(0,)))
    right, validated = torch.tensor(job.data.targets(job.data.valid)), []
    some_wrong = right.clone()
    some_wrong[::3] = some_wrong[::3].roll(1, dims=1)
    first_class_always = right + torch.tensor([9.0, 0.0, 0.0])  # but ranked as they should be

    def contrary(model, inputs, logits):
        if model.training:
            return None
        assert n_rows(inputs) == len(right)  # one pass validates an epoch
        validated.append({key: value.clone() for key, value in model.state_dict().items()})
        return some_wrong if len(validated) == 1 else first_class_always

    with on_each_forward(contrary):
        job = trained(single_source, "best-f1", **over)
    log = pd.read_csv(job.run_dir / "log.csv")
    assert log["oof_macro-F1"][0] > log["oof_macro-F1"][1]
    assert log["oof_mAP"][0] < log["oof_mAP"][1]
    assert same_weights(load_weights(job), validated[0])
    assert not same_weights(load_weights(job), validated[1])


def test_the_best_epoch_of_a_holdout_does_not_depend_on_the_validation_rows(single_source, capsys):
    over = {"predict.weights": "best_holdout", "data.holdout_share": 0.25}
    (job,) = create_fold_jobs(single_source, TrainPlan("held-out", tiny_recipe(**over), folds=(0,)))
    tables, kept = (job.data.valid, job.data.holdout), []
    assert len(tables[0]) != len(tables[1])
    assert not set(job.data.holdout["patient"]) & {*job.data.train["patient"], *job.data.valid["patient"]}

    def contrary(model, inputs, logits):
        if model.training:
            return None
        is_holdout = n_rows(inputs) == len(tables[1])
        if is_holdout:
            kept.append({key: value.clone() for key, value in model.state_dict().items()})
        labels = torch.tensor(job.data.targets(tables[is_holdout]))
        right = is_holdout == (len(kept) == 1)  # the holdout prefers the first epoch, validation the second
        return labels if right else labels.roll(1, dims=1)

    with on_each_forward(contrary):
        job = trained(single_source, "held-out", **over)
    log = pd.read_csv(job.run_dir / "log.csv")
    assert log["holdout_macro-F1"].tolist() == [1, pytest.approx(log["holdout_macro-F1"][1])]
    assert log["holdout_macro-F1"][1] < 1
    assert same_weights(load_weights(job), kept[0])
    assert not same_weights(load_weights(job), kept[1])
    assert "holdout macro-F1 1.0000" in capsys.readouterr().out
    assert set(pd.read_csv(job.run_dir / "holdout.csv")["image_id"]) == {*job.data.holdout.index}


def test_a_single_label_loss_on_a_multi_label_challenge_is_refused_before_any_fold_is_trained(source):
    with pytest.raises(
        UserError, match=r"'lmf' needs exactly one class per image.*Losses that fit: apl.*bce.*ral"
    ):
        train(source, TrainPlan("wrong-task", tiny_recipe(**{"loss.name": "lmf"})))
    assert not source.workspace.run_dir("csv", "wrong-task").exists()


@pytest.mark.parametrize(
    ("loss", "head", "said"),
    [
        ("ldam", "linear", "--model.head.name cosine"),
        ("ldam", "cosine", None),
        ("lmf", "linear", None),
        ("ce", "linear", None),
        ("ce", "cosine", "--model.head.name linear"),
    ],
)
def test_a_head_that_does_not_suit_the_loss_is_said_at_the_start(single_source, capsys, loss, head, said):
    trained(
        single_source, f"{loss}-{head}", **{"loss.name": loss, "model.head.name": head, "schedule.epochs": 1}
    )
    warnings = [line for line in capsys.readouterr().out.splitlines() if "model.head" in line]
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_a_network_of_three_channels_trains_and_predicts(single_source):
    challenge = dataclasses.replace(single_source.challenge, channels=3)
    source = dataclasses.replace(single_source, challenge=challenge)
    job = trained(source, "colour", **{"loss.name": "ce", "schedule.epochs": 1})
    assert load_weights(job)["backbone.stem.0.weight"].shape[1] == 3
    (path,) = predict(source, "colour", "oof")
    assert read_predictions(path, CLASSES)[0].notna().all(axis=None)


def test_predictions_have_the_scale_that_the_loss_was_trained_at(single_source):
    over = {
        "loss.name": "ldam",
        "model.head.name": "cosine",
        "loss.options": {"scale": 20},
        "predict.tta": {"flip": False},
    }
    trained(single_source, "scaled", **over)
    (path,) = predict(single_source, "scaled", "oof")
    largest = read_predictions(path, CLASSES)[0].abs().to_numpy().max()
    assert 1 < largest <= 20  # 20 times a cosine
