"""Break the packages that compute the figures, one small change at a time, and see whether their tests fail.

The changes ("mutants") are those of cosmic-ray. They are made in a copy of src/cxrlt in a temporary folder,
so the working tree stays as it is whenever this program is stopped. A mutant is killed if a test fails or the
tests take too long. A survivor is either equivalent (no input tells the two apart) or not tested.

Left out, because any test kills them or none can: changes of annotations, of the bare * and / of a signature,
and of * and ** that unpack; what is no Python any more; arithmetic turned into bit operations or the other
way round, which floats refuse. cosmic-ray changes no text, so no docstring and no words of a message.
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
    """Modules below src/cxrlt, and the tests that must notice a change in them, the quickest first.

    The test "losses/hill" is tests/losses/test_hill.py. `slow` ones are run only for the module that they are
    named after, and for modules that none is named after.
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
        slow="submissions/dependents",
    ),
}
LEAST = 10
"""Mutants drawn of the smallest package."""
SHORTEST_LIMIT = 60.0
MEMORY = 4 << 30
"""Bytes that the tests of a mutant may take: a wrong shape must not fill the machine."""
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
NOT_BINARY = {"parameters", "dictorsetmaker", "arglist", "argument", "trailer"}
"""Where parso has a * or ** that joins nothing."""

Sources = Mapping[str, str]
"""The modules of src/cxrlt by their path below it, as they were when the program started."""


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th place in a module where an operator of cosmic-ray has something to change."""

    package: str
    module: str
    line: int
    operator: str
    occurrence: int


@dataclass(frozen=True)
class Outcome:
    """`result` is "killed", "timeout" or "survived"; `change` has the lines that differ."""

    mutant: Mutant
    result: str
    seconds: float
    change: str


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(PACKAGES)} (default: all)")
    parser.add_argument("--sample", type=int, default=200, help="mutants to draw from all packages together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the outcomes in this file")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only the survivors in this --json file")
    options = parser.parse_args(words)
    if unknown := set(options.packages) - set(PACKAGES):
        parser.error(f"no package {', '.join(sorted(unknown))}; there are {', '.join(PACKAGES)}")
    return options


def main() -> None:
    options = parse()
    try:
        importlib.import_module("cosmic_ray")
    except ImportError:
        sys.exit('cosmic-ray is not installed. Install it with: python -m pip install "cosmic-ray>=8.4"')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the copy is removed
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "src"
        package = copy / "cxrlt"
        shutil.copytree(ROOT / "src" / "cxrlt", package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in filter(Path.is_file, ROOT.iterdir()):  # a submission's code has those beside src, too
            shutil.copy(file, folder)
        sources = {
            path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(package.rglob("*.py"))
        }
        found = {name: list(mutants_of(name, sources)) for name in options.packages or PACKAGES}
        if options.again:
            drawn = {name: survivors(options.again, name) for name in found}
        else:
            drawn = draw(found, sources, options.sample, options.seed)
        preload(sources)
        outcomes = []
        for outcome in try_all(drawn, sources, copy):
            outcomes.append(outcome)
            if options.json:
                options.json.write_text(json.dumps([dataclasses.asdict(each) for each in outcomes], indent=1))
    report({name: len(mutants) for name, mutants in found.items()}, outcomes)


def mutants_of(package: str, sources: Sources) -> Iterator[Mutant]:
    """All mutants of a package, in the order of its modules."""
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
                if _worth_trying(name, node) and not any(a <= start < b for a, b in annotations):
                    yield Mutant(package, module, start[0], name.removeprefix("core/"), occurrence)


def _worth_trying(operator: str, node: object) -> bool:
    if "ReplaceBinaryOperator" not in operator:
        return True
    _, before, after = operator.rsplit("_", 2)
    return (before in ARITHMETIC) == (after in ARITHMETIC) and node.parent.type not in NOT_BINARY


def annotation_spans(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last place (line, character) of every annotation."""
    lines = source.encode().splitlines()
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                yield (
                    (part.lineno, len(lines[part.lineno - 1][: part.col_offset].decode())),
                    (part.end_lineno, len(lines[part.end_lineno - 1][: part.end_col_offset].decode())),
                )


def draw(
    found: Mapping[str, Sequence[Mutant]], sources: Sources, sample: int, seed: int
) -> dict[str, list[Mutant]]:
    """Of every package its share of the sample, at least `LEAST`, in the order of the modules."""
    total = sum(map(len, found.values()))
    drawn = {}
    for name, mutants in found.items():
        order = random.Random(f"{seed} {name}").sample(mutants, len(mutants))
        wanted = max(round(sample * len(mutants) / total), min(LEAST, sample))
        chosen = islice((mutant for mutant in order if _is_other_python(mutant, sources)), wanted)
        drawn[name] = sorted(chosen, key=lambda mutant: (mutant.module, mutant.line, mutant.operator))
    return drawn


def survivors(path: Path, package: str) -> list[Mutant]:
    """Those of a package in a --json file."""
    outcomes = json.loads(path.read_text(encoding="utf-8"))
    alive = [Mutant(**outcome["mutant"]) for outcome in outcomes if outcome["result"] == "survived"]
    return [mutant for mutant in alive if mutant.package == package]


def mutated(mutant: Mutant, sources: Sources) -> str:
    """The text of the module with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    before = sources[mutant.module]
    return mutate_code(before, get_operator(f"core/{mutant.operator}")(), mutant.occurrence) or before


def _is_other_python(mutant: Mutant, sources: Sources) -> bool:
    try:
        after = ast.parse(mutated(mutant, sources))
    except (SyntaxError, AttributeError):  # cosmic-ray cannot replace the name of an exception with a dot
        return False
    return ast.dump(after) != ast.dump(ast.parse(sources[mutant.module]))


def preload(sources: Sources) -> None:
    """Import what the package imports of others once for all mutants, whose tests run in forked children.

    Nothing is computed here: the children of a process with threads may hang.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    nodes = [node for source in sources.values() for node in ast.parse(source).body]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for name in sorted({"hypothesis", "mpmath", "pytest", *names}):
        if not name.startswith("cxrlt"):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def try_all(drawn: Mapping[str, Sequence[Mutant]], sources: Sources, copy: Path) -> Iterator[Outcome]:
    """Outcomes of all mutants, printed as they come. Exits if the tests of a package fail without any."""
    limits = {name: limit_of(name, mutants, copy) for name, mutants in drawn.items() if mutants}
    for mutant in [mutant for mutants in drawn.values() for mutant in mutants]:
        outcome = try_one(mutant, sources, copy, limits[mutant.package])
        where = f"{mutant.module}:{mutant.line}"
        print(f"{mutant.package:14}{where:36}{mutant.operator:40}{outcome.result:9}{outcome.seconds:6.1f} s")
        print(outcome.change if outcome.result == "survived" else "", end="", flush=True)
        yield outcome


def limit_of(package: str, mutants: Sequence[Mutant], copy: Path) -> float:
    """Seconds that the tests of a mutant may take. Exits if they fail without one."""
    modules = sorted({mutant.module for mutant in mutants})
    files = list(dict.fromkeys(file for module in modules for file in test_files(package, module)))
    passed, seconds, output = run_tests(files, copy, limit=3600)
    if not passed:
        sys.exit(f"The tests of {package} fail without a mutant:\n{output}")
    print(f"{package}: {seconds:.0f} s without a mutant", flush=True)
    return max(SHORTEST_LIMIT, 10 * seconds)


def test_files(package: str, module: str) -> list[Path]:
    """Those named after the module first: most mutants are killed there."""

    def is_of_module(test: str) -> bool:
        return Path(module).stem in test

    tests, slow = PACKAGES[package].tests.split(), PACKAGES[package].slow.split()
    needed = [test for test in slow if is_of_module(test)]
    if not any(map(is_of_module, [*tests, *slow])):
        needed = slow
    names = sorted(tests, key=is_of_module, reverse=True) + needed
    return [TESTS / f"{Path(name).parent}/test_{Path(name).name}.py" for name in names]


def try_one(mutant: Mutant, sources: Sources, copy: Path, limit: float) -> Outcome:
    path = copy / "cxrlt" / mutant.module
    before, after = sources[mutant.module], mutated(mutant, sources)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()  # it may be as old and as long as the mutant to the second and the byte
    path.write_text(after, encoding="utf-8")
    try:
        passed, seconds, _ = run_tests(test_files(mutant.package, mutant.module), copy, limit, compiles=False)
    finally:
        path.write_text(before, encoding="utf-8")
    result = "survived" if passed else "timeout" if seconds >= limit else "killed"
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    change = "".join(f"    {line}\n" for line in lines if not line.startswith(("---", "+++", "@@")))
    return Outcome(mutant, result, round(seconds, 1), change)


def run_tests(
    files: Sequence[Path], copy: Path, limit: float, *, compiles: bool = True
) -> tuple[bool, float, str]:
    """Whether all tests pass on the copy, seconds, and what pytest printed; `compiles`: keep the bytecode."""
    log, scratch = copy.parent / "output.txt", copy.parent / "scratch"
    scratch.mkdir()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _child(files, copy, scratch, log, compiles)
        finally:
            sys.stdout.flush()
            os._exit(code)
    try:
        code = _wait(pid, began + limit)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the tests left running
        shutil.rmtree(scratch, ignore_errors=True)
    return code == 0, time.monotonic() - began, log.read_text(errors="replace")


def _wait(pid: int, deadline: float) -> int:
    """The exit code; past the deadline the child and what it started are killed."""
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
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    os.chdir(ROOT)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = not compiles
    os.environ |= {
        "PYTHONPATH": str(copy),
        "TMPDIR": str(scratch),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),  # no example outlives its mutant
    }
    tempfile.tempdir = None
    pytest = sys.modules["pytest"]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=short", *map(str, files)])
    found = sys.modules["cxrlt"].__file__
    if not found.startswith(str(copy)):
        print(f"The tests were run on {found}")
        return 1
    return int(code)


def report(n_mutants: Mapping[str, int], outcomes: Sequence[Outcome]) -> None:
    columns = ("mutants", "sampled", "killed", "timeout", "survived", "killed %")
    print(f"\n{'package':16}", *(f"{column:>9}" for column in columns))
    for name, total in [*n_mutants.items(), ("all", sum(n_mutants.values()))]:
        results = [each.result for each in outcomes if name in (each.mutant.package, "all")]
        if not results:
            continue
        killed, late, alive = (results.count(result) for result in ("killed", "timeout", "survived"))
        share = 100 * (killed + late) / len(results)
        print(f"{name:16}", *(f"{n:9}" for n in (total, len(results), killed, late, alive)), f"{share:9.1f}")


if __name__ == "__main__":
    main()
