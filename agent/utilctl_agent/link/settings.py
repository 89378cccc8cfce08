"""What an agent is told at its start; passed from ``utilctl-agent`` through the guard to the link as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final, Literal
from urllib.parse import quote

from utilctl_common.logs import LogFormat
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

AgentMode = Literal["auto", "freezer", "signal", "weight", "observe"]
AGENT_MODES: Final[tuple[AgentMode, ...]] = ("auto", "freezer", "signal", "weight", "observe")

_LONGEST_NAME: Final = 180
"""Bytes of a file's name that a scope may take; NAME_MAX is 255, and pid and suffixes follow."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of an agent.

    - ``host``: its name in the fleet. ``controllers``: addresses, tried in turn.
    - ``scope``: which processes it may manage, ``cgroup:PATH`` or ``tree:PID``; None: the whole host.
    - ``cpus``: CPUs whose time it shares out; they are its capacity.
    - ``mode``: how it holds services back, unless their policies say.
    - ``quantum_ns``, ``cycle_ns``: see alps.model.CoreSettings.
    - ``weight_period_ns``: how often weights are looked at.
    - ``scan_ns``: how often processes are looked for. ``max_pause_ns``: longest pause, whatever the shares say.
    - ``take_over``: stop the agent that manages this scope already, if there is one.
    - ``kubernetes``: whether pods of node ``node`` give their labels to processes; ``label_map`` has pairs of a
      service's label and the pods' label that stands for it.
    - ``health``: HOST:PORT at which the gRPC health protocol is served; empty: nowhere. ``metrics``: the same for
      Prometheus.
    - ``log_format``: how the link logs, see utilctl_common.logs.
    """

    host: str
    controllers: tuple[str, ...]
    scope: str | None
    cpus: tuple[int, ...]
    mode: AgentMode = "auto"
    quantum_ns: int = 10 * NS_PER_MS
    cycle_ns: int = 100 * NS_PER_MS
    scan_ns: int = NS_PER_S
    weight_period_ns: int = 200 * NS_PER_MS
    max_pause_ns: int = NS_PER_S
    take_over: bool = False
    kubernetes: bool = False
    node: str = ""
    label_map: tuple[tuple[str, str], ...] = ()
    health: str = ""
    metrics: str = ""
    log_format: LogFormat = "text"

    @property
    def journal_name(self) -> str:
        """The same for all agents that manage the same scope, and for no others."""
        if self.scope is None:
            return "agent"
        kind, _, where = self.scope.partition(":")
        name = quote(f"{kind}:{where.rstrip('/')}", safe="")
        if len(name) > _LONGEST_NAME:
            name = hashlib.sha256(name.encode()).hexdigest()
        return f"agent-{name}"

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AgentSettings:
        """Inverse of to_json."""
        data = json.loads(text)
        columns = {"controllers": tuple(data["controllers"]), "cpus": tuple(data["cpus"])}
        return cls(**{**data, **columns, "label_map": tuple(map(tuple, data["label_map"]))})
