"""The command `cxrlt`: one subcommand per stage, nothing else."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Union, cast

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # read when pydantic is imported

import tyro
import yaml
from tyro.conf import subcommand

from cxrlt.artifacts import expand_home
from cxrlt.commands import COMMANDS, Command, Train
from cxrlt.errors import UserError
from cxrlt.recipe import POLICIES, RENAMED_FIELDS, load_recipe, override_recipe, renamed_field_error
from cxrlt.system.atomic_files import FIXES, cannot_write
from cxrlt.system.signals import Stopped, stop_on_signals


def parse(args: list[str]) -> Command:
    """Return the command for these arguments. Exits with code 2 and a suggestion for unknown words.

    Raises UserError for a flag whose recipe field has been renamed.
    """
    _reject_renamed_flags(args)
    args, head = _split_head_options(args)
    commands = [
        Annotated[cls, subcommand(name, **_default(name, args, head))] for name, cls in COMMANDS.items()
    ]
    command = tyro.cli(
        cast("type[Command]", Union[tuple(commands)]),  # noqa: UP007
        args=args,
        prog="cxrlt",
        description="Long-tailed, multi-label chest X-ray classification, from radiographs to a submission.",
        config=(
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.SuppressFixed,
        ),
    )
    return _expand_paths(command)


def _expand_paths(value: Any) -> Any:
    """Return the value with ~ expanded in every path inside it."""
    if isinstance(value, Path):
        return expand_home(value)
    if isinstance(value, tuple):
        return tuple(map(_expand_paths, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _expand_paths(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def main(args: list[str] | None = None) -> None:
    """Run one command; the entry point of `cxrlt`.

    Exits with code 2 and one sentence for what the user can fix, 130 or 143 after a signal, and 141 if the
    reader of the output is gone.
    """
    try:
        with stop_on_signals():
            run_command(sys.argv[1:] if args is None else args)
            _end_distributed()
    except UserError as error:
        _print_error(str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader of the output has ended, for example head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stopped:
        _print_error(f"{stopped}. To continue, run the same command again.")
        sys.exit(stopped.exit_code)


def run_command(args: list[str]) -> None:
    """Run one command. Raises UserError for what the user can fix, including a full disk."""
    try:
        parse(args).run()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in FIXES:
            raise
        raise UserError(cannot_write(error.filename or "a file", error, "read or written")) from error


def _print_error(sentence: str) -> None:
    """Print an error with its newline in one write, as other processes may print at the same time."""
    sys.stderr.write(f"cxrlt: {sentence}\n")


def _end_distributed() -> None:
    """Wait for the other processes of a distributed run: one that exits early may crash the others."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _reject_renamed_flags(args: list[str]) -> None:
    """Raise UserError for the flag of a renamed recipe field, with its new name."""
    for word in args:
        field = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and field in RENAMED_FIELDS:
            raise UserError(f"{renamed_field_error(field)}.")


def _split_head_options(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Split off the options of the head, for example {"weight": 0.1} for --model.head.weight 0.1.

    tyro cannot parse them, as each head has other options. Returns the remaining arguments and the options.
    """
    others, options, words = [], {}, iter(args)
    for word in words:
        flag, _, value = word.partition("=")
        option = flag.removeprefix("--model.head.").replace("-", "_")
        if args[:1] != ["train"] or not flag.startswith("--model.head.") or option == "name":
            others.append(word)
        else:
            options[option] = yaml.safe_load(value or next(words, ""))
    return others, options


def _default(name: str, args: list[str], head: dict[str, Any]) -> dict[str, Any]:
    """Return the default of `train`: its recipe, so that --help shows its values and flags override them.

    A row of weights.yaml, an augmentation policy and a head with its options are applied first, so that other
    flags override theirs.
    """
    if name != "train" or args[:1] != ["train"]:
        return {}
    recipe = args[1] if len(args) > 1 and not args[1].startswith("-") else None
    config, policy = _flag("--config", args), _flag("--data.augment.policy", args)
    fields = load_recipe(recipe, Path(config) if config else None)
    if (weights := _flag("--model.weights", args)) not in (None, "None"):
        file = _flag("--model.pretrained", args)
        pretrained = {"pretrained": file} if file else {}
        fields = override_recipe(fields, {"model": {"weights": weights, **pretrained}})
    if policy in POLICIES:
        fields = override_recipe(fields, {"data": {"augment": {"policy": policy}}})
    if head_name := _flag("--model.head.name", args):
        head = {"name": head_name, **head}
    if head:
        fields = override_recipe(fields, {"model": {"head": head}})
    return {"default": Train(fields=fields)}


def _flag(name: str, args: list[str]) -> str | None:
    """Return the value of the last flag of that name, or None."""
    values = [
        word.partition("=")[2] or following
        for word, following in zip(args, [*args[1:], ""], strict=True)
        if word == name or word.startswith(f"{name}=")
    ]
    return values[-1] if values else None
