import subprocess
import sys
import threading

import pytest

from cxrlt.errors import UserError
from cxrlt.system.locks import HOLDER, LOCK, exclusive, remove_leftovers, replacing

HOLD = "import sys, time, pathlib; from cxrlt.system.locks import exclusive\n"
HOLD += "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_holds_the_folder(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"by process {holder.pid} on .+ since .+ \(cxrlt"),
        exclusive(tmp_path),
    ):
        pytest.fail("went in")


def test_a_dead_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with exclusive(tmp_path):
        assert (tmp_path / HOLDER).is_file()
    assert not (tmp_path / HOLDER).exists()


def test_one_that_waits_goes_on_when_the_holder_ends(tmp_path, holder, capsys):
    threading.Timer(0.3, holder.kill).start()
    with exclusive(tmp_path, wait=True):
        assert holder.wait(timeout=60) != 0
    assert "Waiting for it to end" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    (tmp_path / "weights.safetensors").write_text("whole")
    with exclusive(tmp_path):
        pass
    assert not (tmp_path / ".weights.safetensors.123.tmp").exists()
    assert (tmp_path / "weights.safetensors").read_text() == "whole"


def test_a_finished_folder_is_rid_of_what_a_killed_process_left(tmp_path):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    (tmp_path / HOLDER).write_text("{}")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {LOCK}


def test_a_folder_that_another_process_works_in_is_not_swept(tmp_path, holder):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    remove_leftovers(tmp_path)
    assert (tmp_path / ".weights.safetensors.123.tmp").exists()


def test_a_folder_to_be_replaced_is_held_from_beside_it(tmp_path):
    folder = tmp_path / "demo"
    (tmp_path / "..demo.holder.json.123.tmp").write_text("half")
    (tmp_path / ".other.123.tmp").write_text("not ours")
    with replacing(folder):
        assert not folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".demo.lock", ".other.123.tmp"}


def test_one_that_has_just_begun_is_waited_for_to_say_who_it_is(tmp_path, holder):
    said = (tmp_path / HOLDER).read_text()
    (tmp_path / HOLDER).unlink()
    threading.Timer(0.2, (tmp_path / HOLDER).write_text, [said]).start()
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"), exclusive(tmp_path):
        pytest.fail("went in")
