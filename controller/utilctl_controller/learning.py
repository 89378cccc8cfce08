"""How long a controller that has just begun to lead only listens. Pure.

Agents come back one after the other, each after a pause of its own. Whoever divides the fleet with half of its hosts
still on their way takes the other half for gone, and moves what both had; a moment later it moves it back. So nothing
is moved before all can be there, and while agents of an earlier leader still arrive. They keep their targets
meanwhile: their leases, which nobody renews, bound the listening.
"""

from __future__ import annotations

from utilctl_controller.settings import ControllerSettings


class Learning:
    """Of one time in which a controller leads."""

    def __init__(self, settings: ControllerSettings, epoch: int, now_ns: int) -> None:
        """``epoch`` is the controller's: 1 means that nobody led before. ``now_ns`` is when it begins to lead."""
        self._epoch = epoch
        self._quiet_ns = settings.learning_intervals * settings.report_interval_ns
        # What is left at least of a lease that was last renewed in time, after a change of leader that took a third.
        longest_ns = settings.lease_ns // settings.renewals_per_lease
        least_ns = self._quiet_ns if epoch <= 1 else max(self._quiet_ns, min(settings.return_ns, longest_ns))
        self._until_ns = now_ns + least_ns
        self._latest_ns = now_ns + max(least_ns, longest_ns)

    def active(self, now_ns: int) -> bool:
        """Whether it still only listens."""
        return now_ns < self._until_ns

    def on_hello(self, epoch: int, now_ns: int) -> None:
        """An agent connected that enforces targets of ``epoch``; 0: none."""
        if self.active(now_ns) and 0 < epoch < self._epoch:
            self._until_ns = min(self._latest_ns, max(self._until_ns, now_ns + self._quiet_ns))
