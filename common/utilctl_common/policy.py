"""Policy: what an operator asks for one SEE, as kept in the store and sent over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, NotRequired, TypedDict

from utilctl_common.errors import UsageError
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import check_cores, check_share

MODES: Final = ("auto", "freezer", "signal", "weight", "observe")
"""How an agent may hold an SEE back; ``auto`` lets it pick the best that its host allows."""

SCHEMA_VERSION: Final = 2
"""Newest version of the JSON form below: 2 added ``hold``. A policy is written in the oldest form that can say it, so
that a controller of before goes on reading it; a reader refuses versions that it does not know."""


class HeldShareJson(TypedDict):
    """The stored form of what a hold keeps on one host."""

    weight_ratio: float
    entitlement_ratio: float
    cap_cores: float | None


class HoldJson(TypedDict):
    """The stored form of a hold."""

    until_unix_ns: int
    hosts: dict[str, HeldShareJson]


class PolicyJson(TypedDict):
    """The stored form of a policy."""

    schema: int
    name: str
    share: float
    floor_cores: float
    cap_cores: float | None
    mode: str
    match: list[dict[str, str]]
    hold: NotRequired[HoldJson]


@dataclass(frozen=True, slots=True)
class HeldShare:
    """What a hold keeps of one SEE on one host: of the target that was in force, weight and entitlement as parts of the
    cores that the host then had for SEEs. So what others use there for a moment is not held on to.
    """

    weight_ratio: float
    entitlement_ratio: float
    cap_cores: float | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Until ``until_unix_ns`` (since 1970) rebalancing leaves the SEE its part of each of ``hosts``."""

    until_unix_ns: int
    hosts: Mapping[str, HeldShare] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", MappingProxyType(dict(self.hosts)))

    def to_json(self) -> HoldJson:
        """The stored form."""
        return {
            "until_unix_ns": self.until_unix_ns,
            "hosts": {
                host: {
                    "weight_ratio": held.weight_ratio,
                    "entitlement_ratio": held.entitlement_ratio,
                    "cap_cores": held.cap_cores,
                }
                for host, held in self.hosts.items()
            },
        }


@dataclass(frozen=True, slots=True)
class SeePolicy:
    """One SEE's policy. Validated on construction; raises UsageError.

    ``share`` is relative to siblings; ``floor_cores`` is granted first while there is demand; ``cap_cores`` (None:
    no cap) is a hard ceiling summed over the fleet; ``matchers`` empty means the defaults of the design: pods and
    processes labelled with the SEE's own name. ``hold`` (None: none) is no wish of how much, only of no change for a
    while; one whose time is over means nothing.
    """

    name: str
    share: float
    floor_cores: float = 0.0
    cap_cores: float | None = None
    mode: str = "auto"
    matchers: tuple[Matcher, ...] = ()
    hold: Hold | None = None

    def __post_init__(self) -> None:
        parse_see_name(self.name)
        check_share(self.share)
        check_cores(self.floor_cores, "floor")
        if self.cap_cores is not None:
            check_cores(self.cap_cores, "cap")
            if self.cap_cores <= 0:
                raise UsageError(f"cap of {self.name} is 0", hint="delete the service or give it a positive cap")
            if self.cap_cores < self.floor_cores:
                raise UsageError(
                    f"floor {self.floor_cores:g} of {self.name} is above its cap {self.cap_cores:g}",
                    hint="lower the floor or raise the cap",
                )
        check_mode(self.mode, self.name)

    def to_json(self) -> PolicyJson:
        """The stored form."""
        data: PolicyJson = {
            "schema": 1,
            "name": self.name,
            "share": self.share,
            "floor_cores": self.floor_cores,
            "cap_cores": self.cap_cores,
            "mode": self.mode,
            "match": [matcher.as_dict() for matcher in self.matchers],
        }
        if self.hold is not None:
            data["schema"] = 2
            data["hold"] = self.hold.to_json()
        return data


def check_mode(mode: str, see: str) -> None:
    """Raise UsageError unless ``mode``, of ``see``, is one of MODES."""
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r} of {see}", hint=f"use one of {', '.join(MODES)}")


def without_past_hold(policy: SeePolicy, now_unix_ns: int) -> SeePolicy:
    """``policy`` as it is in force at ``now_unix_ns``: a hold whose time is over means nothing."""
    if policy.hold is None or now_unix_ns < policy.hold.until_unix_ns:
        return policy
    return replace(policy, hold=None)


def policy_from_json(data: Any) -> SeePolicy:  # noqa: ANN401 - decoded JSON, checked here
    """Rebuild a policy from its stored form. Raises UsageError if a field is missing, unknown or invalid."""
    if not isinstance(data, dict):
        raise UsageError("stored policy is not a JSON object")
    schema = data.get("schema")
    if schema not in range(1, SCHEMA_VERSION + 1):
        raise UsageError(
            f"stored policy has schema {schema!r}, this program knows 1 to {SCHEMA_VERSION}",
            hint="upgrade the controller",
        )
    unknown = set(data) - set(PolicyJson.__annotations__)
    if unknown:
        raise UsageError(f"stored policy has unknown fields {sorted(unknown)}")
    try:
        cap = data["cap_cores"]
        return SeePolicy(
            name=str(data["name"]),
            share=float(data["share"]),
            floor_cores=float(data["floor_cores"]),
            cap_cores=None if cap is None else float(cap),
            mode=str(data["mode"]),
            matchers=tuple(matcher_from_mapping(entry) for entry in data["match"]),
            hold=_hold_from_json(data["hold"]) if "hold" in data else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"stored policy is malformed: {error!r}") from None


def _hold_from_json(data: Any) -> Hold:  # noqa: ANN401 - decoded JSON; what is raised is caught by policy_from_json
    hosts: dict[str, HeldShare] = {}
    for host, held in data["hosts"].items():
        cap = held["cap_cores"]
        hosts[str(host)] = HeldShare(
            check_cores(float(held["weight_ratio"]), "held weight"),
            check_cores(float(held["entitlement_ratio"]), "held entitlement"),
            None if cap is None else check_cores(float(cap), "held cap"),
        )
    return Hold(int(data["until_unix_ns"]), hosts)
