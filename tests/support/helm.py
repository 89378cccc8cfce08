"""The chart rendered by a real helm, and its manifests as values."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy/helm/utilctl"
NO_HELM: Final = "there is no helm here: run tools/setup_helm.sh .venv/helm .venv/bin/python"
Manifest = dict[str, Any]


def helm() -> str | None:
    """The program; None if there is none."""
    own = ROOT / ".venv/helm/helm"
    return str(own) if own.exists() else shutil.which("helm")


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, apart from any cluster and from what its user has set up."""
    program = helm()
    assert program is not None
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "HELM_CACHE_HOME": "/tmp",
        "KUBECONFIG": "/dev/null",
    }
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def render(*settings: str, release: str = "utilctl", namespace: str = "utilctl") -> list[Manifest]:
    """The manifests with these ``--set`` settings."""
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    ran = run_helm("template", release, str(CHART), "--namespace", namespace, *arguments)
    assert ran.returncode == 0, ran.stderr
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


def only(manifests: Iterable[Manifest], kind: str, suffix: str = "") -> Manifest:
    """The one manifest of this kind whose name ends so."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(suffix)]
    return found
