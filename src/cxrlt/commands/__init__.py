"""What the command line offers: one frozen value per stage, whose fields are its flags.

Stages are imported when they run: `cxrlt --help` need not wait for torch.
"""

from cxrlt.commands.base import Folders
from cxrlt.commands.inputs import Cache, Check, Demo, MakeFolds
from cxrlt.commands.models import Calibrate, Ensemble, Evaluate, Predict, Train
from cxrlt.commands.submissions import Score, Submit, Validate
from cxrlt.commands.whole import Compare, Run

COMMANDS: dict[str, type[Folders]] = {
    "demo": Demo,
    "check": Check,
    "cache": Cache,
    "folds": MakeFolds,
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "ensemble": Ensemble,
    "calibrate": Calibrate,
    "submit": Submit,
    "validate": Validate,
    "score": Score,
    "run": Run,
    "compare": Compare,
}
