"""From files to batches: building the cache, and the training loader."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.clock import race
from benchmarks.growth import Growth, growth
from benchmarks.layout import ROWS
from benchmarks.rows import Mark, Row
from benchmarks.setting import Setting
from cxrlt.inputs.augment import Transform, sampling_matrix
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import CHUNK, N_TIMED, build_cache
from cxrlt.inputs.dataset import XRayDataset, make_loader
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.phantom.cases import draw_patients
from cxrlt.phantom.demo import draw_picture
from cxrlt.recipe import AugmentConfig

LARGE = (2544, 3056)
"""Width and height of most radiographs of MIMIC-CXR."""
CACHED, SEEN, BATCH = 512, 384, 32
N_PICTURES = 12
"""Different ones; tables name each as often as they need."""
GRAIN = 3.0
"""Standard deviation in greys: with it a large picture has 2 MB, like a real one."""
CLOSE = 1.0
"""Mean difference in greys up to which two ways of shrinking grain show the same picture."""


def cache_rows(setting: Setting) -> Iterator[Row]:
    """Decoding into a cache against OpenCV, and two processes against one."""
    files = _radiographs(setting.folder / "large", LARGE)
    with _one_thread():
        yield _decoding_row(setting, files)
        yield _processes_row(setting, files)


def _decoding_row(setting: Setting, files: Sequence[Path]) -> Row:
    table = _table(files, setting.size(240, least=2 * N_PICTURES))
    built, read = [], np.empty((len(table), CACHED, CACHED), np.uint8)

    def ours() -> None:
        built.append(_build(table, setting.folder / f"decoding{len(built)}", CACHED))

    def theirs() -> None:
        for row, file in enumerate(table["file"]):
            grey = cv2.cvtColor(cv2.imread(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
            read[row] = cv2.resize(grey, (CACHED, CACHED), interpolation=cv2.INTER_AREA)

    in_memory = [np.frombuffer(Path(file).read_bytes(), np.uint8) for file in files]

    def bare() -> None:
        for data in islice(cycle(in_memory), len(table)):
            cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_4)

    rates = [len(table) / seconds for seconds in race(ours, theirs, bare)]
    return Row(
        f"cache from {LARGE[0]}x{LARGE[1]} JPEG to {CACHED} px, a core",
        rates[0],
        "images/s",
        against=Mark("cv2.imread in colour, cvtColor to grey, resize by area", rates[1]),
        target=1.8,
        limit=Mark("libjpeg's decoding to a quarter, of bytes in memory", rates[2]),
        note=f"JPEG of {sum(map(len, in_memory)) / len(in_memory) / 1e6:.1f} MB; with all that a build does",
        wrong=_difference(built[0].images[: len(files)], read[: len(files)]),
    )


def _processes_row(setting: Setting, files: Sequence[Path]) -> Row:
    table = _table(files, setting.size(600, least=32 * N_PICTURES))
    built: dict[int, ImageCache] = {}

    def build(workers: int) -> None:
        built[workers] = _build(table, setting.folder / f"processes{workers}", CACHED, workers)

    if joblib.cpu_count() < 2:
        (one,) = race(lambda: build(1), repeats=1, clock=time.perf_counter)
        note = "two were not measured: this machine has one core"
        return Row("cache, one process", len(table) / one, "images/s", note=note)
    few = table.iloc[: N_TIMED + 2 * CHUNK]
    best = dict.fromkeys((2, 1), float("inf"))
    for number in range(2 if setting.share >= 1 else 1):
        _build(few, setting.folder / f"start{number}", CACHED, 2)  # processes take .4 s to start, once
        for workers in best:
            (seconds,) = race(lambda n=workers: build(n), repeats=1, clock=time.perf_counter)
            best[workers] = min(best[workers], seconds)
    return Row(
        "cache, two processes",
        len(table) / best[2],
        "images/s",
        against=Mark("one process", len(table) / best[1]),
        target=1.85,
        limit=Mark("twice one process", 2 * len(table) / best[1]),
        note="wall time, processes that are running",
        wrong="" if np.array_equal(built[1].images, built[2].images) else "the two caches differ",
    )


def cache_growth(setting: Setting) -> Growth:
    """Images so small that what a build does besides decoding counts, up to CXR-LT 2024."""
    files = _radiographs(setting.folder / "small", (16, 16))

    def prepare(n: int):
        table = _table(files, n)
        return lambda: _build(table, setting.folder / f"growth{n}", 16)

    smallest = max(setting.size(ROWS) // 8, 100)
    return growth("cache", "image", smallest, prepare, repeats=1)


def loader_rows(setting: Setting) -> Iterator[Row]:
    """Augmented batches against files, PIL and torchvision."""
    files = _radiographs(setting.folder / "files", (CACHED, CACHED))
    table = _table(files, setting.size(512, least=4 * BATCH))
    with _one_thread():
        cache = _build(table, setting.folder / "cache", CACHED)
        transform = _augmentation(AugmentConfig())
        batches = epoch_batches(len(table), BATCH, seed=0, epoch=0)
        dataset = XRayDataset(cache, list(table.index), np.zeros((len(table), 1)), transform=transform)
        jpegs = JpegFiles(table["file"].tolist())
        rates = [
            len(table) / seconds
            for seconds in race(
                lambda: _exhaust(make_loader(dataset, 0, batches, n_workers=0)),
                lambda: _exhaust(DataLoader(jpegs, BATCH)),
                lambda: _warp(np.array(cache.images[:N_PICTURES]), len(table), transform),
            )
        ]
        yield Row(
            f"loader, {SEEN} px from {CACHED} px, a core",
            rates[0],
            "images/s",
            against=Mark("JPEG files by PIL, torchvision v2 and DataLoader", rates[1]),
            target=12,
            limit=Mark("one cv2.warpAffine and one cv2.LUT an image", rates[2]),
            note="ours are uint8, for they become float and standardised on the device",
            wrong=_difference(*_unaugmented(cache, jpegs.files[:N_PICTURES])),
        )


class JpegFiles(Dataset):
    """Grey radiographs as most training scripts load them: float32 (3, SEEN, SEEN) and a target."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        cfg = AugmentConfig()
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(SEEN, scale=cfg.crop_scale, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(cfg.rotate, v2.InterpolationMode.BILINEAR),
                v2.ColorJitter(cfg.brightness, cfg.contrast),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(Image.open(self.files[row]).convert("RGB")), torch.zeros(1)


def _augmentation(cfg: AugmentConfig) -> Transform:
    return Transform(SEEN, **cfg.model_dump(exclude={"policy"}))


def _unaugmented(cache: ImageCache, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The pictures as they are, by our transform and by torchvision: uint8 (n, SEEN, SEEN) both."""
    nothing = AugmentConfig(flip=False, crop_scale=(1.0, 1.0), rotate=0, brightness=0, contrast=0)
    transform = _augmentation(nothing)
    ours = [transform(image, seed) for seed, image in enumerate(cache.images[: len(files)])]
    theirs = [v2.functional.resize(Image.open(file), [SEEN, SEEN], antialias=True) for file in files]
    return np.stack(ours), np.stack(theirs)


def _warp(images: np.ndarray, n: int, transform: Transform) -> None:
    """As many warps and tables of greys as `n` images need, and nothing else."""
    draw = transform.draw(images[0].shape, seed=0)
    matrix, greys = sampling_matrix(CACHED, CACHED, SEEN, draw), transform.greys(draw)
    out = np.empty((SEEN, SEEN), np.uint8)
    for image in islice(cycle(images), n):
        cv2.warpAffine(image, matrix, out.shape, dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        cv2.LUT(out, greys, dst=out)


def _exhaust(loader: DataLoader) -> None:
    for _ in loader:
        pass


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """What is wrong if the pictures are not the same; empty if they are."""
    mean = np.abs(ours.astype(np.int16) - theirs).mean(axis=(1, 2)).max()
    return "" if mean <= CLOSE else f"pictures differ by {mean:.1f} greys on average"


def _build(table: pd.DataFrame, cache_dir: Path, size: int, workers: int = 1) -> ImageCache:
    """A new cache, in a folder that is not there yet or begins again."""
    shutil.rmtree(cache_dir, ignore_errors=True)
    return build_cache(table, size, cache_dir, "bench", "train", cache_dir, workers=workers)


def _table(files: Sequence[Path], n: int) -> pd.DataFrame:
    """`n` images, which take turns at being one of the files."""
    ids = pd.Index([f"image{row:07d}" for row in range(n)], name="image_id")
    return pd.DataFrame({"file": list(islice(cycle(map(str, files)), n))}, index=ids)


def _radiographs(folder: Path, shape: tuple[int, int]) -> list[Path]:
    """N_PICTURES files of grainy phantoms, JPEG of quality 95, `shape` (width, height)."""
    folder.mkdir()
    cv2.setRNGSeed(0)
    files = [folder / f"{number}.jpg" for number in range(N_PICTURES)]
    for file, patient in zip(files, draw_patients(N_PICTURES, seed=0), strict=False):
        study = patient.studies[0]
        phantom, _ = draw_picture(patient, study, study.pictures[0], 0, np.random.default_rng(0))
        picture = cv2.resize(phantom, shape, interpolation=cv2.INTER_CUBIC)
        # Eight bits each: once a block of 30 MB has been freed, glibc hands out memory for colour pictures
        # without asking the system, which a process that reads pictures and nothing else does not meet.
        grain = cv2.randn(np.empty_like(picture, np.int8), 0, GRAIN)
        picture = cv2.add(picture, grain, dtype=cv2.CV_8U)
        cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return files


@contextmanager
def _one_thread() -> Iterator[None]:
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)
