"""Files that call a function when they are unpickled, in every file format of weights."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch


class MaliciousPickle:
    """An object that creates the file `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def _plain(bomb: MaliciousPickle) -> bytes:
    return pickle.dumps(bomb)


def _nested(bomb: MaliciousPickle) -> bytes:
    return pickle.dumps({"state_dict": {"weight": [0.0, {"deep": (bomb,)}]}})


def _zip(bomb: MaliciousPickle) -> bytes:
    return _torch_save({"weight": torch.zeros(2), "more": bomb}, new=True)


def _legacy(bomb: MaliciousPickle) -> bytes:
    return _torch_save({"model": {"weight": torch.zeros(2), "more": bomb}}, new=False)


def _legacy_tar(bomb: MaliciousPickle) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            body = pickle.dumps(bomb)
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return file.getvalue()


def _torch_save(content: object, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


FORMATS: dict[str, Callable[[MaliciousPickle], bytes]] = {
    "pickle": _plain,
    "nested": _nested,
    "zip": _zip,
    "legacy": _legacy,
    "tar": _legacy_tar,
}
