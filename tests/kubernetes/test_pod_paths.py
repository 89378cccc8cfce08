"""Cgroup paths of real kubelets and runtimes, and paths that only look like them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.kubernetes.pod_paths import PodCgroup, pods_of

UID = "2c48913c-b29f-11e7-9350-020968147796"
UNDERSCORED = UID.replace("-", "_")
HASH = "1d6e1c5b8f0a4c9aa1d2e3f4a5b6c7d8"
ID = "0f4d5c2b" * 8

REAL = {
    # cgroupfs driver
    f"/kubepods/burstable/pod{UID}/{ID}": ("burstable", UID, ID),
    f"/kubepods/besteffort/pod{UID}/{ID}": ("besteffort", UID, ID),
    f"/kubepods/pod{UID}/{ID}": ("guaranteed", UID, ID),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": ("burstable", UID, ID),
    f"/kubepods/burstable/pod{HASH}/{ID}": ("burstable", HASH, ID),
    # systemd driver
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": (
        "burstable", UID, ID,
    ),
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{ID}.scope": (
        "besteffort", UID, ID,
    ),
    f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope": ("guaranteed", UID, ID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope": (
        "burstable", HASH, ID,
    ),
    # CRI-O's own cgroup below the container's, with cgroup v2 and systemd in the container
    f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/container": ("guaranteed", UID, ID),
    f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope/init.scope": ("guaranteed", UID, ID),
    # containerd at the cgroupfs driver under a kubelet at the systemd one
    f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}": (
        "burstable", UID, ID,
    ),
    # a kubelet with --cgroup-root, or in a container (kind, k3d)
    f"/docker/{ID}/kubelet/kubepods/burstable/pod{UID}/{ID}": ("burstable", UID, ID),
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
    f"kubelet-kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": ("besteffort", UID, ID),
    f"/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/"
    f"kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": ("guaranteed", UID, ID),
    # as seen from within a container with a cgroup namespace of its own
    f"/../../kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": (
        "burstable", UID, ID,
    ),
    # the pod's own cgroup, and one that a container made
    f"/kubepods/burstable/pod{UID}": ("burstable", UID, None),
    f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice": ("guaranteed", UID, None),
    f"/kubepods/burstable/pod{UID}/{ID}/workers/3": ("burstable", UID, ID),
}  # fmt: skip


@pytest.mark.parametrize("path", list(REAL))
def test_the_pod_and_the_container_are_found(path: str) -> None:
    qos, uid, container = REAL[path]
    assert pods_of(path) == (PodCgroup(uid, qos, container),)  # type: ignore[arg-type]  # one of the classes


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/user.slice/user-1000.slice",
        "/system.slice/kubelet.service",
        f"/system.slice/docker-{ID}.scope",
        f"/machine.slice/libpod-{ID}.scope",
        f"/home/pod{UID}/x",
        f"/burstable/pod{UID}/{ID}",
        f"/kubepods/other/pod{UID}/{ID}",
        f"/kubepods/burstable/pod{UID}x/{ID}",
        f"/kubepods/burstable/pod{UID[:-1]}/{ID}",
        f"/kubepods/burstable/pod{UID.upper()}/{ID}",
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.scope",
        f"/kubepods.slice/kubepods-pod{UNDERSCORED[:20]}-{UNDERSCORED[21:]}.slice",
    ],
)
def test_what_only_looks_like_a_pod_is_none(path: str) -> None:
    assert pods_of(path) == ()


def test_a_cluster_in_a_pod_has_both_pods_the_outer_one_first() -> None:
    inner = "9d1c7f4e-0000-4000-8000-aaaaaaaaaaaa"
    path = f"/kubepods/burstable/pod{UID}/{ID}/kubelet/kubepods/pod{inner}/{ID}"
    assert pods_of(path) == (PodCgroup(UID, "burstable", ID), PodCgroup(inner, "guaranteed", ID))


def test_the_monitor_of_a_container_belongs_to_its_pod_but_to_no_container() -> None:
    path = f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-conmon-{ID}.scope"
    assert pods_of(path) == (PodCgroup(UID, "guaranteed", ID),)


@settings(max_examples=300, deadline=None)
@given(
    uid=st.uuids().map(str),
    qos=st.sampled_from(["burstable", "besteffort", "guaranteed"]),
    systemd=st.booleans(),
    above=st.sampled_from(["", "/kubelet", "/a/b.slice", f"/docker/{ID}"]),
    below=st.sampled_from(["", "/x", "/init.scope/y"]),
)
def test_every_uid_is_found_whichever_driver_wrote_it(
    uid: str, qos: str, systemd: bool, above: str, below: str
) -> None:
    middle = "" if qos == "guaranteed" else qos
    if systemd:
        slices = ["kubepods.slice", *([f"kubepods-{middle}.slice"] if middle else [])]
        slices.append(f"kubepods-{middle + '-' if middle else ''}pod{uid.replace('-', '_')}.slice")
        path = f"{above}/{'/'.join(slices)}/cri-containerd-{ID}.scope{below}"
    else:
        path = f"{above}/kubepods/{middle + '/' if middle else ''}pod{uid}/{ID}{below}"
    assert pods_of(path) == (PodCgroup(uid, qos, ID),)  # type: ignore[arg-type]  # one of the classes


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="/podkubes-_.:0123456789abcdef", max_size=200))
def test_no_path_is_a_mistake(path: str) -> None:
    pods_of(path)
