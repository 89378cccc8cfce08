"""What this process may do to cgroups on this host, tried out."""

from __future__ import annotations

from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.weights import weight_refusal
from utilctl_agent.mechanism import HostAbilities


def host_abilities() -> HostAbilities:
    """Try every mechanism once, on cgroups that are made for it and removed again."""
    return HostAbilities(freezer=freezer_refusal(), freezer_v1=freezer_v1_refusal(), weight=weight_refusal())
