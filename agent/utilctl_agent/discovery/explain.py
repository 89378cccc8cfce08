"""Why a process belongs to an SEE or to none, for people and for ``utilctl match --explain``. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from utilctl_agent.discovery.conditions import compile_condition, observed
from utilctl_agent.discovery.facts import MARKER_VARIABLE, ProcessFacts, ProcessKey, ProcessTable, printable
from utilctl_agent.discovery.matching import Decision, PolicyMatcher, in_tree, tie_problem
from utilctl_common.matchers import Condition
from utilctl_common.names import label_pairs
from utilctl_common.policy import SeePolicy


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition, whether it held, and what the process has there."""

    key: str
    value: str
    held: bool
    actual: str


@dataclass(frozen=True, slots=True)
class MatcherResult:
    """The conditions of one matcher; it held if all of them did."""

    held: bool
    conditions: tuple[ConditionResult, ...]


@dataclass(frozen=True, slots=True)
class SeeResult:
    """One SEE: ``explicit`` if any of its matchers held, ``inherited`` if the process that started it
    belongs there.
    """

    see: str
    explicit: bool
    inherited: bool
    matchers: tuple[MatcherResult, ...]


@dataclass(frozen=True, slots=True)
class MatchExplanation:
    """The answer for one pid. ``see`` is None if it belongs to no SEE; ``sentence`` says why in either
    case.
    """

    pid: int
    start_ticks: int | None
    see: str | None
    sentence: str
    sees: tuple[SeeResult, ...] = ()


def explain(pid: int, policies: Iterable[SeePolicy], table: ProcessTable) -> MatchExplanation:
    """What every SEE's conditions say about a live process, and the outcome."""
    policies = sorted(policies, key=lambda policy: policy.name)
    key = next((key for key in table.live if key.pid == pid), None)
    if key is None:
        return MatchExplanation(
            pid,
            None,
            None,
            f"pid {pid} is not a process that this agent can see: it has ended, "
            "is a kernel thread or is hidden from it",
        )
    facts = table.live[key]
    decisions = PolicyMatcher(policies).decide_all(table)
    decision = decisions[key]
    sees = tuple(_see_result(policy, key, facts, table, decision) for policy in policies)
    sentence = _sentence(key, facts, table, decision, sees)
    return MatchExplanation(pid, key.start_ticks, decision.see, sentence, sees)


def _see_result(
    policy: SeePolicy, key: ProcessKey, facts: ProcessFacts, table: ProcessTable, decision: Decision
) -> SeeResult:
    if policy.matchers:
        matchers = tuple(
            _matcher_result([_condition_result(c, key, facts, table) for c in matcher.conditions])
            for matcher in policy.matchers
        )
    else:
        matchers = _default_results(policy.name, facts)
    return SeeResult(
        policy.name, any(matcher.held for matcher in matchers), decision.inherited == policy.name, matchers
    )


def _matcher_result(conditions: list[ConditionResult]) -> MatcherResult:
    return MatcherResult(all(condition.held for condition in conditions), tuple(conditions))


def _condition_result(
    condition: Condition, key: ProcessKey, facts: ProcessFacts, table: ProcessTable
) -> ConditionResult:
    actual = observed(condition, facts)
    if condition.key == "tree":
        held = in_tree(key, int(condition.value), table)
        actual = "started by " + (" by ".join(str(a.pid) for a in table.ancestors(key) if a != key) or "nobody known")
    elif condition.key == "pid":
        held = table.bound_pids.get(int(condition.value)) == key
        if not held and int(condition.value) == key.pid:
            actual += ", a later process than the one that was meant"
    else:
        held = compile_condition(condition)(facts)
    return ConditionResult(condition.key, condition.value, held, actual)


def _default_results(name: str, facts: ProcessFacts) -> tuple[MatcherResult, MatcherResult]:
    """The default matchers, shown as the conditions they stand for. A child's name marks its parents, too."""
    marker = Condition("env", f"{MARKER_VARIABLE}={name}")
    marked = facts.marker is not None and (facts.marker + "/").startswith(name + "/")
    labels = [Condition("label", f"{key}={value}") for key, value in label_pairs(name)]
    return (
        _matcher_result([ConditionResult("env", marker.value, marked, observed(marker, facts))]),
        _matcher_result(
            [
                ConditionResult("label", label.value, compile_condition(label)(facts), observed(label, facts))
                for label in labels
            ]
        ),
    )


def _sentence(
    key: ProcessKey, facts: ProcessFacts, table: ProcessTable, decision: Decision, sees: tuple[SeeResult, ...]
) -> str:
    who = f"pid {key.pid} ({printable(facts.comm)})"
    if not table.manages(key):
        if table.in_scope is not None and key not in table.in_scope:
            return f"{who} is outside the scope of this agent"
        return f"{who} is init or part of the agent and is never managed"
    if decision.tied:
        return tie_problem(key.pid, decision).message
    if decision.see is None:
        names = "no service is configured" if not sees else f"none of {len(sees)} services matches it"
        return f"{who} belongs to no service: {names}, and it inherits none"
    if decision.see not in decision.explicit:
        parent = table.parents.get(key)
        by = f"pid {parent.pid}" if parent is not None else "its parent"
        gone = ", which has ended," if parent is not None and parent not in table.live else ""
        return f"{who} belongs to {decision.see}: it was started by {by}{gone} of that service"
    weight = decision.explicit[decision.see]
    count = f"{weight} condition{'s' if weight != 1 else ''}"
    others = [see.see for see in sees if (see.explicit or see.inherited) and see.see != decision.see]
    if not others:
        return f"{who} belongs to {decision.see}: it matches that service alone, with {count}"
    less = ", ".join(others)
    return f"{who} belongs to {decision.see}: its match ({count}) is more specific than that of {less}"
