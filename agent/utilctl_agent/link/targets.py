"""Which targets hold now: the newest set by (epoch, generation), for as long as its lease lasts. Pure.

After the lease the agent goes on with static per-host shares, taken from the same policies, until a controller
speaks again (design section 5: cut off, an agent neither stops nor guesses).
"""

from __future__ import annotations

from dataclasses import dataclass

from utilctl_common.policy import SeePolicy


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """One SEE's target on this host."""

    policy: SeePolicy
    weight: float
    entitlement_cores: float
    cap_cores: float | None


@dataclass(frozen=True, slots=True)
class TargetSet:
    """All targets of this host by one decision. ``traceparent`` is that decision's trace context.

    ``disabled``: an operator lets nobody be held back on the whole fleet, also when the lease is over.
    """

    epoch: int
    generation: int
    lease_ns: int
    traceparent: str
    targets: tuple[LocalTarget, ...]
    disabled: bool = False


@dataclass(slots=True)
class TargetKeeper:
    """Holds the newest set. ``stale`` counts sets that were refused because a newer one holds."""

    current: TargetSet | None = None
    stale: int = 0
    _lease_ends_ns: int = 0

    def offer(self, offered: TargetSet, now_ns: int) -> bool:
        """Take a set; True if it changes what is enforced. A repeated set renews the lease, an older one is refused."""
        current = self.current
        if current is not None and _order(offered) < _order(current):
            self.stale += 1
            return False
        was_expired = self.expired(now_ns)
        self._lease_ends_ns = now_ns + offered.lease_ns
        self.current = offered
        return current is None or was_expired or current.targets != offered.targets or _order(offered) > _order(current)

    def renew(self, epoch: int, generation: int, lease_ns: int, now_ns: int) -> bool:
        """The current set was repeated, if it is this one and its lease lasts; False: take it by ``offer`` instead."""
        current = self.current
        if current is None or (epoch, generation) != _order(current) or self.expired(now_ns):
            return False
        self._lease_ends_ns = now_ns + lease_ns
        return True

    def expired(self, now_ns: int) -> bool:
        """Whether the lease of the current set has ended."""
        return self.current is not None and now_ns >= self._lease_ends_ns

    def lease_left_ns(self, now_ns: int) -> int | None:
        """Time until the lease of the current set ends; None if there is none or it has ended."""
        return None if self.current is None or self.expired(now_ns) else self._lease_ends_ns - now_ns

    def weights(self, now_ns: int) -> dict[str, LocalTarget]:
        """What to enforce now, by SEE."""
        if self.current is None:
            return {}
        if not self.expired(now_ns):
            return {target.policy.name: target for target in self.current.targets}
        return {
            target.policy.name: LocalTarget(target.policy, target.policy.share, 0.0, target.cap_cores)
            for target in self.current.targets
        }

    @property
    def disabled(self) -> bool:
        """Whether nobody may be held back."""
        return self.current is not None and self.current.disabled

    def policies(self) -> tuple[SeePolicy, ...]:
        """Policies of the current set; matchers say what belongs to each SEE."""
        return () if self.current is None else tuple(target.policy for target in self.current.targets)


def _order(item: TargetSet) -> tuple[int, int]:
    return item.epoch, item.generation
