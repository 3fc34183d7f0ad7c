"""Try the smallest backbone of every timm family with every head, at sizes that fit many of them and few."""

import argparse
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import timm
import torch
from torch import Tensor

from cxrlt.errors import UserError
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import HeadConfig, ModelConfig

N_CLASSES = 3
LARGEST_COMPUTED = 8_000_000
"""Weights of the largest backbone that is computed; of larger ones only the shapes are looked at."""
SIZES = (224, 200, 96)
HEADS: dict[str, dict[str, object]] = {
    "linear": {},
    "cosine": {"head": {"name": "cosine"}},
    "average": {"pool": "average"},
    "ml_decoder": {"head": {"name": "ml_decoder", "dim": 32}},
    "csra": {"head": {"name": "csra"}},
}
NO_ADVICE = "Take another backbone."
ADVICE = re.compile(
    r"(?:Sizes that fit: (\d+)(?: and (\d+))?(?:, with )?|Take )(?:model\.(\w+)(?:\.name)? (\w+))?\.$"
)


@dataclass
class Findings:
    """What came of one backbone: "works", "refused" or "WRONG" by (size, head), and every sentence once."""

    backbone: str
    outcomes: dict[tuple[int, str], str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def smallest(family: str) -> str:
    """The member with the fewest weights, those that timm keeps for its own tests left out."""
    names = timm.list_models(module=family)
    return min([name for name in names if not name.startswith("test_")] or names, key=_n_weights)


def check(backbone: str, sizes: tuple[int, ...] = SIZES, heads: tuple[str, ...] = tuple(HEADS)) -> Findings:
    """These heads at these sizes: logits of two images, or one sentence whose advice has been followed."""
    findings = Findings(backbone)
    device = "cpu" if _n_weights(backbone) <= LARGEST_COMPUTED else "meta"
    for size in sizes:
        features: dict[bool, Tensor] = {}
        for head in heads:
            cfg = ModelConfig(backbone=backbone, pretrained=False, **HEADS[head])
            try:
                with torch.device(device):
                    sentence = _try(cfg, size, features)
            except Exception:
                findings.faults.append(f"{backbone} {size} {head}: {traceback.format_exc()}")
                findings.outcomes[size, head] = "WRONG"
                continue
            findings.outcomes[size, head] = "refused" if sentence else "works"
            if sentence and sentence not in findings.sentences:
                findings.sentences.append(sentence)
    works = "works" in findings.outcomes.values()
    findings.faults += [text for text in findings.sentences if works and text.endswith(NO_ADVICE)]
    return findings


def _try(cfg: ModelConfig, size: int, features: dict[bool, Tensor]) -> str | None:
    """The sentence that refuses the model, None if it works. `features` has those that are known by now."""
    try:
        model = create_model(cfg, N_CLASSES, size)
    except UserError as error:
        for other, side in _advised(cfg, size, str(error)):
            create_model(other, N_CLASSES, side)
        return str(error)
    if cfg.reads_map not in features:
        features[cfg.reads_map] = _features(model, size)
    if features[cfg.reads_map].is_meta:
        return None
    logits = model.without_backbone().eval()({"features": features[cfg.reads_map]})
    assert logits.shape == (2, N_CLASSES), f"logits {tuple(logits.shape)}"
    assert logits.isfinite().all(), "logits that are not finite"
    return None


def _features(model: XRayModel, size: int) -> Tensor:
    """Of two images, in eval mode as in training, where the whole of each image is looked at."""
    images = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        trained = model.train().features(images)
        features = model.eval().features(images)
    assert trained.shape == features.shape, (
        f"{tuple(trained.shape)} in training, {tuple(features.shape)} after"
    )
    assert features.is_meta or _sees_the_edge(model, images), "the last pixels are never seen"
    return features


def _sees_the_edge(model: XRayModel, images: Tensor) -> bool:
    other = images.float()
    other[..., -1, :] = other[..., -1] = torch.nan  # which passes weights of 0, too
    with torch.no_grad():
        return not torch.equal(model.features(images), model.features(other))


def _advised(cfg: ModelConfig, size: int, sentence: str) -> Iterator[tuple[ModelConfig, int]]:
    """The models that a sentence advises. Raises ValueError if it advises none."""
    if sentence.endswith(NO_ADVICE):
        return
    found = ADVICE.search(sentence)
    if not found:
        raise ValueError(f"no advice in: {sentence}")
    *sizes, name, value = found.groups()
    if name:
        cfg = cfg.model_copy(update={name: HeadConfig(name=value) if name == "head" else value})
    for side in [int(side) for side in sizes if side] or [size]:
        yield cfg, side


def _n_weights(name: str) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return sum(weight.numel() for weight in model.parameters())


def _report(findings: Findings, family: str) -> None:
    columns = [
        "".join({"works": "+", "refused": "-", "WRONG": "!"}[findings.outcomes[size, head]] for head in HEADS)
        for size in sorted({size for size, _ in findings.outcomes}, reverse=True)
    ]
    print(
        f"{family:26}{findings.backbone:36}",
        *(f"{column:{len(HEADS) + 2}}" for column in columns),
        flush=True,
    )
    for sentence in findings.sentences:
        print(f"    {sentence}")
    for trace in findings.faults:
        print(trace)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"{__doc__} + works, - is refused with a sentence whose advice works, ! is wrong."
    )
    parser.add_argument(
        "names", nargs="*", help="families (modules of timm.models) or backbones (default: every family)"
    )
    return parser.parse_args(words)


def main() -> None:
    names = parse().names or timm.list_modules()
    print(f"{'family':26}{'backbone':36}", *(f"{size:<{len(HEADS) + 2}}" for size in SIZES))
    print(f"{'':62}", " ".join(HEADS))
    n_wrong = 0
    for name in names:
        torch.manual_seed(0)
        findings = check(smallest(name) if name in timm.list_modules() else name)
        _report(findings, name)
        n_wrong += len(findings.faults)
    print(f"{len(names)} backbones, {n_wrong} wrong")
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
