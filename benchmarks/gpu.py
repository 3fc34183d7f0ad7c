"""`bash run.sh bench --gpu`: GPU checks of about ten minutes, to run once on a new GPU.

Each check runs in a new process with a time limit, so a check that fails, hangs or breaks the CUDA context
does not stop the others.
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
from benchmarks.machine import describe_machine
from benchmarks.report import format_machine
from benchmarks.synthetic_fold import make_synthetic_fold
from benchmarks.training import (
    GPU_RECIPES,
    bench_recipe,
    create_epoch_runner,
    flops_per_image,
    matmul_flops_per_second,
)
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, override_recipe, save_recipe
from cxrlt.system.atomic_files import write_json
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer

PROJECT = Path(benchmarks.__file__).parents[1]
TOLERANCE = 0.03
"""Largest relative difference of an epoch's mean loss between precisions, memory formats and compilation."""
MAX_NOISE_RATIO = 10
"""Largest difference of a resumed training, relative to the difference of two uninterrupted ones."""
CUDA_TESTS = ("losses", "training")
"""Folders below tests/; their test files that mention CUDA are run."""
MAX_REASON_LENGTH = 300


@dataclass(frozen=True)
class Sizes:
    """Sizes of the checks on one type of device. The CPU sizes only show that the checks work."""

    recipes: tuple[str, ...]
    pixels: tuple[int, ...]
    n_images: int
    n_epochs: int
    n_patients: int
    overrides: dict[str, object] = field(default_factory=dict)


SIZES = {
    "cuda": Sizes(GPU_RECIPES, (384, 512), n_images=960, n_epochs=3, n_patients=120),
    "cpu": Sizes(
        ("demo_resnet",),
        (32,),
        n_images=32,
        n_epochs=1,
        n_patients=12,
        overrides={"model": {"backbone": "test_convnext"}, "optim": {"batch_size": 16}},
    ),
}


@dataclass(frozen=True)
class CheckResult:
    """Measured values of a check, and its error message (empty if the check passed)."""

    figures: dict[str, float | str]
    error: str = ""


@dataclass(frozen=True)
class Check:
    """A check: `measure` receives an empty folder and the device, and is killed after `limit_s` seconds."""

    measure: Callable[[Path, torch.device], CheckResult]
    limit_s: float


@dataclass(frozen=True)
class CheckOutcome:
    """A line of the table."""

    part: str
    passed: bool
    seconds: float
    figures: dict[str, float | str]
    reason: str = ""


def recipe_for(
    device: torch.device, index: int = 0, pixels: int | None = None, **overrides: object
) -> Recipe:
    """Return the device's recipe number `index` with random weights and the given fields."""
    sizes = SIZES[device.type]
    recipe = override_recipe(bench_recipe(sizes.recipes[index]), sizes.overrides)
    return override_recipe(recipe, {"data": {"size": pixels or sizes.pixels[0]}} | overrides)


def create_check_trainer(folder: Path, recipe: Recipe) -> Trainer:
    """Return a trainer of the recipe on synthetic images, on accelerate's device."""
    AcceleratorState._reset_state(reset_partial_state=True)  # allows several precisions in one process
    device = "cuda" if torch.cuda.is_available() else "cpu"
    job = make_synthetic_fold(folder, recipe, SIZES[device].n_images)
    return create_trainer(job, create_accelerator(recipe))


@dataclass(frozen=True)
class TrainSpeed:
    """Measurements of one trainer.

    `images_per_s` and `data_wait_share` are of the fastest epoch, `loss` is the mean of the last epoch,
    `peak_gb` is NaN on a CPU.
    """

    images_per_s: float
    data_wait_share: float
    first_epoch_s: float
    loss: float
    peak_gb: float


def measure_training(trainer: Trainer) -> TrainSpeed:
    """Train one warm-up epoch, then the measured epochs, with the normal training loop."""
    device, progress = trainer.accelerator.device, trainer.progress
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run_epoch, started = create_epoch_runner(trainer), time.monotonic()
    run_epoch()
    first_epoch_s, speeds = time.monotonic() - started, []
    for _ in range(SIZES[device.type].n_epochs):
        updates, progress.loss_sum = progress.update, 0.0
        speeds.append(run_epoch())
    fastest = max(speeds, key=lambda speed: speed["images_per_s"])
    return TrainSpeed(
        fastest["images_per_s"],
        fastest["data_wait_share"],
        first_epoch_s,
        progress.loss_sum / (progress.update - updates),
        torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else math.nan,
    )


def check_backbone(folder: Path, device: torch.device, index: int, pixels: int) -> CheckResult:
    """Measure speed, memory and FLOP/s of one backbone; utilisation is relative to a matrix product."""
    trainer = create_check_trainer(folder, recipe_for(device, index, pixels))
    flops, matmul_rate = flops_per_image(trainer), matmul_flops_per_second(trainer)
    trained = measure_training(trainer)
    flops_per_second = trained.images_per_s * flops
    figures = asdict(trained) | {
        "tflop_per_s": flops_per_second / 1e12,
        "matmul_tflop_per_s": matmul_rate / 1e12,
        "utilisation": flops_per_second / matmul_rate,
    }
    return CheckResult(figures, "" if math.isfinite(trained.loss) else "the loss is not finite")


def check_precision(folder: Path, device: torch.device) -> CheckResult:
    """Compare bf16 with float32: speed and memory; the loss must agree."""
    kinds = ("float32", "bf16")
    return _compare(
        {
            kind: measure_training(create_check_trainer(folder / kind, recipe_for(device, precision=kind)))
            for kind in kinds
        }
    )


def check_channels_last(folder: Path, device: torch.device) -> CheckResult:
    """Compare channels_last, which all models use, with contiguous weights."""
    contiguous = create_check_trainer(folder / "contiguous", recipe_for(device))
    contiguous.model.to(memory_format=torch.contiguous_format)
    results = {"contiguous": measure_training(contiguous)}
    results["channels_last"] = measure_training(
        create_check_trainer(folder / "channels_last", recipe_for(device))
    )
    return _compare(results)


def check_compile(folder: Path, device: torch.device) -> CheckResult:
    """Compare torch.compile with eager mode. The first epoch includes the compilation."""
    results = {"eager": measure_training(create_check_trainer(folder / "eager", recipe_for(device)))}
    trainer = create_check_trainer(folder / "compiled", recipe_for(device, compile=True))
    if not trainer.compiled:
        return CheckResult({}, "torch.compile does not work here")
    return _compare(results | {"compiled": measure_training(trainer)})


def _compare(results: dict[str, TrainSpeed]) -> CheckResult:
    (first, before), (second, after) = results.items()
    shown = ("images_per_s", "first_epoch_s", "peak_gb")
    figures = {f"{name} {key}": getattr(one, key) for name, one in results.items() for key in shown}
    figures["speed ratio"] = after.images_per_s / before.images_per_s
    difference = abs(after.loss - before.loss) / abs(before.loss)
    error = f"the loss of {second} differs by {difference:.1%} from that of {first}"
    return CheckResult(figures | {"loss difference": difference}, error * (not difference <= TOLERANCE))


def check_out_of_memory(folder: Path, device: torch.device) -> CheckResult:
    """Check that a batch too large for the memory is split into halves and gives the same loss."""
    whole = create_check_trainer(folder / "whole", recipe_for(device))
    rows = min(whole.micro_batch_size, whole.job.recipe.optim.batch_size)
    expected = measure_training(whole)
    halved = create_check_trainer(folder / "halved", recipe_for(device))
    del whole
    with limit_memory(halved, expected.peak_gb, rows):
        trained = measure_training(halved)
    difference = abs(trained.loss - expected.loss) / abs(expected.loss)
    figures = {"rows": rows, "rows after": halved.micro_batch_size, "loss difference": difference}
    if halved.micro_batch_size >= rows:
        return CheckResult(figures, "the whole batch fitted into the limited memory, so nothing was checked")
    return CheckResult(figures, f"the loss differs by {difference:.1%}" * (not difference <= TOLERANCE))


@contextmanager
def limit_memory(trainer: Trainer, peak_gb: float, rows: int) -> Iterator[None]:
    """Limit the GPU memory to less than a whole batch needs.

    On a CPU, raise OutOfMemoryError for more than half of the rows.
    """
    device = trainer.accelerator.device
    if device.type == "cuda":
        gc.collect()  # frees the trainer of the whole batch
        torch.cuda.empty_cache()
        fixed = torch.cuda.memory_allocated(device) / 1e9 * 3  # weights and two Adam moments
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


def check_resume(folder: Path, device: torch.device) -> CheckResult:
    """Compare a training that was stopped by SIGTERM and resumed with two uninterrupted ones.

    CUDA sums in no fixed order, so two uninterrupted trainings can differ too. Their difference is the scale
    for the allowed difference of the resumed one.
    """
    recipe, flags = folder / "recipe.yaml", ["--root", str(folder)]
    overrides = {"schedule": {"epochs": 4}, "checkpoint_minutes": 1e-6}
    save_recipe(recipe_for(device, **overrides) if device.type == "cpu" else _demo_recipe(overrides), recipe)
    _cxrlt("demo", "--patients", str(SIZES[device.type].n_patients), *flags)
    _cxrlt("folds", "demo", "--n-folds", "2", *flags)
    weights = {}
    for name in ("first", "second", "resumed"):
        arguments = ["train", str(recipe), "--name", name, "--challenge", "demo", "--fold", "0", *flags]
        run_dir = folder / "folds" / "demo" / name / "fold0"
        if name == "resumed":
            _stop_at_first_checkpoint(run_dir, *arguments)
        printed = _cxrlt(*arguments)
        weights[name] = load_file(run_dir / "weights.safetensors")
    noise, difference = (_max_difference(weights["first"], weights[name]) for name in ("second", "resumed"))
    figures = {"difference of uninterrupted runs": noise, "difference of resumed run": difference}
    if "continuing from update" not in printed:
        return CheckResult(figures, "the stopped training did not resume from its checkpoint")
    return CheckResult(
        figures, f"the weights differ by {difference:.3g}" * (difference > MAX_NOISE_RATIO * noise)
    )


def _demo_recipe(overrides: dict[str, object]) -> Recipe:
    return override_recipe(bench_recipe("demo_resnet"), overrides)


def _cxrlt(*arguments: str) -> str:
    """Run a command and return its output. Raises UserError with the end of the output if it fails."""
    command = [sys.executable, "-m", "cxrlt", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"cxrlt {' '.join(arguments)} exited with code {done.returncode}: "
            f"{done.stdout[-MAX_REASON_LENGTH:]}"
        )
    return done.stdout


def _stop_at_first_checkpoint(run_dir: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "cxrlt", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not any(run_dir.glob("checkpoint-*")):
            time.sleep(0.01)
        child.terminate()


def _max_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].numel())


def run_cuda_tests(folder: Path, device: torch.device) -> CheckResult:
    """Run the test files that mention CUDA. On a GPU machine their trainings use the GPU."""
    if find_spec("pytest") is None:
        return CheckResult({}, "pytest is not installed: bash run.sh test installs it")
    files = sorted(path for one in CUDA_TESTS for path in (PROJECT / "tests" / one).rglob("test_*.py"))
    files = [path for path in files if "cuda" in path.read_text(encoding="utf-8")]
    wanted = ["-m", "not full"] if device.type == "cuda" else ["-k", "needs_a_gpu_and_there_is_none"]
    arguments = ["-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}", *wanted, *map(str, files)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    last = done.stdout.strip().splitlines()[-1:] or ["no output"]
    figures = {"files": len(files), "result": last[0]}
    none_selected = 5
    passed = done.returncode == 0 or (device.type == "cpu" and done.returncode == none_selected)
    return CheckResult(figures, "" if passed else f"pytest exited with code {done.returncode}: {last[0]}")


def checks_for(device: torch.device) -> dict[str, Check]:
    """Return the checks by name, in order. On a GPU the time limits add up to 13 minutes."""
    sizes = SIZES[device.type]

    def measured(index: int, pixels: int) -> Callable[[Path, torch.device], CheckResult]:
        return lambda folder, device: check_backbone(folder, device, index, pixels)

    backbones = {
        f"{recipe_for(device, index).model.backbone.split('.')[0]} {pixels} px": Check(
            measured(index, pixels), 50
        )
        for index in range(len(sizes.recipes))
        for pixels in sizes.pixels
    }
    return {
        "tests": Check(run_cuda_tests, 120),
        **backbones,
        "bf16": Check(check_precision, 60),
        "channels_last": Check(check_channels_last, 50),
        "compile": Check(check_compile, 150),
        "out of memory": Check(check_out_of_memory, 40),
        "resume": Check(check_resume, 150),
    }


def check_gpu(folder: Path, json_path: Path | None, device: torch.device) -> bool:
    """Run all checks, print a line for each, and write the results to `json_path`.

    Returns whether all passed. Raises UserError if there is no GPU.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--gpu needs a GPU, and torch finds none.")
    machine, outcomes = describe_machine(), []
    print(format_machine(machine))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, part in checks_for(device).items():
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="cxrlt-gpu-", dir=folder) as temporary:
                outcomes.append(run_check(name, part.limit_s, Path(temporary), device))
            print(format_outcome(outcomes[-1]), flush=True)
    finally:
        if json_path is not None:
            write_json(json_path, {"machine": machine, "parts": [_to_json(one) for one in outcomes]})
    return all(outcome.passed for outcome in outcomes)


def run_check(name: str, limit_s: float, folder: Path, device: torch.device) -> CheckOutcome:
    """Run one check in a new process group, and kill the group at the time limit."""
    command = [sys.executable, "-m", "benchmarks.gpu", name, str(folder), device.type]
    started = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            printed, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _kill_process_group(child)
            return CheckOutcome(name, False, limit_s, {}, f"stopped at its time limit of {limit_s:g} s")
        except BaseException:
            _kill_process_group(child)
            raise
    seconds = time.monotonic() - started
    if child.returncode:
        last = (errors.strip() or printed.strip() or "no output").splitlines()[-1]
        return CheckOutcome(
            name, False, seconds, {}, f"{last[-MAX_REASON_LENGTH:]} (exit code {child.returncode})"
        )
    results = CheckResult(**json.loads(printed.splitlines()[-1]))
    return CheckOutcome(name, not results.error, seconds, results.figures, results.error)


def format_outcome(outcome: CheckOutcome) -> str:
    """Return the line of one check, as in `bf16  ok  12 s  images_per_s 410, …`."""
    known = {key: value for key, value in outcome.figures.items() if value == value}  # not NaN
    figures = ", ".join(f"{key} {_short(value)}" for key, value in known.items())
    arguments = "; ".join(filter(None, (outcome.reason, figures)))
    result = "ok" if outcome.passed else "FAILED"
    return f"{outcome.part:<28} {result:<6} {outcome.seconds:>5.0f} s  {arguments}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _to_json(outcome: CheckOutcome) -> dict[str, object]:
    """Return the outcome for JSON, with None instead of NaN."""
    figures = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in outcome.figures.items()
    }
    return asdict(outcome) | {"figures": figures}


def _kill_process_group(child: subprocess.Popen) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def main(arguments: list[str]) -> None:
    """Run one check and print its result as the last line, as JSON."""
    name, folder, device_type = arguments
    device = torch.device(device_type)
    try:
        results = checks_for(device)[name].measure(Path(folder), device)
    except UserError as error:
        sys.exit(re.sub(r"\s+", " ", str(error)))
    print(json.dumps(asdict(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
