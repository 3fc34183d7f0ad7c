"""The stage `cxrlt cache`: every split of a challenge, decoded once."""

import sys

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.inputs.cache import GreyCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.table import NoImagesError, load_table


def cache_images(
    challenge: Challenge,
    workspace: Workspace,
    size: int,
    *,
    workers: int | None = None,
    quarantine: bool = False,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> dict[str, GreyCache]:
    """The finished cache of each split; what is there already is not made again.

    With `allow_missing` a split of which no image is there is left out, unless that leaves none.
    Raises UserError as `load_table` and `build_cache` do.
    """
    caches, absent = {}, []
    for split in challenge.splits:
        try:
            table = load_table(
                challenge,
                split,
                workspace,
                allow_missing=allow_missing,
                drop_shared_patients=drop_shared_patients,
            )
        except NoImagesError as error:
            if not allow_missing:
                raise
            absent.append(error)
            continue
        caches[split] = build_cache(
            table, size, workspace.cache_dir(), challenge.name, workers=workers, quarantine=quarantine
        )
    if not caches:
        raise absent[0]
    for error in absent:
        print(f"{error} That split is left out (--allow-missing).", file=sys.stderr)
    return caches
