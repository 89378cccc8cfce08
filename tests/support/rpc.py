"""Calls of the controller that must fail, and policies as they travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc
import pytest

from utilctl_proto.v1 import common_pb2


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that must fail; the message is one line."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = cast("grpc.Call", caught.value)  # what a failed call raises is both; the published types cannot say so
    details = error.details() or ""
    assert details
    assert "\n" not in details
    assert "Traceback" not in details
    return error.code(), details


def wire_policy(see: str, share: float = 1.0, **fields: Any) -> common_pb2.Policy:
    """A policy as a file of policies has it."""
    return common_pb2.Policy(see=see, share=share, mode="auto", **fields)
