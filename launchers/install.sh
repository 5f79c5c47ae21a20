# Sourced by quickstart.sh and tests/run.sh: make the virtual environment $1 unless it is there, and install the
# requirement files that follow, pinned, when they have changed. Leaves the environment's programs first on PATH.
install_into() {
    local venv=$1 stamp
    shift
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: found $("$python" --version); expected Python 3.11 or newer (set PYTHON=...)" >&2
        return 2
    }
    stamp=$(cat "$@" pyproject.toml setup.py "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$stamp" ]; then
        if [ ! -x "$venv/bin/python" ]; then
            # an installed torch is seen from inside, so that a GPU machine keeps its own
            if "$python" -c 'import torch' 2>/dev/null; then
                "$python" -m venv --system-site-packages "$venv"
            else
                "$python" -m venv "$venv"
            fi
        fi
        local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
        "$venv/bin/python" -c 'import torch' 2>/dev/null || "${pip[@]}" install torch==2.13.0
        local arguments=()
        for file in "$@"; do arguments+=(-r "$file"); done
        DS_BUILD_OPS=0 "${pip[@]}" install "${arguments[@]}"
        "${pip[@]}" install --no-deps -e .
        echo "$stamp" >"$venv/.installed"
    fi
    PATH=$PWD/$venv/bin:$PATH
    export PATH
}
