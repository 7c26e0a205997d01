# Sourced by every script here: makes the Python environment .venv on first use, and whenever the pins changed.
#
#   ENVIRONMENT=serve   what serving and calling need (default)
#   ENVIRONMENT=dev     that, and what scripts/test needs
#   ENVIRONMENT=load    what serving needs, and Locust
#   ENVIRONMENT=none    only the functions below
#
# PYTHON=/path/to/python3.X chooses the interpreter. Nothing outside .venv is changed.
# shellcheck shell=bash

ENVIRONMENT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ENVIRONMENT_VENV="$ENVIRONMENT_ROOT/.venv"

environment_say() {
    printf '%s\n' "scripts/$(basename "$0"): $*" >&2
}

environment_fail() {
    environment_say "$@"
    exit 1
}

# Before anything is fetched: the wheel that holds Triton exists for one kind of machine.
environment_check_machine() {
    local machine libc version
    machine="$(uname -s) on $(uname -m)"
    [ "$machine" = "Linux on x86_64" ] ||
        environment_fail "the embedded Triton needs Linux on an x86-64 processor, this is $machine:" \
            "use the container image in docker/ instead"
    libc="$(getconf GNU_LIBC_VERSION 2>/dev/null || true)"
    version="${libc#glibc }"
    [ "$version" != "$libc" ] ||
        environment_fail "the embedded Triton needs the GNU C library 2.35 or newer, this system uses another C library:" \
            "use the container image in docker/ instead"
    [ "$(printf '%s\n' 2.35 "$version" | sort -V | head -n 1)" = 2.35 ] ||
        environment_fail "the embedded Triton needs the GNU C library 2.35 or newer, this system has $version:" \
            "use the container image in docker/ instead"
}

# Run by a candidate interpreter: prints "fit" or, in a few words, what it lacks. Any Python 3 can read it.
ENVIRONMENT_PROBE='
import os, sys, sysconfig
lacks = []
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.implementation.name != "cpython":
    lacks.append("is %s %s, not CPython 3.11, 3.12 or 3.13" % (sys.implementation.name, version))
elif sysconfig.get_config_var("Py_GIL_DISABLED"):
    lacks.append("is free-threaded, which Triton does not support")
else:
    packages = []
    try:
        import venv, ensurepip
    except ImportError:
        packages.append("python%s-venv" % version)
    name = "libpython%s.so.1.0" % version
    folders = [sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")]
    # The wheel brings the library for 3.13 along.
    if version != "3.13" and not any(os.path.isfile(os.path.join(folder, name)) for folder in folders):
        try:
            import ctypes
            ctypes.CDLL(name)
        except (ImportError, OSError):
            packages.append("libpython%s" % version)
    if packages:
        lacks.append("lacks a part that is packaged separately (on Debian and Ubuntu: apt-get install %s; an "
                     "interpreter built from source needs --enable-shared)" % " ".join(packages))
print(lacks[0] if lacks else "fit")
'

# Sets ENVIRONMENT_PYTHON to the first fitting interpreter: PYTHON alone if it is set; else the one a person gets by
# typing python3, because that is the one they chose or activated; else 3.12, 3.11, 3.13, the longest proven with the
# wheel first.
environment_find_python() {
    local candidate verdict reason=""
    local candidates=(python3 python3.12 python3.11 python3.13)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        # A name that does not run (a pyenv shim of a version that is not selected) is no candidate.
        verdict="$("$candidate" -I -c "$ENVIRONMENT_PROBE" 2>/dev/null)" || continue
        if [ "$verdict" = fit ]; then
            ENVIRONMENT_PYTHON="$candidate"
            return
        fi
        # The reason of the one nearest to fitting says most.
        case "$reason:$verdict" in :* | *" is "*:*lacks*) reason="the interpreter $candidate $verdict" ;; esac
    done
    if [ -n "${PYTHON:-}" ]; then
        environment_fail "${reason:-PYTHON=$PYTHON does not run}"
    fi
    environment_fail "no fitting Python was found, ${reason:-there is no python3 on PATH}:" \
        "install Python 3.11, 3.12 or 3.13, or set PYTHON to the path of one"
}

# What an up-to-date environment of a kind carries in its stamp file.
environment_key() {
    (cd "$ENVIRONMENT_ROOT/requirements" && sha256sum "$1.txt" triton.txt) | sha256sum | cut -d ' ' -f 1
    sed -n 's/^version *= */python /p' "$ENVIRONMENT_VENV/pyvenv.cfg" 2>/dev/null || true
}

# Whether PYTHON names another version than the environment was made with.
environment_is_of_another_python() {
    [ -n "${PYTHON:-}" ] &&
        [ "$("$PYTHON" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != \
            "$(sed -n 's/^version *= *\([0-9]*\.[0-9]*\).*/\1/p' "$ENVIRONMENT_VENV/pyvenv.cfg" 2>/dev/null)" ]
}

environment_is_current() {
    local kind="$1"
    [ -x "$ENVIRONMENT_VENV/bin/python" ] && [ ! -e "$ENVIRONMENT_VENV/.unfinished" ] || return 1
    ! environment_is_of_another_python || return 1
    [ "$(cat "$ENVIRONMENT_VENV/.installed-$kind" 2>/dev/null)" = "$(environment_key "$kind")" ] && return 0
    # Each holds all of serve.
    [ "$kind" = serve ] &&
        { environment_is_current dev || environment_is_current prepare || environment_is_current load; }
}

environment_make() {
    local kind="$1" unfinished="$ENVIRONMENT_VENV/.unfinished"
    trap 'environment_say "interrupted: the next start makes the Python environment again" && exit 130' INT
    environment_check_machine
    environment_find_python
    if [ -e "$unfinished" ] || { [ -e "$ENVIRONMENT_VENV" ] && ! "$ENVIRONMENT_VENV/bin/python" -c '' 2>/dev/null; }; then
        environment_say "making the unfinished Python environment in .venv again"
        rm -rf "$ENVIRONMENT_VENV"
    elif [ -e "$ENVIRONMENT_VENV" ] && environment_is_of_another_python; then
        environment_say "making the Python environment in .venv again, for $("$ENVIRONMENT_PYTHON" --version)"
        rm -rf "$ENVIRONMENT_VENV"
    fi
    if [ ! -e "$ENVIRONMENT_VENV" ]; then
        environment_say "first start: making a Python environment in .venv ($("$ENVIRONMENT_PYTHON" --version)) and" \
            "installing into it: about 120 MB to fetch, 400 MB on disk"
        mkdir "$ENVIRONMENT_VENV"
        : >"$unfinished"
        "$ENVIRONMENT_PYTHON" -m venv "$ENVIRONMENT_VENV" ||
            environment_fail "could not make a Python environment with $ENVIRONMENT_PYTHON in $ENVIRONMENT_VENV"
    else
        environment_say "the pins changed: bringing the Python environment in .venv up to date"
        : >"$unfinished"
    fi
    "$ENVIRONMENT_VENV/bin/python" -m pip install --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: -r "$ENVIRONMENT_ROOT/requirements/$kind.txt" -r "$ENVIRONMENT_ROOT/requirements/triton.txt" >&2 ||
        environment_fail "installing failed, pip says above why: check the network, then start again"
    environment_key "$kind" >"$ENVIRONMENT_VENV/.installed-$kind"
    rm -f "$unfinished"
    trap - INT
}

environment_ensure() {
    local kind="$1" lock
    environment_is_current "$kind" && return
    # One at a time; the folder itself is the lock, so nothing is left lying about.
    exec {lock}<"$ENVIRONMENT_ROOT/requirements"
    if command -v flock >/dev/null && ! flock -n "$lock"; then
        environment_say "waiting for another start that is installing"
        flock "$lock"
    fi
    environment_is_current "$kind" || environment_make "$kind"
    exec {lock}<&-
}

# PyTorch, for models that have no ONNX file: pip chooses the build (pip's own settings may name one for CPUs only).
environment_ensure_export() {
    "$ENVIRONMENT_VENV/bin/python" -c 'import onnxscript, torch' 2>/dev/null && return
    environment_say "installing PyTorch into .venv"
    "$ENVIRONMENT_VENV/bin/python" -m pip install --disable-pip-version-check \
        -r "$ENVIRONMENT_ROOT/requirements/export.txt" >&2 ||
        environment_fail "installing PyTorch failed, pip says above why: check the network, then start again"
}

if [ "${ENVIRONMENT:=serve}" != none ]; then
    environment_ensure "$ENVIRONMENT"
fi
