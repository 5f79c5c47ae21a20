#!/usr/bin/env bash
# Lint, types and tests: bash tests/run.sh [quick] [pytest arguments]. Makes .venv on the first run. With quick, what starts
# no processes, interprets no kernels and prepares little: a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/install.sh
install_into .venv launchers/requirements.txt tests/requirements.txt
# megatron-core only serves to read and write token stores; what it lists as dependencies is not needed for that
python -c 'import megatron.core.datasets.indexed_dataset' 2>/dev/null ||
    python -m pip --quiet --disable-pip-version-check install --no-deps megatron-core==0.16.1
# a CUDA build of torch brings its own triton; the kernels' tests run in its interpreter where there is no GPU
python -c 'import triton' 2>/dev/null || python -m pip --quiet --disable-pip-version-check install triton==3.7.1
ruff check .
ruff format --check .
mypy
# two files at a time; the tests of a file share what they make
if [ "${1:-}" = quick ]; then
    shift
    set -- -m "not slow and not long" "$@"
fi
python -m pytest --numprocesses 2 --dist loadfile "$@"
