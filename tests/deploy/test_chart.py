"""The Helm chart as a real helm renders it: valid manifests for every sensible set of values, one line for others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # publishes no types
import pytest
import yaml

from support.helm import CHART, NO_HELM, Manifest, helm, only, render, run_helm

pytestmark = [pytest.mark.helm, pytest.mark.skipif(helm() is None, reason=NO_HELM)]

GOLDEN = Path(__file__).parent / "golden"
KUBERNETES = ("1.29", "1.33", "1.37")
ETCD = ("store.kind=etcd", "store.etcd.endpoints={etcd.etcd.svc:2379}")
MATRIX: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "own-etcd-with-tls": (*ETCD, "store.etcd.tls.secretName=etcd-client", "controller.replicas=3"),
    "sqlite": ("store.kind=sqlite", "controller.replicas=1", "store.sqlite.storageClassName=fast"),
    "everything-else": (
        *ETCD, "agent.mechanism=weight", "agent.kubernetes.labelMap.svc=app\\.kubernetes\\.io/name",
        "telemetry.otlpEndpoint=http://collector:4317", "telemetry.sampleRatio=0.1", "mode=fleet-with-floor",
        "agent.extraArgs={--verbose}", "controller.service.type=LoadBalancer", "image.pullSecrets={registry}",
        "agent.podAnnotations.team=infra", "networkPolicy.nodeBlocks={10.0.0.0/16}", "agent.maxUnavailable=1",
        f"image.agentDigest=sha256:{'0' * 64}", "controller.podLabels.team=infra", "image.tag=1.2.3",
    ),
    "bare": (
        "rbac.create=false", "serviceAccount.create=false", "networkPolicy.enabled=false", "controller.replicas=1",
        "agent.kubernetes.enabled=false", "agent.mechanism=observe", "agent.tolerations=null",
    ),
    "monitored": (
        "telemetry.serviceMonitor.enabled=true", "telemetry.prometheusRule.enabled=true",
        "telemetry.dashboards.enabled=true", "telemetry.serviceMonitor.labels.release=prometheus",
    ),
    "privileged": ("agent.privileged=true", "agent.mechanism=signal"),
}  # fmt: skip


def agent_container(manifests: list[Manifest]) -> dict[str, Any]:
    (container,) = only(manifests, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("name", list(MATRIX))
def test_every_manifest_is_valid_for_three_versions_of_kubernetes(name: str) -> None:
    manifests = render(*MATRIX[name])
    for version in KUBERNETES:
        for manifest in manifests:
            if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):  # the operator's own kinds
                kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", list(MATRIX))
def test_the_chart_renders_as_it_was_looked_over(name: str) -> None:
    """UTILCTL_GOLDEN=write writes what there is now, to be looked over in the diff."""
    text = yaml.safe_dump_all(render(*MATRIX[name]), sort_keys=True, width=110)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UTILCTL_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "if it is meant so: UTILCTL_GOLDEN=write pytest tests/deploy, and look at the diff"


@pytest.mark.parametrize("name", list(MATRIX))
def test_lint_has_nothing_to_say(name: str) -> None:
    arguments = [argument for setting in MATRIX[name] for argument in ("--set", setting)]
    ran = run_helm("lint", "--strict", str(CHART), *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("agent.mechanism=freezr", "mechanism"),
        ("agent.quantum=10", "quantum"),
        ("mode=fair", "mode"),
        ("controller.replicas=0", "replicas"),
        ("controller.replicas=two", "replicas"),
        ("store.kind=postgres", "kind"),
        ("store.etcd.endpoints={http://e:2379}", "endpoints"),
        ("agent.resources.limits.cpu=1", "cpu"),
        ("agent.maxUnavailable=0", "maxUnavailable"),
        ("telemetry.sampleRatio=2", "sampleRatio"),
        ("telemetry.logFormat=xml", "logFormat"),
        ("telemetry.otlpEndpoint=collector:4317", "otlpEndpoint"),
        ("image.agentDigest=latest", "agentDigest"),
        ("agnet.mechanism=auto", "agnet"),
        ("networkPolicy.nodeBlocks={nodes}", "nodeBlocks"),
        ("store.kind=etcd", "list its members in store.etcd.endpoints"),
        ("store.kind=sqlite", "set controller.replicas=1"),
        ("store.kind=etcd,store.etcd.endpoints={a.etcd:2379,b.etcd:2379}", "one name that resolves to all"),
    ],
)
def test_wrong_values_are_refused_and_named(setting: str, named: str) -> None:
    ran = run_helm("template", "utilctl", str(CHART), "--set", setting)
    assert ran.returncode != 0
    assert named in ran.stderr


class TestAgents:
    def test_nobody_is_privileged_unless_asked_for(self) -> None:
        for name, settings in MATRIX.items():
            context = agent_container(render(*settings))["securityContext"]
            assert context.get("privileged", False) == (name == "privileged")
            assert context["readOnlyRootFilesystem"] is True
            if name != "privileged":
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"]["drop"] == ["ALL"]
                assert "SYS_ADMIN" not in context["capabilities"]["add"]

    @pytest.mark.parametrize(
        ("mechanism", "has", "has_not"),
        [
            ("auto", {"KILL", "SYS_NICE"}, set()),
            ("weight", {"DAC_OVERRIDE", "SYS_NICE"}, {"KILL"}),
            ("observe", {"SYS_PTRACE"}, {"KILL", "DAC_OVERRIDE", "SYS_NICE", "IPC_LOCK"}),
        ],
    )
    def test_a_mechanism_gets_the_capabilities_that_it_needs(
        self, mechanism: str, has: set[str], has_not: set[str]
    ) -> None:
        added = set(agent_container(render(f"agent.mechanism={mechanism}"))["securityContext"]["capabilities"]["add"])
        assert has <= added
        assert not added & has_not

    def test_the_journal_outlives_the_pod_and_what_is_paused_is_let_go_before_it_ends(self) -> None:
        daemon_set = only(render(), "DaemonSet")
        volumes = {volume["name"]: volume for volume in daemon_set["spec"]["template"]["spec"]["volumes"]}
        assert volumes["journal"]["hostPath"]["path"] == "/run/utilctl"
        container = agent_container(render())
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["utilctl", "thaw", "--all"]

    def test_no_two_agents_are_on_a_node_during_an_upgrade(self) -> None:
        strategy = only(render(), "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
        assert strategy["maxSurge"] == 0

    def test_the_role_lets_agents_see_pods_and_do_nothing_else(self) -> None:
        rules = only(render(), "ClusterRole")["rules"]
        assert rules == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        assert not [m for m in render("agent.kubernetes.enabled=false") if m["kind"].startswith("ClusterRole")]


class TestControllers:
    def test_they_run_as_nobody_with_no_rights_and_no_token(self) -> None:
        pod = only(render(), "Deployment")["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True

    def test_a_single_one_is_not_kept_from_being_drained(self) -> None:
        assert [m for m in render() if m["kind"] == "PodDisruptionBudget"]
        single = render("store.kind=sqlite", "controller.replicas=1")
        assert not [m for m in single if m["kind"] == "PodDisruptionBudget"]
        assert only(single, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}

    def test_policies_outlive_an_uninstallation(self) -> None:
        claim = only(render("store.kind=sqlite", "controller.replicas=1"), "PersistentVolumeClaim")
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

    def test_agents_call_the_service_that_there_is(self) -> None:
        manifests = render(release="blue", namespace="infra")
        service = only(manifests, "Service", "-controller")
        (port,) = service["spec"]["ports"]
        address = f"{service['metadata']['name']}.infra.svc:{port['port']}"
        assert f"--controller={address}" in agent_container(manifests)["args"]
        labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()


def test_selectors_stay_the_same_from_release_to_release() -> None:
    for settings in ((), ("image.tag=9.9.9",)):
        manifests = render(*settings)
        for kind in ("DaemonSet", "Deployment", "StatefulSet"):
            selector = only(manifests, kind)["spec"]["selector"]["matchLabels"]
            assert set(selector) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_an_upgrade_with_another_image_changes_nothing_else() -> None:
    def without_image(manifests: list[Manifest]) -> str:
        return yaml.safe_dump_all(manifests).replace(":9.9.9", ":TAG").replace(":0.1.0", ":TAG")

    assert without_image(render("image.tag=9.9.9")) == without_image(render())
