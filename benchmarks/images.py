"""Benchmarks of building the cache and of the training loader."""

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

from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.scaling import ScalingResult, measure_scaling
from benchmarks.synthetic_challenge import ROWS
from benchmarks.timing import time_interleaved
from cxrlt.inputs.augment import Transform, sampling_matrix
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import DECODE_CHUNK, N_TIMED, build_cache
from cxrlt.inputs.dataset import XRayDataset, make_loader
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.phantom.cases import sample_patients
from cxrlt.phantom.demo import draw_image
from cxrlt.recipe import AugmentConfig

LARGE_SIZE = (2544, 3056)
"""Width and height of most radiographs in MIMIC-CXR."""
CACHE_SIZE, INPUT_SIZE, BATCH_SIZE = 512, 384, 32
N_FILES = 12
"""Different image files; the tables repeat them."""
GRAIN_STD = 3.0
"""Standard deviation of the noise in grey levels: with this value a large JPEG has 2 MB, like a real one."""
MAX_MEAN_DIFFERENCE = 1.0
"""Largest mean difference in grey levels between two resizing methods of the same noisy image."""


def measure_cache(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare building a cache with OpenCV, and two processes with one."""
    files = _radiographs(config.folder / "large", LARGE_SIZE)
    with _one_thread():
        yield _measure_decoding(config, files)
        yield _measure_processes(config, files)


def _measure_decoding(config: BenchmarkConfig, files: Sequence[Path]) -> Measurement:
    table = _table(files, config.size(240, minimum=2 * N_FILES))
    built, read = [], np.empty((len(table), CACHE_SIZE, CACHE_SIZE), np.uint8)

    def ours() -> None:
        built.append(_build(table, config.folder / f"decoding{len(built)}", CACHE_SIZE))

    def theirs() -> None:
        for row, file in enumerate(table["file"]):
            grey = cv2.cvtColor(cv2.imread(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
            read[row] = cv2.resize(grey, (CACHE_SIZE, CACHE_SIZE), interpolation=cv2.INTER_AREA)

    in_memory = [np.frombuffer(Path(file).read_bytes(), np.uint8) for file in files]

    def decode_only() -> None:
        for data in islice(cycle(in_memory), len(table)):
            cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_4)

    rates = [len(table) / seconds for seconds in time_interleaved(ours, theirs, decode_only)]
    return Measurement(
        f"cache from {LARGE_SIZE[0]}x{LARGE_SIZE[1]} JPEG to {CACHE_SIZE} px, a core",
        rates[0],
        "images/s",
        baseline=ReferenceValue("cv2.imread in colour, cvtColor to grey, INTER_AREA resize", rates[1]),
        target=1.8,
        limit=ReferenceValue("libjpeg decoding to a quarter of the size, from memory", rates[2]),
        note=f"JPEG of {sum(map(len, in_memory)) / len(in_memory) / 1e6:.1f} MB; includes all build steps",
        error=_difference(built[0].images[: len(files)], read[: len(files)]),
    )


def _measure_processes(config: BenchmarkConfig, files: Sequence[Path]) -> Measurement:
    table = _table(files, config.size(600, minimum=32 * N_FILES))
    built: dict[int, ImageCache] = {}

    def build(workers: int) -> None:
        built[workers] = _build(table, config.folder / f"processes{workers}", CACHE_SIZE, workers)

    if joblib.cpu_count() < 2:
        (one,) = time_interleaved(lambda: build(1), repeats=1, clock=time.perf_counter)
        note = "two processes were not measured: this machine has one core"
        return Measurement("cache, one process", len(table) / one, "images/s", note=note)
    few = table.iloc[: N_TIMED + 2 * DECODE_CHUNK]
    best = dict.fromkeys((2, 1), float("inf"))
    for number in range(2 if config.scale >= 1 else 1):
        _build(few, config.folder / f"start{number}", CACHE_SIZE, 2)  # start the processes (0.4 s, once)
        for workers in best:
            (seconds,) = time_interleaved(lambda n=workers: build(n), repeats=1, clock=time.perf_counter)
            best[workers] = min(best[workers], seconds)
    return Measurement(
        "cache, two processes",
        len(table) / best[2],
        "images/s",
        baseline=ReferenceValue("one process", len(table) / best[1]),
        target=1.85,
        limit=ReferenceValue("twice one process", 2 * len(table) / best[1]),
        note="wall time, without starting the processes",
        error="" if np.array_equal(built[1].images, built[2].images) else "the two caches differ",
    )


def measure_cache_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure tiny images, so that the overhead besides decoding counts, up to the size of CXR-LT 2024."""
    files = _radiographs(config.folder / "small", (16, 16))

    def prepare(n: int):
        table = _table(files, n)
        return lambda: _build(table, config.folder / f"growth{n}", 16)

    min_size = max(config.size(ROWS) // 8, 100)
    return measure_scaling("cache", "image", min_size, prepare, repeats=1)


def measure_loader(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare augmented batches with JPEG files, PIL and torchvision."""
    files = _radiographs(config.folder / "files", (CACHE_SIZE, CACHE_SIZE))
    table = _table(files, config.size(512, minimum=4 * BATCH_SIZE))
    with _one_thread():
        cache = _build(table, config.folder / "cache", CACHE_SIZE)
        transform = _augmentation(AugmentConfig())
        batches = epoch_batches(len(table), BATCH_SIZE, seed=0, epoch=0)
        dataset = XRayDataset(cache, list(table.index), np.zeros((len(table), 1)), transform=transform)
        jpegs = JpegFiles(table["file"].tolist())
        rates = [
            len(table) / seconds
            for seconds in time_interleaved(
                lambda: _consume(make_loader(dataset, 0, batches, n_workers=0)),
                lambda: _consume(DataLoader(jpegs, BATCH_SIZE)),
                lambda: _warp_only(np.array(cache.images[:N_FILES]), len(table), transform),
            )
        ]
        yield Measurement(
            f"loader, {INPUT_SIZE} px from {CACHE_SIZE} px, a core",
            rates[0],
            "images/s",
            baseline=ReferenceValue("JPEG files by PIL, torchvision v2 and DataLoader", rates[1]),
            target=12,
            limit=ReferenceValue("one cv2.warpAffine and one cv2.LUT per image", rates[2]),
            note="our batches are uint8; the device converts and normalises them",
            error=_difference(*_without_augmentation(cache, jpegs.files[:N_FILES])),
        )


class JpegFiles(Dataset):
    """Greyscale images as most training scripts load them: float32 (3, size, size) and a target."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        cfg = AugmentConfig()
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(INPUT_SIZE, scale=cfg.crop_scale, antialias=True),
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
    return Transform(INPUT_SIZE, **cfg.model_dump(exclude={"policy"}))


def _without_augmentation(cache: ImageCache, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return images without augmentation by our transform and by torchvision, both uint8 (n, size, size)."""
    nothing = AugmentConfig(flip=False, crop_scale=(1.0, 1.0), rotate=0, brightness=0, contrast=0)
    transform = _augmentation(nothing)
    ours = [transform(image, seed) for seed, image in enumerate(cache.images[: len(files)])]
    theirs = [
        v2.functional.resize(Image.open(file), [INPUT_SIZE, INPUT_SIZE], antialias=True) for file in files
    ]
    return np.stack(ours), np.stack(theirs)


def _warp_only(images: np.ndarray, n: int, transform: Transform) -> None:
    """Run only the warps and lookup tables of `n` images."""
    draw = transform.sample_params(images[0].shape, seed=0)
    matrix, lookup_table = (
        sampling_matrix(CACHE_SIZE, CACHE_SIZE, INPUT_SIZE, draw),
        transform.lookup_table(draw),
    )
    out = np.empty((INPUT_SIZE, INPUT_SIZE), np.uint8)
    for image in islice(cycle(images), n):
        cv2.warpAffine(image, matrix, out.shape, dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        cv2.LUT(out, lookup_table, dst=out)


def _consume(loader: DataLoader) -> None:
    for _ in loader:
        pass


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return the difference of two image arrays (n, h, w) as text; empty if they agree."""
    mean = np.abs(ours.astype(np.int16) - theirs).mean(axis=(1, 2)).max()
    return "" if mean <= MAX_MEAN_DIFFERENCE else f"images differ by {mean:.1f} grey levels on average"


def _build(table: pd.DataFrame, cache_dir: Path, size: int, workers: int = 1) -> ImageCache:
    """Build a new cache in an emptied folder."""
    shutil.rmtree(cache_dir, ignore_errors=True)
    return build_cache(table, size, cache_dir, "bench", "train", cache_dir, workers=workers)


def _table(files: Sequence[Path], n: int) -> pd.DataFrame:
    """Return a table of `n` images that repeats the files."""
    ids = pd.Index([f"image{row:07d}" for row in range(n)], name="image_id")
    return pd.DataFrame({"file": list(islice(cycle(map(str, files)), n))}, index=ids)


def _radiographs(folder: Path, shape: tuple[int, int]) -> list[Path]:
    """Write N_FILES noisy phantoms as JPEG of quality 95; `shape` is (width, height)."""
    folder.mkdir()
    cv2.setRNGSeed(0)
    files = [folder / f"{number}.jpg" for number in range(N_FILES)]
    for file, patient in zip(files, sample_patients(N_FILES, seed=0), strict=False):
        study = patient.studies[0]
        phantom, _ = draw_image(patient, study, study.images[0], 0, np.random.default_rng(0))
        picture = cv2.resize(phantom, shape, interpolation=cv2.INTER_CUBIC)
        # int8 noise: after a block of 30 MB is freed, glibc reuses memory for colour images, which would make
        # the baseline faster than in a process that only reads images.
        grain = cv2.randn(np.empty_like(picture, np.int8), 0, GRAIN_STD)
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
