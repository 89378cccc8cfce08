"""The service that the command line talks to."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, Protocol, TypeVar, cast

import grpc

from utilctl_common.errors import FailedError, NotLeadingError
from utilctl_common.names import parse_see_name
from utilctl_common.policy import Hold
from utilctl_common.telemetry_grpc import current_trace_id
from utilctl_controller import codec, whatif, whatif_codec
from utilctl_controller.allocation.model import Allocation, AllocationProblem
from utilctl_controller.edits import apply_hold, unknown
from utilctl_controller.explain import explain
from utilctl_controller.metrics import ControllerMetrics
from utilctl_controller.policies import PolicyKeeper
from utilctl_controller.rebalance import Rebalancer, reachability_warnings
from utilctl_controller.rpc_errors import answering
from utilctl_controller.status import ServiceView, host_views, service_views, waiting_views
from utilctl_controller.writes import PolicyWriter
from utilctl_proto.v1 import control_pb2, control_pb2_grpc

DEFAULT_HISTORY: Final = 100
MAX_HISTORY: Final = 10_000
"""Entries of history returned where no limit is asked for, and at most."""

Context = grpc.aio.ServicerContext[Any, Any]
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def led(handler: Handler) -> Handler:
    """Decorate a handler of the control plane: answered by the leader alone, others say who that is."""

    @wraps(handler)
    async def wrapped(self: ControlPlane, request: object, context: Context) -> Any:  # noqa: ANN401 - any response
        try:
            self.check_leading()
            return await handler(self, request, context)
        except NotLeadingError as error:  # by the first line, or by the store: another one has taken over meanwhile
            self.count_redirection(error)
            raise

    return answering(cast("Handler", wrapped))


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What is said of the controller itself, and of the decision that set the targets in force."""

    controller_id: str
    degraded_reason: str
    decided_unix_ns: int
    trace_id: str


class StateSource(Protocol):
    """Whoever runs the decisions."""

    def state(self) -> ControllerState:
        """The controller's state now."""
        ...


class ControlPlane(control_pb2_grpc.ControlServiceServicer):
    """Reads are answered from memory, also while the store is away; writes go through the store."""

    def __init__(
        self,
        keeper: PolicyKeeper,
        source: StateSource,
        metrics: ControllerMetrics,
        allocate: Callable[[AllocationProblem], Awaitable[Allocation]],
    ) -> None:
        """allocate: for questions, beside the decisions."""
        self._metrics = metrics
        self._allocate = allocate
        self._keeper = keeper
        self._leads: Rebalancer | None = None
        self._leader = ""
        self._source = source
        self._writer = PolicyWriter(keeper)

    def lead(self, rebalancer: Rebalancer) -> None:
        """Answer from now on."""
        self._leads = rebalancer

    def follow(self, leader: str) -> None:
        """Send callers to the address ``leader`` from now on, empty: to nobody in particular."""
        self._leads, self._leader = None, leader

    def check_leading(self) -> None:
        """Raise NotLeadingError unless this controller leads."""
        if self._leads is None:
            raise NotLeadingError(self._leader)

    def count_redirection(self, error: NotLeadingError) -> None:
        """A call ends in ``error``."""
        self._metrics.redirected(known=bool(error.leader))

    @property
    def _rebalancer(self) -> Rebalancer:
        """Raises NotLeadingError."""
        self.check_leading()
        assert self._leads is not None
        return self._leads

    @led
    async def SetShare(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.SetShareRequest, context: Context
    ) -> control_pb2.SetShareResponse:
        """Create or change one policy."""
        edit = codec.edit_from(request)
        rebalancer = self._rebalancer  # also if another one leads by the time the write is done
        previous, record = await self._writer.set(edit)
        return codec.set_share_response(
            record,
            previous,
            changed=previous is None or previous.policy != record.policy,
            dry_run=edit.terms.dry_run,
            trace_id=current_trace_id(),
            warnings=reachability_warnings(rebalancer.decision, record.policy),
        )

    @led
    async def DeleteSee(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.DeleteSeeRequest, context: Context
    ) -> control_pb2.DeleteSeeResponse:
        """Remove one policy."""
        edit = codec.delete_from(request)
        return codec.delete_response(await self._writer.delete(edit), dry_run=edit.terms.dry_run)

    @led
    async def Apply(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ApplyRequest, context: Context
    ) -> control_pb2.ApplyResponse:
        """Store a whole policy file as one transaction."""
        edit = codec.apply_from(request)
        applied = await self._writer.apply(edit)
        return codec.apply_response(
            applied.plan, applied.revision, dry_run=edit.terms.dry_run, trace_id=current_trace_id()
        )

    @led
    async def ListPolicies(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListPoliciesRequest, context: Context
    ) -> control_pb2.ListPoliciesResponse:
        """Every policy as the store itself has it, by SEE."""
        return codec.policies_message(await self._keeper.confirmed())

    @led
    async def Hold(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.HoldRequest, context: Context
    ) -> control_pb2.HoldResponse:
        """Keep one SEE's targets as they are for a while."""
        edit = codec.hold_from(request)
        if edit.see not in self._keeper.records:
            raise unknown("service", edit.see, self._keeper.records)
        now_ns = time.monotonic_ns()
        if self._rebalancer.learning(now_ns):
            raise FailedError("the controller has just started and knows no targets to hold", hint="try again soon")
        hold = Hold(time.time_ns() + edit.duration_ns, self._rebalancer.targets_of(edit.see, now_ns))
        _, record = await self._writer.change(edit.see, edit.terms, lambda stored: apply_hold(stored, hold))
        return codec.hold_response(record, hold, dry_run=edit.terms.dry_run)

    @led
    async def Release(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ReleaseRequest, context: Context
    ) -> control_pb2.ReleaseResponse:
        """End a hold before its time."""
        see, terms = codec.release_from(request)
        if see not in self._keeper.records:
            raise unknown("service", see, self._keeper.records)
        previous, record = await self._writer.change(see, terms, lambda stored: apply_hold(stored, None))
        changed = previous is not None and previous.policy.hold is not None
        return control_pb2.ReleaseResponse(record=codec.record_message(record), changed=changed, dry_run=terms.dry_run)

    @led
    async def SetEnabled(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.SetEnabledRequest, context: Context
    ) -> control_pb2.SetEnabledResponse:
        """Let shares hold on the whole fleet, or let nobody be held back."""
        rebalancer = self._rebalancer
        switch, changed = await self._writer.switch(codec.switch_from(request))
        connected = sum(host.connected for host in rebalancer.hosts.values())
        return control_pb2.SetEnabledResponse(
            fleet_switch=codec.switch_message(switch), changed=changed, hosts=connected
        )

    @led
    async def PlanLive(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.PlanLiveRequest, context: Context
    ) -> control_pb2.PlanLiveResponse:
        """What changes would do to the fleet as it is now; nothing is changed."""
        edits = whatif_codec.edits_from(request)
        before = self._rebalancer.policies
        after = whatif.changed(before, edits)
        decision = self._rebalancer.decision
        if decision is None:
            raise FailedError("the controller does not know yet what the fleet wants", hint="try again soon")
        problem = whatif.problem_with(decision.problem, after)
        found = whatif.compare(before, after, decision.sees, problem, await self._allocate(problem))
        return whatif_codec.response(found, self._source.state().decided_unix_ns, len(problem.hosts))

    @led
    async def ListServices(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListServicesRequest, context: Context
    ) -> control_pb2.ListServicesResponse:
        """Every SEE, by name."""
        views = service_views(self._rebalancer, self._keeper.records, time.monotonic_ns())
        return control_pb2.ListServicesResponse(
            services=[codec.service_message(view) for view in views.values()],
            controller=self._controller(),
            waiting=map(codec.waiting_message, waiting_views(self._rebalancer, time.monotonic_ns())),
        )

    @led
    async def ListHosts(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListHostsRequest, context: Context
    ) -> control_pb2.ListHostsResponse:
        """Every host, by name."""
        now_unix_ns = time.time_ns()
        views = host_views(self._rebalancer, time.monotonic_ns())
        return control_pb2.ListHostsResponse(
            hosts=[codec.host_message(view, now_unix_ns) for view in views], controller=self._controller()
        )

    @led
    async def GetShare(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.GetShareRequest, context: Context
    ) -> control_pb2.GetShareResponse:
        """One SEE."""
        return control_pb2.GetShareResponse(
            service=codec.service_message(self._view(request.see)), controller=self._controller()
        )

    @led
    async def Explain(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ExplainRequest, context: Context
    ) -> control_pb2.ExplainResponse:
        """Why one SEE gets what it gets, everywhere or on one host."""
        view = self._view(request.see, host=request.host)
        state = self._source.state()
        explanation = explain(self._rebalancer, view, time.monotonic_ns())
        return codec.explain_message(view, explanation, state.decided_unix_ns, state.trace_id)

    @led
    async def ListHistory(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListHistoryRequest, context: Context
    ) -> control_pb2.ListHistoryResponse:
        """The newest changes, of one SEE (which may be deleted by now) or of all, newest first."""
        see = parse_see_name(request.see) if request.see else None
        limit = min(request.limit or DEFAULT_HISTORY, MAX_HISTORY)
        entries = await self._keeper.history(see, limit)
        known = bool(entries)
        entries = tuple(entry for entry in entries if entry.change.at_unix_ns >= request.since_unix_ns)
        if see is not None and not known and see not in self._keeper.records:
            raise unknown("service", see, self._keeper.records)
        return codec.history_message(entries)

    def _view(self, see: str, *, host: str = "") -> ServiceView:
        parse_see_name(see)
        record = self._keeper.records.get(see)
        if record is None:
            raise unknown("service", see, self._keeper.records)
        if host and host not in self._rebalancer.hosts:
            raise unknown("host", host, self._rebalancer.hosts)
        now_ns = time.monotonic_ns()
        view = service_views(self._rebalancer, {see: record}, now_ns, everywhere=bool(host))[see]
        if host:
            view.per_host = [row for row in view.per_host if row.host == host]
        return view

    def _controller(self) -> control_pb2.ControllerStatus:
        state = self._source.state()
        return codec.controller_message(
            controller_id=state.controller_id,
            epoch=self._rebalancer.epoch,
            store_revision=self._keeper.revision,
            store_available=self._keeper.status.available,
            degraded_reason=state.degraded_reason,
            switch=self._keeper.switch,
        )
