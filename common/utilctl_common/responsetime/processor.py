"""The CPUs that somebody has, and how siblings divide them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utilctl_common.responsetime.model import BeyondModelError, Node, SaturatedError

_ROUNDING = 1e-12
"""Sums of reservations this little above the whole are the whole."""


@dataclass(frozen=True, slots=True)
class Processor:
    """``cores`` of them, not below 1, each ``speed`` times as fast as a core of the machine."""

    cores: float
    speed: float

    @property
    def whole_cores(self) -> int:
        """The number of cores. Raises BeyondModelError if it is not whole."""
        if not float(self.cores).is_integer():
            raise BeyondModelError(
                f"guarantees inside a cap of {self.cores:g} cores have no formula here",
                hint="use a whole number of cores, or at most one",
            )
        return int(self.cores)


def processor(granted_cores: float) -> Processor:
    """What ``granted_cores`` act like: less than one core is one core that is slower."""
    return Processor(1.0, granted_cores) if granted_cores <= 1 else Processor(granted_cores, 1.0)


def fractions(nodes: Sequence[Node], cores: float) -> list[float]:
    """Each sibling's part of ``cores``: what it reserves, or its share of what reservations leave.

    Raises SaturatedError for reservations of more than there is, or that leave nothing to who has a share.
    """
    reserved = [None if node.reserved_cores is None else node.reserved_cores / cores for node in nodes]
    left = 1.0 - sum(part for part in reserved if part is not None)
    shares = sum(node.share for node, part in zip(nodes, reserved, strict=True) if part is None)
    if left < -_ROUNDING:
        raise SaturatedError(
            f"{_siblings(nodes)}: floors or caps of {(1 - left) * cores:g} cores are more than the {cores:g} there are",
            hint="lower one",
        )
    if shares and left <= _ROUNDING:
        raise SaturatedError(
            f"{_siblings(nodes)}: floors or caps take all {cores:g} cores and leave nothing to those with a share",
            hint="lower one, or give everybody a floor or cap",
        )
    return [node.share / shares * left if part is None else part for node, part in zip(nodes, reserved, strict=True)]


def _siblings(nodes: Sequence[Node]) -> str:
    return nodes[0].name + (f" and its {len(nodes) - 1} siblings" if len(nodes) > 1 else "")
