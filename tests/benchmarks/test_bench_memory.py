"""What a whole training holds in memory."""

import subprocess
import sys

import pytest

from benchmarks import memory as module
from benchmarks.memory import CHALLENGE, anonymous_bytes, memory_rows, peak_of_command, write_challenge
from benchmarks.setting import Setting
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.rows import read_train_rows
from cxrlt.inputs.images import ImageSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Pss_Anon is known on Linux alone")
HOLDS = "import sys, time; held = b'x' * 200_000_000; print('held', flush=True); time.sleep(60)"


def test_anonymous_memory_is_what_a_process_holds_itself():
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert 200e6 < anonymous_bytes(process.pid) < 300e6
        process.kill()
    assert anonymous_bytes(process.pid) == 0


def test_a_command_that_fails_is_told_with_what_it_said():
    with pytest.raises(UserError, match="no challenge 'nowhere'"):
        peak_of_command(["folds", "nowhere"])


def test_the_challenge_is_whole_without_a_single_image_being_decoded(tmp_path, capsys):
    workspace = write_challenge(tmp_path, 60)
    assert isinstance(workspace, Workspace)
    challenge = get_challenge(CHALLENGE)
    rows = read_train_rows(challenge, workspace)
    table, cache = ImageSource(challenge, workspace).folded(rows.table, module.SIZE)
    assert len(table) == len(cache.ids) == len(rows.table) == 60
    assert "to decode" not in capsys.readouterr().err


@pytest.mark.full
def test_a_training_is_measured_from_its_table_to_its_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST_IMAGES", 600)
    (row,) = memory_rows(Setting(tmp_path, 1e-6))
    assert row.lower_is_better
    assert row.target == 1.05
    assert 1e8 < row.against.value < 1e10
    assert 0.8 < row.ratio < 1.5
    oof = tmp_path / "600" / "folds" / CHALLENGE / "recipe" / "fold0" / "oof.parquet"
    assert oof.is_file()


def test_where_no_system_tells_there_is_a_sentence_and_no_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "PROC", tmp_path)
    assert list(memory_rows(Setting(tmp_path, 1e-6))) == []
    assert "Linux alone" in capsys.readouterr().err
