"""The command `cxrlt`: one subcommand per stage, nothing else."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Union

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # read when pydantic is imported

import tyro
import yaml
from tyro.conf import subcommand

from cxrlt.artifacts import expand_home
from cxrlt.commands import COMMANDS, Folders, Train
from cxrlt.errors import UserError
from cxrlt.recipe import POLICIES, override_recipe, load_recipe
from cxrlt.system.atomic_files import FIXES, cannot_write
from cxrlt.system.signals import Stopped, stop_on_signals


def parse(args: list[str]) -> Folders:
    """The command that `args` asks for. Exits with 2, and a suggestion, for words it does not know."""
    args, head = _take_head_options(args)
    commands = [
        Annotated[cls, subcommand(name, **_default(name, args, head))] for name, cls in COMMANDS.items()
    ]
    command = tyro.cli(
        Union[tuple(commands)],  # noqa: UP007
        args=args,
        prog="cxrlt",
        description="Long-tailed, multi-label chest X-ray classification, from radiographs to a submission.",
        config=(
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.SuppressFixed,
        ),
    )
    return _from_home(command)


def _from_home(value: Any) -> Any:
    """The same with every path in it from the home directory where it begins with ~."""
    if isinstance(value, Path):
        return expand_home(value)
    if isinstance(value, tuple):
        return tuple(map(_from_home, value))
    if dataclasses.is_dataclass(value):
        parts = {each.name: _from_home(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def main(args: list[str] | None = None) -> None:
    """Run one command. Exit code 2 and one sentence for what the user can fix; 130 and 143 for a signal."""
    try:
        with stop_on_signals():
            run_command(sys.argv[1:] if args is None else args)
            _leave_together()
    except UserError as error:
        _say(str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stopped:
        _say(f"{stopped}; the same command goes on from here")
        sys.exit(stopped.exit_code)


def run_command(args: list[str]) -> None:
    """Run one command. Raises UserError for what the user can fix, a full disk included."""
    try:
        parse(args).run()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in FIXES:
            raise
        raise UserError(cannot_write(error.filename or "a file", error, "read or written")) from error


def _say(sentence: str) -> None:
    """Print the last line of a command, its end with it: another process may print at the same time."""
    sys.stderr.write(f"cxrlt: {sentence}\n")


def _leave_together() -> None:
    """End the processes of one training at once: one that just exits may pull the others down."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _take_head_options(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The other words, and {"weight": 0.1} of --model.head.weight 0.1: each head has options of its own."""
    others, options, words = [], {}, iter(args)
    for word in words:
        flag, _, value = word.partition("=")
        option = flag.removeprefix("--model.head.").replace("-", "_")
        if args[:1] != ["train"] or not flag.startswith("--model.head.") or option == "name":
            others.append(word)
        else:
            options[option] = yaml.safe_load(value or next(words, ""))
    return others, options


def _default(name: str, args: list[str], head: dict[str, Any]) -> dict[str, Train]:
    """`train` starts from the recipe it is given: --help shows its fields, and flags go before them.

    An augmentation policy is taken into it too, so that the other flags go on top of the policy's values, and
    so is a head, with its options.
    """
    if name != "train" or args[:1] != ["train"]:
        return {}
    recipe = args[1] if len(args) > 1 and not args[1].startswith("-") else None
    config, policy = _flag("--config", args), _flag("--data.augment.policy", args)
    fields = load_recipe(recipe, Path(config) if config else None)
    if policy in POLICIES:
        fields = override_recipe(fields, {"data": {"augment": {"policy": policy}}})
    if head_name := _flag("--model.head.name", args):
        head = {"name": head_name, **head}
    if head:
        fields = override_recipe(fields, {"model": {"head": head}})
    return {"default": Train(fields=fields)}


def _flag(name: str, args: list[str]) -> str | None:
    """What the last flag of that name is given."""
    given = [
        word.partition("=")[2] or following
        for word, following in zip(args, [*args[1:], ""], strict=True)
        if word == name or word.startswith(f"{name}=")
    ]
    return given[-1] if given else None
