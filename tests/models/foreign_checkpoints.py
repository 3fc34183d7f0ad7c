"""Small backbones with tagged tensors, and their tensors in the layouts of published chest X-ray weights.

Every layout is written down here from the sources of the weights, in the direction timm -> file, so that it
shares no code and no table with the conversion that it tests.
"""

import argparse
import re
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import timm
import torch
from timm.layers import SwiGLUPacked

State = dict[str, torch.Tensor]
TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)}
BACKBONES = {
    "vit": ("vit_base_patch16_224", {**TINY, "img_size": 32}),
    "vit_avg": ("vit_base_patch16_224", {**TINY, "img_size": 32, "global_pool": "avg"}),
    "dinov2": ("vit_base_patch14_dinov2", {**TINY, "img_size": 28}),
    "dinov2_p16": ("vit_large_patch14_dinov2", {**TINY, "img_size": 32, "patch_size": 16}),
    "reg4": ("vit_base_patch14_reg4_dinov2", {**TINY, "img_size": 28}),
    "swiglu": (
        "vit_large_patch14_reg4_dinov2",
        {**TINY, "img_size": 32, "patch_size": 16, "mlp_layer": SwiGLUPacked, "mlp_ratio": 5.375},
    ),
    "dinov3": ("vit_small_patch16_dinov3", {**TINY, "img_size": 32}),
    "eva": ("eva02_tiny_patch14_224", {**TINY, "img_size": 32, "patch_size": 16, "ref_feat_shape": 14}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", {**TINY, "img_size": 64}),
    "siglip": ("vit_so400m_patch14_siglip_224", {**TINY, "img_size": 28}),
    "swin": (
        "swin_base_patch4_window7_224",
        {
            "depths": (1, 1, 2, 1),
            "embed_dim": 16,
            "num_heads": (1, 2, 2, 4),
            "img_size": 64,
            "window_size": 2,
        },
    ),
    "resnet": ("resnet50", {"layers": (1, 2, 1, 1), "base_width": 8}),
    "densenet": ("densenet121", {}),
}


@cache
def backbone(name: str, **more: object) -> torch.nn.Module:
    model, options = BACKBONES[name]
    return timm.create_model(model, pretrained=False, num_classes=2, **{**options, **more})


def tagged(model: torch.nn.Module) -> State:
    """Return numbers between 1 and 2 for every tensor, which differ between tensors and between elements."""
    state = {}
    for name, value in model.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        state[name] = torch.rand(value.shape, generator=generator) + 1
        if not value.is_floating_point():
            state[name] = torch.tensor(zlib.crc32(name.encode()) % 1000)
    return state


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def renamed(state: State, *rules: tuple[str, str]) -> State:
    """Apply regular expressions one after the other to every name."""
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    return state


def headless(state: State) -> State:
    return {name: v for name, v in state.items() if not re.match(r"(fc|classifier|head\.fc|head)\.", name)}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def bert(prefix: str) -> State:
    layer = f"{prefix}encoder.layer.0.attention.self."
    tower = {f"{layer}{part}.weight": noise(32, 32) for part in ("query", "key", "value")}
    return {f"{prefix}embeddings.word_embeddings.weight": noise(9, 32), **tower}


def dinov2_original(state: State) -> State:
    """The original repository: registers apart from positions, w12 and w3, mask_token."""
    state = (
        renamed(headless(state), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
        if (state["blocks.0.mlp.fc1.weight"].shape[0] != 4 * 32)
        else headless(state)
    )
    if "reg_token" in state:
        first = noise(1, 1, 32)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - first
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    return {**state, "mask_token": noise(1, 32)}


def chunked(state: State) -> State:
    return renamed(state, (r"^blocks\.(\d+)\.", r"blocks.\1.\1."))


def split_qkv(state: State, names: tuple[str, str, str]) -> State:
    out = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            parts = value.chunk(3)
            out |= {name.replace(".attn.qkv.", f".{n}."): p for n, p in zip(names, parts, strict=True)}
        else:
            out[name] = value
    return out


QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))


def hf_dinov2(state: State) -> State:
    return renamed(
        split_qkv(dinov2_original(state), QKV),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.ls([12])\.gamma", r".layer_scale\1.lambda1"),
        (r"\.w12\.", ".weights_in."),
        (r"\.w3\.", ".weights_out."),
        (r"^blocks\.", "encoder.layer."),
        (r"^norm\.", "layernorm."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    )


def hf_vit(state: State) -> State:
    return renamed(
        split_qkv(headless(state), QKV),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"^blocks\.", "encoder.layer."),
        (r"^norm\.", "layernorm."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^cls_token$", "embeddings.cls_token"),
    ) | {"pooler.dense.weight": noise(32, 32)}


def old_swin(state: State) -> State:
    """Before timm 0.9: a stage ends with its downsample; masks and indices are saved."""
    state = {
        re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): value
        for name, value in headless(state).items()
    }
    buffers = {"layers.0.blocks.0.attn.relative_position_index": torch.arange(16).view(4, 4)}
    return {**state, **buffers, "layers.0.blocks.0.attn_mask": noise(4, 4, 4), "head.weight": noise(14, 128)}


def hf_swin(state: State) -> State:
    state = {
        name: value for name, value in old_swin(state).items() if "mask" not in name and "head" not in name
    }
    return renamed(
        split_qkv(state, tuple(f"attention.self.{part}" for part in ("query", "key", "value"))),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.relative", ".attention.self.relative"),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"^layers\.", "encoder.layers."),
        (r"^norm\.", "layernorm."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
    )


def dinov3_original(state: State) -> State:
    out = renamed(
        headless(state),
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        (r"^reg_token$", "storage_tokens"),
    )
    for n in range(2):
        out |= {f"blocks.{n}.attn.qkv.bias": torch.zeros(96), f"blocks.{n}.attn.qkv.bias_mask": noise(96)}
    return {**out, "rope_embed.periods": noise(4), "mask_token": noise(1, 32)}


def eva_original(state: State) -> State:
    """EVA-X after masked image modelling: norm instead of fc_norm, w1, w2 and w3, rope buffers."""
    out = renamed(
        headless(state),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
        (r"\.mlp\.fc2\.", ".mlp.w3."),
        (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
        (r"^fc_norm\.", "norm."),
    )
    extra = {"mask_token": noise(1, 1, 32), "lm_head.weight": noise(9, 32), "lm_head.bias": noise(9)}
    return {**out, **extra, "rope.freqs_cos": noise(4, 16), "blocks.0.attn.rope.freqs_sin": noise(4, 16)}


def openai_clip(state: State) -> State:
    state = {name: v for name, v in headless(state).items() if name != "patch_embed.proj.bias"}
    state |= {"cls_token": state["cls_token"][0, 0], "pos_embed": state["pos_embed"][0]}
    visual = renamed(
        state,
        (r"^blocks\.", "transformer.resblocks."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^pos_embed$", "positional_embedding"),
        (r"^cls_token$", "class_embedding"),
    )
    text = {
        "transformer.resblocks.0.attn.in_proj_weight": noise(96, 32),
        "token_embedding.weight": noise(9, 32),
        "positional_embedding": noise(7, 32),
        "ln_final.weight": noise(32),
        "text_projection": noise(32, 16),
        "logit_scale": noise(1)[0],
    }
    return under("visual.", {**visual, "proj": noise(32, 16)}) | text


def hf_clip(state: State) -> State:
    """CLIP and SigLIP in transformers, with the text tower beside."""
    state = headless(state)
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"][0, 0]
    state["pos_embed"] = state["pos_embed"][0]
    if "attn_pool.kv.weight" in state:
        for kind in ("weight", "bias"):
            query, rest = state.pop(f"attn_pool.q.{kind}"), state.pop(f"attn_pool.kv.{kind}")
            state[f"head.attention.in_proj_{kind}"] = torch.cat([query, rest])
    vision = renamed(
        split_qkv(state, tuple(f"self_attn.{part}_proj" for part in "qkv")),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
        (r"^(blocks\.\d\.)norm([12])\.", r"\1layer_norm\2."),
        (r"^blocks\.", "encoder.layers."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^cls_token$", "embeddings.class_embedding"),
        (r"^attn_pool\.latent$", "head.probe"),
        (r"^attn_pool\.proj\.", "head.attention.out_proj."),
        (r"^attn_pool\.norm\.", "head.layernorm."),
        (r"^attn_pool\.mlp\.", "head.mlp."),
    )
    vision["embeddings.position_ids"] = torch.arange(5)[None]
    text = {"text_model.embeddings.token_embedding.weight": noise(9, 32), "logit_scale": noise(1)[0]}
    return under("vision_model.", vision) | text | {"visual_projection.weight": noise(16, 32)}


def mae(state: State) -> State:
    decoder = {"decoder_embed.weight": noise(16, 32), "decoder_blocks.0.attn.qkv.weight": noise(48, 16)}
    return {**headless(state), **decoder, "decoder_pos_embed": noise(1, 5, 16), "mask_token": noise(1, 1, 16)}


def sequential(state: State) -> State:
    """nn.Sequential(*resnet.children())."""
    children = ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return {
        f"{children.index(name.split('.')[0])}.{name.split('.', 1)[1]}": value
        for name, value in headless(state).items()
    }


def old_densenet(state: State) -> State:
    """Torchvision before 0.3, when batch norm had no counters either."""
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return renamed(state, (r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2."))


def gloria(prefix: str, state: State) -> State:
    beside = {"global_embedder.weight": noise(8, 8), "local_embedder.weight": noise(8, 8, 1, 1)}
    return {**under(f"{prefix}model.", state), **under(prefix, beside), **bert("gloria.text_encoder.model.")}


def mgca(state: State) -> State:
    beside = {"img_encoder_q.global_embed.head.0.weight": noise(8, 8), "prototype_layer.weight": noise(8, 8)}
    beside |= {
        "img_encoder_q.local_embed.head.1.running_var": noise(8),
        "word_local_atten_layer.in_proj_bias": noise(8),
    }
    return under("img_encoder_q.model.", headless(state)) | beside | bert("text_encoder_q.model.")


def moco(state: State) -> State:
    query, key = (
        under("module.encoder_q.", state),
        under("module.encoder_k.", {k: v + 1 for k, v in state.items()}),
    )
    return {
        **key,
        **query,
        "module.queue": noise(8, 16),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }


def distilled(prefix: str, state: State, head: str = "dino_head") -> dict[str, State]:
    """Student and teacher: the teacher has the tagged tensors."""
    beside = {f"{head}.mlp.0.weight": noise(8, 8)}
    other = {name: value + 1 for name, value in state.items()}
    return {"student": under(prefix, other) | beside, "teacher": under(prefix, state) | beside}


LAYOUTS: dict[str, tuple[str, Callable[[State], object]]] = {
    "dinov2": ("dinov2", dinov2_original),
    "dinov2 registers": ("reg4", dinov2_original),
    "dinov2 chunks (RayDINO)": ("dinov2_p16", lambda s: chunked(dinov2_original(s))),
    "dinov2 teacher": ("dinov2", lambda s: distilled("backbone.", dinov2_original(s))),
    "dinov2 chunks, SwiGLU, teacher (CheXFound)": (
        "swiglu",
        lambda s: {"teacher": distilled("backbone.", chunked(dinov2_original(s)))["teacher"]},
    ),
    "hf dinov2 (RAD-DINO, AIMI)": ("dinov2", hf_dinov2),
    "hf dinov2 registers (CXformer)": ("reg4", lambda s: under("dinov2.", hf_dinov2(s))),
    "hf dinov2 SwiGLU": ("swiglu", hf_dinov2),
    "hf vit": ("vit", lambda s: under("vit.", hf_vit(s)) | {"classifier.weight": noise(2, 32)}),
    "hf clip (XrayCLIP)": ("clip", hf_clip),
    "hf siglip (MedSigLIP)": ("siglip", hf_clip),
    "hf swin": ("swin", lambda s: under("swin.", hf_swin(s))),
    "hf swin (CXR-CLIP)": (
        "swin",
        lambda s: {
            "model": under("image_encoder.image_encoder.", hf_swin(s))
            | bert("text_encoder.text_encoder.")
            | {"image_projection.projection.weight": noise(8, 8), "logit_scale": noise(1)[0]},
            "config": {"name": "clip"},
        },
    ),
    "hf swin (MedCLIP)": (
        "swin",
        lambda s: (
            under("vision_model.model.", hf_swin(s))
            | {"vision_model.projection_head.weight": noise(8, 8)}
            | bert("text_model.model.")
        ),
    ),
    "dinov3": ("dinov3", dinov3_original),
    "mae (Medical MAE)": ("vit", lambda s: {"model": mae(s), "epoch": 9, "args": argparse.Namespace(lr=1)}),
    "mae fine-tuned": ("vit", lambda s: {"model": renamed(s, (r"^norm\.", "fc_norm."))}),
    "mae for average pooling": ("vit_avg", lambda s: {"model": renamed(mae(s), (r"^fc_norm\.", "norm."))}),
    "mae with text (MRM)": (
        "vit",
        lambda s: {"model": mae(s) | bert("bert_encoder.model.bert.") | {"bert_mlp.weight": noise(8, 8)}},
    ),
    "i-jepa (CheXWorld)": (
        "vit",
        lambda s: {
            "model": under("target_encoder.", headless(s))
            | under("encoder.", {k: v + 1 for k, v in headless(s).items()})
            | {"predictor.blocks.0.attn.qkv.weight": noise(48, 16)}
        },
    ),
    "openai clip (CheXzero)": ("clip", openai_clip),
    "openai clip, module": ("clip", lambda s: {"state_dict": under("module.", openai_clip(s))}),
    "open_clip (BiomedCLIP)": (
        "vit",
        lambda s: (
            under("visual.trunk.", headless(s))
            | {"visual.head.proj.weight": noise(8, 32), "logit_scale": noise(1)[0]}
            | bert("text.transformer.")
            | {"text.proj.0.weight": noise(8, 32)}
        ),
    ),
    "eva02 in module, numpy scalars (EVA-X)": (
        "eva",
        lambda s: {
            "module": eva_original(s),
            "best": np.float64(0.8),
            "hist": np.arange(3.0),
            "n": np.int64(3),
        },
    ),
    "swin before timm 0.9 (Ark-6)": (
        "swin",
        lambda s: old_swin(s) | {"projector.0.weight": noise(8, 8), "omni_heads.0.weight": noise(8, 8)},
    ),
    "swin, teacher of module (Ark+)": ("swin", lambda s: distilled("module.", old_swin(s), "omni_heads.0")),
    "simmim swin": (
        "swin",
        lambda s: {
            "model": under("encoder.", {k: v for k, v in old_swin(s).items() if "head" not in k})
            | {"encoder.mask_token": noise(1, 1, 16), "decoder.0.weight": noise(8, 8, 1, 1)},
            "optimizer": {"state": {0: {"exp_avg": noise(3)}}, "param_groups": [{"lr": 1.0}]},
        },
    ),
    "swin under module.backbone (POPAR)": (
        "swin",
        lambda s: {"state_dict": under("module.backbone.", old_swin(s))},
    ),
    "swin under swin_model, teacher (PEAC, ACE, Lamps)": (
        "swin",
        lambda s: distilled("module.swin_model.", old_swin(s), "module.head"),
    ),
    "densenet old names": (
        "densenet",
        lambda s: {"state_dict": under("module.densenet121.", old_densenet(s))},
    ),
    "densenet as Sequential (RadImageNet)": (
        "densenet",
        lambda s: renamed(headless(s), (r"^features\.", "backbone.0.")),
    ),
    "densenet (KAD)": (
        "densenet",
        lambda s: {
            "image_encoder": renamed(headless(s), (r"^features\.", "dense_features."))
            | {"dense_l1.weight": noise(8, 8)}
        },
    ),
    "resnet as Sequential (RadImageNet)": ("resnet", lambda s: under("backbone.", sequential(s))),
    "resnet as Sequential (KAD-512, UniChest)": (
        "resnet",
        lambda s: {
            "image_encoder": under("module.res_features.", sequential(s))
            | {"module.res_l1.weight": noise(8, 8)},
            "model": under("module.", {"decoder.norm.weight": noise(8), "mlp_head.0.weight": noise(2, 8)}),
        },
    ),
    "resnet, moco (CheSS)": ("resnet", lambda s: {"state_dict": moco(s), "epoch": 3, "arch": "resnet50"}),
    "resnet (GLoRIA)": ("resnet", lambda s: {"state_dict": gloria("gloria.img_encoder.", headless(s))}),
    "resnet (MGCA)": ("resnet", lambda s: {"state_dict": mgca(s)}),
    "vit (MGCA)": ("vit", lambda s: {"state_dict": mgca(s)}),
    "resnet (BioViL)": (
        "resnet",
        lambda s: (
            under("encoder.encoder.", s)
            | {"projector.model.0.weight": noise(8, 8, 1, 1), "encoder.missing_previous_emb": noise(8, 1, 1)}
            | {
                "encoder.vit_pooler.blocks.0.attn.proj.weight": noise(8, 8),
                "encoder.backbone_to_vit.weight": noise(8, 8),
            }
        ),
    ),
    "resnet (CXR-CLIP)": (
        "resnet",
        lambda s: {
            "model": under("image_encoder.resnet.", s)
            | bert("text_encoder.text_encoder.")
            | {
                "image_projection.projection.weight": noise(8, 8),
                "text_projection.projection.weight": noise(8, 8),
            }
        },
    ),
    "resnet (MedCLIP)": ("resnet", lambda s: under("vision_model.model.", s) | bert("text_model.model.")),
    "resnet under any prefix": ("resnet", lambda s: under("our.own.net.", s)),
}
"""Name -> (backbone, function from timm's tensors to the content of the file)."""
