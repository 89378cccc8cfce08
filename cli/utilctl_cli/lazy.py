"""A click group that knows its commands by name and imports one only when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from utilctl_cli.near import near_names


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives, as ``module:attribute``, and its line in the group's help."""

    target: str
    short_help: str

    def load(self) -> click.Command:
        """Import the module and return the command."""
        module_name, _, attribute = self.target.partition(":")
        command = getattr(import_module(module_name), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is not a command")
        return command


class SuggestingGroup(click.Group):
    """A group that answers an unknown command with the likeliest ones, and a missing one with all."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command named by the arguments. Raises click.UsageError without one."""
        if not ctx._protected_args:
            raise click.UsageError(f"missing command, use {', '.join(self.list_commands(ctx))}", ctx)
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown name is compared with the table's names."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            message = f"no such command '{error.command_name}'"
            if near := near_names(error.command_name, self.list_commands(ctx)):
                message += f", did you mean {' or '.join(near)}?"
            raise click.UsageError(message, ctx) from None


class LazyGroup(SuggestingGroup):
    """A group whose help is printed from a table, without importing any command."""

    def __init__(self, *args: Any, lazy_commands: Mapping[str, LazyCommand], **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments, passed on
        super().__init__(*args, **kwargs)
        self._lazy_commands = lazy_commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table, which is the order of the help."""
        return [*self._lazy_commands, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None if there is no such command."""
        lazy = self._lazy_commands.get(cmd_name)
        return lazy.load() if lazy else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in self._lazy_commands.items()])
