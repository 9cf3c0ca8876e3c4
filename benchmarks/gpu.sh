#!/usr/bin/env bash
# All that only a GPU can tell, in one call of at most nine minutes, on a bare machine: torch 2.11 and transformers 5.17
# under Python 3.12 are enough; what else is missing comes from the network or is done without. No data is needed.
#
#   OUT=results benchmarks/gpu.sh
#
# OUT      folder for what was found: machine.txt, tests.txt, performance.txt, profile-mix.txt, profile-short.txt,
#          graphs.txt, variants.txt
# DEVICE   cuda by default; cpu to try this script itself
# SCALE    so many times the documents that a CPU gets; engines that pad get an eighth of them
# REPEATS  rounds of our engines
# RUNS     folder for models and logs, a new one by default
# WHEELS   folder of wheels for this Python, for a machine without a network; all are installed. The worker's tests need
#          annotated-types, pydantic, pydantic-core, pydantic-settings, python-dotenv, redis, typing-extensions and
#          typing-inspection; the rest prometheus-client and rich, where these are missing.
set -u
cd "$(dirname "$0")/.." || exit
OUT=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
DEVICE=${DEVICE:-cuda}
SCALE=${SCALE:-16}
REPEATS=${REPEATS:-2}
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
    # INT, as pytest then still says what failed.
    timeout --signal=INT --kill-after=5 "$((most < left ? most : left))" "$@" >>"$file" 2>&1
    local code=$?
    [[ $code != 124 && $code != 137 ]] || echo "stopped after $most s at most: $*" >>"$file"
    echo "$((SECONDS - began)) s, ended with $code: $* ($file)"
}

rm -f "$OUT"/{machine,tests,performance,profile-mix,profile-short,graphs,variants}.txt

step machine.txt 60 python3 -c '
import platform, torch, transformers
print("Python", platform.python_version(), "torch", torch.__version__, "transformers", transformers.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
if command -v nvidia-smi >/dev/null; then step machine.txt 30 nvidia-smi; fi

# The worker looks its own version up where it is installed; to build it takes a newer setuptools than may be there.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
mkdir "$SITE/gpner-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: gpner\nVersion: %s\n' "$version" >"$SITE/gpner-$version.dist-info/METADATA"
missing=$(python3 -c '
from importlib.util import find_spec
names = ("pydantic", "pydantic-settings", "redis", "prometheus-client", "rich")
print(*(name for name in names if find_spec(name.replace("-", "_")) is None))')
if [ -n "${WHEELS:-}" ]; then
    # Without dependencies: pip would look for all of them among the wheels, for those too that are installed.
    step machine.txt 60 python3 -m pip install --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl
elif [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # several packages
    step machine.txt 60 python3 -m pip install --retries 0 --timeout 10 --target "$SITE" $missing
fi

# Another package called tests, which some installed one may bring, would hide ours, as ours has no __init__.py.
mkdir "$SITE/tests" && echo "__path__ = ['$PWD/tests']" >"$SITE/tests/__init__.py"
# Without conftest.py, which needs a browser's package; the fixtures of a real Redis only where they can be loaded. A
# warning is no error here: these releases of other packages are not those that the tests were written against.
options=(--noconftest -p tests.tokenizers_fixtures -W default -v --tb=short -m gpu --continue-on-collection-errors)
if python3 -c 'import tests.redis_fixtures' 2>/dev/null; then options+=(-p tests.redis_fixtures); fi
if python3 -c 'import pytest_timeout' 2>/dev/null; then options+=(--timeout 40); fi
mapfile -t tests < <(grep -rl 'mark\.gpu' tests --include='test_*.py')
if python3 -c 'import pytest' 2>/dev/null; then
    step tests.txt 100 python3 -m pytest "${options[@]}" "${tests[@]}"
else
    echo "pytest is missing: no test was run" | tee "$OUT/tests.txt"
fi

step machine.txt 60 python3 benchmarks/stand_in.py "$DATA"
# compare FILE SECONDS ENGINES WORKLOAD: what the engines make of the workload, in turn, with the ends of their logs.
compare() {
    local file=$1 most=$2 engines engine
    read -ra engines <<<"$3"
    step "$file" "$most" python3 benchmarks/performance.py "$RUNS" --litbank "$DATA/long.jsonl.gz" \
        --wnut17 "$DATA/short.jsonl.gz" --encoder "$DATA/tokenizer" --only "$4" \
        --engines "${engines[@]}" --device "$DEVICE" --scale "$SCALE" --repeats "$REPEATS"
    for engine in "${engines[@]}"; do
        [ ! -s "$RUNS/$engine.log" ] || tail -v -n 20 "$RUNS/$engine.log" >>"$OUT/$file"
    done
}

# Ours first: how fast that is which is there, then why, then what could be had by other means, then the others.
compare performance.txt 120 "gpner gpner-torch-decode" "length mix"
compare performance.txt 60 "gpner" "short texts"
profile() {
    step "$1" 45 python3 benchmarks/where_time_goes.py "$RUNS/bert-base" "$RUNS/$2.json" --device "$DEVICE"
}
profile profile-mix.txt length-mix
profile profile-short.txt short-texts
if [ "$DEVICE" = cuda ]; then step graphs.txt 45 python3 benchmarks/graphs.py "$RUNS/bert-base"; fi
REPEATS=1
compare variants.txt 100 "gpner gpner-compiled" "length mix"
SCALE=$(((SCALE + 7) / 8))
compare performance.txt 80 "gpner naive naive-bf16" "length mix"
compare performance.txt 60 "gpner naive naive-bf16" "short texts"
