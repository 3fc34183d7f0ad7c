"""The subcommands of `cxrlt`: one frozen dataclass per stage, whose fields are its flags.

Each stage is imported only when it runs, so `cxrlt --help` does not wait for torch.
"""

from cxrlt.commands.base import Command
from cxrlt.commands.inputs import Cache, Check, Demo, MakeFolds
from cxrlt.commands.models import Calibrate, Ensemble, Evaluate, Predict, Train, Weights
from cxrlt.commands.pipeline import Compare, Reproduce, Run, Status
from cxrlt.commands.submissions import Report, Score, Submit, Validate

__all__ = [
    "COMMANDS",
    "Cache",
    "Calibrate",
    "Check",
    "Command",
    "Compare",
    "Demo",
    "Ensemble",
    "Evaluate",
    "MakeFolds",
    "Predict",
    "Report",
    "Reproduce",
    "Run",
    "Score",
    "Status",
    "Submit",
    "Train",
    "Validate",
    "Weights",
]

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "check": Check,
    "cache": Cache,
    "folds": MakeFolds,
    "weights": Weights,
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "ensemble": Ensemble,
    "calibrate": Calibrate,
    "submit": Submit,
    "validate": Validate,
    "score": Score,
    "run": Run,
    "status": Status,
    "report": Report,
    "compare": Compare,
    "reproduce": Reproduce,
}
