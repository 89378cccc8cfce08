"""The per-host agent, and a library for programs that schedule processes of their own: ``Sandbox`` and ``Alps``.

Both are loaded when they are asked for: importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which the guard must not import
if TYPE_CHECKING:
    from utilctl_agent.library import Alps
    from utilctl_agent.sandbox import Sandbox

__all__ = ["Alps", "Sandbox"]


def __getattr__(name: str) -> object:
    if name == "Sandbox":
        from utilctl_agent.sandbox import Sandbox

        return Sandbox
    if name == "Alps":
        from utilctl_agent.library import Alps

        return Alps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
