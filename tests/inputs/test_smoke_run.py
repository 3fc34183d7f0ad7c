import shutil
from pathlib import Path

from cxrlt.inputs.smoke_run import smoke_run_challenge
from layouts import write_layout


def test_a_smoke_run_has_few_patients_and_no_split_without_images(tmp_path: Path):
    source = write_layout(tmp_path, "isic2018")
    challenge, workspace = source.challenge, source.workspace
    inputs = workspace.inputs_dir("isic2018")
    few = smoke_run_challenge(challenge, workspace, 3)
    assert few.splits == ("train", "dev", "test")
    assert few.read("train", inputs)["patient"].nunique() == 3
    shutil.rmtree(inputs / "ISIC2018_Task3_Test_Input")
    (inputs / "ISIC2018_Task3_Validation_GroundTruth.csv").unlink()
    assert smoke_run_challenge(challenge, workspace, 3).splits == ("train", "dev")
