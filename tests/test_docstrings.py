"""Docstrings state what ruff cannot check: shapes of arrays, errors, and where a number is from."""

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "cxrlt"
FILES = sorted(PACKAGE.rglob("*.py"))
ARRAYS = re.compile(r"\b(ndarray|Tensor|DataFrame|Series)\b")
SHAPE = re.compile(
    r"\(n\w*,|\(c,|\([A-Za-z_0-9]+(, ?[A-Za-z_0-9.* +]+)+,?\)"
    r"|\b(scalar|shape|index|columns?|rows?|per class|per image)\b"
)
RAISES = re.compile(r"\braises?\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """(qualified name, function, docstring of its class) of every public function and method."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node, ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member, ast.get_docstring(node) or ""


def signature(function: Function) -> str:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [argument.annotation for argument in arguments] + [function.returns]
    return " ".join(ast.unparse(each) for each in annotations if each is not None)


def raises(function: Function) -> bool:
    """Whether its own body, without the functions defined in it, raises an error by name."""
    pending: list[ast.AST] = [*function.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return "NotImplementedError" not in ast.unparse(node.exc)
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))
    return False


def without_shapes(tree: ast.Module) -> list[str]:
    return [
        name
        for name, function, class_docstring in public_functions(tree)
        if ARRAYS.search(signature(function))
        and not SHAPE.search((ast.get_docstring(function) or "") + class_docstring)
    ]


def without_errors(tree: ast.Module) -> list[str]:
    return [
        name
        for name, function, class_docstring in public_functions(tree)
        if raises(function) and not RAISES.search((ast.get_docstring(function) or "") + class_docstring)
    ]


def without_source(tree: ast.Module, lines: list[str]) -> list[str]:
    """Numeric constants of a module that neither a docstring nor a comment explains."""
    missing = []
    for node, following in zip_longest(tree.body, tree.body[1:]):
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if not names or not re.fullmatch(r"[A-Z][A-Z0-9_]*", names[0]) or not is_number(node.value):
            continue
        documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        commented = "#" in lines[node.lineno - 1] or lines[node.lineno - 2].lstrip().startswith("#")
        if not (documented or commented):
            missing.append(names[0])
    return missing


def is_number(value: ast.AST) -> bool:
    """A number, an expression or a tuple of numbers; not 0 or 1."""
    numbers = [each.value for each in ast.walk(value) if isinstance(each, ast.Constant)]
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.operator, ast.unaryop, ast.Load)
    plain = all(isinstance(each, allowed) for each in ast.walk(value))
    numeric = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    return plain and numeric and bool(numbers)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_states_shapes_errors_and_sources(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert without_shapes(tree) == [], "public functions with arrays whose docstring states no shape"
    assert without_errors(tree) == [], "public functions that raise and do not say so"
    assert without_source(tree, text.split("\n")) == [], "constants whose source is not stated"


EXAMPLE = '''
LIMIT = 5
FACTOR = 0.5  # Smith et al., Eq. 3
RATE = 0.1
"""Measured on 100 images."""

def shapeless(x: np.ndarray) -> None:
    """Do something."""

def shaped(x: np.ndarray) -> None:
    """Do something with (n_rows, n_classes) logits."""

def silent(path):
    """Read a file."""
    raise UserError("no")

def spoken(path):
    """Read a file. Raises UserError if it is missing."""
    raise UserError("no")

def passes_on(path):
    """Define a function that raises."""
    def inner():
        raise ValueError
'''


def test_the_check_finds_what_is_missing():
    tree = ast.parse(EXAMPLE)
    assert without_shapes(tree) == ["shapeless"]
    assert without_errors(tree) == ["silent"]
    assert without_source(tree, EXAMPLE.split("\n")) == ["LIMIT"]
