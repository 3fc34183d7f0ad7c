"""No name in a command, a table or a JSON file leads out of the folder it belongs to."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.inputs.table import load_table
from tiny import SimulatedRuns, make_tiny, set_up_challenge, tiny_source

pytestmark = pytest.mark.slow

OUTSIDE = (
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
PLAIN = ("%2e%2e/a.png", "a..b/c.png", "..a/b..png", "~/a.png", "$HOME/a.png", "a b/é.png")


@pytest.mark.parametrize("name", [*OUTSIDE, "", ".", "a/..", "a\nb", "\x1b[2J", "n" * 300])
@pytest.mark.parametrize("root", ["/data/cxr", "cxr", ".", "../other/cxr", "here/../there"])
def test_a_run_or_a_submission_has_no_name_that_leads_elsewhere(root: str, name: str):
    for place in (Workspace(Path(root)).run_dir, Workspace(Path(root)).submission_dir):
        with pytest.raises(UserError, match="cannot be called") as refused:
            place("demo", name)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


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


def with_path(root: Path, path: str) -> None:
    table = pd.read_csv(root / "inputs" / "csv" / "train.csv")
    table.loc[3, "path"] = path
    table.to_csv(root / "inputs" / "csv" / "train.csv", index=False)


def files(root: Path) -> pd.Series:
    source = tiny_source(root)
    return load_table(source.challenge, "train", source.workspace, allow_missing=True)["file"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_an_image_path_of_a_table_stays_below_the_images_folder(root: Path, path: str):
    with_path(root, path)
    with pytest.raises(UserError, match=r"train\.csv"):
        files(root)


@pytest.mark.parametrize("path", PLAIN)
def test_what_only_looks_like_an_escape_is_a_name_of_a_file_like_any_other(root: Path, path: str):
    with_path(root, path)
    assert len(files(root).dropna()) == 11
    place = root / "inputs" / "csv" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    assert str(place) in files(root).tolist()


def test_links_in_the_images_folder_are_followed_for_data_sets_are_often_linked(root: Path, tmp_path: Path):
    pictures = root / "inputs" / "csv" / "pictures"
    pictures.rename(tmp_path / "disk")
    pictures.symlink_to(tmp_path / "disk")
    assert files(root).notna().all()


@pytest.fixture
def ensemble(tmp_path: Path) -> SimulatedRuns:
    """The runs one and two, and the ensemble `both` of them."""
    runs = set_up_challenge(tmp_path, n_patients=30)
    for seed, name in enumerate(("one", "two")):
        runs.add_run(name, 2.0, seed)
    make_ensemble(runs.challenge, runs.workspace, "both", ["one", "two"], kind="mean")
    return runs


@pytest.mark.parametrize("member", ["../../outside", "/etc", "a/../../../b"])
def test_no_member_of_an_ensemble_is_looked_for_elsewhere(ensemble: SimulatedRuns, member: str):
    path = ensemble.workspace.run_dir("csv", "both") / "weights.json"
    path.write_text(path.read_text().replace('"two"', json.dumps(member)))
    with pytest.raises(UserError, match="cannot be called"):
        load_final_logits("both", "test", ensemble.present)
    with pytest.raises(UserError, match="cannot be called"):
        make_ensemble(ensemble.challenge, ensemble.workspace, "new", ["one", member], kind="mean")
