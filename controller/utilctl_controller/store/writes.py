"""Every kind of write of the port, brought down to one: some keys, all of them or none. For both adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utilctl_common.names import parse_see_name
from utilctl_common.policy import SeePolicy
from utilctl_controller.store.port import (
    Change,
    CommitLost,
    CommitOutcome,
    Committed,
    Done,
    LostRace,
    PolicyWrite,
    Record,
    SwitchRecord,
    Unavailable,
    WriteOutcome,
)
from utilctl_controller.store.values import FLEET_KEY, FleetSwitch, StoredValue


@dataclass(frozen=True, slots=True)
class KeyWrite:
    """Put ``value`` under ``key``, or delete that (None), if its version is the expected one."""

    key: str
    value: StoredValue | None
    expected_version: int

    def is_lost_to(self, current: Record | SwitchRecord | None) -> bool:
        """Whether ``current``, which is stored, is not what was expected."""
        version = 0 if current is None else current.version
        return version != self.expected_version or (self.value is None and current is None)


@dataclass(frozen=True, slots=True)
class KeyLost:
    """Nothing was written: ``key`` holds ``current``, not what was expected; empty: something else was changed."""

    key: str
    current: Record | SwitchRecord | None


@dataclass(frozen=True, slots=True)
class KeysWritten:
    """What is stored now by key (None: nothing), and the revision of the last write."""

    stored: Mapping[str, Record | SwitchRecord | None]
    revision: int


class KeyedWrites(ABC):
    """The writing methods of PolicyStore on top of ``_write``."""

    @abstractmethod
    def _write(
        self, writes: Sequence[KeyWrite], change: Change, unchanged_since: int | None
    ) -> KeysWritten | KeyLost | Unavailable:
        """All of ``writes``, each key once, with their history entries in one transaction; or none of them."""

    def put(self, policy: SeePolicy, change: Change, expected_version: int) -> WriteOutcome:
        """See the port. Raises UsageError for a policy larger than the store takes (etcd's default: 1.5 MiB)."""
        return self._write_one(policy.name, policy, change, expected_version)

    def delete(self, see: str, change: Change, expected_version: int) -> WriteOutcome:
        """See the port. Raises UsageError if ``see`` is not a name."""
        return self._write_one(parse_see_name(see), None, change, expected_version)

    def commit(self, writes: Sequence[PolicyWrite], change: Change, unchanged_since: int | None) -> CommitOutcome:
        """See the port. Raises UsageError if a name is none, and if all of it is larger than the store takes."""
        asked = [KeyWrite(parse_see_name(write.see), write.policy, write.expected_version) for write in writes]
        outcome = self._write(asked, change, unchanged_since)
        match outcome:
            case KeysWritten():
                records = {see: _policy_record(record) for see, record in outcome.stored.items()}
                return Committed(records, outcome.revision)
            case KeyLost():
                return CommitLost(outcome.key)
            case _:
                return outcome

    def put_switch(
        self, disabled: bool, change: Change, expected_version: int
    ) -> SwitchRecord | LostRace | Unavailable:
        """See the port."""
        outcome = self._write([KeyWrite(FLEET_KEY, FleetSwitch(disabled), expected_version)], change, None)
        match outcome:
            case KeysWritten():
                record = outcome.stored[FLEET_KEY]
                assert isinstance(record, SwitchRecord)
                return record
            case KeyLost():
                return LostRace(None)
            case _:
                return outcome

    def _write_one(self, see: str, new: SeePolicy | None, change: Change, expected_version: int) -> WriteOutcome:
        outcome = self._write([KeyWrite(see, new, expected_version)], change, None)
        match outcome:
            case KeysWritten():
                return Done(_policy_record(outcome.stored[see]), outcome.revision)
            case KeyLost():
                return LostRace(_policy_record(outcome.current))
            case _:
                return outcome


def _policy_record(record: Record | SwitchRecord | None) -> Record | None:
    """What is stored of a service, which is never a switch."""
    assert not isinstance(record, SwitchRecord)
    return record
