"""Print the functions of the package between a command and its main effect, with their files.

    python tools/call_path.py train      # call stack from the command to backward()
    python tools/call_path.py submit     # every function called before the CSV is written

Both use a tiny challenge in a temporary folder.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from call_paths import frames_to_backward, functions_to_csv, n_files
from cxrlt.recipe import save_recipe
from tiny import make_simulated_runs, make_tiny, tiny_recipe


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("train", "submit"))
    return parser.parse_args(argv)


def main() -> None:
    """Print the call path of the given command."""
    command = parse().command
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        flags = ["--challenge", "csv", "--root", folder]
        if command == "train":
            make_tiny(root)
            save_recipe(tiny_recipe(), root / "recipe.yaml")
            functions = frames_to_backward(["train", str(root / "recipe.yaml"), "--fold", "0", *flags])
        else:
            make_simulated_runs(root).add_run("run", skill=2.0)
            functions = functions_to_csv(["submit", "run", *flags])
    for function in functions:
        print(f"{function.file:<40} {function.name}")
    print(f"{len(functions)} functions in {n_files(functions)} files")


if __name__ == "__main__":
    main()
