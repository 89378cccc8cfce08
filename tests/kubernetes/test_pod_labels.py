"""Which labels a cgroup's processes get, as the API tells of pods that come, change and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from utilctl_agent.discovery.facts import CgroupPath
from utilctl_agent.kubernetes.pod_labels import Pod, PodLabels, pod_from

UID = "2c48913c-b29f-11e7-9350-020968147796"
HASH = "1d6e1c5b8f0a4c9aa1d2e3f4a5b6c7d8"
ID = "0f4d5c2b" * 8


def pod(uid: str = UID, name: str = "web-0", **labels: str) -> Pod:
    return Pod(uid, "default", name, labels, (uid,))


def cgroups(uid: str = UID) -> tuple[CgroupPath, ...]:
    path = f"/kubepods/burstable/pod{uid}/{ID}"
    return (CgroupPath("freezer", path), CgroupPath("", "/system.slice/containerd.service"))


def document(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"uid": UID, "name": "web-0", "namespace": "default", **metadata}}


def test_a_pod_gives_its_labels_to_what_runs_in_it() -> None:
    source = PodLabels()
    assert source.labels_of(cgroups()) == {}
    source.put(pod(svc="web", tier="gold"))
    assert source.labels_of(cgroups()) == {"svc": "web", "tier": "gold"}
    assert source.labels_of((CgroupPath("", "/user.slice"),)) == {}


def test_other_labels_stand_for_those_of_services_unless_the_pod_has_these_itself() -> None:
    source = PodLabels({"svc": "app.kubernetes.io/name"})
    source.put(Pod(UID, "default", "web-0", {"app.kubernetes.io/name": "shop"}, (UID,)))
    assert source.labels_of(cgroups())["svc"] == "shop"
    source.put(Pod(UID, "default", "web-0", {"app.kubernetes.io/name": "shop", "svc": "web"}, (UID,)))
    assert source.labels_of(cgroups())["svc"] == "web"


def test_the_revision_grows_with_every_change_and_with_nothing_else() -> None:
    source = PodLabels()
    seen = [source.revision]
    steps: list[tuple[Callable[[], None], bool]] = [
        (lambda: source.put(pod(svc="web")), True),
        (lambda: source.put(pod(svc="web")), False),
        (lambda: source.put(pod(svc="shop")), True),
        (lambda: source.replace([pod(svc="shop")]), False),
        (lambda: source.replace([]), True),
        (lambda: source.remove(UID), False),
    ]
    for step, grows in steps:
        step()
        assert (source.revision > seen[-1]) == grows
        seen.append(source.revision)


def test_a_pod_that_is_gone_labels_nothing_and_a_list_forgets_what_it_does_not_name() -> None:
    source = PodLabels()
    source.put(pod(svc="web"))
    source.remove(UID)
    assert source.labels_of(cgroups()) == {}
    source.put(pod(svc="web"))
    source.replace([pod("11111111-b29f-11e7-9350-020968147796", "other", svc="etl")])
    assert source.labels_of(cgroups()) == {}
    assert source.labels_of(cgroups("11111111-b29f-11e7-9350-020968147796")) == {"svc": "etl"}


@pytest.mark.parametrize("annotation", ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"])
def test_a_static_pod_is_known_by_the_uid_that_its_cgroup_has(annotation: str) -> None:
    told = pod_from(document(labels={"svc": "dns"}, annotations={annotation: HASH}))
    assert told is not None
    source = PodLabels()
    source.put(told)
    assert source.labels_of(cgroups(HASH)) == {"svc": "dns"}
    source.remove(UID)
    assert source.labels_of(cgroups(HASH)) == {}


def test_a_static_pod_that_is_made_anew_keeps_its_labels_whichever_word_comes_first() -> None:
    old = Pod(UID, "kube-system", "dns", {"svc": "dns"}, (UID, HASH))
    new_uid = "33333333-b29f-11e7-9350-020968147796"
    new = Pod(new_uid, "kube-system", "dns", {"svc": "dns"}, (new_uid, HASH))
    source = PodLabels()
    source.put(old)
    source.put(new)
    source.remove(UID)
    assert source.labels_of(cgroups(HASH)) == {"svc": "dns"}


def test_of_a_cluster_in_a_pod_the_pod_that_is_known_counts() -> None:
    inner = "9d1c7f4e-0000-4000-8000-aaaaaaaaaaaa"
    path = f"/kubepods/burstable/pod{UID}/{ID}/kubelet/kubepods/pod{inner}/{ID}"
    source = PodLabels()
    source.put(pod(svc="cluster"))
    assert source.labels_of((CgroupPath("", path),)) == {"svc": "cluster"}
    source.put(pod(inner, "web-0", svc="web"))
    assert source.labels_of((CgroupPath("", path),)) == {"svc": "web"}


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"metadata": None},
        {"metadata": []},
        document(uid=None),
        document(uid=""),
        document(name=7),
        {"metadata": {"uid": UID}},
    ],
)
def test_what_is_no_pod_is_none(garbage: dict[str, Any]) -> None:
    assert pod_from(garbage) is None


def test_labels_that_are_no_texts_are_left_out() -> None:
    told = pod_from(document(labels={"svc": "web", "n": 3, "x": None}, annotations="none"))
    assert told is not None
    assert told.labels == {"svc": "web"}
    assert told.cgroup_uids == (UID,)
