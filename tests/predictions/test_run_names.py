"""A name that nothing has is told as such, with what there is and what is probably meant."""

import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.predictions.run_names import require_run, require_start, run_names
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


def sentence_of(trained, name):
    with pytest.raises(UserError) as error:
        require_run(trained.challenge, trained.workspace, name)
    return str(error.value)


def test_models_refits_ensembles_and_the_runs_of_experiments_have_names(trained):
    names = ["compare-losses/asl", "darknet", "mix", "resnet_384"]
    assert run_names("csv", trained.workspace) == names
    for name in names:
        require_run(trained.challenge, trained.workspace, name)


def test_a_mistyped_name_is_answered_with_the_nearest_and_with_all_there_are(trained):
    sentence = sentence_of(trained, "Resnet-384")
    assert "Nothing is called 'Resnet-384' for csv" in sentence
    assert "Did you mean 'resnet_384'?" in sentence
    assert "There are: compare-losses/asl, darknet, mix, resnet_384." in sentence


def test_of_many_names_ten_are_shown(trained):
    for number in range(20):
        trained.workspace.run_dir("csv", f"a{number:02}/fold0").mkdir(parents=True)
    assert "a08, a09 … (24 in all)" in sentence_of(trained, "x")


def test_a_name_that_is_like_no_other_comes_with_the_command_that_trains_it(trained):
    assert "cxrlt train demo_resnet --challenge csv" in sentence_of(trained, "demo_resnet")
    assert "Did you mean" not in sentence_of(trained, "demo_resnet")


def test_where_nothing_is_trained_that_is_said(runs):
    assert "nothing is trained for it yet" in sentence_of(runs, "resnet")


def test_a_run_of_another_challenge_is_told_with_the_flags_that_take_it(trained):
    trained.workspace.run_dir("nih14", "other/fold0").mkdir(parents=True)
    assert "nih14 has it: --challenge nih14, or in cxrlt submit --from nih14" in sentence_of(trained, "other")


def test_every_stage_that_is_given_a_name_asks_for_it(trained):
    challenge, workspace = trained.challenge, trained.workspace
    for stage in (
        lambda: evaluate(challenge, workspace, "dark_net"),
        lambda: calibrate(challenge, workspace, "dark_net"),
        lambda: submit(challenge, workspace, "dark_net"),
        lambda: make_ensemble(challenge, workspace, "both", ["darknet", "dark_net"]),
    ):
        with pytest.raises(UserError, match=r"Nothing is called 'dark_net' for csv\..*mean 'darknet'\?"):
            stage()
    assert not workspace.run_dir("csv", "both").exists()


@pytest.mark.parametrize(
    "words", [["predict", "dark_net"], ["train", "demo_resnet", "--model.init_from", "dark_net"]]
)
def test_predict_and_train_ask_before_they_look_for_images(trained, words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--challenge", "csv", "--root", str(trained.workspace.root)])
    error = capsys.readouterr().err
    assert "Nothing is called 'dark_net' for csv." in error
    assert error.endswith("Did you mean 'darknet'?\n")


def test_what_a_run_starts_from_may_be_another_challenges(trained):
    challenge, workspace = trained.challenge, trained.workspace
    workspace.run_dir("nih14", "other/fold0").mkdir(parents=True)
    require_start(challenge, workspace, "darknet")
    require_start(challenge, workspace, "nih14:other")
    with pytest.raises(UserError, match=r"model.init_from nih14:othr: .*'othr' for nih14.* 'other'"):
        require_start(challenge, workspace, "nih14:othr")
    with pytest.raises(UserError, match=r"no challenge 'nih15'.*nih14"):
        require_start(challenge, workspace, "nih15:other")
