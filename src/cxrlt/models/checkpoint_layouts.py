"""Layouts of checkpoints of other projects: names and shapes are converted to those of timm."""

import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn

FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "pretrained_filter_fn", "_filter_fn")
"""Names that timm gives to the function which converts the checkpoints of an architecture."""
HUGGING_FACE = (
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embedding(s\.projection)?\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.(?=\d+\.(blocks|downsample)\.)", "layers."),
    (r"^encoder\.layers?\.", "blocks."),
    (r"^pre_layrnorm\.", "norm_pre."),  # spelled like this in the library
    (r"^(post_)?layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.(attention\.attention|attention\.self|self_attn)\.", ".attn."),
    (r"\.attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attn\.(q)uery\.|\.attn\.(k)ey\.|\.attn\.(v)alue\.", r".attn.\1\2\3."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<=\d)\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_?norm(1|_before)\.", ".norm1."),
    (r"\.layer_?norm(2|_after)\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
"""Names in transformers' ViT, Dinov2, Swin, CLIP and SigLIP -> timm (read in its conversion scripts)."""
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Index in Sequential(*resnet.children()) -> name in torchvision's ResNet."""


def to_timm_layout(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors of any shape under the names of timm, or under those that timm's filter converts.

    `wanted` are the names of the backbone. Tensors of an unknown layout are returned as they are.
    """
    state = dict(state)
    if any(name.startswith("embeddings.") for name in state):
        state = _from_hugging_face(state)
    if not any(_chunk(name) for name in wanted):  # EfficientNet has blocks.STAGE.BLOCK
        state = _rename(state, lambda name: re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name))
    if "0.weight" in state and "4.0.conv1.weight" in state:
        state = _rename(state, _name_in_resnet)
    if "class_embedding" in state:  # timm knows CLIP's names with the prefix visual.
        state = {f"visual.{name}": value for name, value in state.items()}
    return state


def apply_timm_filter(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Convert a checkpoint as timm does: older names, position grids (n, tokens, dim), patch kernels.

    Returns the tensors unchanged if timm has no filter for the architecture, or if its filter fails because
    the tensors are of another architecture.
    """
    module = sys.modules[type(backbone).__module__]
    convert = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    if convert is None:
        return dict(state)
    copy = dict(state)  # some filters change it
    if "register_tokens" in copy:
        copy.setdefault("mask_token", torch.zeros(1))  # without it, timm does not know DINOv2
    arguments = (copy, backbone)[: len(inspect.signature(convert).parameters)]
    try:
        with redirect_stdout(io.StringIO()):  # DINOv3: timm prints a line per block without bias
            return dict(convert(*arguments))
    except Exception:  # each filter fails in its own way on tensors of another architecture
        return dict(state)


def _from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def rename(name: str) -> str:
        for pattern, replacement in HUGGING_FACE:
            name = re.sub(pattern, replacement, name)
        return name

    state = _rename(state, rename)
    for name in [name for name in state if re.search(r"\.attn\.q\.(weight|bias)$", name)]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in state for part in parts):
            joined = torch.cat([state.pop(part) for part in parts])
            state[name.replace(".attn.q.", ".attn.qkv.")] = joined
    for kind in ("weight", "bias"):
        if (name := f"attn_pool.qkv.{kind}") in state:
            query, key, value = state.pop(name).chunk(3)
            state |= {f"attn_pool.q.{kind}": query, f"attn_pool.kv.{kind}": torch.cat([key, value])}
    for name in ("cls_token", "pos_embed"):  # CLIP and SigLIP: without the leading dimensions of 1
        if name in state:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    return state


def _rename(state: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed = {rename(name): value for name, value in state.items()}
    return renamed if len(renamed) == len(state) else state  # two tensors of one name: not this layout


def _name_in_resnet(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{RESNET_CHILDREN.get(child, child)}.{rest}"


def _chunk(name: str) -> bool:
    return re.match(r"blocks\.\d+\.\d+\.", name) is not None
