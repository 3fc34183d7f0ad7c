"""The rows of a split together with the cache of their images."""

import ctypes
import sys
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.duplicate_images import find_duplicate_images
from cxrlt.inputs.inverted import inverted_warning
from cxrlt.inputs.table import NoImagesError, add_file_column, load_table, missing_images_message


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a challenge are, and how to load them."""

    challenge: Challenge
    workspace: Workspace
    allow_missing: bool = False
    quarantine: bool = False

    def flags(self) -> list[str]:
        """Return the flags with which another command reads the same images."""
        optional = ["--quarantine"] * self.quarantine + ["--allow-missing"] * self.allow_missing
        return self.folder_flags() + optional

    def folder_flags(self) -> list[str]:
        """Return the flags with which another command uses the same folders."""
        name, workspace = self.challenge.name, self.workspace
        folders = {
            "--root": workspace.root,
            "--inputs": workspace.inputs_dir(name),
            "--images": workspace.images_dir(name),
            "--cache-dir": workspace.cache_dir(),
        }
        return [word for flag, folder in folders.items() for word in (flag, str(folder))]

    def load_split(self, split: str, size: int) -> tuple[pd.DataFrame, ImageCache]:
        """Return the table of `split` (index image_id) and its image cache at `size` pixels.

        Builds the cache if needed. Raises UserError as `load_table` and `build_cache`.
        """
        table = load_table(self.challenge, split, self.workspace, allow_missing=self.allow_missing)
        return self._with_cache(table, split, size)

    def load_all_splits(self, size: int) -> dict[str, ImageCache]:
        """Return the image cache of every split; with `allow_missing`, of every split that has images.

        Warns on stderr about duplicate images and about images that look inverted. Raises UserError if images
        are missing (without `allow_missing`) or unreadable (without `quarantine`).
        """
        caches: dict[str, ImageCache] = {}
        patients: dict[str, pd.DataFrame] = {}
        for split in self.challenge.splits:
            try:
                table, caches[split] = self.load_split(split, size)
            except NoImagesError as error:
                if not self.allow_missing or split == "train":
                    raise
                print(f"{error} Skipping this split (--allow-missing).", file=sys.stderr)
            else:
                patients[split] = table[["patient"]]
        self._warn(caches, patients)
        return caches

    def _warn(self, caches: dict[str, ImageCache], patients: dict[str, pd.DataFrame]) -> None:
        name = self.challenge.name
        hashes = {split: cache.hashes_of(cache.ids) for split, cache in caches.items()}
        warnings = find_duplicate_images(hashes, patients).warnings(name)
        if self.challenge.channels == 1:
            warnings += [
                inverted_warning(name, split, cache.thumbs, cache.ids) for split, cache in caches.items()
            ]
        for warning in filter(None, warnings):
            print(warning, file=sys.stderr)

    def load_train_rows(self, table: pd.DataFrame, size: int) -> tuple[pd.DataFrame, ImageCache]:
        """Return the rows of the training `table` (index image_id) that are readable, and their image cache.

        `table` contains the rows of the folds. Raises UserError if the image of a row is missing.
        """
        table = add_file_column(self.challenge, table, self.workspace)
        if table["file"].isna().any():
            problem = missing_images_message(self.challenge, "train", table, self.workspace)
            raise UserError(
                f"{problem} Download them, or remove their rows from the folds with: "
                f"cxrlt folds {self.challenge.name} --extend --allow-missing"
            )
        return self._with_cache(table, "train", size)

    def _with_cache(self, table: pd.DataFrame, split: str, size: int) -> tuple[pd.DataFrame, ImageCache]:
        cache = build_cache(
            table[["file"]],
            size,
            self.workspace.cache_dir(),
            self.challenge.name,
            split,
            self.workspace.images_dir(self.challenge.name),
            channels=self.challenge.channels,
            quarantine=self.quarantine,
        )
        release_memory()
        # the paths are no longer needed, and they take half of the table's memory
        return table.drop(columns=["path", "file"])[~table.index.isin(cache.quarantined)], cache


def release_memory() -> None:
    """Return free memory of the allocators to the system.

    After reading a table of 264,849 rows (CXR-LT 2023) they keep 250 MB, in each process of a training.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
