import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from cxrlt.recipe import save_recipe
from cxrlt.training.checkpoint import checkpoint_update, list_checkpoints
from tiny import make_tiny, tiny_recipe


def start(source, name, recipe):
    command = [sys.executable, "-m", "cxrlt", "train", str(recipe), "--challenge", "csv", "--fold", "0"]
    command += ["--name", name, "--root", str(source.workspace.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_after_update(process, run_dir, update):
    """Send SIGKILL when a checkpoint of `update` or later exists."""
    while process.poll() is None:
        if any(checkpoint_update(path) >= update for path in list_checkpoints(run_dir)):
            process.kill()
            process.communicate()
            return
        time.sleep(0.002)
    pytest.fail(f"the run ended before it could be killed: {process.communicate()[0]}")


@pytest.mark.full
def test_a_run_killed_three_times_ends_with_the_weights_of_one_left_alone(tmp_path):
    source = make_tiny(tmp_path, n_patients=30)
    recipe = tmp_path / "recipe.yaml"
    over = {"schedule.epochs": 8, "optim.batch_size": 4, "checkpoint_minutes": 1e-9, "model.drop_path": 0.2}
    save_recipe(tiny_recipe(**over), recipe)
    finish(start(source, "alone", recipe))
    run_dir = source.workspace.run_dir("csv", "killed") / "fold0"
    for update in (10, 40, 60):
        kill_after_update(start(source, "killed", recipe), run_dir, update)
    assert "continuing from update" in finish(start(source, "killed", recipe))
    killed = load_file(run_dir / "weights.safetensors")
    alone = load_file(source.workspace.run_dir("csv", "alone") / "fold0" / "weights.safetensors")
    assert killed.keys() == alone.keys()
    assert all(torch.equal(killed[key], alone[key]) for key in alone)
