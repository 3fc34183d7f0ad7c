"""A split's rows together with their decoded images."""

import sys
from dataclasses import dataclass

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.inverted import inverted_sentence
from cxrlt.inputs.memory import give_back_memory
from cxrlt.inputs.shared_pictures import same_pictures
from cxrlt.inputs.table import NoImagesError, load_table, missing_images, with_files


@dataclass(frozen=True)
class ImageSource:
    """How a challenge's images are found and decoded."""

    challenge: Challenge
    workspace: Workspace
    allow_missing: bool = False
    quarantine: bool = False

    def flags(self) -> list[str]:
        """Those with which another command reads the same images of this challenge."""
        optional = ["--quarantine"] * self.quarantine + ["--allow-missing"] * self.allow_missing
        return self.folder_flags() + optional

    def folder_flags(self) -> list[str]:
        """Those with which another command works in the same folders."""
        name, workspace = self.challenge.name, self.workspace
        folders = {
            "--root": workspace.root,
            "--inputs": workspace.inputs_dir(name),
            "--images": workspace.images_dir(name),
            "--cache-dir": workspace.cache_dir(),
        }
        return [word for flag, folder in folders.items() for word in (flag, str(folder))]

    def split(self, split: str, size: int) -> tuple[pd.DataFrame, ImageCache]:
        """The table of `split` and the cache of its images at `size` pixels, built where needed."""
        table = load_table(self.challenge, split, self.workspace, allow_missing=self.allow_missing)
        return self._cached(table, split, size)

    def all_splits(self, size: int) -> dict[str, ImageCache]:
        """The cache of every split, or, if images may be missing, of every split that has any.

        Warns on stderr of pictures that are there twice, and of those that look inverted.
        """
        caches: dict[str, ImageCache] = {}
        patients: dict[str, pd.DataFrame] = {}
        for split in self.challenge.splits:
            try:
                table, caches[split] = self.split(split, size)
            except NoImagesError as error:
                if not self.allow_missing or split == "train":
                    raise
                print(f"{error} That split is left out (--allow-missing).", file=sys.stderr)
            else:
                patients[split] = table[["patient"]]
        self._warn(caches, patients)
        return caches

    def _warn(self, caches: dict[str, ImageCache], patients: dict[str, pd.DataFrame]) -> None:
        name = self.challenge.name
        hashes = {split: cache.hash_of(cache.ids) for split, cache in caches.items()}
        warnings = same_pictures(hashes, patients).sentences(name)
        if self.challenge.channels == 1:
            warnings += [inverted_sentence(name, split, one.thumbs, one.ids) for split, one in caches.items()]
        for sentence in filter(None, warnings):
            print(sentence, file=sys.stderr)

    def folded(self, table: pd.DataFrame, size: int) -> tuple[pd.DataFrame, ImageCache]:
        """The rows of `table` that were split into folds, as far as they can be read, and their cache."""
        table = with_files(self.challenge, table, self.workspace)
        if table["file"].isna().any():
            problem = missing_images(self.challenge, "train", table, self.workspace)
            raise UserError(
                f"{problem} Fetch them, or take their rows out of the folds: "
                f"cxrlt folds {self.challenge.name} --extend --allow-missing"
            )
        return self._cached(table, "train", size)

    def _cached(self, table: pd.DataFrame, split: str, size: int) -> tuple[pd.DataFrame, ImageCache]:
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
        give_back_memory()
        # nobody needs the paths any more, and they are half of the table
        return table.drop(columns=["path", "file"])[~table.index.isin(cache.quarantined)], cache
