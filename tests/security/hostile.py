"""Files that call a function when they are unpickled, in every form that weights come in."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch


class Bomb:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def _plain(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def _nested(bomb: Bomb) -> bytes:
    return pickle.dumps({"state_dict": {"weight": [0.0, {"deep": (bomb,)}]}})


def _zip(bomb: Bomb) -> bytes:
    return _saved({"weight": torch.zeros(2), "more": bomb}, new=True)


def _legacy(bomb: Bomb) -> bytes:
    return _saved({"model": {"weight": torch.zeros(2), "more": bomb}}, new=False)


def _legacy_tar(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            body = pickle.dumps(bomb)
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return file.getvalue()


def _saved(content: object, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


FORMS: dict[str, Callable[[Bomb], bytes]] = {
    "pickle": _plain,
    "nested": _nested,
    "zip": _zip,
    "legacy": _legacy,
    "tar": _legacy_tar,
}
