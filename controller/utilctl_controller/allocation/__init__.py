"""Who gets what where: exact weighted aggregate max-min fairness. Pure: values in, values out."""

from utilctl_controller.allocation.lint import unreachable
from utilctl_controller.allocation.model import (
    Allocation,
    AllocationError,
    AllocationMode,
    AllocationProblem,
    HostCapacity,
    SeeAllocation,
    SeeClaim,
)
from utilctl_controller.allocation.solver import allocate
from utilctl_controller.allocation.verify import verify

__all__ = [
    "Allocation",
    "AllocationError",
    "AllocationMode",
    "AllocationProblem",
    "HostCapacity",
    "SeeAllocation",
    "SeeClaim",
    "allocate",
    "unreachable",
    "verify",
]
