#!/usr/bin/env bash
# Set up a virtual environment and run the pipeline in it. See: bash run.sh --help
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"
python=""
# The names that the package registers, read from its source: a misspelt name fails before the installation.
challenges="$(sed -n 's/^@challenge("\([^"]*\)".*/\1/p' "$root"/src/cxrlt/challenges/*.py | LC_ALL=C sort)"
challenges="${challenges//$'\n'/ }"
locks=(requirements.txt tests/requirements.txt tests/audit-requirements.txt)
known_vulnerability="pyyaml==5.3"

usage() {
    cat <<END
Usage: bash run.sh                        set up, then run the whole pipeline on generated radiographs (demo)
       bash run.sh CHALLENGE [OPTIONS]    set up, then: cxrlt run CHALLENGE [OPTIONS]
       bash run.sh CHALLENGE --help       the options of cxrlt run
       bash run.sh test [OPTIONS]         set up with the test tools, then ruff, mypy, bandit and pytest [OPTIONS];
                                          first option: --quick skips the slow tests, --full adds the tests that
                                          take minutes or install packages
       bash run.sh bench [STAGES] [OPTIONS]
                                          set up, then measure every stage against the usual alternative
                                          (bash run.sh bench --help)
       bash run.sh audit [OPTIONS]        set up only the audit tools, then bandit over the code and
                                          pip-audit [OPTIONS] over every locked package
       bash run.sh --help                 print this text

CHALLENGE is one of: $challenges.
audit gets the advisories from pypi.org, or from osv.dev with -s osv. A package without an answer is a failure.
The set-up makes .venv beside run.sh and installs requirements.txt into it, again only when that file has changed.

Environment variables:
  CXRLT_PYTHON=/path/to/python   use this Python and its packages; install nothing
  CXRLT_ROOT=/path/to/folder     the folder of inputs/, folds/ and submissions/ (default: the folder of run.sh)
  PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels
                                 install from a folder of wheels, without a network; make the folder with
                                 python3 -m pip download --require-hashes -r requirements.txt -d /path/to/wheels
END
}

die() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 2
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

system_python() {
    local candidate without_venv=""
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        is_recent "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
        without_venv="${without_venv:-$candidate}"
    done
    if [ -n "$without_venv" ]; then
        die "$without_venv cannot create virtual environments. Install its venv package (Debian, Ubuntu: sudo apt install" \
            "python3-venv), or set CXRLT_PYTHON to a Python with the packages of requirements.txt."
    fi
    die "Python 3.11 or newer is required, but $(python3 --version 2>/dev/null || echo 'no python3') was found. Install it" \
        "(https://www.python.org/downloads), or set CXRLT_PYTHON to one with the packages of requirements.txt."
}

venv_python() {
    if [ -e "$venv/Scripts/python.exe" ]; then
        printf '%s' "$venv/Scripts/python.exe"
    else
        printf '%s' "$venv/bin/python"
    fi
}

make_venv() {
    python="$(venv_python)"
    if is_recent "$python" && "$python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    local base
    base="$(system_python)"
    echo "run.sh: creating $venv with $base"
    "$base" -m venv --clear "$venv" || die "$base could not create $venv (see its message above)."
    python="$(venv_python)"
}

pip_install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@" ||
        die "pip could not install the packages (its message is above). Without a network: on a machine of the same" \
            "kind that has one, run python3 -m pip download --require-hashes -r requirements.txt -d wheels (for" \
            "bash run.sh test also with -r tests/requirements.txt), copy the folder here and run:" \
            "PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels bash run.sh"
}

install() {
    local lock="$root/$1" installed="$venv/installed/$1"
    shift
    # The copy is made last: after an interrupted installation it is missing or old, and the next call repeats it.
    if [ -f "$installed" ] && [ "$(<"$installed")" = "$(<"$lock")" ]; then
        return
    fi
    echo "run.sh: installing ${lock#"$root/"} into $venv (all packages: some minutes, 6 GB of disk)"
    pip_install --require-hashes -r "$lock"
    if [ $# -gt 0 ]; then
        pip_install "$@"
    fi
    mkdir -p "$(dirname -- "$installed")"
    cp "$lock" "$installed"
}

# Print the requirements of pyproject.toml ($2: run, test, bench or audit) that the Python $1 lacks.
missing_packages() {
    "$1" - "$root/pyproject.toml" "$2" <<'END'
import importlib.metadata, importlib.util, re, sys, tomllib

modules = {"iterative-stratification": "iterstrat", "opencv-python-headless": "cv2", "pyyaml": "yaml",
           "pillow": "PIL", "pytest-xdist": "xdist", "scikit-learn": "sklearn"}
with open(sys.argv[1], "rb") as file:
    pyproject = tomllib.load(file)
wanted = pyproject["project"]["dependencies"] if sys.argv[2] != "audit" else []
wanted += pyproject["dependency-groups"].get(sys.argv[2], [])


def is_installed(requirement):
    name, versions = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
    if name.startswith("types-") or name.endswith("-stubs"):  # Packages of type stubs have no module to import.
        if not any(importlib.metadata.distributions(name=name)):
            return False
    elif importlib.util.find_spec(modules.get(name, name.replace("-", "_"))) is None:
        return False
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        # Vendors' images have builds such as 2.11.0a0+nv: compare the release part only.
        return Version(importlib.metadata.version(name)).base_version in SpecifierSet(versions)
    except ImportError:  # No packaging, or the module belongs to a distribution with another name: not missing.
        return True


print(*(f"'{requirement}'" for requirement in wanted if not is_installed(requirement)))
END
}

use_python() {
    case "$CXRLT_PYTHON" in
    "~/"*) python="$HOME/${CXRLT_PYTHON#"~/"}" ;; # the shell does not expand a ~ in quotes
    [!/]*/*) python="$PWD/$CXRLT_PYTHON" ;;
    *) python="$CXRLT_PYTHON" ;;
    esac
    command -v "$python" >/dev/null || die "CXRLT_PYTHON=$python does not exist or is not executable."
    is_recent "$python" || die "CXRLT_PYTHON=$python is not Python 3.11 or newer."
    local missing
    missing="$(missing_packages "$python" "$1")"
    [ -z "$missing" ] || die "CXRLT_PYTHON=$python does not have all packages. Install them with: $python -m pip install $missing"
}

set_up() {
    if [ -n "${CXRLT_PYTHON:-}" ]; then
        use_python "$1"
    else
        make_venv
        case "$1" in
        audit) install tests/audit-requirements.txt ;;
        *) install requirements.txt --no-deps --no-build-isolation --editable "$root" ;;
        esac
        if [ "$1" = test ]; then
            install tests/requirements.txt
        fi
    fi
    export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
}

run_tests() {
    local tier="not full"
    case "${1-}" in
    --quick) tier="not slow and not full" ;;
    --full) tier="" ;;
    *) set -- "" "$@" ;;
    esac
    shift
    set_up test
    cd -- "$root"
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m mypy
    "$python" -m bandit --quiet --recursive --configfile pyproject.toml src
    "$python" -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder -m "$tier" "$@"
}

# Print name==version of every package in the lock $1, also of those for other systems, which pip-audit would skip.
# Of a package with several versions print only the $2th, because pip-audit accepts one version at a time.
locked_packages() {
    local line name before="" nth=0
    while read -r line; do
        case "$line" in
        [a-z0-9]*==*)
            name="${line%%==*}"
            [ "$name" = "$before" ] && nth=$((nth + 1)) || nth=1
            before="$name"
            [ "$nth" -ne "$2" ] || printf '%s\n' "${line%% *}"
            ;;
        esac
    done <"$root/$1"
}

run_audit() {
    set_up audit
    cd -- "$root"
    "$python" -m bandit --quiet --recursive --configfile pyproject.toml src
    local answer lock nth packages audit
    audit=("$python" -m pip_audit --strict --disable-pip --no-deps --progress-spinner off "$@")
    # A source without advisories would pass everything: first check that it knows an old vulnerability.
    answer="$("${audit[@]}" --format json --requirement <(echo "$known_vulnerability") 2>&1)" || true
    case "$answer" in
    *'"id"'*) ;;
    *)
        die "the advisories could not be looked up, so the locked packages were not checked:" \
            "${answer##*$'\n'}. Try again with a network, or with another source: bash run.sh audit -s osv"
        ;;
    esac
    for lock in "${locks[@]}"; do
        nth=1
        while packages="$(locked_packages "$lock" "$nth")" && [ -n "$packages" ]; do
            "${audit[@]}" --requirement <(echo "$packages") ||
                die "a package of $lock has a known vulnerability, or could not be looked up (its name is above)." \
                    "Raise its version as CONTRIBUTING.md says (Dependencies)."
            nth=$((nth + 1))
        done
    done
}

run_bench() {
    set_up bench
    export PYTHONPATH="$root:$PYTHONPATH"
    exec "$python" -m benchmarks "$@"
}

run_challenge() {
    set_up run
    export CXRLT_ROOT="${CXRLT_ROOT:-$root}"
    exec "$python" -m cxrlt run "$@"
}

command="${1-demo}"
case "$command" in
-h | --help) usage ;;
test) run_tests "${@:2}" ;;
bench) run_bench "${@:2}" ;;
audit) run_audit "${@:2}" ;;
*)
    for challenge in $challenges; do
        if [ "$command" = "$challenge" ]; then
            run_challenge "$command" "${@:2}"
        fi
    done
    die "'$command' is not a challenge. Use one of: $challenges; or test; or bench; or audit; or --help."
    ;;
esac
