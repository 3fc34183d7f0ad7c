"""Memory of a whole training."""

import subprocess
import sys

import pytest

from benchmarks import memory as module
from benchmarks.config import BenchmarkConfig
from benchmarks.memory import (
    CHALLENGE,
    anonymous_bytes,
    measure_memory,
    peak_memory_of_command,
    write_challenge,
)
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.rows import read_train_rows
from cxrlt.inputs.images import ImageSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Pss_Anon exists on Linux only")
HOLDS = "import sys, time; held = b'x' * 200_000_000; print('held', flush=True); time.sleep(60)"


def test_anonymous_memory_is_what_a_process_holds_itself():
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert 200e6 < anonymous_bytes(process.pid) < 300e6
        process.kill()
    assert anonymous_bytes(process.pid) == 0


def test_a_failed_command_is_an_error_with_its_output():
    with pytest.raises(UserError, match="no challenge 'nowhere'"):
        peak_memory_of_command(["folds", "nowhere"])


def test_the_challenge_is_whole_without_a_single_image_being_decoded(tmp_path, capsys):
    workspace = write_challenge(tmp_path, 60)
    assert isinstance(workspace, Workspace)
    challenge = get_challenge(CHALLENGE)
    rows = read_train_rows(challenge, workspace)
    table, cache = ImageSource(challenge, workspace).load_train_rows(rows.table, module.SIZE)
    assert len(table) == len(cache.ids) == len(rows.table) == 60
    assert "to decode" not in capsys.readouterr().err


@pytest.mark.full
def test_a_training_is_measured_from_its_table_to_its_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_IMAGES", 600)
    (row,) = measure_memory(BenchmarkConfig(tmp_path, 1e-6))
    assert row.lower_is_better
    assert row.target == 1.05
    assert 1e8 < row.baseline.value < 1e10
    assert 0.8 < row.ratio < 1.5
    oof = tmp_path / "600" / "folds" / CHALLENGE / "recipe" / "fold0" / "oof.parquet"
    assert oof.is_file()


def test_without_pss_anon_there_is_a_message_and_no_measurement(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "PROC", tmp_path)
    assert list(measure_memory(BenchmarkConfig(tmp_path, 1e-6))) == []
    assert "Linux only" in capsys.readouterr().err
