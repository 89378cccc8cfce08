"""A simulated host for tests of this project and of code that embeds the scheduler: no kernel, no waiting."""

from utilctl_agent.testing.host import Bursts, SimulatedGroup, SimulatedHost, Spin
from utilctl_agent.testing.run import CycleLog, run_engine

__all__ = ["Bursts", "CycleLog", "SimulatedGroup", "SimulatedHost", "Spin", "run_engine"]
