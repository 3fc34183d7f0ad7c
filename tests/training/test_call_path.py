"""The way from the command to the gradient is short enough to follow."""

from call_paths import frames_to_backward, n_files
from cxrlt.recipe import save_recipe
from tiny import tiny_recipe


def test_six_frames_in_three_files_lead_from_the_command_to_the_gradient(source, tmp_path):
    save_recipe(tiny_recipe(), tmp_path / "tiny.yaml")
    root = source.workspace.root
    command = ["train", str(tmp_path / "tiny.yaml"), "--challenge", "csv", "--fold", "0"]
    functions = frames_to_backward([*command, "--name", "call-path", "--root", str(root)])
    assert functions[0].file == "commands/models.py"
    assert functions[-1].name == "train_step"
    assert len(functions) <= 6, functions
    assert n_files(functions) <= 3, functions
