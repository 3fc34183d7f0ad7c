import dataclasses
import os

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from cxrlt.artifacts import read_json
from cxrlt.ensembles.final_logits import load_oof_scores
from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import OptimConfig, load_recipe
from cxrlt.system.locks import lock_folder
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import n_rows, on_each_forward, on_each_update
from tiny import CLASSES, load_weights, make_tiny, same_weights, tiny_recipe
from user_errors import raises_user_error

pytestmark = pytest.mark.slow


def test_a_finished_fold_says_what_it_is(source):
    recipe = tiny_recipe()
    (job,) = train(source, TrainPlan("whole", recipe, folds=(1,)))
    assert load_recipe(None, job.run_dir / "config.yaml") == recipe
    run = read_json(job.run_dir / "run.json", made_by="")
    assert (run["challenge"], run["name"], run["fold"], run["seed"]) == ("csv", "whole", "1", 0)
    assert len(run["provenance"]["rows"]) == 64
    with safe_open(job.run_dir / "weights.safetensors", "pt") as file:
        assert file.metadata()["rows"] == run["provenance"]["rows"]
    log = pd.read_csv(job.run_dir / "log.csv")
    assert list(log["epoch"]) == [1, 2]
    assert log["loss"].notna().all()
    assert log["oof_mAP"].between(0, 1).all()
    assert read_json(job.run_dir / "environment.json", made_by="")["packages"]["torch"]
    card = read_json(job.run_dir / "card.json", made_by="")
    assert card["train_positives"] == {c: int(job.data.train[c].sum()) for c in CLASSES}
    assert (job.run_dir / "first_batch.png").stat().st_size > 0
    assert not list(job.run_dir.glob("checkpoint*"))


def test_no_patient_trains_and_validates_the_same_fold(source):
    jobs = train(source, TrainPlan("leak", tiny_recipe(**{"schedule.epochs": 1})))
    for job in jobs:
        assert not set(job.data.train["patient"]) & set(job.data.valid["patient"])
        assert len(job.data.train) + len(job.data.valid) == 48
    assert len({id(job.data.table) for job in jobs}) == 1  # a copy each would be the most memory there is


def test_finished_folds_are_skipped_and_force_trains_again(source, capsys):
    plan = TrainPlan("again", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,))
    (job,) = train(source, plan)
    written = (job.run_dir / "weights.safetensors").stat().st_mtime_ns
    train(source, plan)
    assert "already done" in capsys.readouterr().out
    assert (job.run_dir / "weights.safetensors").stat().st_mtime_ns == written
    before = load_weights(job)
    train(source, dataclasses.replace(plan, force=True))
    assert (job.run_dir / "weights.safetensors").stat().st_mtime_ns > written
    assert same_weights(load_weights(job), before)


def test_another_config_under_the_same_name_is_refused_with_the_fields_that_differ(source):
    train(source, TrainPlan("fixed", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    changed = tiny_recipe(**{"schedule.epochs": 1, "optim.lr": 0.5})
    with pytest.raises(UserError, match=r"optim\.lr: 0\.002 -> 0\.5.*--name.*--force"):
        train(source, TrainPlan("fixed", changed, folds=(0,)))
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train(source, TrainPlan("fixed", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,), seed=1))


def test_a_name_with_a_slash_is_a_folder_in_a_folder_for_training_and_prediction(source, capsys):
    name = "compare-losses/asl-seed0"
    recipe = tiny_recipe(**{"loss.name": "asl", "schedule.epochs": 1})
    (job,) = train(source, TrainPlan(name, recipe, folds=(1,)))
    assert job.run_dir == source.workspace.folds_dir("csv") / "compare-losses" / "asl-seed0" / "fold1"
    assert read_json(job.run_dir / "run.json", made_by="")["name"] == name
    (path,) = predict(source, name, "oof")
    assert path == job.run_dir / "oof.parquet"
    assert read_predictions(path, CLASSES)[1].name == name
    train(source, TrainPlan(name, recipe, folds=(1,)))
    assert f"train {name} fold 1: already done" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"cxrlt train RECIPE --name {name} --challenge csv --fold 0"):
        load_oof_scores(name, CurrentData(source.challenge, source.workspace))
    with raises_user_error("'compare-losses/absent'", "train RECIPE --name compare-losses/absent"):
        predict(source, "compare-losses/absent", "oof")


@pytest.mark.parametrize("name", ["../elsewhere", "a/../..", "/tmp/a", "", "."])
def test_a_name_that_leads_out_of_the_folder_of_runs_is_refused(source, name):
    with pytest.raises(UserError, match="A run cannot be called"):
        train(source, TrainPlan(name, tiny_recipe(), folds=(0,)))


def test_worker_count_does_not_make_another_run(source):
    train(source, TrainPlan("workers", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    train(
        source, TrainPlan("workers", tiny_recipe(**{"schedule.epochs": 1, "data.n_workers": 2}), folds=(0,))
    )


def test_a_refit_trains_on_every_row_and_keeps_a_name_of_its_own(source):
    (job,) = train(source, TrainPlan("all", tiny_recipe(**{"schedule.epochs": 1}), refit=True))
    assert len(job.data.train) == 48
    assert job.data.valid.empty
    assert job.run_dir.name == "refit"
    with pytest.raises(UserError, match="already holds a refit"):
        train(source, TrainPlan("all", tiny_recipe(**{"schedule.epochs": 1})))


def test_a_fold_that_is_not_there_is_an_error_that_names_those_that_are(source):
    with pytest.raises(UserError, match="--fold 7: csv has folds 0 to 2"):
        train(source, TrainPlan("seven", tiny_recipe(), folds=(7,)))


def test_accumulation_equals_one_large_batch(source):
    whole = tiny_recipe()
    parts = tiny_recipe(**{"optim.max_batch_per_device": 3})
    (a,) = train(source, TrainPlan("at-once", whole, folds=(0,)))
    (b,) = train(source, TrainPlan("in-parts", parts, folds=(0,)))
    for key, value in load_weights(a).items():
        assert torch.allclose(value, load_weights(b)[key], atol=2e-5), key


def test_workers_do_not_change_the_weights(source):
    (a,) = train(source, TrainPlan("no-workers", tiny_recipe(), folds=(0,)))
    (b,) = train(source, TrainPlan("two-workers", tiny_recipe(**{"data.n_workers": 2}), folds=(0,)))
    assert same_weights(load_weights(a), load_weights(b))


def test_best_weights_are_a_copy_that_later_epochs_do_not_change(source):
    plan = TrainPlan("best", tiny_recipe(**{"predict.weights": "best"}), folds=(0,))
    (job,) = create_fold_jobs(source, plan)
    right, validated = torch.tensor(job.data.targets(job.data.valid)), []

    def falling(model, inputs, logits):
        if model.training:
            return None
        assert n_rows(inputs) == len(right)  # one pass validates an epoch
        validated.append({key: value.clone() for key, value in model.state_dict().items()})
        return right if len(validated) == 1 else -right  # the first epoch is the best

    with on_each_forward(falling):
        (job,) = train(source, plan)
    first, second = pd.read_csv(job.run_dir / "log.csv")["oof_mAP"]
    assert first == 1 > second
    assert same_weights(load_weights(job), validated[0])
    assert not same_weights(load_weights(job), validated[1])


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(source):
    with pytest.raises(UserError, match=r"the loss is (nan|inf).*optim\.lr"):
        train(
            source,
            TrainPlan("explodes", tiny_recipe(**{"optim.lr": 1e18, "optim.clip_grad": None}), folds=(0,)),
        )


def clipped_shares(source, name, clip_grad):
    recipe = tiny_recipe(**{"optim.clip_grad": clip_grad})
    (job,) = train(source, TrainPlan(name, recipe, folds=(0,)))
    return list(pd.read_csv(job.run_dir / "log.csv")["clipped_share"])


def test_the_log_holds_the_share_of_updates_whose_gradient_was_clipped(source):
    assert clipped_shares(source, "clips-all", 1e-9) == [1.0, 1.0]
    assert clipped_shares(source, "clips-none", 1e9) == [0.0, 0.0]
    assert clipped_shares(source, "clips-off", None) == [0.0, 0.0]
    norms = []

    def record_call(_, optimizer):
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    with on_each_update(record_call):
        shares = clipped_shares(source, "clips-some", 2.4)
    assert max(norms) == pytest.approx(2.4, rel=1e-4)  # what was larger has this norm when it is clipped
    clipped = [norm > 2.4 * (1 - 1e-4) for norm in norms]
    assert shares == [sum(epoch) / 4 for epoch in (clipped[:4], clipped[4:])]
    assert 0 < sum(shares) < 2


def test_a_wrong_loss_option_is_found_before_training(source):
    recipe = tiny_recipe(**{"loss.options": {"gama_neg": 2}})
    with pytest.raises(UserError, match="did you mean 'gamma_neg'"):
        train(source, TrainPlan("typo", recipe, folds=(0,)))
    assert not source.workspace.run_dir("csv", "typo").exists()


def test_another_process_in_the_same_fold_is_refused(source):
    folder = source.workspace.run_dir("csv", "busy") / "fold0"
    with lock_folder(folder), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        train(source, TrainPlan("busy", tiny_recipe(), folds=(0,)))


def test_inputs_stay_as_they_are(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    inputs = source.workspace.inputs_dir("csv")
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in inputs.rglob("*") if path.is_file()
    }
    train(source, TrainPlan("careful", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    after = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in inputs.rglob("*") if path.is_file()
    }
    assert before == after


def test_a_missing_compiler_is_said_and_training_goes_on(source, monkeypatch, capsys):
    def no_compiler(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    (job,) = train(
        source, TrainPlan("uncompiled", tiny_recipe(compile=True, **{"schedule.epochs": 1}), folds=(0,))
    )
    assert "no working compiler" in capsys.readouterr().out
    assert job.is_finished


def test_precision_is_float32_without_a_gpu():
    if not torch.cuda.is_available():
        assert Accelerator().device.type == "cpu"
        from cxrlt.training.setup import create_accelerator

        assert create_accelerator(tiny_recipe()).mixed_precision == "no"


def test_a_compiled_run_saves_weights_an_eager_model_loads(source, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda target, **_: real(target, backend="aot_eager"))
    recipe = tiny_recipe(compile=True, **{"schedule.epochs": 1})
    (compiled,) = train(source, TrainPlan("compiled", recipe, folds=(0,)))
    (eager,) = train(source, TrainPlan("eager", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    assert load_weights(compiled).keys() == load_weights(eager).keys()
    for key, value in load_weights(eager).items():
        assert torch.allclose(value, load_weights(compiled)[key], atol=1e-4), key


def test_the_averaged_weights_move(source):
    (job,) = train(source, TrainPlan("moving", tiny_recipe(), folds=(0,)))
    start = create_initial_model(job, create_fold_loss(job)).state_dict()
    still = [key for key, value in load_weights(job).items() if torch.equal(start[key], value)]
    assert still == ["logit_scale"]


def test_the_averaged_weights_are_not_below_the_last_ones_at_the_end_of_a_short_run(source):
    models = {}
    over = {"schedule.epochs": 8, "optim.lr": 5e-3, "optim.ema_share": OptimConfig().ema_share}
    with on_each_forward(lambda model, *_: models.update({"last" if model.training else "averaged": model})):
        (job,) = train(source, TrainPlan("short", tiny_recipe(**over), folds=(0,)))
    assert same_weights(models["averaged"].state_dict(), load_weights(job))
    assert not same_weights(models["last"].state_dict(), load_weights(job))
    scores = {name: score_of(job, model) for name, model in models.items()}
    assert scores["averaged"] == pytest.approx(pd.read_csv(job.run_dir / "log.csv")["oof_mAP"].iloc[-1])
    assert scores["averaged"] > 0.5
    assert scores["averaged"] >= scores["last"] - 0.02


def score_of(job, model):
    dataset = create_eval_dataset(job.recipe, job.data.valid, job.data.classes, job.data.cache)
    options = {"task": job.challenge.task, "batch_size": 16, "n_workers": 0}
    accelerator = create_accelerator(job.recipe)
    logits = infer(model, dataset, list(job.data.valid.index), job.data.classes, accelerator, **options)
    return macro_metric("mAP", job.data.targets(job.data.valid), logits.to_numpy())
