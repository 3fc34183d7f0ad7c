"""A training as in a competition notebook: timm, BCE, AdamW, a one-cycle learning rate and flips.

It shares no code with `cxrlt`, so that a comparison with it also compares the code. It trains one fold, and
writes the logits of the left-out images, with flip TTA, and its speed.
"""

import argparse
import json
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor, nn

MEAN = STD = 0.5
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 1e-2


def augmentation() -> A.Compose:
    """Return flips, shifts, zooms, rotations, and changes of brightness and contrast."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), rotate=(-10, 10), p=0.7),
            A.RandomBrightnessContrast(p=0.5),
        ]
    )


def read_images(files: list[str], size: int) -> np.ndarray:
    """Return the images, uint8 (n, size, size, 3)."""
    images = [cv2.imread(file) for file in files]
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])


def to_tensor(images: np.ndarray) -> Tensor:
    """Return normalised float32 (n, 3, size, size) of uint8 (n, size, size, 3)."""
    return ((torch.from_numpy(images).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def create_model(backbone: str, weights: str, n_classes: int) -> nn.Module:
    """Return the network with a new classifier and weights from a file, "timm" or "none"."""
    if weights == "none":
        return timm.create_model(backbone, num_classes=n_classes)
    overlay = {} if weights == "timm" else {"pretrained_cfg_overlay": {"file": weights}}
    return timm.create_model(backbone, pretrained=True, num_classes=n_classes, **overlay)


def train(model: nn.Module, images: np.ndarray, targets: np.ndarray, flags: argparse.Namespace) -> float:
    """Train on images (n, size, size, 3) and targets (n, classes). Return the images per second."""
    n, augment = len(images), augmentation()
    n_batches = n // flags.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=flags.lr, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, flags.lr, total_steps=flags.epochs * n_batches, pct_start=WARMUP_SHARE
    )
    model.train()
    start = time.perf_counter()
    for epoch in range(flags.epochs):
        for rows in np.random.permutation(n)[: n_batches * flags.batch_size].reshape(n_batches, -1):
            batch = np.stack([augment(image=images[row])["image"] for row in rows])
            logits = model(to_tensor(batch).to(flags.device))
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(targets[rows]).to(flags.device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        print(f"notebook: epoch {epoch + 1} of {flags.epochs}, loss {loss.item():.4f}", flush=True)
    return flags.epochs * n_batches * flags.batch_size / (time.perf_counter() - start)


def predict(model: nn.Module, images: np.ndarray, flags: argparse.Namespace) -> np.ndarray:
    """Return the mean logits of the images and of the flipped images, float32 (n, classes)."""
    model.eval()
    means = []
    with torch.no_grad():
        for start in range(0, len(images), flags.batch_size):
            batch = to_tensor(images[start : start + flags.batch_size]).to(flags.device)
            means.append((model(batch) + model(batch.flip(3))).cpu() / 2)
    return torch.cat(means).numpy()


def parse() -> argparse.Namespace:
    """Return the parsed flags."""
    parser = argparse.ArgumentParser(description="Train one fold as in a competition notebook.")
    parser.add_argument("table", type=Path, help="parquet: index image_id, columns file and fold, classes")
    parser.add_argument("output", type=Path, help="parquet file of the logits; a .json file is beside it")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True, help="a file, timm or none")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Train, predict and write."""
    flags = parse()
    torch.manual_seed(flags.seed)
    np.random.seed(flags.seed)
    table = pd.read_parquet(flags.table)
    classes = [name for name in table.columns if name not in ("file", "fold")]
    images = read_images(list(table["file"]), flags.size)
    valid = (table["fold"] == flags.fold).to_numpy()
    targets = table[classes].to_numpy(np.float32)
    model = create_model(flags.backbone, flags.weights, len(classes)).to(flags.device)
    model.to(memory_format=torch.channels_last)
    speed = train(model, images[~valid], targets[~valid], flags)
    logits = predict(model, images[valid], flags)
    flags.output.with_suffix(".json").write_text(json.dumps({"images_per_s": speed}))
    partial = flags.output.with_suffix(".part")
    pd.DataFrame(logits, index=table.index[valid], columns=classes).to_parquet(partial)
    partial.replace(flags.output)  # an interrupted training leaves no output


if __name__ == "__main__":
    main()
