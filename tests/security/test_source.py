"""No line of the package executes data, uses a shell, or connects to a network."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cxrlt

PACKAGE = Path(cxrlt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
NETWORK = {
    "socket",
    "ssl",
    "http",
    "ftplib",
    "smtplib",
    "requests",
    "httpx",
    "aiohttp",
    "urllib3",
    "websockets",
}
NETWORK |= {"huggingface_hub", "boto3", "paramiko", "wandb", "mlflow", "xmlrpc", "telnetlib"}
ALLOWED_IMPORTS = {"models/hub.py": {"huggingface_hub"}}
"""The only module that connects to a network, for `model.pretrained: hf-hub:...`."""
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"}
CALLS |= {
    "joblib.load",
    "joblib.dump",
    "np.loads",
    "pd.read_pickle",
    "torch.hub.load",
    "shutil.unpack_archive",
}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pd.eval", "pd.read_hdf"}
METHODS = {"to_pickle", "extractall", "load_state_dict_from_url", "urlopen", "urlretrieve"}
WEIGHT_LOADERS = {"torch.load", "load_state_dict"}


def find_violations(source: str, allowed: set[str] = frozenset()) -> list[str]:
    """Return the forbidden calls and imports in the source, with line numbers; `allowed` may be imported."""
    return [
        f"line {node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(ast.parse(source))
        if _is_violation(node, allowed)
    ]


def _is_violation(node: ast.AST, allowed: set[str]) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        forbidden = (PICKLES | NETWORK) - allowed
        return any(name.split(".")[0] in forbidden or name == "urllib.request" for name in _modules(node))
    return isinstance(node, ast.Call) and _is_unsafe(node)


def _modules(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_unsafe(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    # nn.Module.load_state_dict takes tensors, but timm's function of this name reads a file
    reads_weights = name in WEIGHT_LOADERS
    return (
        name in CALLS
        or name.rpartition(".")[2] in METHODS
        or keywords.get("shell", "False") != "False"
        or keywords.get("allow_pickle", "False") != "False"
        or (reads_weights and keywords.get("weights_only") != "True")
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_does_nothing_unsafe(module: Path):
    allowed = ALLOWED_IMPORTS.get(module.relative_to(PACKAGE).as_posix(), set())
    assert find_violations(module.read_text(encoding="utf-8"), allowed) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import socket as s",
        "from urllib import request",
        "import urllib.request",
        "import requests.sessions",
        "eval(text)",
        "exec(text)",
        "os.system('ls')",
        "tempfile.mktemp()",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load_state_dict(path)",
        "subprocess.run(words, shell=True)",
        "joblib.load(path)",
        "frame.to_pickle(path)",
        "archive.extractall(folder)",
    ],
)
def test_an_unsafe_line_is_found(line: str):
    assert find_violations(f"x = 1\n{line}\n")[0].startswith("line 2: ")


@pytest.mark.parametrize(
    "line",
    [
        "yaml.safe_load(text)",
        "np.load(path)",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "model.load_state_dict(tensors)",
        "subprocess.run(['git'])",
        "torch.compile(model)",
        "re.compile(text)",
        "model.eval()",
        "from urllib.parse import quote",
    ],
)
def test_a_safe_line_is_left_alone(line: str):
    assert find_violations(line) == []


def test_every_nosec_comment_has_a_code_and_a_reason():
    for path in MODULES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "nosec" in line:
                assert re.search(r"# nosec B\d{3}(, B\d{3})*  # \w+", line), f"{path}: {line}"
