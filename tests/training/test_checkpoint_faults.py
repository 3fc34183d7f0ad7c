"""What lies on disk and is not what was written is found out, and said in a sentence."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from cxrlt.artifacts import sha256_of
from cxrlt.errors import UserError
from cxrlt.training import places
from cxrlt.training.checkpoint import read_tensors
from cxrlt.training.places import weights_sha256


def test_a_truncated_or_foreign_file_of_weights_is_a_sentence_with_its_path_and_what_mends_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(50)}, path)
    whole = path.read_bytes()
    broken = [whole[:size] for size in (0, 7, 50, len(whole) - 1)]
    for content in (*broken, whole + b"more", b"PK\3\4" * 99, pickle.dumps({"weight": 1}), b"\xff" * 500):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{path} is damaged or no safetensors file \(.+\).*--force"):
            read_tensors(path)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} does not exist. Make it with: cxrlt train x"):
        read_tensors(path, made_by="cxrlt train x")


def test_weights_are_known_by_their_sha256_which_is_computed_once(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    first = weights_sha256(tmp_path)
    assert first == sha256_of(path)
    monkeypatch.setattr(places, "sha256_of", lambda path: "computed again")
    assert weights_sha256(tmp_path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert weights_sha256(tmp_path) == "computed again"
    path.unlink()
    with pytest.raises(UserError, match="does not exist: train that fold first"):
        weights_sha256(tmp_path)
