"""Policy: what an operator asks for one SEE, as kept in the store and sent over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypedDict

from utilctl_common.errors import UsageError
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import check_cores, check_share

MODES: Final = ("auto", "freezer", "signal", "weight", "observe")
"""How an agent may hold an SEE back; ``auto`` lets it pick the best that its host allows."""

SCHEMA_VERSION: Final = 1
"""Version of the JSON form below; a reader refuses versions it does not know."""


class PolicyJson(TypedDict):
    """The stored form of a policy."""

    schema: int
    name: str
    share: float
    floor_cores: float
    cap_cores: float | None
    mode: str
    match: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class SeePolicy:
    """One SEE's policy. Validated on construction; raises UsageError.

    ``share`` is relative to siblings; ``floor_cores`` is granted first while there is demand; ``cap_cores`` (None:
    no cap) is a hard ceiling summed over the fleet; ``matchers`` empty means the defaults of the design: pods and
    processes labelled with the SEE's own name.
    """

    name: str
    share: float
    floor_cores: float = 0.0
    cap_cores: float | None = None
    mode: str = "auto"
    matchers: tuple[Matcher, ...] = ()

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
        if self.mode not in MODES:
            raise UsageError(f"unknown mode {self.mode!r} of {self.name}", hint=f"use one of {', '.join(MODES)}")

    def to_json(self) -> PolicyJson:
        """The stored form."""
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "share": self.share,
            "floor_cores": self.floor_cores,
            "cap_cores": self.cap_cores,
            "mode": self.mode,
            "match": [matcher.as_dict() for matcher in self.matchers],
        }


def policy_from_json(data: Any) -> SeePolicy:  # noqa: ANN401 - decoded JSON, checked here
    """Rebuild a policy from its stored form. Raises UsageError if a field is missing, unknown or invalid."""
    if not isinstance(data, dict):
        raise UsageError("stored policy is not a JSON object")
    if data.get("schema") != SCHEMA_VERSION:
        raise UsageError(
            f"stored policy has schema {data.get('schema')!r}, this program knows {SCHEMA_VERSION}",
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
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"stored policy is malformed: {error!r}") from None
