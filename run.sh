#!/usr/bin/env bash
# Sets up an environment and runs the pipeline in it: bash run.sh --help
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"
python=""
# Those that the package registers, read in its source, so that a misspelt word fails before the installation.
challenges="$(sed -n 's/^@challenge("\([^"]*\)".*/\1/p' "$root"/src/cxrlt/challenges/*.py | LC_ALL=C sort)"
challenges="${challenges//$'\n'/ }"
locks=(requirements.txt tests/requirements.txt tests/audit-requirements.txt)
known_hole="pyyaml==5.3"

usage() {
    cat <<END
Usage: bash run.sh                        set up, then the whole pipeline on generated radiographs (demo)
       bash run.sh CHALLENGE [OPTIONS]    set up, then: cxrlt run CHALLENGE [OPTIONS]
       bash run.sh CHALLENGE --help       the options of cxrlt run
       bash run.sh test [OPTIONS]         set up with the test tools, then ruff, bandit and pytest [OPTIONS]; as the
                                          first option --quick leaves out what takes long, and --full adds what
                                          takes longest or installs packages
       bash run.sh bench [STAGES] [OPTIONS]
                                          set up, then measure every stage against what people use instead
                                          (bash run.sh bench --help)
       bash run.sh audit [OPTIONS]        set up the audit tools alone, then bandit over the code and
                                          pip-audit [OPTIONS] over every package that is ever installed
       bash run.sh --help                 this text

CHALLENGE is one of: $challenges.
audit asks pypi.org for advisories, with -s osv it asks osv.dev; what cannot be looked up is a failure.
Setting up makes .venv beside run.sh and installs requirements.txt into it, again only when that file changed.

Environment variables:
  CXRLT_PYTHON=/path/to/python   use this Python and the packages it has; install nothing
  CXRLT_ROOT=/path/to/folder     where inputs/, folds/ and submissions/ lie (default: beside run.sh)
  PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels
                                 install from a folder of wheels instead of the network; make the folder with
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
        die "$without_venv cannot make virtual environments. Install its venv package (Debian, Ubuntu: sudo apt install" \
            "python3-venv), or set CXRLT_PYTHON to a Python that has the packages of requirements.txt."
    fi
    die "Python 3.11 or newer is needed and $(python3 --version 2>/dev/null || echo 'no python3') was found. Install it" \
        "(https://www.python.org/downloads), or set CXRLT_PYTHON to one that has the packages of requirements.txt."
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
    echo "run.sh: making $venv with $base"
    "$base" -m venv --clear "$venv" || die "$base could not make $venv (its message is above)."
    python="$(venv_python)"
}

pip_install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@" ||
        die "pip could not install the packages (its message is above). Without a network, let a machine of the" \
            "same kind with one run: python3 -m pip download --require-hashes -r requirements.txt -d wheels (for" \
            "bash run.sh test the same with tests/requirements.txt); copy the folder here and run:" \
            "PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels bash run.sh"
}

install() {
    local lock="$root/$1" installed="$venv/installed/$1"
    shift
    # The copy is made last: an interrupted installation has none, or an old one, and is done again.
    if [ -f "$installed" ] && [ "$(<"$installed")" = "$(<"$lock")" ]; then
        return
    fi
    echo "run.sh: installing ${lock#"$root/"} into $venv (everything together takes some minutes and 6 GB of disk)"
    pip_install --require-hashes -r "$lock"
    if [ $# -gt 0 ]; then
        pip_install "$@"
    fi
    mkdir -p "$(dirname -- "$installed")"
    cp "$lock" "$installed"
}

# Prints what pyproject.toml asks for ($2: run, test, bench or audit) and the Python $1 does not have.
missing_packages() {
    "$1" - "$root/pyproject.toml" "$2" <<'END'
import importlib.metadata, importlib.util, re, sys, tomllib

modules = {"iterative-stratification": "iterstrat", "opencv-python-headless": "cv2", "pyyaml": "yaml",
           "pillow": "PIL", "pytest-xdist": "xdist", "scikit-learn": "sklearn"}
with open(sys.argv[1], "rb") as file:
    pyproject = tomllib.load(file)
wanted = pyproject["project"]["dependencies"] if sys.argv[2] != "audit" else []
wanted += pyproject["dependency-groups"].get(sys.argv[2], [])


def is_there(requirement):
    name, versions = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
    if importlib.util.find_spec(modules.get(name, name.replace("-", "_"))) is None:
        return False
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        # Vendors' images carry builds such as 2.11.0a0+nv, which are the release for our purpose.
        return Version(importlib.metadata.version(name)).base_version in SpecifierSet(versions)
    except ImportError:  # No packaging, or the module comes from a distribution of another name: it is there.
        return True


print(*(f"'{requirement}'" for requirement in wanted if not is_there(requirement)))
END
}

use_python() {
    case "$CXRLT_PYTHON" in
    "~/"*) python="$HOME/${CXRLT_PYTHON#"~/"}" ;; # in quotes, or from a file, no shell has expanded it
    [!/]*/*) python="$PWD/$CXRLT_PYTHON" ;;
    *) python="$CXRLT_PYTHON" ;;
    esac
    command -v "$python" >/dev/null || die "CXRLT_PYTHON=$python does not exist or cannot be run."
    is_recent "$python" || die "CXRLT_PYTHON=$python is not Python 3.11 or newer."
    local missing
    missing="$(missing_packages "$python" "$1")"
    [ -z "$missing" ] || die "CXRLT_PYTHON=$python lacks packages. Install them with: $python -m pip install $missing"
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
    "$python" -m bandit --quiet --recursive --configfile pyproject.toml src
    "$python" -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder -m "$tier" "$@"
}

# Prints name==version of what the lock $1 holds, for whatever machine, for pip-audit leaves out those of others. A
# package that is there in several versions is printed in the $2th alone, for pip-audit takes only one at a time.
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
    local said lock nth packages audit
    audit=("$python" -m pip_audit --strict --disable-pip --no-deps --progress-spinner off "$@")
    # A register without advisories would pass everything: first see that it knows of an old hole.
    said="$("${audit[@]}" --format json --requirement <(echo "$known_hole") 2>&1)" || true
    case "$said" in
    *'"id"'*) ;;
    *)
        die "no advisories can be looked up, so nothing is known about the locked packages:" \
            "${said##*$'\n'}. Try again where there is a network, or another register: bash run.sh audit -s osv"
        ;;
    esac
    for lock in "${locks[@]}"; do
        nth=1
        while packages="$(locked_packages "$lock" "$nth")" && [ -n "$packages" ]; do
            "${audit[@]}" --requirement <(echo "$packages") ||
                die "a package of $lock has a hole that is known, or could not be looked up (its name is above)." \
                    "Raise its version as README.md says."
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

word="${1-demo}"
case "$word" in
-h | --help) usage ;;
test) run_tests "${@:2}" ;;
bench) run_bench "${@:2}" ;;
audit) run_audit "${@:2}" ;;
*)
    for challenge in $challenges; do
        if [ "$word" = "$challenge" ]; then
            run_challenge "$word" "${@:2}"
        fi
    done
    die "'$word' is not a challenge. Use one of: $challenges; or test; or bench; or audit; or --help."
    ;;
esac
