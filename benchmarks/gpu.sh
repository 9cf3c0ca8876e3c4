#!/usr/bin/env bash
# All that only a GPU can tell, in one call of at most nine minutes, on a bare machine: torch 2.11 and transformers 5.17
# under Python 3.12 are enough; what else is missing comes from the network or is done without. No data is needed.
#
#   OUT=results benchmarks/gpu.sh
#
# OUT      folder for what was found: machine.txt, install.txt, tests.txt, performance.txt, profile-*.txt, graphs.txt,
#          variants.txt
# DEVICE   cuda by default; cpu to try this script itself
# SCALE    so many times the documents that a CPU gets
# REPEATS  rounds of every engine
# RUNS     folder for models and logs, a new one by default
# WHEELS   folder of wheels for the missing packages, for a machine without a network
set -u
cd "$(dirname "$0")/.." || exit
OUT=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
DEVICE=${DEVICE:-cuda}
SCALE=${SCALE:-32}
REPEATS=${REPEATS:-3}
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
RUNS=${RUNS:-$SITE/runs}
DATA=$SITE/data
export PYTHONPATH=$PWD:$SITE PYTHONUNBUFFERED=1
DEADLINE=$((SECONDS + 525))

# step FILE SECONDS COMMAND...: runs it, within its time and ours; what it says goes into FILE, and its end is told.
step() {
    local file=$OUT/$1 most=$2 left=$((DEADLINE - SECONDS)) began=$SECONDS
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "left out, as the time is up: $*" | tee -a "$file"
        return
    fi
    timeout --kill-after=5 "$((most < left ? most : left))" "$@" >>"$file" 2>&1
    local code=$?
    [ "$code" -ne 124 ] || echo "stopped after $most s at most: $*" >>"$file"
    echo "$((SECONDS - began)) s, ended with $code: $* ($file)"
}

rm -f "$OUT"/{machine,install,tests,performance,profile-mix,profile-short,graphs,variants}.txt

step machine.txt 60 python3 -c '
import platform, torch, transformers
print("Python", platform.python_version(), "torch", torch.__version__, "transformers", transformers.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
if command -v nvidia-smi >/dev/null; then step machine.txt 30 nvidia-smi; fi

# The worker looks its own version up where it is installed; from a copy, as building leaves things behind.
mkdir "$SITE/source" && cp -r gpner worker pyproject.toml README.md LICENSE "$SITE/source"
step install.txt 60 python3 -m pip install --no-deps --no-build-isolation --no-index --target "$SITE" "$SITE/source"
missing=$(python3 -c '
from importlib.util import find_spec
names = ("pydantic", "pydantic-settings", "redis", "prometheus-client", "rich")
print(*(name for name in names if find_spec(name.replace("-", "_")) is None))')
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # several packages
    step install.txt 60 python3 -m pip install --retries 0 --timeout 10 --target "$SITE" \
        ${WHEELS:+--no-index --find-links "$WHEELS"} $missing
fi

# Without conftest.py, which needs a browser's package; the fixtures of a real Redis only where there is its client.
fixtures=(-p tests.tokenizers_fixtures)
if python3 -c 'import pydantic_settings, redis' 2>/dev/null; then fixtures+=(-p tests.redis_fixtures); fi
mapfile -t tests < <(grep -rl 'mark\.gpu' tests --include='test_*.py')
if python3 -c 'import pytest' 2>/dev/null; then
    step tests.txt 100 python3 -m pytest -q --noconftest "${fixtures[@]}" -m gpu --continue-on-collection-errors "${tests[@]}"
else
    echo "pytest is missing: no test was run" | tee "$OUT/tests.txt"
fi

step install.txt 60 python3 benchmarks/stand_in.py "$DATA"
# compare FILE SECONDS ENGINES WORKLOAD...: what the engines make of the workloads, in turn, with the ends of their logs.
compare() {
    local file=$1 most=$2 engines engine
    read -ra engines <<<"$3"
    shift 3
    step "$file" "$most" python3 benchmarks/performance.py "$RUNS" --litbank "$DATA/long.jsonl.gz" \
        --wnut17 "$DATA/short.jsonl.gz" --encoder "$DATA/tokenizer" --only "$@" \
        --engines "${engines[@]}" --device "$DEVICE" --scale "$SCALE" --repeats "$REPEATS"
    for engine in "${engines[@]}"; do
        [ ! -s "$RUNS/$engine.log" ] || tail -n 20 "$RUNS/$engine.log" >>"$OUT/$file"
    done
}

compare performance.txt 300 "gpner naive naive-bf16" "length mix" "short texts"
step profile-mix.txt 60 python3 benchmarks/where_time_goes.py "$RUNS/bert-base" "$RUNS/length-mix.json" --device "$DEVICE"
step profile-short.txt 60 python3 benchmarks/where_time_goes.py "$RUNS/bert-base" "$RUNS/short-texts.json" --device "$DEVICE"
if [ "$DEVICE" = cuda ]; then step graphs.txt 60 python3 benchmarks/graphs.py "$RUNS/bert-base"; fi
# Last, as first of all it is to be known how fast that is which is there: what could be had by other means.
compare variants.txt 200 "gpner gpner-compiled gpner-torch-decode" "length mix"
