"""Which pods wait for a share: those whose label names a service that has none."""

from __future__ import annotations

from utilctl_agent.kubernetes.pod_labels import Pod, PodLabels
from utilctl_agent.kubernetes.waiting import MAX_WAITING, waiting_pods


def test_pods_of_services_without_a_share_are_counted_by_service() -> None:
    pods = [{"svc": "web"}, {"svc": "foo"}, {"svc": "foo", "app": "x"}, {"svc": "bar"}, {"app": "foo"}, {}]
    assert waiting_pods(pods, ["svc=web"]) == {"svc=bar": 1, "svc=foo": 2}


def test_children_and_their_parent_are_one_service_here() -> None:
    assert waiting_pods([{"svc": "web", "class": "tin"}], ["svc=web/class=gold"]) == {}


def test_other_labels_count_where_services_go_by_them() -> None:
    pods = [{"team": "a"}, {"team": "b"}]
    assert waiting_pods(pods, ["svc=web"]) == {}
    assert waiting_pods(pods, ["team=a"]) == {"team=b": 1}
    assert waiting_pods(pods, [], mapped=["team"]) == {"team=a": 1, "team=b": 1}


def test_a_pod_that_is_in_a_service_by_one_label_does_not_wait_for_another() -> None:
    assert waiting_pods([{"svc": "foo", "team": "a"}], ["team=a"]) == {}


def test_labels_that_can_name_no_service_are_left_out() -> None:
    assert waiting_pods([{"svc": ""}, {"svc": "_"}, {"svc": "x" * 64}], []) == {}


def test_a_host_tells_of_those_with_most_pods() -> None:
    many = [{"svc": f"s{number:03}"} for number in range(MAX_WAITING + 50)]
    found = waiting_pods([*many, {"svc": "z"}, {"svc": "z"}], [])
    assert len(found) == MAX_WAITING
    assert found["svc=z"] == 2
    assert list(found) == sorted(found)


def test_a_label_that_stands_for_a_services_names_it_too() -> None:
    labels = PodLabels({"svc": "app.kubernetes.io/name"})
    labels.put(Pod("u", "default", "p", {"app.kubernetes.io/name": "shop"}, ("u",)))
    assert labels.waiting(["svc=web"]) == {"svc=shop": 1}
    assert labels.waiting(["svc=shop"]) == {}
