"""The error for an unknown run name lists the known names and suggests a similar one."""

import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.predictions.run_names import require_init_from, require_run, run_names
from cxrlt.submissions.evaluate import evaluate
from cxrlt.submissions.submit import submit


@pytest.fixture
def trained(runs):
    """Two models, an ensemble and a run of a study, by the folders that they have."""
    for name in ("resnet_384/fold0", "darknet/refit", "compare-losses/asl/fold1"):
        (runs.workspace.run_dir("csv", name)).mkdir(parents=True)
    mix = runs.workspace.run_dir("csv", "mix")
    mix.mkdir()
    (mix / "weights.json").write_text("{}")
    (runs.workspace.folds_dir("csv") / "notes").mkdir()
    return runs


def error_message(trained, name):
    with pytest.raises(UserError) as error:
        require_run(trained.challenge, trained.workspace, name)
    return str(error.value)


def test_models_refits_ensembles_and_the_runs_of_experiments_have_names(trained):
    names = ["compare-losses/asl", "darknet", "mix", "resnet_384"]
    assert run_names("csv", trained.workspace) == names
    for name in names:
        require_run(trained.challenge, trained.workspace, name)


def test_the_error_for_a_mistyped_name_suggests_the_most_similar_and_lists_all(trained):
    sentence = error_message(trained, "Resnet-384")
    assert "There is no run or ensemble 'Resnet-384' for csv" in sentence
    assert "Did you mean 'resnet_384'?" in sentence
    assert "The names are: compare-losses/asl, darknet, mix, resnet_384." in sentence


def test_of_many_names_ten_are_shown(trained):
    for number in range(20):
        trained.workspace.run_dir("csv", f"a{number:02}/fold0").mkdir(parents=True)
    assert "a08, a09 … (24 in all)" in error_message(trained, "x")


def test_the_error_for_a_name_without_similar_names_has_the_command_that_trains_it(trained):
    assert "cxrlt train demo_resnet --challenge csv" in error_message(trained, "demo_resnet")
    assert "Did you mean" not in error_message(trained, "demo_resnet")


def test_the_error_says_if_nothing_is_trained(runs):
    assert "nothing is trained for it yet" in error_message(runs, "resnet")


def test_the_error_names_the_flags_for_a_run_of_another_challenge(trained):
    trained.workspace.run_dir("nih14", "other/fold0").mkdir(parents=True)
    assert (
        "nih14 has a run of this name: use --challenge nih14, or cxrlt submit --from nih14"
        in error_message(trained, "other")
    )


def test_every_stage_that_is_given_a_name_asks_for_it(trained):
    challenge, workspace = trained.challenge, trained.workspace
    for stage in (
        lambda: evaluate(challenge, workspace, "dark_net"),
        lambda: calibrate(challenge, workspace, "dark_net"),
        lambda: submit(challenge, workspace, "dark_net"),
        lambda: make_ensemble(challenge, workspace, "both", ["darknet", "dark_net"]),
    ):
        with pytest.raises(
            UserError, match=r"There is no run or ensemble 'dark_net' for csv\..*mean 'darknet'\?"
        ):
            stage()
    assert not workspace.run_dir("csv", "both").exists()


@pytest.mark.parametrize(
    "words", [["predict", "dark_net"], ["train", "demo_resnet", "--model.init_from", "dark_net"]]
)
def test_predict_and_train_ask_before_they_look_for_images(trained, words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--challenge", "csv", "--root", str(trained.workspace.root)])
    error = capsys.readouterr().err
    assert "There is no run or ensemble 'dark_net' for csv." in error
    assert error.endswith("Did you mean 'darknet'?\n")


def test_what_a_run_starts_from_may_be_another_challenges(trained):
    challenge, workspace = trained.challenge, trained.workspace
    workspace.run_dir("nih14", "other/fold0").mkdir(parents=True)
    require_init_from(challenge, workspace, "darknet")
    require_init_from(challenge, workspace, "nih14:other")
    with pytest.raises(UserError, match=r"model.init_from nih14:othr: .*'othr' for nih14.* 'other'"):
        require_init_from(challenge, workspace, "nih14:othr")
    with pytest.raises(UserError, match=r"no challenge 'nih15'.*nih14"):
        require_init_from(challenge, workspace, "nih15:other")
