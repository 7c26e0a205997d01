# Sourced by every script here: finds a fitting Python, which makes the environment .venv on first use (_environment.py).
#
#   environment_ensure KIND ...   the kinds of environment that requirements.lock names, or none of them
#   environment_help MODULE ...   a command's help, by any fitting Python, before anything is installed
#   environment_for_gpu COMMAND ...   ends with a sentence where this machine cannot do on a GPU what is asked for
#
# PYTHON=/path/to/python3.X chooses the interpreter, REJECTION_VENV=/path another place for the environment.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${REJECTION_VENV:-$ROOT/.venv}"
# The commands name themselves, and each other, as they were called.
export REJECTION_SCRIPTS=scripts
# They would bring the packages and the standard library of another interpreter in.
unset PYTHONHOME PYTHONPATH

# Sets FITTING_PYTHON to the first fitting interpreter: PYTHON alone if it is set; else the environment's own; else the
# one a person gets by typing python3, because that is the one they chose or activated; else 3.12, 3.11, 3.13, the
# longest proven with the wheel first.
environment_find_python() {
    local candidate verdict reason=""
    local candidates=("$VENV/bin/python" python3 python3.12 python3.11 python3.13)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        # A name that does not run (a pyenv shim of a version that is not selected) is no candidate.
        verdict="$("$candidate" -I "$ROOT/server/rejection_server/host/machine.py" 2>/dev/null)" || continue
        if [ "$verdict" = fit ]; then
            FITTING_PYTHON="$candidate"
            return
        fi
        # The reason of the one nearest to fitting says most.
        case "$reason:$verdict" in :* | *", this is "*:*lacks*) reason="$verdict" ;; esac
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "scripts/$(basename "$0"): ${reason:-PYTHON=$PYTHON does not run}" >&2
    else
        echo "scripts/$(basename "$0"): no fitting Python was found, ${reason:-there is no python3 on PATH}: install" \
            "Python 3.11, 3.12 or 3.13, or set PYTHON to the path of one" >&2
    fi
    exit 1
}

environment_ensure() {
    environment_find_python
    "$FITTING_PYTHON" -I "$ROOT/scripts/_environment.py" "$(basename "$0")" "$VENV" "$@" || exit
}

# Whether serving or measuring on a GPU would be refused whatever is installed: that is said before it is installed.
environment_for_gpu() {
    environment_find_python
    PYTHONPATH="$ROOT/server" "$FITTING_PYTHON" -m rejection_server.prepared_for "$@" || exit
}

environment_help() {
    environment_find_python
    PYTHONPATH="$ROOT/server:$ROOT/client:$ROOT/tests:$ROOT" exec "$FITTING_PYTHON" -m "$@"
}

# Whether help is asked for, before any `--`.
wants_help() {
    local argument
    for argument in "$@"; do
        case "$argument" in
        --) return 1 ;;
        -h | --help) return 0 ;;
        esac
    done
    return 1
}
