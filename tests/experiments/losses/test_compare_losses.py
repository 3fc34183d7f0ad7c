import re
import shlex
from dataclasses import replace

import pandas as pd
import pytest

from cxrlt.artifacts import read_json
from cxrlt.cli import parse
from cxrlt.errors import UserError
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists import losses
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.experiments.variants import OptimSettings
from cxrlt.experiments.waves import train_wave
from cxrlt.folds.make import make_folds
from cxrlt.recipe import load_recipe
from tiny import CLASSES, make_tiny

pytestmark = pytest.mark.slow


def compare_losses(source, plan):
    return compare(LossExperiment(source, plan))


def fold_dirs(source, name):
    return sorted(source.workspace.run_dir("csv", name).glob("**/fold[0-9]"))


def weights_mtimes(source, name):
    """Return the modification time of every fold's weights."""
    return {path: (path / "weights.safetensors").stat().st_mtime_ns for path in fold_dirs(source, name)}


def test_an_experiment_trains_every_loss_seed_fold_and_candidate_setting(source, finished_losses):
    names = [
        str(path.relative_to(source.workspace.run_dir("csv", "compare-losses")))
        for path in fold_dirs(source, "compare-losses")
    ]
    reported = [name for name in names if not name.startswith("tuning")]
    assert [re.sub("-lr.*-clip[^-]*", "", name) for name in reported] == [
        f"{loss}-seed{seed}/fold{fold}" for loss in ("asl", "bce") for seed in (0, 1) for fold in (0, 1, 2)
    ]
    tuning = [name for name in names if name.startswith("tuning/asl")]
    assert len(tuning) == 4
    assert all(name.endswith("fold0") for name in tuning)
    assert sum("clipoff" in name for name in tuning) == 1


def test_a_row_has_step_time_and_train_oof_gap(finished_losses):
    _, folder, _ = finished_losses
    runs = pd.read_csv(folder / "runs.csv").query("truth == 'train' and variant == 'asl'")
    rows = pd.read_csv(folder / "results.csv")
    assert len(rows) == 4
    (row,) = rows.query("truth == 'train' and variant == 'asl'").to_dict("records")
    assert (row["loss"], row["seeds"]) == ("asl", 2)
    assert row["train_minus_oof"] == pytest.approx(runs["train_minus_oof"].mean())
    assert row["lr"] == runs["lr"].iloc[0]
    assert row["step_time"] > 0
    assert 0 <= row["clipped_share"] <= 1


def test_reported_runs_have_the_setting_that_scored_best_and_no_seed_of_the_tuning(source, finished_losses):
    _, folder, _ = finished_losses
    tuned = read_json(folder / "tuned.json", "")
    assert tuned["seed"] >= 1000
    for loss, setting in tuned["settings"].items():
        best = max(setting["trials"], key=lambda trial: trial["score"])
        clipped = [trial for trial in setting["trials"] if trial["clip_grad"] is not None]
        assert [trial["lr"] for trial in clipped] == [1e-3, 2e-3, 4e-3]
        assert setting["lr"] == max(clipped, key=lambda trial: trial["score"])["lr"]
        assert setting["clip_grad"] == best["clip_grad"]
        folds = source.workspace.run_dir("csv", "compare-losses").glob(f"{loss}-*-seed1/fold*")
        for fold in list(folds) or pytest.fail("no such run"):
            optim = load_recipe(None, fold / "config.yaml").optim
            assert (optim.lr, optim.clip_grad) == (setting["lr"], setting["clip_grad"])


def test_recipes_differ_only_in_loss_rate_and_clipping(source, finished_losses):
    runs_dir = source.workspace.run_dir("csv", "compare-losses")
    recipes = [
        load_recipe(None, next(runs_dir.glob(f"{loss}-*-seed0/fold1/config.yaml"))) for loss in ("bce", "asl")
    ]
    first, second = (
        recipe.model_dump(exclude={"loss": {"name"}, "optim": {"lr", "clip_grad"}}) for recipe in recipes
    )
    assert first == second
    assert [recipe.loss.name for recipe in recipes] == ["bce", "asl"]


def test_a_finished_experiment_trains_nothing_and_reports_the_same(source, finished_losses, capsys):
    plan, folder, text = finished_losses
    before, results = weights_mtimes(source, "compare-losses"), (folder / "results.csv").read_bytes()
    assert compare_losses(source, plan) == text
    assert weights_mtimes(source, "compare-losses") == before
    assert (folder / "results.csv").read_bytes() == results
    assert not re.findall(r"^(?:tune|train|predict)", capsys.readouterr().out, flags=re.M)
    compare_losses(source, replace(plan, list_jobs=True))
    assert re.findall(r"^cxrlt \w+", capsys.readouterr().out, flags=re.M) == ["cxrlt cache"]


def test_only_the_tuning_is_listed_before_it_has_run(source, make_losses_plan, capsys):
    assert compare_losses(
        source, make_losses_plan(name="listed", rates=(0.5, 1.0), list_jobs=True)
    ).startswith("# To finish, run ")
    _, first, cache, second, *commands, last = capsys.readouterr().out.splitlines()
    assert (first, second) == ("# first: 1 job", "# tune: 4 jobs")
    assert parse(shlex.split(cache)[1:]).size == 32
    assert [parse(shlex.split(line)[1:]).name for line in commands] == [
        f"listed/tuning/{loss}-lr{lr}-clip1" for loss in ("bce", "asl") for lr in (0.001, 0.002)
    ]
    assert last.startswith("# The next trainings depend on the scores of these jobs.")
    assert not fold_dirs(source, "listed")


@pytest.mark.full
def test_more_rates_reuse_finished_trainings(source, make_losses_plan):
    compare_losses(source, make_losses_plan(name="wider", rates=(1.0,)))
    before = weights_mtimes(source, "wider")
    text = compare_losses(source, make_losses_plan(name="wider", rates=(1.0, 50.0, 0.02)))
    after = weights_mtimes(source, "wider")
    assert {path: after[path] for path in before} == before
    assert sum("tuning" in str(path) for path in after) > sum("tuning" in str(path) for path in before)
    assert "| asl |" in text


def test_runs_of_another_split_are_not_mixed_in(make_losses_plan, tmp_path):
    own, bce = make_tiny(tmp_path), make_losses_plan(losses=("bce",))

    def tune_first_rate():
        experiment = LossExperiment(own, bce)
        run = experiment.candidate_run(experiment.reference, OptimSettings(2e-3, 1.0))
        assert train_wave(experiment, "tune", [run], (0,)) == {}

    tune_first_rate()
    make_folds(own.challenge, own.workspace, n_folds=3, seed=1, force=True)
    with pytest.raises(UserError, match=r"another split.*--force"):
        tune_first_rate()
    with pytest.raises(UserError, match=r"another split.*--force"):
        compare_losses(own, bce)


def test_a_loss_that_fails_is_named_at_the_end_and_the_others_are_compared(
    source, make_losses_plan, monkeypatch
):
    wrong = losses.make_loss_variant("hill", "hill", {"hill_lambda": 0.5})
    monkeypatch.setattr(losses, "loss_variants", lambda *_: (losses.make_loss_variant("bce", "bce"), wrong))
    with pytest.raises(UserError, match=r"1 of the.*tuning/hill.*hill_lambda"):
        compare_losses(source, make_losses_plan(name="fails"))
    results = pd.read_csv(source.workspace.submission_dir("csv", "fails") / "results.csv")
    assert list(results["variant"]) == ["bce"]


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"losses": ("bce", "asll")}, r"asll: .*asl, bce"),
        ({"losses": ("bce", "ce")}, r"ce: .*bce"),
        ({"losses": ("bce", "bce")}, "has duplicates"),
        ({"ablation": "ral"}, "remove --losses"),
        ({"rates": (1.0, -1.0)}, "--rates"),
    ],
)
def test_wrong_flags_are_errors_before_any_training(source, make_losses_plan, over, sentence):
    with pytest.raises(UserError, match=sentence):
        compare_losses(source, make_losses_plan(name="wrong", **over))
    assert not fold_dirs(source, "wrong")


def test_a_truth_without_all_rows_is_refused(source, make_losses_plan, tmp_path):
    truth = tmp_path / "short.csv"
    pd.read_csv(source.workspace.inputs_dir("csv") / "train.csv").iloc[1:].to_csv(truth, index=False)
    with pytest.raises(UserError, match=r"short.csv lacks rows"):
        compare_losses(source, make_losses_plan(name="wrong", truth=(truth,)))


def test_a_truth_in_which_no_class_has_both_values_is_refused_before_anything_is_trained(
    source, make_losses_plan, tmp_path
):
    truth = tmp_path / "ones.csv"
    table = pd.read_csv(source.workspace.inputs_dir("csv") / "train.csv")
    table[CLASSES] = table[CLASSES].where(table[CLASSES] == 1)
    table.to_csv(truth, index=False)
    with pytest.raises(UserError, match=r"ones.csv: no class has both positive and negative rows"):
        compare_losses(source, make_losses_plan(name="one-valued", truth=(truth,)))
    assert not source.workspace.run_dir("csv", "one-valued").exists()
