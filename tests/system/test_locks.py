import subprocess
import sys
import threading

import pytest

from cxrlt.errors import UserError
from cxrlt.system.locks import HOLDER, LOCK, lock_beside, lock_folder, remove_leftovers

HOLD = "import sys, time, pathlib; from cxrlt.system.locks import lock_folder\n"
HOLD += "with lock_folder(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_error_names_the_process(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"by process {holder.pid} on .+ since .+ \(cxrlt"),
        lock_folder(tmp_path),
    ):
        pytest.fail("went in")


def test_a_dead_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock_folder(tmp_path):
        assert (tmp_path / HOLDER).is_file()
    assert not (tmp_path / HOLDER).exists()


def test_a_waiting_process_continues_when_the_holder_ends(tmp_path, holder, capsys):
    threading.Timer(0.3, holder.kill).start()
    with lock_folder(tmp_path, wait=True):
        assert holder.wait(timeout=60) != 0
    assert "Waiting until it ends" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    (tmp_path / "weights.safetensors").write_text("whole")
    with lock_folder(tmp_path):
        pass
    assert not (tmp_path / ".weights.safetensors.123.tmp").exists()
    assert (tmp_path / "weights.safetensors").read_text() == "whole"


def test_temporary_files_in_a_finished_folder_are_removed(tmp_path):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    (tmp_path / HOLDER).write_text("{}")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {LOCK}


def test_temporary_files_of_a_running_process_are_kept(tmp_path, holder):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    remove_leftovers(tmp_path)
    assert (tmp_path / ".weights.safetensors.123.tmp").exists()


def test_the_lock_of_a_replaced_folder_is_beside_it(tmp_path):
    folder = tmp_path / "demo"
    (tmp_path / "..demo.holder.json.123.tmp").write_text("half")
    (tmp_path / ".other.123.tmp").write_text("not ours")
    with lock_beside(folder):
        assert not folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".demo.lock", ".other.123.tmp"}


def test_a_new_holder_gets_time_to_write_its_description(tmp_path, holder):
    said = (tmp_path / HOLDER).read_text()
    (tmp_path / HOLDER).unlink()
    threading.Timer(0.2, (tmp_path / HOLDER).write_text, [said]).start()
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"), lock_folder(tmp_path):
        pytest.fail("went in")
