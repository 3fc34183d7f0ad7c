"""`bash run.sh bench --gpu`: what only a GPU can show, in about ten minutes, to be run once on a new card.

Each part is a process of its own with a time limit, so that a part that fails, hangs or breaks the CUDA
context is one line of the table and the others go on.
"""

import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import benchmarks
from benchmarks.fold import generated_fold
from benchmarks.machine import describe_machine
from benchmarks.report import machine_line
from benchmarks.training import (
    ON_GPU,
    bench_recipe,
    epochs,
    flops_of_image,
    largest_rate,
)
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, override_recipe, save_recipe
from cxrlt.system.atomic_files import write_json
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer

PROJECT = Path(benchmarks.__file__).parents[1]
TOLERANCE = 0.03
"""Relative difference of an epoch's mean loss that precision, layout or the compiler may make."""
NOISE = 10
"""A resumed training may differ from a straight one by so many times what two straight ones differ by."""
CUDA_TESTS = ("losses", "training")
"""The folders of tests where a test file that names CUDA is run."""
REASON_LETTERS = 300


@dataclass(frozen=True)
class Sizes:
    """How much is measured on a kind of device; a processor gets what shows that a part works at all."""

    recipes: tuple[str, ...]
    pixels: tuple[int, ...]
    n_images: int
    n_epochs: int
    patients: int
    over: dict[str, object] = field(default_factory=dict)


SIZES = {
    "cuda": Sizes(ON_GPU, (384, 512), n_images=960, n_epochs=3, patients=120),
    "cpu": Sizes(
        ("demo_resnet",),
        (32,),
        n_images=32,
        n_epochs=1,
        patients=12,
        over={"model": {"backbone": "test_convnext"}, "optim": {"batch_size": 16}},
    ),
}


@dataclass(frozen=True)
class Found:
    """What a part measured; `wrong` says what is not as it should be, and is empty where nothing is."""

    figures: dict[str, float | str]
    wrong: str = ""


@dataclass(frozen=True)
class Part:
    """`measure` gets an empty folder and the device; it is ended after `limit_s` seconds."""

    measure: Callable[[Path, torch.device], Found]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """A line of the table."""

    part: str
    passed: bool
    seconds: float
    figures: dict[str, float | str]
    reason: str = ""


def recipe_for(device: torch.device, place: int = 0, pixels: int | None = None, **over: object) -> Recipe:
    """The device's recipe number `place` with random weights; `over` are fields of the recipe."""
    sizes = SIZES[device.type]
    recipe = override_recipe(bench_recipe(sizes.recipes[place]), sizes.over)
    return override_recipe(recipe, {"data": {"size": pixels or sizes.pixels[0]}} | over)


def trainer_for(folder: Path, recipe: Recipe) -> Trainer:
    """Trains the recipe on generated images, on the device that accelerate finds."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one process, several precisions
    device = "cuda" if torch.cuda.is_available() else "cpu"
    job = generated_fold(folder, recipe, SIZES[device].n_images)
    return create_trainer(job, create_accelerator(recipe))


@dataclass(frozen=True)
class Trained:
    """Epochs of one trainer: the fastest one's images per second, the share of it that waited for data,
    seconds of the first epoch, the mean loss of the last, and the peak memory in GB (NaN on a processor).
    """

    images_per_s: float
    data_wait_share: float
    first_epoch_s: float
    loss: float
    peak_gb: float


def train(trainer: Trainer) -> Trained:
    """One epoch in which kernels are chosen, then those that are measured, by the loop of every training."""
    device, progress = trainer.accelerator.device, trainer.progress
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run_epoch, began = epochs(trainer), time.monotonic()
    run_epoch()
    first_epoch_s, speeds = time.monotonic() - began, []
    for _ in range(SIZES[device.type].n_epochs):
        updates, progress.loss_sum = progress.update, 0.0
        speeds.append(run_epoch())
    fastest = max(speeds, key=lambda speed: speed["images_per_s"])
    return Trained(
        fastest["images_per_s"],
        fastest["data_wait_share"],
        first_epoch_s,
        progress.loss_sum / (progress.update - updates),
        torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else math.nan,
    )


def backbone(folder: Path, device: torch.device, place: int, pixels: int) -> Found:
    """Speed, memory and arithmetic of one backbone; utilisation is of a measured product of matrices."""
    trainer = trainer_for(folder, recipe_for(device, place, pixels))
    flops, largest = flops_of_image(trainer), largest_rate(trainer)
    trained = train(trainer)
    reached = trained.images_per_s * flops
    figures = asdict(trained) | {
        "tflop_per_s": reached / 1e12,
        "matmul_tflop_per_s": largest / 1e12,
        "utilisation": reached / largest,
    }
    return Found(figures, "" if math.isfinite(trained.loss) else "the loss is not finite")


def precision(folder: Path, device: torch.device) -> Found:
    """bf16 against float32: speed, memory and the same loss."""
    kinds = ("float32", "bf16")
    return _compared(
        {kind: train(trainer_for(folder / kind, recipe_for(device, precision=kind))) for kind in kinds}
    )


def channels_last(folder: Path, device: torch.device) -> Found:
    """channels_last, which every model has, against the usual layout of its weights."""
    usual = trainer_for(folder / "contiguous", recipe_for(device))
    usual.model.to(memory_format=torch.contiguous_format)
    found = {"contiguous": train(usual)}
    found["channels_last"] = train(trainer_for(folder / "channels_last", recipe_for(device)))
    return _compared(found)


def compiled(folder: Path, device: torch.device) -> Found:
    """torch.compile against the model as it is; the first epoch shows how long compiling takes."""
    found = {"eager": train(trainer_for(folder / "eager", recipe_for(device)))}
    trainer = trainer_for(folder / "compiled", recipe_for(device, compile=True))
    if not trainer.compiled:
        return Found({}, "there is no working compiler")
    return _compared(found | {"compiled": train(trainer)})


def _compared(found: dict[str, Trained]) -> Found:
    (first, before), (second, after) = found.items()
    shown = ("images_per_s", "first_epoch_s", "peak_gb")
    figures = {f"{name} {key}": getattr(each, key) for name, each in found.items() for key in shown}
    figures["speed ratio"] = after.images_per_s / before.images_per_s
    difference = abs(after.loss - before.loss) / abs(before.loss)
    wrong = f"the loss of {second} differs by {difference:.1%} from that of {first}"
    return Found(figures | {"loss difference": difference}, wrong * (not difference <= TOLERANCE))


def out_of_memory(folder: Path, device: torch.device) -> Found:
    """A batch that the memory does not hold is computed in halves, and its loss stays the same."""
    whole = trainer_for(folder / "whole", recipe_for(device))
    rows = min(whole.rows_per_pass, whole.job.recipe.optim.batch_size)
    expected = train(whole)
    halved = trainer_for(folder / "halved", recipe_for(device))
    del whole
    with memory_for_half(halved, expected.peak_gb, rows):
        trained = train(halved)
    difference = abs(trained.loss - expected.loss) / abs(expected.loss)
    figures = {"rows": rows, "rows after": halved.rows_per_pass, "loss difference": difference}
    if halved.rows_per_pass >= rows:
        return Found(figures, "the limited memory held the whole batch: nothing was shown")
    return Found(figures, f"the loss differs by {difference:.1%}" * (not difference <= TOLERANCE))


@contextmanager
def memory_for_half(trainer: Trainer, peak_gb: float, rows: int) -> Iterator[None]:
    """A GPU's memory is limited to what lies between the weights and the peak of a whole batch.

    On a processor a pass of more than half of the rows is refused as a full GPU refuses it.
    """
    device = trainer.accelerator.device
    if device.type == "cuda":
        gc.collect()  # the trainer of the whole batch
        torch.cuda.empty_cache()
        fixed = torch.cuda.memory_allocated(device) / 1e9 * 3  # weights, and two moments to come
        limit = fixed + 0.75 * max(peak_gb - fixed, 0)
        torch.cuda.set_per_process_memory_fraction(limit * 1e9 / torch.cuda.mem_get_info(device)[1], device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def refuse(module: nn.Module, inputs: tuple, _: object) -> None:
        if module.training and inputs and torch.is_tensor(inputs[0]) and len(inputs[0]) > rows // 2:
            raise torch.OutOfMemoryError("the limit of this check")

    handle = register_module_forward_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def resume(folder: Path, device: torch.device) -> Found:
    """A training that SIGTERM stopped and the same command went on with, against two that ran through.

    CUDA adds in no fixed order, so the two that ran through need not agree to the last bit either; what the
    resumed one may differ by is measured by them.
    """
    recipe, flags = folder / "recipe.yaml", ["--root", str(folder)]
    over = {"schedule": {"epochs": 4}, "checkpoint_minutes": 1e-6}
    save_recipe(recipe_for(device, **over) if device.type == "cpu" else _demo_recipe(over), recipe)
    _cxrlt("demo", "--patients", str(SIZES[device.type].patients), *flags)
    _cxrlt("folds", "demo", "--n-folds", "2", *flags)
    weights = {}
    for name in ("first", "second", "resumed"):
        words = ["train", str(recipe), "--name", name, "--challenge", "demo", "--fold", "0", *flags]
        run_dir = folder / "folds" / "demo" / name / "fold0"
        if name == "resumed":
            _stop_at_first_checkpoint(run_dir, *words)
        printed = _cxrlt(*words)
        weights[name] = load_file(run_dir / "weights.safetensors")
    noise, off = (_largest_difference(weights["first"], weights[name]) for name in ("second", "resumed"))
    figures = {"difference of two straight runs": noise, "difference of the resumed": off}
    if "going on from update" not in printed:
        return Found(figures, "the stopped training did not go on from its checkpoint")
    return Found(figures, f"the weights differ by {off:.3g}" * (off > NOISE * noise))


def _demo_recipe(over: dict[str, object]) -> Recipe:
    return override_recipe(bench_recipe("demo_resnet"), over)


def _cxrlt(*words: str) -> str:
    """Run a command. Returns what it printed; raises UserError with the end of it if it fails."""
    command = [sys.executable, "-m", "cxrlt", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"cxrlt {' '.join(words)} ended with {done.returncode}: {done.stdout[-REASON_LETTERS:]}"
        )
    return done.stdout


def _stop_at_first_checkpoint(run_dir: Path, *words: str) -> None:
    command = [sys.executable, "-m", "cxrlt", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not any(run_dir.glob("checkpoint-*")):
            time.sleep(0.01)
        child.terminate()


def _largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].numel())


def cuda_tests(folder: Path, device: torch.device) -> Found:
    """The test files that name CUDA: on a GPU machine the trainings in them run on the GPU."""
    if find_spec("pytest") is None:
        return Found({}, "pytest is not installed: bash run.sh test installs it")
    files = sorted(path for each in CUDA_TESTS for path in (PROJECT / "tests" / each).rglob("test_*.py"))
    files = [path for path in files if "cuda" in path.read_text(encoding="utf-8")]
    wanted = ["-m", "not full"] if device.type == "cuda" else ["-k", "needs_a_gpu_and_there_is_none"]
    words = ["-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}", *wanted, *map(str, files)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], stdout=subprocess.PIPE, text=True, check=False, cwd=PROJECT
    )
    last = done.stdout.strip().splitlines()[-1:] or ["nothing was printed"]
    figures = {"files": len(files), "result": last[0]}
    none_selected = 5
    passed = done.returncode == 0 or (device.type == "cpu" and done.returncode == none_selected)
    return Found(figures, "" if passed else f"pytest ended with {done.returncode}: {last[0]}")


def parts_for(device: torch.device) -> dict[str, Part]:
    """By name, in their order. On a GPU the limits come to 13 minutes."""
    sizes = SIZES[device.type]

    def measured(place: int, pixels: int) -> Callable[[Path, torch.device], Found]:
        return lambda folder, device: backbone(folder, device, place, pixels)

    backbones = {
        f"{recipe_for(device, place).model.backbone.split('.')[0]} {pixels} px": Part(
            measured(place, pixels), 50
        )
        for place in range(len(sizes.recipes))
        for pixels in sizes.pixels
    }
    return {
        "tests": Part(cuda_tests, 120),
        **backbones,
        "bf16": Part(precision, 60),
        "channels_last": Part(channels_last, 50),
        "compile": Part(compiled, 150),
        "out of memory": Part(out_of_memory, 40),
        "resume": Part(resume, 150),
    }


def check_gpu(folder: Path, json_path: Path | None, device: torch.device) -> bool:
    """Run every part, print a line for each as soon as it is known, and write all into `json_path`.

    Returns whether all passed. Raises UserError where there is no such device.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--gpu measures what only a GPU shows, and torch finds none here.")
    machine, outcomes = describe_machine(), []
    print(machine_line(machine))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, part in parts_for(device).items():
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="cxrlt-gpu-", dir=folder) as temporary:
                outcomes.append(run_part(name, part.limit_s, Path(temporary), device))
            print(line_of(outcomes[-1]), flush=True)
    finally:
        if json_path is not None:
            write_json(json_path, {"machine": machine, "parts": [_plain(each) for each in outcomes]})
    return all(outcome.passed for outcome in outcomes)


def run_part(name: str, limit_s: float, folder: Path, device: torch.device) -> Outcome:
    """Measure a part in a process of its own, which ends with all that it started."""
    command = [sys.executable, "-m", "benchmarks.gpu", name, str(folder), device.type]
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            printed, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _end(child)
            return Outcome(name, False, limit_s, {}, f"ended at its limit of {limit_s:g} s")
        except BaseException:
            _end(child)
            raise
    seconds = time.monotonic() - began
    if child.returncode:
        last = (errors.strip() or printed.strip() or "nothing was printed").splitlines()[-1]
        return Outcome(name, False, seconds, {}, f"{last[-REASON_LETTERS:]} (exit code {child.returncode})")
    found = Found(**json.loads(printed.splitlines()[-1]))
    return Outcome(name, not found.wrong, seconds, found.figures, found.wrong)


def line_of(outcome: Outcome) -> str:
    """'name  ok  12 s  images_per_s 410, …'"""
    known = {key: value for key, value in outcome.figures.items() if value == value}  # not NaN
    figures = ", ".join(f"{key} {_short(value)}" for key, value in known.items())
    words = "; ".join(filter(None, (outcome.reason, figures)))
    result = "ok" if outcome.passed else "FAILED"
    return f"{outcome.part:<28} {result:<6} {outcome.seconds:>5.0f} s  {words}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _plain(outcome: Outcome) -> dict[str, object]:
    """As JSON has it, which knows no NaN."""
    figures = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in outcome.figures.items()
    }
    return asdict(outcome) | {"figures": figures}


def _end(child: subprocess.Popen) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def main(words: list[str]) -> None:
    """Measure one part, and print what it found as the last line."""
    name, folder, device_type = words
    device = torch.device(device_type)
    try:
        found = parts_for(device)[name].measure(Path(folder), device)
    except UserError as error:
        sys.exit(re.sub(r"\s+", " ", str(error)))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
