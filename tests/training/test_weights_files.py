import torch
from safetensors import safe_open

from cxrlt.training.checkpoint import save_tensors


def test_the_same_weights_are_the_same_bytes_in_every_process(tmp_path):
    """Sorted: the library puts what is said of them in an order that differs between processes."""
    path, said = tmp_path / "weights.safetensors", {f'{key} "é\\': key for key in "qwertyuiop"}
    save_tensors(path, {"head.bias": torch.arange(3.0)}, said)
    with safe_open(path, "pt") as file:
        assert file.metadata() == said
        assert file.get_tensor("head.bias").tolist() == [0, 1, 2]
    text = path.read_bytes().decode(errors="replace")
    places = [text.index(f'"{key} ') for key in sorted("qwertyuiop")]
    assert places == sorted(places)
