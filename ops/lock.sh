#!/usr/bin/env bash
# Renews the lock files of the images out of pyproject.toml: every version pinned, every file by its hash.
# Needs uv (`pip install uv`). Where download.pytorch.org cannot be reached, TORCH_WHEELS names a folder that holds its
# wheel of torch for the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

torch_for_cpu=(--torch-backend cpu)
[ -z "${TORCH_WHEELS:-}" ] || torch_for_cpu=(--find-links "$TORCH_WHEELS")

lock() {
    uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command ops/lock.sh "$@"
}

lock ops/requirements-build.in --output-file ops/requirements-build.txt
lock pyproject.toml --output-file ops/requirements-producer.txt
lock pyproject.toml --extra worker --extra bulk "${torch_for_cpu[@]}" --output-file ops/requirements-cpu.txt
lock pyproject.toml --extra worker --extra bulk --output-file ops/requirements-cuda.txt
