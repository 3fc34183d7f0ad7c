"""Mutation testing of the packages that compute results: make one small change at a time and run their tests.

The mutants come from cosmic-ray. They are written to a copy of src/cxrlt in a temporary folder, so the
working tree never changes. A mutant is killed if a test fails or the tests take too long. A mutant that
survives is either equivalent (the same result for all inputs) or not tested.

Excluded are mutants that every test or no test kills: changes of annotations, of the bare * and / in a
signature, of * and ** for unpacking, invalid Python, and arithmetic changed to bit operations or back, which
floats reject. cosmic-ray does not change strings, so docstrings and messages stay the same.
"""

import argparse
import ast
import dataclasses
import difflib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"


@dataclass(frozen=True)
class Package:
    """Modules below src/cxrlt and the tests that must detect a change in them, the fastest first.

    The test "losses/hill" is tests/losses/test_hill.py. `slow` tests run only for the module in their name,
    and for modules without a test of their name.
    """

    modules: str
    tests: str
    slow: str = ""


PACKAGES: Mapping[str, Package] = {
    "losses": Package(
        "losses/*",
        "losses/formulas losses/references losses/precision losses/detached losses/guarantees "
        "losses/registry losses/minimiser",
    ),
    "metrics": Package("metrics/*", "metrics/classification metrics/calibration_metrics metrics/ranking"),
    "folds": Package(
        "folds/*", "folds/split folds/rows folds/balance folds/make folds/read_folds folds/extend"
    ),
    "standardising": Package(
        "predictions/standardise",
        "predictions/standardise predictions/oof predictions/probabilities",
    ),
    "ensembles": Package(
        "ensembles/* predictions/study_mean predictions/scoring",
        "ensembles/selection ensembles/stacking ensembles/context ensembles/candidates ensembles/gate "
        "predictions/study predictions/view_weights predictions/scoring",
        slow="ensembles/ensemble",
    ),
    "calibration": Package(
        "calibration/*",
        "calibration/logit_maps calibration/calibrate",
    ),
    "submissions": Package(
        "submissions/*",
        "submissions/write submissions/read submissions/validate submissions/broken_submissions "
        "submissions/record submissions/code submissions/score submissions/submit",
        slow="submissions/outdated",
    ),
}
MIN_MUTANTS = 10
"""Smallest number of mutants sampled from a package."""
MIN_TIME_LIMIT = 60.0
MAX_MEMORY_BYTES = 4 << 30
"""Memory limit for the tests of a mutant: a wrong shape must not use up the memory."""
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
NON_ARITHMETIC_PARENTS = {"parameters", "dictorsetmaker", "arglist", "argument", "trailer"}
"""Types of parso nodes in which * and ** are not operators."""

Sources = Mapping[str, str]
"""Source of every module at the start, by its path below src/cxrlt."""


@dataclass(frozen=True)
class Mutant:
    """The change of a cosmic-ray operator at its `occurrence`-th position in a module."""

    package: str
    module: str
    line: int
    operator: str
    occurrence: int


@dataclass(frozen=True)
class MutantResult:
    """`result`: "killed", "timeout" or "survived". `change`: the changed lines."""

    mutant: Mutant
    result: str
    seconds: float
    change: str


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(PACKAGES)} (default: all)")
    parser.add_argument(
        "--sample", type=int, default=200, help="number of mutants to sample from all packages"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="test only the surviving mutants in this --json file"
    )
    args = parser.parse_args(argv)
    if unknown := set(args.packages) - set(PACKAGES):
        parser.error(f"no package {', '.join(sorted(unknown))}; the packages are {', '.join(PACKAGES)}")
    return args


def main() -> None:
    """Sample, run and report mutants."""
    args = parse()
    try:
        importlib.import_module("cosmic_ray")
    except ImportError:
        sys.exit('cosmic-ray is not installed. Install it with: python -m pip install "cosmic-ray>=8.4"')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # removes the copy
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "src"
        package = copy / "cxrlt"
        shutil.copytree(ROOT / "src" / "cxrlt", package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in filter(Path.is_file, ROOT.iterdir()):  # the code in a submission includes these files
            shutil.copy(file, folder)
        sources = {
            path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(package.rglob("*.py"))
        }
        mutants_by_package = {name: list(mutants_of(name, sources)) for name in args.packages or PACKAGES}
        if args.again:
            sampled = {name: read_survivors(args.again, name) for name in mutants_by_package}
        else:
            sampled = sample_mutants(mutants_by_package, sources, args.sample, args.seed)
        preload_imports(sources)
        outcomes = []
        for outcome in run_mutants(sampled, sources, copy):
            outcomes.append(outcome)
            if args.json:
                args.json.write_text(
                    json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1)
                )
    report({name: len(mutants) for name, mutants in mutants_by_package.items()}, outcomes)


def mutants_of(package: str, sources: Sources) -> Iterator[Mutant]:
    """Yield all mutants of a package, in the order of its modules."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    operators = {name: get_operator(name) for name in sorted(operator_names())}
    plain = {name: operator() for name, operator in operators.items() if not operator.arguments()}
    patterns = [f"{name}.py" for name in PACKAGES[package].modules.split()]
    for module in [name for name in sources if any(fnmatch(name, pattern) for pattern in patterns)]:
        annotations = list(annotation_spans(sources[module]))
        nodes = list(ast_nodes(get_ast(sources[module])))
        for name, operator in plain.items():
            places = [(node, start) for node in nodes for start, _ in operator.mutation_positions(node)]
            for occurrence, (node, start) in enumerate(places):
                if _is_useful(name, node) and not any(a <= start < b for a, b in annotations):
                    yield Mutant(package, module, start[0], name.removeprefix("core/"), occurrence)


def _is_useful(operator: str, node: object) -> bool:
    if "ReplaceBinaryOperator" not in operator:
        return True
    _, before, after = operator.rsplit("_", 2)
    return (before in ARITHMETIC) == (after in ARITHMETIC) and node.parent.type not in NON_ARITHMETIC_PARENTS


def annotation_spans(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield start and end (line, column) of every annotation."""
    lines = source.encode().splitlines()
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                yield (
                    (part.lineno, len(lines[part.lineno - 1][: part.col_offset].decode())),
                    (part.end_lineno, len(lines[part.end_lineno - 1][: part.end_col_offset].decode())),
                )


def sample_mutants(
    mutants_by_package: Mapping[str, Sequence[Mutant]], sources: Sources, sample: int, seed: int
) -> dict[str, list[Mutant]]:
    """Sample from every package in proportion to its mutants, at least MIN_MUTANTS, sorted by module."""
    total = sum(map(len, mutants_by_package.values()))
    sampled = {}
    for name, mutants in mutants_by_package.items():
        order = random.Random(f"{seed} {name}").sample(mutants, len(mutants))
        wanted = max(round(sample * len(mutants) / total), min(MIN_MUTANTS, sample))
        chosen = islice((mutant for mutant in order if _changes_syntax_tree(mutant, sources)), wanted)
        sampled[name] = sorted(chosen, key=lambda mutant: (mutant.module, mutant.line, mutant.operator))
    return sampled


def read_survivors(path: Path, package: str) -> list[Mutant]:
    """Return the surviving mutants of a package in a --json file."""
    outcomes = json.loads(path.read_text(encoding="utf-8"))
    alive = [Mutant(**outcome["mutant"]) for outcome in outcomes if outcome["result"] == "survived"]
    return [mutant for mutant in alive if mutant.package == package]


def mutate_source(mutant: Mutant, sources: Sources) -> str:
    """Return the source of the module with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    before = sources[mutant.module]
    return mutate_code(before, get_operator(f"core/{mutant.operator}")(), mutant.occurrence) or before


def _changes_syntax_tree(mutant: Mutant, sources: Sources) -> bool:
    try:
        after = ast.parse(mutate_source(mutant, sources))
    except (SyntaxError, AttributeError):  # cosmic-ray fails on exception names with a dot
        return False
    return ast.dump(after) != ast.dump(ast.parse(sources[mutant.module]))


def preload_imports(sources: Sources) -> None:
    """Import all third-party packages once; the tests of every mutant run in forked child processes.

    Computes nothing, because forked children of a process with threads can hang.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    nodes = [node for source in sources.values() for node in ast.parse(source).body]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for name in sorted({"hypothesis", "mpmath", "pytest", *names}):
        if not name.startswith("cxrlt"):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def run_mutants(
    sampled: Mapping[str, Sequence[Mutant]], sources: Sources, copy: Path
) -> Iterator[MutantResult]:
    """Run, print and yield all mutants. Exits if the tests of a package fail without a mutant."""
    limits = {name: time_limit(name, mutants, copy) for name, mutants in sampled.items() if mutants}
    for mutant in [mutant for mutants in sampled.values() for mutant in mutants]:
        outcome = run_mutant(mutant, sources, copy, limits[mutant.package])
        where = f"{mutant.module}:{mutant.line}"
        print(f"{mutant.package:14}{where:36}{mutant.operator:40}{outcome.result:9}{outcome.seconds:6.1f} s")
        print(outcome.change if outcome.result == "survived" else "", end="", flush=True)
        yield outcome


def time_limit(package: str, mutants: Sequence[Mutant], copy: Path) -> float:
    """Return the time limit in seconds for the tests of a mutant. Exits if they fail without a mutant."""
    modules = sorted({mutant.module for mutant in mutants})
    files = list(dict.fromkeys(file for module in modules for file in test_files_for(package, module)))
    passed, seconds, output = run_tests(files, copy, limit=3600)
    if not passed:
        sys.exit(f"The tests of {package} fail without a mutant:\n{output}")
    print(f"{package}: {seconds:.0f} s without a mutant", flush=True)
    return max(MIN_TIME_LIMIT, 10 * seconds)


def test_files_for(package: str, module: str) -> list[Path]:
    """Return the test files, first those named after the module, which kill most mutants."""

    def is_of_module(test: str) -> bool:
        return Path(module).stem in test

    tests, slow = PACKAGES[package].tests.split(), PACKAGES[package].slow.split()
    needed = [test for test in slow if is_of_module(test)]
    if not any(map(is_of_module, [*tests, *slow])):
        needed = slow
    names = sorted(tests, key=is_of_module, reverse=True) + needed
    return [TESTS / f"{Path(name).parent}/test_{Path(name).name}.py" for name in names]


def run_mutant(mutant: Mutant, sources: Sources, copy: Path, limit: float) -> MutantResult:
    """Write the mutant into the copy, run its tests and restore the module."""
    path = copy / "cxrlt" / mutant.module
    before, after = sources[mutant.module], mutate_source(mutant, sources)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()  # Python may not notice the change, as time and size can be equal
    path.write_text(after, encoding="utf-8")
    try:
        passed, seconds, _ = run_tests(
            test_files_for(mutant.package, mutant.module), copy, limit, compiles=False
        )
    finally:
        path.write_text(before, encoding="utf-8")
    result = "survived" if passed else "timeout" if seconds >= limit else "killed"
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    change = "".join(f"    {line}\n" for line in lines if not line.startswith(("---", "+++", "@@")))
    return MutantResult(mutant, result, round(seconds, 1), change)


def run_tests(
    files: Sequence[Path], copy: Path, limit: float, *, compiles: bool = True
) -> tuple[bool, float, str]:
    """Return whether all tests pass on the copy, the seconds, and pytest's output.

    `compiles`: whether to write bytecode.
    """
    log, scratch = copy.parent / "output.txt", copy.parent / "scratch"
    scratch.mkdir()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _child(files, copy, scratch, log, compiles)
        finally:
            sys.stdout.flush()
            os._exit(code)
    try:
        code = _wait(pid, started + limit)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # child processes of the tests
        shutil.rmtree(scratch, ignore_errors=True)
    return code == 0, time.monotonic() - started, log.read_text(errors="replace")


def _wait(pid: int, deadline: float) -> int:
    """Return the exit code. Kills the child's process group at the deadline."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)


def _child(files: Sequence[Path], copy: Path, scratch: Path, log: Path, compiles: bool) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    os.chdir(ROOT)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = not compiles
    os.environ |= {
        "PYTHONPATH": str(copy),
        "TMPDIR": str(scratch),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),  # no examples of other mutants
    }
    tempfile.tempdir = None
    pytest = sys.modules["pytest"]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=short", *map(str, files)])
    package_file = sys.modules["cxrlt"].__file__
    if not package_file.startswith(str(copy)):
        print(f"The tests were run on {package_file}")
        return 1
    return int(code)


def report(n_mutants: Mapping[str, int], outcomes: Sequence[MutantResult]) -> None:
    """Print the number of killed and surviving mutants per package."""
    columns = ("mutants", "sampled", "killed", "timeout", "survived", "killed %")
    print(f"\n{'package':16}", *(f"{column:>9}" for column in columns))
    for name, total in [*n_mutants.items(), ("all", sum(n_mutants.values()))]:
        results = [outcome.result for outcome in outcomes if name in (outcome.mutant.package, "all")]
        if not results:
            continue
        killed, late, alive = (results.count(result) for result in ("killed", "timeout", "survived"))
        share = 100 * (killed + late) / len(results)
        print(f"{name:16}", *(f"{n:9}" for n in (total, len(results), killed, late, alive)), f"{share:9.1f}")


if __name__ == "__main__":
    main()
