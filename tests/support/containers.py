"""Real containers by podman and runc: images of this work tree, and containers that are gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
BASE: Final = "localhost/utilctl-base:test"
PREFIX: Final = "localhost/utilctl-test"
NO_PODMAN: Final = "there is no podman with runc here: run tools/setup_podman.sh and tools/setup_image_base.sh " + BASE
RUN: Final = ("--runtime", "runc", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096")
"""crun does not work where both versions of cgroups are in use, and limits must be given there."""


def podman(*arguments: str, timeout_s: float = 120) -> str:
    """Run it; what it prints."""
    ran = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ran.returncode == 0, f"podman {' '.join(arguments)}: {ran.stderr}"
    return ran.stdout.strip()


def possible() -> bool:
    """Whether there is all that it takes."""
    if os.geteuid() != 0 or not shutil.which("podman") or not shutil.which("runc"):
        return False
    return subprocess.run(["podman", "image", "exists", BASE], check=False).returncode == 0


def build(target: str) -> str:
    """The image of this work tree; its name. What has not changed is not built again."""
    arguments = ["--base", BASE, "--prefix", PREFIX, "--tag", "test", "--target", target]
    ran = subprocess.run(
        [ROOT / "tools/build_images.sh", *arguments], capture_output=True, text=True, timeout=400, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return f"{PREFIX}/{target}:test"


@contextlib.contextmanager
def container(image: str, command: Sequence[str] = (), options: Sequence[str] = ()) -> Iterator[str]:
    """A running container; its id. Removed at the end, whatever it does."""
    name = f"utilctl-test-{uuid.uuid4().hex[:12]}"
    try:
        yield podman("run", "--detach", "--name", name, *RUN, *options, image, *command)
    finally:
        subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True, timeout=60, check=False)


def inspected(identity: str) -> Mapping[str, Any]:
    """What podman knows of a container."""
    (found,) = json.loads(podman("inspect", identity))
    assert isinstance(found, dict)
    return found


def as_options(pod: Mapping[str, Any], folders: Mapping[str, Path]) -> list[str]:
    """podman's options for the one container of ``pod``, a pod's spec: its security, namespaces and volumes.

    ``folders`` are the directories of this machine that stand for the pod's volumes, by name.
    """
    (spec,) = pod["containers"]
    context = {**pod.get("securityContext", {}), **spec["securityContext"]}
    options: list[str] = []
    if pod.get("hostPID"):
        options += ["--pid", "host"]
    if "runAsUser" in context:
        options += ["--user", f"{context['runAsUser']}:{context.get('runAsGroup', 0)}"]
    if context.get("privileged"):
        options.append("--privileged")
    capabilities = context.get("capabilities", {})
    options += [f"--cap-drop={name}" for name in capabilities.get("drop", [])]
    options += [f"--cap-add={name}" for name in capabilities.get("add", [])]
    if context.get("allowPrivilegeEscalation") is False:
        options += ["--security-opt", "no-new-privileges"]
    if context.get("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    for mount in spec["volumeMounts"]:
        options += ["--volume", f"{folders[mount['name']]}:{mount['mountPath']}"]
    return options
