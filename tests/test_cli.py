import errno
import json
import signal
import subprocess
import sys
from dataclasses import fields

import pytest

from cxrlt import cli, commands
from cxrlt.errors import UserError
from cxrlt.recipe import load_recipe

pytestmark = pytest.mark.slow

SLOW = {"torch", "timm", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "cv2", "numpy"}


def exit_of(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    return stop.value.code


def test_help_lists_every_stage(capsys):
    assert exit_of("--help") == 0
    text = capsys.readouterr().out
    assert all(f"• {name}" in text for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert exit_of(name, "--help") == 0
    text = capsys.readouterr().out
    assert "--root" in text
    assert "--inputs" in text
    assert cli.COMMANDS[name].__doc__.split("\n")[0][:40] in " ".join(text.split())


@pytest.mark.parametrize(
    "args",
    [
        ["trian", "demo_resnet"],
        ["folds", "demo", "--n-fold", "3"],
        ["train", "demo_resnet", "--optim.lrr", "1"],
        ["train", "demo_resnet", "--optim.lr", "-1"],
        ["predict", "x", "--split", "val"],
        ["check"],
    ],
)
def test_unknown_words_exit_with_code_2(args):
    assert exit_of(*args) == 2


@pytest.mark.parametrize("flags", [["--by", "image"], ["--allow-leakage"], ["--n-folds", "3"], ["--force"]])
def test_extending_folds_refuses_flags_that_change_the_split(flags, capsys):
    assert exit_of("folds", "demo", "--extend", *flags) == 2
    assert "remove --force, --n-folds, --group-duplicates, --by" in capsys.readouterr().err


def test_an_unknown_flag_suggests_the_known_one(capsys):
    assert exit_of("train", "demo_resnet", "--optim.lrr", "1") == 2
    assert "--optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["--data.augment.policy", "strong"], ["--data.augment.policy=strong"]])
def test_an_augmentation_policy_overrides_the_recipe_and_other_flags_override_it(flag):
    augment = cli.parse(["train", "demo_resnet", *flag, "--data.augment.noise", "0"]).fields.data.augment
    own = load_recipe("demo_resnet").data.augment
    assert (augment.policy, augment.rotate, augment.erase, augment.noise) == ("strong", 15, 0.25, 0)
    assert (own.policy, own.rotate, own.erase, own.noise) == ("custom", 0, 0, 0)


def test_an_unknown_augmentation_policy_lists_the_known_ones(capsys):
    assert exit_of("train", "demo_resnet", "--data.augment.policy", "wild") == 2
    assert "medium" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["check", "cxrlt2025"], "cxrlt2023"),
        (["train", "demo_resnt"], "did you mean demo_resnet"),
        (["train", "demo_resnet", "--challenge", "cxrlt2032"], "Did you mean 'cxrlt2023'?"),
        (["submit", "x", "--from", "nih41"], "Did you mean 'nih14'?"),
        (["run", "demo", "--recipes", "demo_resnt"], "did you mean demo_resnet"),
        (["train", "demo_resnet"], "cxrlt folds demo"),
        (["check", "demo"], "train.csv"),
        (["predict", "nothing"], "There is no run or ensemble 'nothing' for demo"),
    ],
)
def test_what_a_user_can_fix_is_one_sentence_without_traceback(args, sentence, tmp_path, capsys):
    assert exit_of(*args, "--root", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("cxrlt: ")
    assert sentence in error
    assert "Traceback" not in error


def test_flags_override_the_config_which_overrides_the_recipe(tmp_path):
    config = tmp_path / "over.yaml"
    config.write_text("optim: {lr: 0.5, weight_decay: 0.5}")
    command = cli.parse(
        ["train", "demo_resnet", "--config", str(config), "--optim.lr", "0.25", "--fold", "0", "2"]
    )
    assert command.fold == (0, 2)
    assert command.fields.optim.lr == 0.25
    assert command.fields.optim.weight_decay == 0.5
    assert command.fields.model == load_recipe("demo_resnet").model


def test_loss_options_and_local_weights_are_flags():
    args = ["train", "demo_resnet", "--loss.options", "form", "released", "clip", "0.1"]
    command = cli.parse([*args, "--model.pretrained", "w.pth"])
    assert command.fields.loss.options == {"form": "released", "clip": 0.1}
    assert str(command.fields.model.pretrained) == "w.pth"


def test_the_root_is_cxrlt_root_unless_a_flag_sets_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CXRLT_ROOT", str(tmp_path))
    assert cli.parse(["check", "demo"]).workspace.root == tmp_path
    assert cli.parse(["check", "demo", "--root", "/elsewhere"]).workspace.root.as_posix() == "/elsewhere"


HOME_FLAGS = {
    "root": ["check", "demo", "--root=~/x"],
    "inputs": ["check", "demo", "--inputs=~/x"],
    "images": ["check", "demo", "--images", "~/x"],
    "cache_dir": ["check", "demo", "--cache-dir=~/x"],
    "file": ["validate", "~/x"],
    "truth": ["score", "s.csv", "--truth", "~/x"],
    "against": ["score", "s.csv", "--truth", "t.csv", "--against=~/x"],
    "plan.truth": ["compare", "losses", "demo", "--truth=~/x"],
    "fields.model.pretrained": ["train", "demo_resnet", "--model.pretrained=~/x"],
}


@pytest.mark.parametrize("name", HOME_FLAGS)
def test_a_tilde_in_any_path_is_the_home_directory(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    value = cli.parse(HOME_FLAGS[name])
    for part in name.split("."):
        value = getattr(value, part)
    assert value in (tmp_path / "x", (tmp_path / "x",))


def test_every_flag_that_takes_a_path_is_in_home_flags():
    """`config` of Train is read before the other flags, with the recipe."""
    taken = {f.name for command in cli.COMMANDS.values() for f in fields(command) if "Path" in str(f.type)}
    assert taken <= {*HOME_FLAGS, "config"}


def test_a_tilde_in_a_recipes_file_or_its_config_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("base: demo_resnet\noptim: {lr: 0.5}")
    (tmp_path / "over.yaml").write_text("optim: {weight_decay: 0.25}")
    command = cli.parse(["train", "~/mine.yaml", "--config=~/over.yaml"])
    assert (command.fields.optim.lr, command.fields.optim.weight_decay) == (0.5, 0.25)


def test_a_tilde_in_cxrlt_root_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CXRLT_ROOT", "~/runs")
    assert cli.parse(["check", "demo"]).workspace.root == tmp_path / "runs"


@pytest.mark.parametrize("flag", ["--root", "--model.pretrained"])
def test_the_home_directory_of_an_unknown_user_ends_with_a_sentence(flag, capsys):
    assert exit_of("train", "demo_resnet", f"{flag}=~no-such-user-here/x") == 2
    error = capsys.readouterr().err
    assert "no-such-user-here" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_a_sentence_and_its_code(monkeypatch, capsys, number, code):
    monkeypatch.setattr(commands.Check, "run", lambda self: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert exit_of("check", "demo") == code
    assert f"stopped by {number.name}. To continue, run the same command again." in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_full_disk_is_a_sentence(monkeypatch, capsys):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/file")

    monkeypatch.setattr(commands.Check, "run", full)
    assert exit_of("check", "demo") == 2
    assert capsys.readouterr().err.startswith(
        "cxrlt: /disk/file cannot be read or written: No space left on device."
    )


def test_an_error_of_the_system_that_no_user_can_fix_keeps_its_traceback(monkeypatch):
    def broken(self):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(commands.Check, "run", broken)
    with pytest.raises(OSError, match="Bad file"):
        cli.main(["check", "demo"])


def test_a_closed_output_pipe_ends_quietly(tmp_path):
    command = f"'{sys.executable}' -m cxrlt demo --root {tmp_path} --patients 3 | true"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert ended.returncode == 141
    assert "BrokenPipe" not in ended.stderr


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(self):
        raise ZeroDivisionError

    monkeypatch.setattr(commands.Check, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "demo"])


def test_python_m_cxrlt_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "cxrlt", "check", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cxrlt: ")


PRINT_HELP = """
import json, sys
from cxrlt import cli

for args in json.loads(sys.argv[1]):
    try:
        cli.main([*args, "--help"])
    except SystemExit as end:
        assert not end.code
    print(*args, *sys.modules, file=sys.stderr)
"""


def test_help_imports_no_slow_package():
    """In one fresh process: what a line holds was imported by its command or by one before it."""
    every = [[], *([name] for name in cli.COMMANDS), ["train", "demo_resnet"]]
    command = [sys.executable, "-c", PRINT_HELP, json.dumps(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stderr.splitlines()]
    assert [line[: len(args)] for line, args in zip(lines, every, strict=True)] == every
    slow = {" ".join(args): SLOW & set(line) for args, line in zip(every, lines, strict=True)}
    assert not any(slow.values()), slow


def test_a_user_error_is_an_exception_of_its_own():
    assert issubclass(UserError, Exception)
    assert not issubclass(UserError, (ValueError, OSError))
