"""Which process belongs to which SEE: the rules, pure and deterministic.

A process may match SEEs itself (explicitly) and inherits the SEE of the process that started it. Of several
candidates the most specific wins:

1. A candidate below another in the tree of names replaces it and keeps the better rank of the two, so that
   the answer does not depend on the order in which candidates are compared.
2. An explicit match beats an inherited one.
3. More conditions beat fewer.
4. What is left is a tie: it is reported, and the process belongs to neither, nor do its descendants inherit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from utilctl_agent.discovery.conditions import CompiledMatcher, CompiledSee, compile_see
from utilctl_agent.discovery.facts import ProcessFacts, ProcessKey, ProcessTable
from utilctl_common.errors import UsageError
from utilctl_common.policy import SeePolicy


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one process that a person must settle. ``message`` is one sentence with the remedy."""

    pid: int
    sees: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Membership:
    """The live processes of every SEE, each process in at most one, sorted by pid. Every policy has an
    entry.
    """

    members: Mapping[str, tuple[ProcessKey, ...]]
    problems: tuple[Problem, ...] = ()

    def see_of(self, pid: int) -> str | None:
        """The SEE that a live pid belongs to, or None."""
        return next((see for see, keys in self.members.items() if any(key.pid == pid for key in keys)), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one process.

    ``see`` is None if no SEE matches or ``tied`` names those of which none is more specific. ``explicit`` are
    the SEEs that match the process itself with the most conditions of any of their matchers; ``inherited`` is
    the SEE of the process that started it.
    """

    see: str | None
    explicit: Mapping[str, int]
    inherited: str | None = None
    tied: tuple[str, ...] = ()


_UNMATCHED = Decision(None, {})


def decide(explicit: Mapping[str, int], inherited: str | None) -> Decision:
    """Apply the rules above to one process."""
    if not explicit:
        return Decision(inherited, explicit, inherited) if inherited else _UNMATCHED
    if len(explicit) == 1 and (inherited is None or inherited in explicit):
        return Decision(next(iter(explicit)), explicit, inherited)
    ranks = {name: (True, weight) for name, weight in explicit.items()}
    if inherited is not None:
        ranks.setdefault(inherited, (False, 0))
    best: dict[str, tuple[bool, int]] = {}
    for name in ranks:
        if any(other.startswith(name + "/") for other in ranks):
            continue
        lineage = [rank for other, rank in ranks.items() if other == name or name.startswith(other + "/")]
        best[name] = max(lineage)
    top = max(best.values())
    winners = tuple(sorted(name for name, rank in best.items() if rank == top))
    if len(winners) == 1:
        return Decision(winners[0], explicit, inherited)
    return Decision(None, explicit, inherited, tied=winners)


class PolicyMatcher:
    """The matchers of a set of policies made ready. Raises UsageError if two policies have one name.

    Remembers what held for facts it has seen before. That changes nothing but the time it takes.
    """

    def __init__(self, policies: Iterable[SeePolicy]) -> None:
        by_name: dict[str, SeePolicy] = {}
        for policy in policies:
            if policy.name in by_name:
                raise UsageError(f"service {policy.name} is given twice", hint="keep one of the two policies")
            by_name[policy.name] = policy
        self.sees: tuple[CompiledSee, ...] = tuple(compile_see(by_name[name]) for name in sorted(by_name))
        self._has_trees = any(matcher.tree_pids for see in self.sees for matcher in see.matchers)
        self._held: dict[ProcessKey, tuple[ProcessFacts, tuple[tuple[str, CompiledMatcher], ...]]] = {}

    def decide_all(self, table: ProcessTable) -> dict[ProcessKey, Decision]:
        """The outcome for every process that is managed, and for the departed ancestors they inherit from."""
        decisions: dict[ProcessKey, Decision] = {}
        self.settle(table.live, table, decisions)
        return decisions

    def settle(self, keys: Iterable[ProcessKey], table: ProcessTable, decisions: dict[ProcessKey, Decision]) -> None:
        """Add to ``decisions`` the outcome for ``keys``, and for those that they inherit from, where it is missing."""
        for start in keys:
            if start in decisions:
                continue
            # Ancestors first: what a process inherits must be settled before it. Iterative, as chains may be
            # deep.
            pending: list[ProcessKey] = []
            for key in table.ancestors(start):
                if key in decisions:
                    break
                pending.append(key)
            for key in reversed(pending):
                parent = table.parents.get(key)
                inherited = decisions[parent].see if parent is not None and parent in decisions else None
                decisions[key] = self._decide(key, table, inherited)

    def _decide(self, key: ProcessKey, table: ProcessTable, inherited: str | None) -> Decision:
        facts = table.facts(key)
        if facts is None or not table.manages(key):
            return _UNMATCHED
        return decide(self._explicit(key, facts, table), inherited)

    def _explicit(self, key: ProcessKey, facts: ProcessFacts, table: ProcessTable) -> dict[str, int]:
        held = self._held.get(key)
        if held is None or held[0] is not facts:
            alone = tuple(
                (see.name, matcher) for see in self.sees for matcher in see.matchers if matcher.holds_alone(facts)
            )
            held = self._held[key] = (facts, alone)
        explicit: dict[str, int] = {}
        for name, matcher in held[1]:
            if position_holds(matcher, key, table):
                explicit[name] = max(matcher.weight, explicit.get(name, 0))
        return explicit

    def match(self, table: ProcessTable) -> Membership:
        """Every SEE's live members, and the ties."""
        members: dict[str, list[ProcessKey]] = {see.name: [] for see in self.sees}
        problems: list[Problem] = []
        for key, decision in self.decide_all(table).items():
            if key not in table.live:
                continue
            if decision.see is not None:
                members[decision.see].append(key)
            elif decision.tied:
                problems.append(tie_problem(key.pid, decision))
        self.forget(table)
        return Membership(
            {name: tuple(sorted(keys)) for name, keys in members.items()},
            tuple(sorted(problems, key=lambda problem: (problem.pid, problem.sees))),
        )

    def forget(self, table: ProcessTable) -> None:
        """Let go of what is remembered of processes that the table does not have, once it is worth the time."""
        if len(self._held) > 2 * (len(table.live) + len(table.departed)):
            self._held = {key: held for key, held in self._held.items() if table.facts(key) is not None}


def position_holds(matcher: CompiledMatcher, key: ProcessKey, table: ProcessTable) -> bool:
    """Whether the ``pid`` and ``tree`` conditions of a matcher hold."""
    if any(table.bound_pids.get(pid) != key for pid in matcher.pids):
        return False
    return all(in_tree(key, pid, table) for pid in matcher.tree_pids)


def in_tree(key: ProcessKey, pid: int, table: ProcessTable) -> bool:
    """Whether a process is, or descends from, the process that the bare ``pid`` is bound to."""
    root = table.bound_pids.get(pid)
    return root is not None and any(ancestor == root for ancestor in table.ancestors(key))


def tie_problem(pid: int, decision: Decision) -> Problem:
    """The report of a tie."""
    names = " and ".join(decision.tied)
    weight = max((decision.explicit.get(name, 0) for name in decision.tied), default=0)
    return Problem(
        pid,
        decision.tied,
        f"pid {pid} matches {names} equally well ({weight} condition{'s' if weight != 1 else ''}) "
        "and belongs to neither; add a condition to the matcher of the one that should have it",
    )


def match(policies: Iterable[SeePolicy], table: ProcessTable) -> Membership:
    """Which live processes belong to which SEE. Raises UsageError if two policies have one name."""
    return PolicyMatcher(policies).match(table)
