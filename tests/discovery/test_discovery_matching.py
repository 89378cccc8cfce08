"""The rules of who belongs to which SEE, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.discovery.conditions import cgroup_pattern, unit_name, wanted_variables
from utilctl_agent.discovery.explain import explain
from utilctl_agent.discovery.facts import CgroupPath, ProcessFacts, ProcessKey, ProcessTable, table_of
from utilctl_agent.discovery.matching import PolicyMatcher, decide, match
from utilctl_common.errors import UsageError
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy


def process(pid: int, ppid: int = 1, **given: Any) -> ProcessFacts:
    base = ProcessFacts(pid=pid, start_ticks=pid * 10, ppid=ppid, uid=1000, user="alice", comm="work")
    return replace(base, **given)


def policy(name: str, *matchers: str) -> SeePolicy:
    return SeePolicy(name, 1.0, matchers=parse_matchers(matchers))


def marked(see: str) -> tuple[tuple[str, str], ...]:
    return (("UTILCTL_SEE", see),)


def sees(policies: list[SeePolicy], processes: list[ProcessFacts]) -> dict[int, str]:
    members = match(policies, table_of(processes)).members
    return {key.pid: see for see, keys in members.items() for key in keys}


@pytest.mark.parametrize(
    ("condition", "facts", "holds"),
    [
        ("user=alice", {}, True),
        ("user=1000", {}, True),
        ("user=bob", {}, False),
        ("command=work", {}, True),
        ("command=a-very-long-program", {"comm": "a-very-long-pro", "exe": "a-very-long-program"}, True),
        ("command=wor", {}, False),
        ("cmdline=kafka\\.Kafka$", {"cmdline": "java -cp x kafka.Kafka"}, True),
        ("cmdline=^kafka", {"cmdline": "java -cp x kafka.Kafka"}, False),
        ("env=TIER=gold", {"environment": (("TIER", "gold"),)}, True),
        ("env=TIER=gold", {"environment": (("TIER", "golden"),)}, False),
        ("env=TIER=gold", {"environment": None}, False),
        ("label=app=a", {"labels": (("app", "a"), ("b", "c"))}, True),
        ("label=app=b", {"labels": (("app", "a"),)}, False),
        ("unit=nginx", {"cgroups": (CgroupPath("name=systemd", "/system.slice/nginx.service"),)}, True),
        ("unit=nginx.service", {"cgroups": (CgroupPath("", "/a/nginx.service/sub"),)}, True),
        ("unit=ngin", {"cgroups": (CgroupPath("", "/system.slice/nginx.service"),)}, False),
        ("cgroup=/web", {"cgroups": (CgroupPath("", "/"), CgroupPath("freezer", "/web/a"))}, True),
        ("cgroup=/web", {"cgroups": (CgroupPath("", "/website"),)}, False),
        ("pid=7", {}, True),
        ("pid=8", {}, False),
        ("tree=7", {}, True),
        ("user=alice,command=work", {}, True),
        ("user=alice,command=other", {}, False),
    ],
)
def test_a_condition_holds_for_what_it_names(condition: str, facts: dict[str, Any], holds: bool) -> None:
    assert sees([policy("svc=a", condition)], [process(7, **facts)]) == ({7: "svc=a"} if holds else {})


@pytest.mark.parametrize(
    ("pattern", "path", "holds"),
    [
        ("/", "/anything", True),
        ("/a/b", "/a/b", True),
        ("/a/b/", "/a/b/c", True),
        ("/a/b", "/a/bc", False),
        ("a/b", "/a/b/c", True),
        ("/system.slice/nginx*", "/system.slice/nginx-1.service/worker", True),
        ("/system.slice/nginx*", "/system.slice/other/nginx.service", False),
        ("/pods/*/web", "/pods/x/web", True),
        ("/pods/*/web", "/pods/x/y/web", False),
        ("/**/web", "/pods/x/y/web", True),
        ("/**/web", "/web", True),
        ("/w?b", "/web", True),
        ("/[a-c]x", "/bx", True),
        ("/[!a-c]x", "/bx", False),
        ("/[z-a", "/[z-a", True),
        ("/a.c*", "/abc", False),
        ("/x\\x2dy*", "/x\\x2dy.scope", True),
    ],
)
def test_cgroup_patterns_are_prefixes_by_component_or_globs(pattern: str, path: str, holds: bool) -> None:
    assert cgroup_pattern(pattern)(path) is holds


def test_repeated_matchers_are_alternatives() -> None:
    policies = [policy("svc=a", "command=x", "command=y")]
    assert sees(policies, [process(2, comm="x"), process(3, comm="y"), process(4, comm="z")]) == {
        2: "svc=a",
        3: "svc=a",
    }


def test_without_matchers_the_marker_and_pod_labels_of_the_name_count() -> None:
    processes = [
        process(2, environment=marked("svc=web")),
        process(3, environment=marked("svc=website")),
        process(4, labels=(("svc", "web"),)),
        process(5, labels=(("svc", "web"), ("class", "gold"))),
        process(6, environment=marked("svc=web/class=silver")),
    ]
    policies = [policy("svc=web"), policy("svc=web/class=gold")]
    assert sees(policies, processes) == {
        2: "svc=web",
        4: "svc=web",
        5: "svc=web/class=gold",
        6: "svc=web",
    }


def test_a_child_see_beats_its_parent_even_with_fewer_conditions() -> None:
    policies = [policy("svc=web", "user=alice,command=work"), policy("svc=web/class=gold", "user=alice")]
    assert sees(policies, [process(2)]) == {2: "svc=web/class=gold"}


def test_a_child_see_takes_over_the_rank_of_its_parent() -> None:
    """web beats other, and within web gold. Rules for pairs alone would go in a circle."""
    policies = [
        policy("svc=web", "user=alice,command=work,cmdline=."),
        policy("svc=web/class=gold", "user=alice"),
        policy("svc=other", "user=alice,command=work"),
    ]
    assert sees(policies, [process(2, cmdline="x")]) == {2: "svc=web/class=gold"}


def test_more_conditions_beat_fewer() -> None:
    policies = [policy("svc=a", "user=alice"), policy("svc=b", "user=alice,command=work")]
    assert sees(policies, [process(2)]) == {2: "svc=b"}


def test_the_best_of_an_sees_own_matchers_counts() -> None:
    policies = [policy("svc=a", "user=alice", "user=alice,command=work"), policy("svc=b", "command=work")]
    assert sees(policies, [process(2)]) == {2: "svc=a"}


def test_a_tie_is_reported_and_the_process_and_its_children_belong_to_neither() -> None:
    table = table_of([process(2), process(3, 2, user="root", comm="x")])
    membership = match([policy("svc=a", "user=alice"), policy("svc=b", "command=work")], table)
    assert membership.members == {"svc=a": (), "svc=b": ()}
    [problem] = membership.problems
    assert (problem.pid, problem.sees) == (2, ("svc=a", "svc=b"))
    assert "pid 2" in problem.message
    assert "svc=a and svc=b" in problem.message


def test_descendants_inherit_unless_they_match_another_see_themselves() -> None:
    processes = [
        process(2, comm="a"),
        process(3, 2, comm="sudo", user="root", uid=0),
        process(4, 3, comm="b", user="root", uid=0),
        process(5, 4, comm="c", user="root", uid=0),
    ]
    policies = [policy("svc=a", "command=a,user=alice"), policy("svc=b", "command=b")]
    assert sees(policies, processes) == {2: "svc=a", 3: "svc=a", 4: "svc=b", 5: "svc=b"}


def test_a_process_of_a_child_see_does_not_fall_back_to_the_parent_see_by_forking() -> None:
    policies = [policy("svc=web", "user=alice"), policy("svc=web/class=gold", "command=gold")]
    assert sees(policies, [process(2, comm="gold"), process(3, 2, comm="helper")]) == {
        2: "svc=web/class=gold",
        3: "svc=web/class=gold",
    }


def test_a_departed_parent_passes_its_see_on_and_is_no_member() -> None:
    parent, child = process(2, comm="a"), process(3, 1, comm="b")
    table = ProcessTable({child.key: child}, {child.key: parent.key}, departed={parent.key: parent})
    assert match([policy("svc=a", "command=a")], table).members == {"svc=a": (child.key,)}


def test_tree_and_pid_mean_the_bound_process_only() -> None:
    root, child = process(2), process(3, 2)
    table = replace(table_of([root, child]), bound_pids={2: ProcessKey(2, 1)})
    assert match([policy("svc=a", "tree=2"), policy("svc=b", "pid=2")], table).members == {
        "svc=a": (),
        "svc=b": (),
    }
    bound = match([policy("svc=a", "tree=2")], table_of([root, child]))
    assert bound.members == {"svc=a": (root.key, child.key)}


def test_the_agents_own_processes_and_those_out_of_scope_belong_to_nothing() -> None:
    own, out, inside = process(2), process(3), process(4, 3)
    table = table_of([own, out, inside], unmanaged=frozenset({2}), in_scope=frozenset({own.key, inside.key}))
    assert match([policy("svc=a", "user=alice")], table).members == {"svc=a": (inside.key,)}
    table = table_of([replace(out, comm="x"), inside], in_scope=frozenset({inside.key}))
    assert match([policy("svc=a", "command=x")], table).members == {"svc=a": ()}


def test_two_policies_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="svc=a is given twice"):
        match([policy("svc=a"), policy("svc=a", "pid=1")], table_of([]))


def test_a_loop_of_parents_ends() -> None:
    one, two = process(2), process(3)
    table = ProcessTable({one.key: one, two.key: two}, {one.key: two.key, two.key: one.key})
    assert match([policy("svc=a", "tree=9", "user=alice")], table).members == {"svc=a": (one.key, two.key)}


def test_only_variables_named_by_a_policy_are_wanted() -> None:
    assert wanted_variables([policy("svc=a", "env=A=1", "env=B=x=y,user=u")]) == {"UTILCTL_SEE", "A", "B"}


@pytest.mark.parametrize(("text", "unit"), [("a", "a.service"), ("a.scope", "a.scope"), ("a.b", "a.b.service")])
def test_a_unit_without_a_type_is_a_service(text: str, unit: str) -> None:
    assert unit_name(text) == unit


NAMES = ("svc=a", "svc=a/class=x", "svc=a/class=y", "svc=b", "svc=b/class=x", "svc=c")
CONDITIONS = ("user=alice", "user=bob", "command=p", "command=q", "cmdline=z", "tree=3", "pid=5", "cgroup=/g")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[SeePolicy], list[ProcessFacts]]:
    one_matcher = st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3, unique_by=lambda c: c.split("=")[0])
    policies = [
        policy(name, *draw(st.lists(one_matcher.map(",".join), max_size=3)))
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    ]
    processes = [
        process(
            pid,
            draw(st.integers(1, pid - 1)),
            user=draw(st.sampled_from(("alice", "bob", "eve"))),
            comm=draw(st.sampled_from("pqr")),
            cmdline=draw(st.sampled_from(("z", ""))),
            cgroups=(CgroupPath("", draw(st.sampled_from(("/", "/g", "/g/h")))),),
            environment=draw(st.sampled_from([None, (), *map(marked, NAMES)])),
        )
        for pid in range(2, draw(st.integers(2, 12)))
    ]
    return policies, processes


@given(worlds(), st.randoms(use_true_random=False))
def test_every_process_is_in_one_see_at_most_in_whatever_order_they_come(world: Any, random: Any) -> None:
    policies, processes = world
    membership = match(policies, table_of(processes))
    placed = [key for keys in membership.members.values() for key in keys]
    assert len(placed) == len(set(placed))
    assert set(membership.members) == {p.name for p in policies}
    assert not {problem.pid for problem in membership.problems} & {key.pid for key in placed}
    random.shuffle(policies)
    random.shuffle(processes)
    assert match(policies, table_of(processes)) == membership


@given(worlds())
def test_a_matcher_used_again_answers_as_a_new_one(world: Any) -> None:
    policies, processes = world
    used = PolicyMatcher(policies)
    used.match(table_of([replace(facts, comm="q", user="eve") for facts in processes]))
    assert used.match(table_of(processes)) == match(policies, table_of(processes))


@given(worlds())
def test_the_explanation_agrees_with_the_match(world: Any) -> None:
    policies, processes = world
    table = table_of(processes)
    membership = match(policies, table)
    for facts in processes:
        told = explain(facts.pid, policies, table)
        assert told.see == membership.see_of(facts.pid)
        assert [see.see for see in told.sees] == sorted(p.name for p in policies)
        if told.see is not None:
            [chosen] = [see for see in told.sees if see.see == told.see]
            assert chosen.explicit or chosen.inherited
            assert told.see in told.sentence


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4)), st.none() | st.sampled_from(NAMES))
def test_no_candidate_above_the_chosen_see_or_below_it_is_left_out(explicit: dict[str, int], inherited: Any) -> None:
    decision = decide(explicit, inherited)
    candidates = {*explicit, *([inherited] if inherited else [])}
    if decision.see is None:
        assert len(decision.tied) >= 2 or not candidates
    else:
        assert decision.see in candidates
        assert not any(other.startswith(decision.see + "/") for other in candidates)


def test_the_explanation_says_for_each_condition_what_the_process_has() -> None:
    table = table_of([process(7, comm="\x1b[2Jevil", environment=(("TIER", "iron"),))])
    told = explain(7, [policy("svc=a", "env=TIER=gold,user=alice"), policy("svc=b", "pid=8")], table)
    first, second = told.sees
    assert [(c.key, c.held, c.actual) for c in first.matchers[0].conditions] == [
        ("env", False, "TIER=iron"),
        ("user", True, "alice (uid 1000)"),
    ]
    assert (first.explicit, second.explicit) == (False, False)
    assert told.sentence.startswith("pid 7 (?[2Jevil) belongs to no service")


@pytest.mark.parametrize(
    ("pid", "words"),
    [
        (2, "matches that service alone, with 1 condition"),
        (3, "it was started by pid 2 of that service"),
        (4, "more specific than that of svc=a"),
        (5, "equally well"),
        (6, "never managed"),
        (7, "outside the scope"),
        (9, "not a process that this agent can see"),
    ],
)
def test_the_explanation_is_one_sentence_on_the_outcome(pid: int, words: str) -> None:
    processes = [
        process(2, comm="a"),
        process(3, 2, comm="x", user="eve"),
        process(4, 2, comm="b"),
        process(5, 2, comm="tie"),
        process(6, comm="a"),
        process(7, comm="a"),
    ]
    policies = [
        policy("svc=a", "command=a"),
        policy("svc=b", "command=b", "command=tie"),
        policy("svc=c", "cmdline=tie", "command=tie"),
    ]
    scope = frozenset(p.key for p in processes if p.pid != 7)
    told = explain(pid, policies, table_of(processes, unmanaged=frozenset({6}), in_scope=scope))
    assert words in told.sentence
    assert "\n" not in told.sentence
