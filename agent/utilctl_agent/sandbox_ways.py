"""How a sandbox can hold its program back on this host: what is tried out, for ``mechanism.choose_for_sandbox``."""

from __future__ import annotations

from pathlib import Path

from utilctl_agent.alps.quota import LEAST_CAP
from utilctl_agent.host.cgroup import cgroup2_mount, freezer_refusal
from utilctl_agent.host.quotas import quota_mounts, quota_refusal
from utilctl_agent.mechanism import SandboxChoice, SandboxMode, choose_for_sandbox


def choose(mode: SandboxMode, cap_cores: float, *, command: bool, tree: bool, by_state: bool) -> SandboxChoice:
    """What to use. command: we start the program. tree: children are capped, too. by_state: how ready time is told."""
    no_cgroup = None
    if not command:
        no_cgroup = "a process that was taken stays in its cgroup"
    elif not tree:
        no_cgroup = "a cgroup would hold its children, too"
    if mode == "signal" or no_cgroup is not None:
        return choose_for_sandbox(mode, quota=None, freezer=None, no_cgroup=no_cgroup)
    if by_state:
        quota: str | None = "it does not go by states"
    elif cap_cores < LEAST_CAP:
        quota = "the cap is too small for one"
    else:
        quota = quota_refusal()
    freezer = freezer_refusal() if quota is not None or mode == "freezer" else None
    return choose_for_sandbox(mode, quota=quota, freezer=freezer)


def mounts(choice: SandboxChoice) -> tuple[Path, ...]:
    """Where the program needs cgroups for that."""
    if choice.mechanism == "quota":
        return quota_mounts()
    mount = cgroup2_mount()
    return () if mount is None else (mount,)
