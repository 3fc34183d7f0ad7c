"""Print the functions of the package between a command and what it is there for, with their files.

    python tools/call_path.py train      # the frames from the command to the call of backward
    python tools/call_path.py submit     # every function that is entered before the CSV is written

Both on a tiny challenge in a temporary folder.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from call_paths import frames_to_backward, functions_to_csv, n_files
from cxrlt.recipe import save_recipe
from tiny import make_tiny, set_up_challenge, tiny_recipe


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("train", "submit"))
    return parser.parse_args(words)


def main() -> None:
    command = parse().command
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        flags = ["--challenge", "csv", "--root", folder]
        if command == "train":
            make_tiny(root)
            save_recipe(tiny_recipe(), root / "recipe.yaml")
            places = frames_to_backward(["train", str(root / "recipe.yaml"), "--fold", "0", *flags])
        else:
            set_up_challenge(root).add_run("run", skill=2.0)
            places = functions_to_csv(["submit", "run", *flags])
    for place in places:
        print(f"{place.file:<40} {place.function}")
    print(f"{len(places)} functions in {n_files(places)} files")


if __name__ == "__main__":
    main()
