"""The manifests of ops/kubernetes: their form by the schemas of those who read them, and what they promise."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from tests.consumers import add
from tests.ops.manifests import Manifest, complaints, fetch_types, load
from tests.secure_redis import SecureRedis, secure_server
from tests.workers import ROOT
from worker.protocol import Keys
from worker.queue import DocumentQueue
from worker.settings import ENV_PREFIX, Settings

FOLDER = ROOT / "ops/kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
MANIFESTS = load(FOLDER / name for name in KUSTOMIZATION["resources"])
BY_KIND: dict[str, Manifest] = {manifest["kind"]: manifest for manifest in MANIFESTS}
POD: dict[str, Any] = BY_KIND["Deployment"]["spec"]["template"]
WORKER: dict[str, Any] = POD["spec"]["containers"][0]
ENVIRONMENT: dict[str, Any] = {variable["name"]: variable.get("value") for variable in WORKER["env"]}
TRIGGERS: list[dict[str, Any]] = BY_KIND["ScaledObject"]["spec"]["triggers"]


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the types of everything that the manifests are made of."""
    folder = tmp_path_factory.mktemp("types")
    if missing := fetch_types(folder):
        pytest.skip(missing)
    return folder


@pytest.mark.slow
def test_the_schemas_have_nothing_against_the_manifests(types: Path) -> None:
    assert complaints(types, MANIFESTS) == []


@pytest.mark.slow
def test_the_schemas_find_unknown_names_wrong_types_and_wrong_strings(types: Path) -> None:
    deployment, scaled, monitor = (
        copy.deepcopy(BY_KIND[kind]) for kind in ("Deployment", "ScaledObject", "PodMonitor")
    )
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 45
    scaled["spec"]["triggers"][0]["metadata"]["streamLength"] = 600
    monitor["spec"]["podMetricsEndpoints"][0]["interval"] = "quarterly"

    found = complaints(types, [deployment, scaled, monitor])

    for mistake in (
        "'\"terminationGraceSeconds\"' does not exist",
        "metadata/streamLength must be string",
        "/interval",
    ):
        assert any(mistake in line for line in found), found


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
def test_kustomize_makes_of_the_folder_what_stands_in_its_files() -> None:
    made = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=True)
    objects = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(made.stdout)}
    image = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0].pop("image")

    expected = copy.deepcopy(BY_KIND)
    expected["Deployment"]["spec"]["template"]["spec"]["containers"][0].pop("image")
    assert objects == expected
    assert image == f"{KUSTOMIZATION['images'][0]['newName']}:{KUSTOMIZATION['images'][0]['newTag']}"


def test_every_file_of_the_folder_is_applied() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == sorted(
        {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml"}
    )


def test_everything_that_picks_pods_picks_the_worker() -> None:
    labels = POD["metadata"]["labels"]

    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert BY_KIND[kind]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == BY_KIND["Deployment"]["metadata"]["name"]
    assert "replicas" not in BY_KIND["Deployment"]["spec"]


def test_a_drain_ends_before_kubernetes_loses_patience() -> None:
    assert POD["spec"]["terminationGracePeriodSeconds"] >= float(ENVIRONMENT["GPNER_DRAIN_SECONDS"]) + 15


def test_the_settings_are_settings_and_kubernetes_adds_none() -> None:
    """Of a service gpner-redis it would make GPNER_REDIS_PORT, and the worker would not start."""
    assert {name.removeprefix(ENV_PREFIX).lower() for name in ENVIRONMENT} <= set(Settings.model_fields)
    assert POD["spec"]["enableServiceLinks"] is False


def test_the_worker_is_who_its_image_is_and_may_write_nothing_but_its_own() -> None:
    dockerfile = (ROOT / "ops/Dockerfile").read_text(encoding="utf-8")
    who = POD["spec"]["securityContext"]
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    writable = {mount["name"] for mount in WORKER["volumeMounts"] if not mount.get("readOnly")}

    assert f"USER {who['runAsUser']}:{who['runAsGroup']}" in dockerfile
    assert WORKER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {name for name, volume in volumes.items() if "emptyDir" in volume} == writable


def test_probes_and_prometheus_ask_where_the_image_listens_and_wait_longer_than_it_waits_for_redis() -> None:
    dockerfile = (ROOT / "ops/Dockerfile").read_text(encoding="utf-8")
    (port,) = WORKER["ports"]
    (endpoint,) = BY_KIND["PodMonitor"]["spec"]["podMetricsEndpoints"]
    probes = [WORKER[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]

    assert f"GPNER_METRICS_PORT={port['containerPort']}" in dockerfile
    assert [probe["httpGet"]["path"] for probe in probes] == ["/livez", "/livez", "/readyz"]
    assert {probe["httpGet"]["port"] for probe in probes} == {endpoint["port"]} == {port["name"]}
    assert min(probe["timeoutSeconds"] for probe in probes) > 10
    assert int(endpoint["scrapeTimeout"].removesuffix("s")) > 10


def test_the_job_is_called_as_the_rules_call_it() -> None:
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ops/prometheus/rules").iterdir())
    job = POD["metadata"]["labels"][BY_KIND["PodMonitor"]["spec"]["jobLabel"]]

    assert job in re.findall(r'job="([^"]+)"', rules)


def test_the_scaler_looks_at_every_stream_and_at_its_length() -> None:
    looked_at = [trigger["metadata"] for trigger in TRIGGERS]

    assert sorted(metadata["stream"] for metadata in looked_at) == sorted(Keys("gpner:").streams)
    for metadata in looked_at:
        # With a group's name KEDA counts pending entries, or from Redis 7 on those that nobody read.
        assert set(metadata) == {"address", "databaseIndex", "enableTLS", "stream", "streamLength"}
        assert int(metadata["streamLength"]) > 0


def test_the_length_of_a_stream_is_the_backlog_and_what_is_pending_is_not(queue: DocumentQueue, redis: Redis) -> None:
    add(queue, 20)
    held = queue.read(5, 0)

    assert redis.xlen(queue.keys.normal) == 20
    assert redis.xpending(queue.keys.normal, queue.keys.group)["pending"] == len(held) == 5


@pytest.mark.skipif(secure_server() is None, reason="no redis-server of version 7 or newer with TLS on PATH")
def test_the_user_of_the_scaler_may_ask_for_the_lengths_and_read_no_document(tmp_path: Path) -> None:
    with SecureRedis(tmp_path) as server, server.connect("exporter") as exporter:
        for trigger in TRIGGERS:
            assert exporter.xlen(trigger["metadata"]["stream"]) == 0
        with pytest.raises(Exception, match="xrange"):
            exporter.xrange(TRIGGERS[0]["metadata"]["stream"])
