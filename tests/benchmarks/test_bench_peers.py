"""The comparison with a competition notebook."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import main
from benchmarks.peers.compare_peers import NOTEBOOK, PeerComparison, compare_peers
from cxrlt.errors import UserError
from cxrlt.predictions.run_names import run_names
from cxrlt.predictions.store import PredictionsMeta, write_predictions
from cxrlt.recipe import save_recipe
from tiny import CLASSES, make_tiny, tiny_recipe

SEEDS = 2


@pytest.fixture
def source(tmp_path):
    """Return a tiny challenge with two folds."""
    return make_tiny(tmp_path / "root", n_patients=16, n_folds=2)


@pytest.fixture
def comparison(source, tmp_path):
    """Return a comparison of a tiny recipe."""
    path = tmp_path / "tiny.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), path)
    return PeerComparison(source, str(path), SEEDS, lr=2e-3)


def write_oof(comparison, model, skill):
    """Write the logits of all folds, whose signal is `skill`, as training would."""
    challenge = comparison.source.challenge
    table = challenge.read("train", comparison.source.workspace.inputs_dir("csv"))
    fold_of = pd.read_csv(comparison.source.workspace.folds_path("csv"), index_col="image_id")["fold"]
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        for fold in range(2):
            path = comparison.oof_path(model, fold, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = table[fold_of.loc[table.index] == fold][CLASSES]
            logits = (skill * rows + rng.normal(size=rows.shape)).astype(np.float32)
            if model == NOTEBOOK:
                logits.to_parquet(path)
            else:
                write_predictions(path, logits, PredictionsMeta(fold=str(fold), epoch="last", split="oof"))
            path.with_suffix(".json").write_text(json.dumps({"images_per_s": 10 + fold}))
            (path.parent / "log.csv").write_text("epoch,images_per_s\n1,7\n2,21\n3,20\n")


def cells_of(report, name):
    (line,) = (line for line in report.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_finished_trainings_are_scored_on_the_same_rows_and_not_repeated(comparison):
    write_oof(comparison, NOTEBOOK, 0.5)
    write_oof(comparison, "tiny", 4.0)
    report = compare_peers(comparison)
    notebook, ours = cells_of(report, NOTEBOOK), cells_of(report, "tiny")
    change, *_ = cells_of(report, f"tiny minus {NOTEBOOK} [95 %]")
    expected = float(ours[0].split(" ±")[0]) - float(notebook[0].split(" ±")[0])
    assert float(change.split(" [")[0]) == pytest.approx(expected, abs=1.1e-3)
    assert expected > 0.2
    assert "mAP: higher; a difference of 0." in report
    assert (notebook[-1], ours[-1]) == ("10.5", "20.0")
    assert "2 seeds; learning rate 0.002, of the notebook 0.002." in report


def test_a_notebook_with_other_settings_has_other_files(comparison):
    other = PeerComparison(comparison.source, comparison.recipe, SEEDS, lr=1e-3)
    assert other.oof_path("tiny", 0, 0) == comparison.oof_path("tiny", 0, 0)
    assert other.oof_path(NOTEBOOK, 0, 0) != comparison.oof_path(NOTEBOOK, 0, 0)


def test_both_have_the_same_fold_seed_and_length(comparison, tmp_path):
    for model in (NOTEBOOK, "tiny"):
        words = comparison.command(model, tmp_path / "table.parquet", 1, 5)
        assert words[words.index("--fold") + 1] == "1"
        assert words[words.index("--seed") + 1] == "5"
    words = comparison.command(NOTEBOOK, tmp_path / "table.parquet", 1, 5)
    for flag, value in {"--epochs": "1", "--size": "32", "--weights": "none", "--batch-size": "8"}.items():
        assert words[words.index(flag) + 1] == value


def test_one_class_per_image_is_refused(tmp_path):
    single = make_tiny(tmp_path / "single", n_patients=12, n_folds=2, task="single_label")
    with pytest.raises(UserError, match=r"the notebook has several classes per image, csv one\."):
        PeerComparison(single, "demo_resnet", 1, 1e-3)


def test_the_notebook_is_not_a_run_of_the_challenge(comparison):
    write_oof(comparison, NOTEBOOK, 0.5)
    write_oof(comparison, "tiny", 4.0)
    assert run_names("csv", comparison.source.workspace) == ["peers/tiny-seed0", "peers/tiny-seed1"]


@pytest.mark.full
def test_the_command_trains_both_and_prints_their_scores_and_speeds(comparison, capsys, monkeypatch):
    root = str(comparison.source.workspace.root)
    command = ["peers", "csv", "--recipe", comparison.recipe, "--seeds", "1", "--root", root]
    main(command)
    report = capsys.readouterr().out
    for model in (NOTEBOOK, "tiny"):
        cells = cells_of(report, model)
        assert 0 < float(cells[0]) < 1
        assert float(cells[-1]) > 0
    path = comparison.oof_path(NOTEBOOK, 0, 0)
    before = path.stat().st_mtime_ns
    main(command)
    assert capsys.readouterr().out.splitlines()[-1] == report.splitlines()[-1]
    assert path.stat().st_mtime_ns == before
