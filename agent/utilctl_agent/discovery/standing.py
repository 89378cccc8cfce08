"""Which process belongs to which SEE, amended for what changed instead of decided anew for the whole table. Pure.

``rebuild`` decides for everybody, ``amend`` for those that came or changed and for what descends from them: nobody
else's outcome can differ, since it depends on a process's own facts and on its ancestors alone.
"""

from __future__ import annotations

from collections.abc import Set

from utilctl_agent.discovery.batch import Changes
from utilctl_agent.discovery.facts import ProcessKey, ProcessTable
from utilctl_agent.discovery.matching import Decision, Membership, PolicyMatcher, Problem, tie_problem


class Standing:
    """The outcome of matching, kept between looks at the processes."""

    def __init__(self) -> None:
        self.membership = Membership({})
        self._decisions: dict[ProcessKey, Decision] = {}
        self._members: dict[str, set[ProcessKey]] = {}
        self._problems: dict[ProcessKey, Problem] = {}

    def see_of(self, key: ProcessKey) -> str | None:
        """The SEE that a process belongs to, or did when it ended."""
        decision = self._decisions.get(key)
        return decision.see if decision is not None else None

    def rebuild(self, matcher: PolicyMatcher, table: ProcessTable) -> None:
        """Decide for everybody."""
        self._decisions = {}
        self._members = {see.name: set() for see in matcher.sees}
        self._problems = {}
        self._decide(matcher, table, table.live.keys())
        matcher.forget(table)
        self.membership = Membership(
            {see: tuple(sorted(keys)) for see, keys in self._members.items()}, self._sorted_problems()
        )

    def amend(
        self, matcher: PolicyMatcher, table: ProcessTable, changes: Changes, stale: Set[ProcessKey]
    ) -> frozenset[str]:
        """Decide for ``stale``, those that came or changed with their descendants; returns the SEEs whose members
        differ from before.
        """
        touched: set[str] = set()
        for key in changes.gone:
            decision = self._decisions.get(key)
            if decision is not None and decision.see is not None:
                self._members[decision.see].discard(key)
                touched.add(decision.see)
            self._problems.pop(key, None)
            if key not in table.departed:
                self._decisions.pop(key, None)
        before = {key: self._decisions.pop(key, None) for key in stale}
        for key in stale:
            self._problems.pop(key, None)
        self._decide(matcher, table, stale)
        for key, old in before.items():
            see = self.see_of(key)
            old_see = old.see if old is not None else None
            if key in table.live and see != old_see:
                touched |= {name for name in (see, old_see) if name is not None}
                if old_see is not None:
                    self._members[old_see].discard(key)
        matcher.forget(table)
        if len(self._decisions) > 2 * (len(table.live) + len(table.departed)):
            self._decisions = {k: d for k, d in self._decisions.items() if table.facts(k) is not None}
        members = dict(self.membership.members)
        members.update((see, tuple(sorted(self._members[see]))) for see in touched)
        self.membership = Membership(members, self._sorted_problems())
        return frozenset(touched)

    def _decide(self, matcher: PolicyMatcher, table: ProcessTable, keys: Set[ProcessKey]) -> None:
        matcher.settle(keys, table, self._decisions)
        for key in keys:
            if key not in table.live:
                continue
            decision = self._decisions[key]
            if decision.see is not None:
                self._members[decision.see].add(key)
            elif decision.tied:
                self._problems[key] = tie_problem(key.pid, decision)

    def _sorted_problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._problems.values(), key=lambda problem: (problem.pid, problem.sees)))
