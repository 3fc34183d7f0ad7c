"""No name in a command, a table or a JSON file can point outside its folder."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.inputs.table import load_table
from tiny import SimulatedRuns, make_simulated_runs, make_tiny, tiny_source

pytestmark = pytest.mark.slow

PATHS_OUTSIDE = (
    "../elsewhere",
    "..",
    "a/../..",
    "a/../../../b",
    "/etc/passwd",
    "C:\\a.png",
    "..\\a.png",
    "\\\\server\\share\\a.png",
    "a\\..\\b",
    "a\0b",
)
PLAIN_NAMES = ("%2e%2e/a.png", "a..b/c.png", "..a/b..png", "~/a.png", "$HOME/a.png", "a b/é.png")


@pytest.mark.parametrize("name", [*PATHS_OUTSIDE, "", ".", "a/..", "a\nb", "\x1b[2J", "n" * 300])
@pytest.mark.parametrize("root", ["/data/cxr", "cxr", ".", "../other/cxr", "here/../there"])
def test_a_run_or_a_submission_has_no_name_that_leads_elsewhere(root: str, name: str):
    for create_path in (Workspace(Path(root)).run_dir, Workspace(Path(root)).submission_dir):
        with pytest.raises(UserError, match="cannot be called") as error_of_command:
            create_path("demo", name)
        assert "\n" not in str(error_of_command.value) and len(str(error_of_command.value)) < 300


@pytest.mark.parametrize("challenge", ["../..", "/etc", "..", ".", "a\\b"])
def test_no_challenge_before_a_colon_leads_elsewhere(challenge: str):
    with pytest.raises(UserError, match="cannot be called"):
        Workspace(Path("/data/cxr")).run_dir(challenge, "run")


@pytest.mark.parametrize("root", ["/data/cxr", "cxr", ".", "../other/cxr", "here/../there"])
@pytest.mark.parametrize("name", ["run", "compare-losses/asl", "..run", "a..b", "é", "-refit", "%2e%2e"])
def test_other_names_are_names(root: str, name: str):
    workspace = Workspace(Path(root))
    assert workspace.run_dir("demo", name) == Path(root) / "folds" / "demo" / name
    assert workspace.submission_dir("demo", name) == Path(root) / "submissions" / "demo" / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tiny(tmp_path / "root", n_patients=6)
    (tmp_path / "elsewhere").write_text("secret")
    return tmp_path / "root"


def set_image_path(root: Path, path: str) -> None:
    table = pd.read_csv(root / "inputs" / "csv" / "train.csv")
    table.loc[3, "path"] = path
    table.to_csv(root / "inputs" / "csv" / "train.csv", index=False)


def image_files(root: Path) -> pd.Series:
    source = tiny_source(root)
    return load_table(source.challenge, "train", source.workspace, allow_missing=True)["file"]


@pytest.mark.parametrize("path", PATHS_OUTSIDE)
def test_an_image_path_of_a_table_stays_below_the_images_folder(root: Path, path: str):
    set_image_path(root, path)
    with pytest.raises(UserError, match=r"train\.csv"):
        image_files(root)


@pytest.mark.parametrize("path", PLAIN_NAMES)
def test_names_that_only_look_like_path_traversal_are_valid(root: Path, path: str):
    set_image_path(root, path)
    assert len(image_files(root).dropna()) == 11
    image_path = root / "inputs" / "csv" / path
    image_path.parent.mkdir(parents=True, exist_ok=True)
    image_path.write_bytes(b"")
    assert str(image_path) in image_files(root).tolist()


def test_symlinks_in_the_images_folder_are_followed(root: Path, tmp_path: Path):
    pictures = root / "inputs" / "csv" / "pictures"
    pictures.rename(tmp_path / "disk")
    pictures.symlink_to(tmp_path / "disk")
    assert image_files(root).notna().all()


@pytest.fixture
def ensemble(tmp_path: Path) -> SimulatedRuns:
    """The runs one and two, and the ensemble `both` of them."""
    runs = make_simulated_runs(tmp_path, n_patients=30)
    for seed, name in enumerate(("one", "two")):
        runs.add_run(name, 2.0, seed)
    make_ensemble(runs.challenge, runs.workspace, "both", ["one", "two"], kind="mean")
    return runs


@pytest.mark.parametrize("member", ["../../outside", "/etc", "a/../../../b"])
def test_no_member_of_an_ensemble_is_looked_for_elsewhere(ensemble: SimulatedRuns, member: str):
    path = ensemble.workspace.run_dir("csv", "both") / "weights.json"
    path.write_text(path.read_text().replace('"two"', json.dumps(member)))
    with pytest.raises(UserError, match="cannot be called"):
        load_final_logits("both", "test", ensemble.current_data)
    with pytest.raises(UserError, match="cannot be called"):
        make_ensemble(ensemble.challenge, ensemble.workspace, "new", ["one", member], kind="mean")
