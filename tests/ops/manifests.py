"""Kubernetes manifests, held against what npm has of the types and schemas of Kubernetes, KEDA and PodMonitor."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

NPM_PACKAGES = (
    "kubernetes-models@5.1.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
)
# Where each group of the API is found; Kubernetes' own groups are all in one package.
OF_OTHERS = {"keda.sh": "@kubernetes-models/keda", "monitoring.coreos.com": "@kubernetes-models/prometheus-operator"}

Manifest = dict[str, Any]


def load(paths: Iterable[Path]) -> list[Manifest]:
    """All objects of some files."""
    return [manifest for path in paths for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def fetch_types(folder: Path) -> str:
    """Install the packages into a folder; why it was not possible, or nothing."""
    if shutil.which("npm") is None:
        return "needs npm, to fetch the types of Kubernetes"
    (folder / "package.json").write_text('{"type": "module"}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *NPM_PACKAGES]
    fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return f"needs npm's registry: {fetched.stderr.strip().splitlines()[-1]}" if fetched.returncode else ""


def complaints(types: Path, manifests: Iterable[Manifest]) -> list[str]:
    """What is wrong with manifests: to the compiler unknown names and types, to the schemas what strings look like.

    Args:
        types: The folder of `fetch_types`.
        manifests: Objects of Kubernetes.
    """
    (types / "manifests.ts").write_text("".join(_program(*pair) for pair in enumerate(manifests)), encoding="utf-8")
    compiler = "node_modules/.bin/tsc --strict --skipLibCheck --target es2022 --module nodenext manifests.ts"
    compiled, checked = (
        subprocess.run(command, cwd=types, capture_output=True, text=True, timeout=100, check=False)
        for command in (compiler.split(), ["node", "manifests.js"])
    )
    assert checked.returncode == 0, checked.stderr
    return (compiled.stdout + checked.stdout).splitlines()


def _program(number: int, manifest: Manifest) -> str:
    """Only a literal is looked through for names that its type does not know."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    kind = manifest["kind"]
    package = OF_OTHERS.get(group)
    module = f"{package}/{group}/{version}/{kind}" if package else f"kubernetes-models/{group}/{version}/{kind}"
    return (
        f'import {{ type I{kind} as Type{number}, {kind} as Kind{number} }} from "{module}";\n'
        f"const manifest{number}: Type{number} = {json.dumps(manifest)};\n"
        f"try {{ new Kind{number}(manifest{number}).validate(); }}\n"
        f'catch (error) {{ console.log("{kind}", String(error)); }}\n'
    )
