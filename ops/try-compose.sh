#!/usr/bin/env bash
# Tries docker-compose.yml for real, in a project of its own that is gone afterwards: reads a corpus, sends documents,
# goes from one worker to three, kills one, kills Redis, and counts. Exit code 0: nothing was lost, nothing answered twice.
#
#   MODEL_FOLDER  the checkpoint that workers serve; the demo's unless set
#   DOCUMENTS     how many to send
#   REDIS_PORT    where this host reaches Redis meanwhile; likewise PROMETHEUS_PORT and GRAFANA_PORT
#   TORCH_INDEX   where the image's torch comes from, see ops/Dockerfile
set -euo pipefail
cd "$(dirname "$0")/.."

documents=${DOCUMENTS:-240}
python=${PYTHON:-.venv/bin/python}
# What a trial under load may take to get a worker ready: its model is loaded by as many at once.
start_seconds=300
# Beside what this host may have there already.
redis_port=${REDIS_PORT:-16379}

fail() {
    echo "error: $*" >&2
    exit 1
}

docker info >/dev/null 2>&1 || fail "Docker must run and let this user in, does not; try 'docker info'"
if command -v docker-compose >/dev/null; then
    program=(docker-compose)
elif docker compose version >/dev/null 2>&1; then
    program=(docker compose)
else
    fail "docker-compose (1.29 or newer) must be installed, is not"
fi
model=${MODEL_FOLDER:-$("$python" -c 'from worker.demo.model import demo_model; print(demo_model())')} ||
    fail "a model must be there; set MODEL_FOLDER, or run 'make try-compose', which makes the demo's"

project=gpner-trial
folder=$(mktemp -d)
say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }
compose() {
    "${program[@]}" --file docker-compose.yml --file docker-compose.published.yml --project-name "$project" \
        --env-file "$folder/env" "$@"
}
trial() {
    compose run --rm -T --volume "$PWD/ops/trial.py:/trial.py:ro" producer python /trial.py "$@" 2>"$folder/said"
}

from_host() {
    GPNER_REDIS_URL="redis://producer:$(sed -n 's/^PRODUCER_PASSWORD=//p' "$folder/env")@127.0.0.1:$redis_port/0" \
        "$python" ops/trial.py "$@"
}

finish() {
    code=$?
    trap - EXIT
    if [ "$code" != 0 ]; then
        cat "$folder/said" >&2 2>/dev/null || true
        compose logs --tail 20 redis worker >&2 || true
    fi
    compose kill >/dev/null 2>&1 || true
    compose down --volumes --remove-orphans >/dev/null 2>&1 || true
    rm -rf "$folder"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

containers() {
    docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1" "${@:2}"
}
healthy() { [ "$(containers "$1" --filter health=healthy | wc -l)" = "$2" ]; }
measured() {
    compose exec -T prometheus promtool query instant http://127.0.0.1:9090 "$1" 2>/dev/null | grep -q "=> $2 @"
}
wait_for() {
    local what=$1 deadline=$((SECONDS + start_seconds))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what must come within $start_seconds s, did not"
        sleep 1
    done
    say "$what"
}

# Users of the image are nobody in particular on this host.
mkdir "$folder/models"
cp -r "$model" "$folder/models/trial"
chmod -R a+rX "$folder"
mkdir "$folder/bulk"
cp worker/demo/documents.jsonl "$folder/bulk/corpus.jsonl"
ops/new-env.sh "$folder/env"
# A silent worker counts as dead sooner than usual, so that the trial need not wait for a minute.
cat >>"$folder/env" <<SETTINGS
MODELS_FOLDER=$folder/models
MODEL=trial
BULK_FOLDER=$folder/bulk
GRAFANA_PORT=${GRAFANA_PORT:-13000}
REDIS_PORT=$redis_port
PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090}
WORKER_CPUS=1
GPNER_LEASE_SECONDS=15
SETTINGS

# What a trial that was killed has left behind.
compose down --volumes --remove-orphans >"$folder/said" 2>&1
say "building the images"
compose build worker producer >"$folder/said" 2>&1 || fail "the images must build, do not"
compose up --detach >"$folder/said" 2>&1
wait_for "one worker is ready" healthy worker 1
compose run --rm -T --user "$(id -u):$(id -g)" bulk gpner-worker bulk corpus.jsonl --output entities --format jsonl \
    >"$folder/said" 2>&1
[ "$(cat "$folder"/bulk/entities/part-*.jsonl | wc -l)" = "$(wc -l <worker/demo/documents.jsonl)" ] ||
    fail "a bulk job must write a line for every document, did not"
say "a corpus is read"
from_host submit "$documents"
say "$documents documents are sent from this host"
trial wait $((documents / 10))

compose up --detach --scale worker=3 >"$folder/said" 2>&1
wait_for "three workers are ready" healthy worker 3
wait_for "Prometheus measures three workers" measured 'count(up{job="gpner-worker"} == 1)' 3
wait_for "Prometheus measures Redis" measured 'count(redis_up == 1)' 1
wait_for "Grafana is up" healthy grafana 1

# As the kernel would when memory runs out. `docker kill` would count as a stop that was wished for.
docker exec "$(containers worker | head -n 1)" sh -c 'kill -9 -1' || true
say "a worker is killed"
trial wait $((documents / 3))
compose kill redis 2>"$folder/said"
say "Redis is killed"
compose start redis >"$folder/said" 2>&1
wait_for "Redis is back" healthy redis 1
wait_for "three workers are ready again" healthy worker 3

trial wait "$documents"
trial check "$documents"
say "$documents documents, $documents answers: nothing lost, nothing twice, copies answered alike"

stopping=$(containers worker)
compose stop worker 2>"$folder/said"
for container in $stopping; do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    [ "$code" = 0 ] || fail "a worker that is stopped must end with code 0, ended with $code"
done
say "three workers drained"
