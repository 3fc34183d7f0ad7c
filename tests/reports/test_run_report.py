"""The report of a challenge's runs: its numbers, its problems, and what it must not contain."""

import json
import platform
import re

import pandas as pd
import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import predict
from cxrlt.recipe import Recipe
from cxrlt.reports.findings import largest_problems
from cxrlt.reports.report_data import ReportData
from cxrlt.reports.report_images import choose_examples
from cxrlt.reports.run_report import write_report
from cxrlt.submissions.evaluate import evaluate
from cxrlt.training.plan import TrainPlan
from cxrlt.training.train import train
from tiny import CLASSES, make_simulated_runs, make_tiny, tiny_recipe

RECIPE = Recipe(model={"pretrained": "/secret/place/weights.safetensors"})


def write_logs(run_dir, curve):
    """Write the files of a training whose out-of-fold mAP has this curve in every fold."""
    for folder in run_dir.glob("fold*"):
        log = pd.DataFrame({"epoch": range(1, len(curve) + 1), "oof_mAP": curve, "oof_mAUROC": curve})
        log = log.assign(loss=1.0, clipped_share=0.0, lr=1e-3, images_per_s=40.0, data_wait_share=0.01)
        log.to_csv(folder / "log.csv", index=False)
        (folder / "seconds.json").write_text('{"seconds": 1800, "clock": "processor"}')
        environment = {"version": "1", "commit": None, "uncommitted_changes": False, "python": "3.12"}
        environment |= {"packages": {"torch": "2"}, "device": "cpu: x86"}
        (folder / "environment.json").write_text(json.dumps(environment))


def make_runs(root, task="multi_label"):
    runs = make_simulated_runs(root, task=task)
    for seed, (name, skill) in enumerate({"strong": 2.0, "weak": 0.7}.items()):
        write_logs(runs.add_run(name, skill, seed, recipe=RECIPE), [0.3, 0.5, 0.6, 0.601])
    return runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return two runs and a calibrated ensemble, and the folder of their report."""
    runs = make_runs(tmp_path_factory.mktemp("report"))
    args = (runs.challenge, runs.workspace)
    make_ensemble(*args, "mix", ("strong", "weak"), kind="mean")
    calibrate(*args, "mix", n_draws=5)
    return runs, write_report(ImageSource(*args)).parent


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def problems_of(runs, names=()):
    data = ReportData(runs.challenge, runs.workspace, tuple(names))
    return {problem.text: problem.command for problem in largest_problems(data)}


def table_of(folder, name):
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def test_the_summary_has_the_scores_of_evaluate(finished):
    runs, folder = finished
    page = (folder / "report.html").read_text()
    for split, words in (("oof", "has mAP {} on 3"), ("dev", "On dev"), ("test", "On test")):
        interval = evaluate(runs.challenge, runs.workspace, "mix", split).overall.metrics["mAP"]
        text = f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        assert words.format(text) in page
        assert text in page
    assert re.search(r"Minus strong, the best of the others: [+-]0\.\d+ \[", page)
    for title in ("Leaderboard", "Classes", "Data", "Training", "Members", "Reproduce"):
        assert f">{title}</h2>" in page


def test_the_tables_are_files_too(finished):
    runs, folder = finished
    board = table_of(folder, "leaderboard").set_index("name")
    assert set(board.index) == {"strong", "weak", "mix"}
    assert board.loc["strong", "hours"] == pytest.approx(1.5)
    assert board.loc["mix", "hours"] == pytest.approx(3.0)
    assert board.loc["strong", "images/s"] == 40
    score = evaluate(runs.challenge, runs.workspace, "strong").overall.metrics["mAP"]
    assert board.loc["strong", ["mAP", "mAP low", "mAP high"]].tolist() == pytest.approx(
        [score.value, score.low, score.high]
    )
    classes = table_of(folder, "classes").set_index("class")
    assert list(classes.index) == CLASSES
    labels = runs.table("train").loc[runs.current_data.rows.table.index, CLASSES]
    assert classes["positives"].tolist() == labels.sum().astype(int).tolist()
    assert (classes["lift"] * classes["prevalence"]).tolist() == pytest.approx(classes["AP"].tolist())
    assert classes["F1"].between(0, 1).all()
    assert len(table_of(folder, "training")) == 2 * 3 * 4
    n_images = [len(runs.table(split)) for split in ("train", "dev", "test")]
    assert table_of(folder, "splits")["images"].tolist() == n_images


def test_leaving_out_a_member_costs_what_a_score_without_it_says(finished):
    runs, folder = finished
    members = table_of(folder, "members").set_index("member")
    assert members["weight"].tolist() == [0.5, 0.5]
    data = ReportData(runs.challenge, runs.workspace)
    whole = evaluate(runs.challenge, runs.workspace, "mix").overall.metrics["mAP"].value
    alone = evaluate(runs.challenge, runs.workspace, "strong").overall.metrics["mAP"].value
    losses = data.leave_one_out(data.member_scores())
    assert losses["weak"] == pytest.approx(whole - alone, abs=0.02)
    assert losses["strong"] > 0.1


def test_nothing_in_the_report_identifies_an_image_a_patient_or_a_computer(finished):
    runs, folder = finished
    secrets = {str(runs.workspace.root), "/secret/place", platform.node()}
    for split in ("train", "dev", "test"):
        table = runs.table(split)
        secrets |= {*table.index, *table["patient"], *table["study"]}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".svg", ".csv"}
    for path in files:
        text = path.read_text()
        assert [secret for secret in secrets if secret and secret in text] == [], path
    assert "weights.safetensors" in (folder / "report.html").read_text()


def test_the_page_needs_no_other_file_and_no_network(finished):
    page = (finished[1] / "report.html").read_text()
    addresses = set(re.findall(r"https?://[^\"' <)]+", page))
    names = {"www.w3.org", "purl.org", "creativecommons.org"}  # names of XML formats, not read
    assert {address.split("/")[2] for address in addresses} <= names
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]+src|@import|url\((?!#)", page)


def test_every_class_has_a_figure_that_its_row_opens(finished):
    page = (finished[1] / "report.html").read_text()
    for number, name in enumerate(CLASSES):
        assert f'<a href="#class-{number}">{name}</a>' in page
        assert f'<details id="class-{number}">' in page
    assert page.count('<div class="figure" role="img"') == 3 + 2 + 2 + 1


def test_the_same_runs_give_the_same_bytes(finished):
    runs, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(ImageSource(runs.challenge, runs.workspace))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command_shows_the_named_runs_only(runs, capsys):
    root = str(runs.workspace.root)
    main(["report", "csv", "strong", "--root", root])
    page = capsys.readouterr().out.strip()
    assert page.endswith("submissions/csv/report/report.html")
    board = pd.read_csv(f"{page.rpartition('/')[0]}/tables/leaderboard.csv")
    assert board["name"].tolist() == ["strong"]
    with pytest.raises(SystemExit) as ended:
        main(["report", "csv", "strung", "--root", root])
    assert ended.value.code == 2
    assert "Did you mean 'strong'?" in capsys.readouterr().err


def test_without_any_run_the_command_says_how_to_train(tmp_path):
    runs = make_simulated_runs(tmp_path, n_patients=30)
    with pytest.raises(UserError, match=r"Train a model with: cxrlt train"):
        write_report(ImageSource(runs.challenge, runs.workspace))


def test_a_single_label_challenge_has_a_report(tmp_path):
    runs = make_runs(tmp_path, "single_label")
    folder = write_report(ImageSource(runs.challenge, runs.workspace)).parent
    assert table_of(folder, "classes")["F1"].notna().any()
    assert "has macro-F1 0." in (folder / "report.html").read_text()


def test_models_that_are_not_combined_are_the_first_problem(runs):
    (text, command), *_ = problems_of(runs).items()
    assert text == "2 models are trained, but they are not combined."
    assert command == "cxrlt ensemble ensemble --members strong weak --challenge csv"


@pytest.mark.parametrize(
    ("curve", "text", "epochs"),
    [
        ([0.2, 0.3, 0.4, 0.5], "still gets better in the last quarter of its epochs (mAP: 0.100)", 8),
        ([0.2, 0.5, 0.45, 0.4], "overfits: the last epoch is below the best (mAP: 0.100)", 2),
    ],
)
def test_a_training_curve_says_how_long_to_train(runs, curve, text, epochs):
    write_logs(runs.workspace.run_dir("csv", "strong"), curve)
    (found,) = (problem for problem in problems_of(runs, ["strong"]) if text in problem)
    assert f"--schedule.epochs {epochs} " in problems_of(runs, ["strong"])[found]


def test_a_flat_training_curve_is_no_problem(runs):
    assert not [text for text in problems_of(runs) if "epochs" in text or "overfits" in text]


def test_classes_at_chance_are_named(runs):
    runs.add_run("random", 0.0)
    found = [text for text in problems_of(runs, ["random"]) if "not measurably better than chance" in text]
    assert found
    assert any(name in found[0] for name in CLASSES)


def test_unfinished_and_outdated_folds_are_a_problem(runs):
    (runs.workspace.run_dir("csv", "weak") / "fold1" / "weights.safetensors").unlink()
    problems = problems_of(runs)
    assert problems["Not every fold is trained and current: 1 stopped."] == "cxrlt status csv"


def test_a_best_run_without_calibration_is_a_problem(runs):
    assert "cxrlt calibrate strong --challenge csv" in problems_of(runs, ["strong"]).values()
    calibrate(runs.challenge, runs.workspace, "strong", n_draws=5)
    assert "cxrlt calibrate strong --challenge csv" not in problems_of(runs, ["strong"]).values()


def test_a_table_with_a_problem_is_one_without_its_ids(runs):
    path = runs.workspace.inputs_dir("csv") / "dev.csv"
    path.write_text(path.read_text().replace(",PA,", ",PA,7"))
    found = problems_of(runs)
    assert found["The tables or images have 1 problem."] == "cxrlt check csv"


def test_predictions_that_cannot_be_scored_are_named(runs):
    (runs.workspace.run_dir("csv", "weak") / "fold1" / "oof.parquet").unlink()
    assert "Not scored, because predictions are missing or outdated: weak." in problems_of(runs)


def test_examples_are_the_most_and_least_certain_images():
    ids, unknown = list("abcdefgh"), float("nan")
    labels = pd.Series([1.0, 0.0, 1.0, 0.0, 1.0, unknown, 1.0, 1.0], ids)
    probabilities = pd.Series([0.1, 0.9, 0.8, 0.2, 0.7, 1.0, 0.6, 0.3], ids)
    chosen = [(each.kind, each.image_id) for each in choose_examples(labels, probabilities)]
    assert chosen == [
        *(("missed", name) for name in "ahg"),
        *(("false alarm", name) for name in "bd"),
        *(("hit", name) for name in "ceg"),
    ]


@pytest.mark.slow
def test_images_are_shown_only_if_asked_for_and_still_without_ids(tmp_path):
    source = make_tiny(tmp_path, n_patients=16, n_folds=2)
    train(source, TrainPlan("tiny", tiny_recipe(**{"schedule.epochs": 1})))
    predict(source, "tiny", "oof")
    page = write_report(source, with_images=True)
    pictures = list((page.parent / "figures").glob("*_images.png"))
    assert len(pictures) == len(CLASSES)
    assert page.read_text().count('src="data:image/png;base64,') == len(CLASSES)
    ids = {*source.challenge.read("train", source.workspace.inputs_dir("csv")).index}
    assert [image_id for image_id in ids if image_id in page.read_text()] == []
    write_report(source)
    assert not list(page.parent.rglob("*.png"))
    assert 'src="data:image' not in page.read_text()
