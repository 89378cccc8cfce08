"""Response times of workloads under shares, caps or neither: the model behind ``utilctl predict``. Pure.

``predict`` is the front door; ``goals`` asks it backwards. ``docs/response-times.md`` teaches it, and
``docs/adr/0011-response-times-without-enumeration.md`` says why it is computed the way it is.
"""

from utilctl_common.responsetime.model import (
    Batch,
    BeyondModelError,
    Machine,
    Node,
    Prediction,
    Response,
    SaturatedError,
    Semantics,
    Transactions,
)
from utilctl_common.responsetime.predict import predict

__all__ = [
    "Batch",
    "BeyondModelError",
    "Machine",
    "Node",
    "Prediction",
    "Response",
    "SaturatedError",
    "Semantics",
    "Transactions",
    "predict",
]
