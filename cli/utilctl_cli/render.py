"""Results as text for people: rich tables that fit 80 columns, without colour codes unless on a terminal."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from utilctl_cli.documents import (
    ControllerDocument,
    ExplainDocument,
    HistoryDocument,
    HostDocument,
    HostsDocument,
    HostShareDocument,
    LivePlanDocument,
    PlannedServiceDocument,
    PlannedShareDocument,
    ServiceDocument,
    ServicesDocument,
    ShareDocument,
    WaitingDocument,
)
from utilctl_cli.failures import one_line
from utilctl_cli.wording import cap_words, change_words, count_words, entry_words, hold_words, match_words, number_words
from utilctl_common.quantities import NS_PER_S

if TYPE_CHECKING:
    from utilctl_controller.plan import Plan

WIDTH_WHEN_PIPED: Final = 80
"""Columns of a table that does not go to a terminal, unless COLUMNS says otherwise."""

_MOST_HOSTS: Final = 5
"""Hosts of a planned change, or with pods that wait, that are named in a table; JSON has all of them, or more."""

MIN_WIDTH: Final = 60
"""Columns used even where the terminal has fewer: below this the numbers alone do not fit."""


@dataclass(frozen=True, slots=True)
class Column:
    """A table column. Numbers stand at the right and are never broken; ``flexible`` ones give way."""

    title: str
    justify: Literal["left", "right"] = "right"
    flexible: bool = False


def name_column(title: str) -> Column:
    """A column of names, at the left."""
    return Column(title, "left", flexible=True)


def services(document: ServicesDocument) -> str:
    """``utilctl get services``."""
    columns = (name_column("SERVICE"), Column("SHARE"), Column("FLOOR"), Column("CAP"), Column("ENTITLED"),
               Column("DEMAND"), Column("USED"), Column("HOSTS"))  # fmt: skip
    rows = [
        (s["see"], number_words(s["share"]), number_words(s["floor_cores"]), cap_words(s["cap_cores"]),
         _cores(s["entitlement_cores"]), _cores(s["demand_cores"]), _cores(s["consumption_cores"]),
         str(s["hosts"]))
        for s in document["services"]
    ]  # fmt: skip
    empty = "no services yet; give one its share with 'utilctl set-share svc=web 3'"
    notes = [*_problems(document["services"]), *map(_waits, document["waiting"]), *_degraded(document["controller"])]
    return text_table(columns, rows, empty, notes)


def hosts(document: HostsDocument, *, now_unix_ns: int | None = None) -> str:
    """``utilctl get hosts``; ``now_unix_ns`` (None: the clock) is what ages are counted from."""
    now_unix_ns = time.time_ns() if now_unix_ns is None else now_unix_ns
    columns = (name_column("HOST"), Column("STATE", "left"), Column("CORES"), Column("USED"), Column("UNCLAIMED"),
               Column("SEES"), Column("MECHANISM", "left"), Column("ERROR"), Column("OVERHEAD"))  # fmt: skip
    rows = [
        (h["host"], _state(h, now_unix_ns), number_words(h["capacity_cores"]), _cores(h["consumption_cores"]),
         _cores(h["unclaimed_cores"]), str(h["sees"]), h["mechanism"] or "-",
         _percent(h["rms_relative_error_ratio"]), _percent(h["overhead_ratio"]))
        for h in document["hosts"]
    ]  # fmt: skip
    notes = [
        f"{h['host']}: enforces targets {h['applied_generation']}, the newest are {h['pushed_generation']}"
        for h in document["hosts"]
        if h["connected"] and h["applied_generation"] < h["pushed_generation"]
    ]
    notes += [
        f"{h['host']}: {count_words(pods, 'pod')} waiting for a share of {see}"
        for h in document["hosts"]
        for see, pods in h["waiting"].items()
    ]
    empty = "no host yet; start 'utilctl-agent --host NAME --controller ADDR' on one"
    return text_table(columns, rows, empty, [*notes, *_degraded(document["controller"])])


def share(document: ShareDocument) -> str:
    """``utilctl get share SEE``."""
    notes = map(_wrapped, _degraded(document["controller"]))
    return _joined([_facts(_service_facts(document)), _per_host(document["per_host"]), *notes])


def explain(document: ExplainDocument) -> str:
    """``utilctl explain SEE``: the sentence first, the figures behind it after it."""
    facts = [
        *_service_facts(document),
        ("held by", document["binding_constraint"] or "nothing yet"),
        ("lends to it", ", ".join(document["lenders"]) or "nobody"),
        ("borrows from it", ", ".join(document["borrowers"]) or "nobody"),
        ("decided", document["decided_at"] or "not yet"),
        ("trace", document["trace_id"] or "none"),
    ]
    return _joined([_wrapped(document["sentence"]), _facts(facts), _per_host(document["per_host"])])


def history(document: HistoryDocument) -> str:
    """``utilctl history``."""
    columns = (
        Column("WHEN (UTC)", "left"),
        name_column("SERVICE"),
        name_column("WHO"),
        name_column("CHANGE"),
        name_column("REASON"),
    )
    rows = [
        ((e["changed_at"] or "")[:19].replace("T", " "), e["see"] or "(fleet)",
         e["changed_by"], entry_words(e), e["reason"])
        for e in document["entries"]
    ]  # fmt: skip
    return text_table(columns, rows, "no change has been made yet", [])


def plan(document: Plan) -> str:
    """A row for each service with its cores on each host, then what is worth knowing besides."""
    columns = [
        name_column("SERVICE"),
        Column("ENTITLED"),
        Column("HELD BY", "left", flexible=True),
        Column("ON HOSTS", "left", flexible=True),
    ]
    rows = [
        [
            service["name"],
            _cores(service["total"]),
            service["bottleneck"],
            ", ".join(f"{host} {_cores(cores)}" for host, cores in service["hosts"].items() if cores > 0) or "none",
        ]
        for service in document["services"]
    ]
    notes = [f"mode {document['mode']}, min/max ratio {document['min_max_ratio']:.4f}", *document["notes"]]
    return text_table(columns, rows, "the fleet has no service", notes)


def live_plan(document: LivePlanDocument) -> str:
    """``utilctl plan --live``: a row for each service that is named or affected, then what is worth knowing besides."""
    columns = (name_column("SERVICE"), name_column("CHANGE"), Column("NOW"), Column("THEN"), Column("DEMAND"),
               name_column("HELD BY"), name_column("HOSTS THAT DIFFER"))  # fmt: skip
    rows = [
        (s["see"], _planned_words(s), _cores(s["before_cores"]), _cores(s["after_cores"]),
         _cores(s["demand_cores"]), s["bottleneck"] or "-", _hosts_that_differ(s["per_host"]))
        for s in document["services"]
    ]  # fmt: skip
    when = f"as decided {document['decided_at'][:19].replace('T', ' ')} UTC" if document["decided_at"] else "as it is"
    others = f"{count_words(document['unaffected'], 'other service')} affected"
    if document["unaffected"]:
        others = f"{count_words(document['unaffected'], 'other service')} unaffected"
    hosts = count_words(document["hosts"], "host")
    notes = [f"{hosts} {when}; {others}; nothing was changed", *document["warnings"]]
    return text_table(columns, rows, "none of this changes anything", notes)


def _planned_words(service: PlannedServiceDocument) -> str:
    return "-" if service["old"] == service["new"] else change_words(service["old"], service["new"])


def _hosts_that_differ(shares: Sequence[PlannedShareDocument]) -> str:
    moved = [
        f"{s['host']} {_cores(s['before_cores'])} -> {_cores(s['after_cores'])}"
        for s in shares
        if _cores(s["before_cores"]) != _cores(s["after_cores"])
    ]
    more = len(moved) - _MOST_HOSTS
    return ", ".join(moved[:_MOST_HOSTS]) + (f" and {more} more" if more > 0 else "") or "none"


def _service_facts(service: ServiceDocument) -> list[tuple[str, str]]:
    changed = f"version {service['version']}, {service['changed_at'] or 'at an unknown time'}"
    return [
        ("service", service["see"]),
        ("share", number_words(service["share"])),
        ("floor", f"{number_words(service['floor_cores'])} cores"),
        ("cap", cap_words(service["cap_cores"]) + ("" if service["cap_cores"] is None else " cores")),
        ("mode", service["mode"]),
        ("matches", match_words(service["match"])),
        ("set by", f"{service['changed_by'] or 'unknown'} ({changed})"),
        *([("reason", service["reason"])] if service["reason"] else []),
        *([("held", f"{hold_words(service['held_until_at'])} UTC")] if service["held_until_at"] else []),
        ("entitled", f"{_cores(service['entitlement_cores'])} cores"),
        ("demand", f"{_cores(service['demand_cores'])} cores"),
        ("used", f"{_cores(service['consumption_cores'])} cores"),
    ]


def _per_host(shares: Sequence[HostShareDocument]) -> str:
    columns = (name_column("HOST"), Column("WEIGHT"), Column("ENTITLED"), Column("DEMAND"), Column("USED"),
               Column("PROCESSES"), Column("PAUSED"))  # fmt: skip
    rows = [
        (s["host"], f"{s['weight']:.3g}", _cores(s["entitlement_cores"]), _cores(s["demand_cores"]),
         _cores(s["consumption_cores"]), str(s["processes"]), f"{s['paused_total_ns'] / NS_PER_S:.1f}s")
        for s in shares
    ]  # fmt: skip
    problems = [f"{s['host']}: {s['problem']}" for s in shares if s["problem"]]
    return text_table(columns, rows, "on no host: no agent reports processes of it", problems)


def _problems(documents: Iterable[ServiceDocument]) -> list[str]:
    return [
        f"{share['see'] or service['see']} on {share['host']}: {share['problem']}"
        for service in documents
        for share in service["per_host"]
        if share["problem"]
    ]


def _waits(waiting: WaitingDocument) -> str:
    shown = waiting["per_host"][:_MOST_HOSTS]
    on = ", ".join(f"{count_words(entry['pods'], 'pod')} on {entry['host']}" for entry in shown)
    others = waiting["hosts"] - len(shown)
    more = f" and {count_words(waiting['pods'] - sum(e['pods'] for e in shown), 'pod')} elsewhere" if others > 0 else ""
    return f"pods waiting for a share: {waiting['see']} ({on}{more}); give it one with 'utilctl set-share'"


def _degraded(controller: ControllerDocument) -> list[str]:
    return [f"controller degraded: {controller['degraded_reason']}"] if controller["degraded_reason"] else []


def _cores(value: float) -> str:
    return f"{value:.2f}"


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.2f}%"


def _state(host: HostDocument, now_unix_ns: int) -> str:
    if host["connected"]:
        return "up"
    if host["last_report_unix_ns"] == 0:
        return "lost"
    age_s = max(0, now_unix_ns - host["last_report_unix_ns"]) // NS_PER_S
    for size_s, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if age_s >= size_s:
            return f"lost {age_s // size_s}{unit}"
    return f"lost {age_s}s"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name, style="bold"), Text(one_line(value)))
    return _printed(table)


def text_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str, notes: Sequence[str]) -> str:
    """A table and, below it, one paragraph for each note; ``empty`` where there are no rows."""
    if not rows:
        return _joined([_wrapped(empty), *map(_wrapped, notes)])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.title, justify=column.justify, no_wrap=not column.flexible,
            overflow="fold" if column.flexible else "crop",
        )  # fmt: skip
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return _joined([_printed(table), "\n".join(map(_wrapped, notes))])


def _wrapped(sentence: str) -> str:
    return _printed(Text(one_line(sentence)))


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _printed(renderable: Table | Text) -> str:
    console = Console(
        file=io.StringIO(),
        force_terminal=sys.stdout is not None and sys.stdout.isatty(),
        # COLUMNS, then the terminal, then the width of a pipe.
        width=max(MIN_WIDTH, shutil.get_terminal_size((WIDTH_WHEN_PIPED, 24)).columns),
        highlight=False,
        markup=False,
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
