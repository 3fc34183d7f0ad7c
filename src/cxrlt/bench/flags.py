"""What can be measured: the words of `cxrlt bench`, which the command line shows without torch."""

from typing import Literal

StageName = Literal[
    "cache",
    "loader",
    "train",
    "memory",
    "metrics",
    "bootstrap",
    "ensemble",
    "folds",
    "table",
    "submit",
    "predict",
    "help",
]
