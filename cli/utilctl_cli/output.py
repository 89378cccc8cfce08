"""Printing a result: as one JSON document, or as text for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import click

from utilctl_cli.failures import OutputError

Document = TypeVar("Document")


def emit(document: Document, output: str, to_text: Callable[[Document], str]) -> None:
    """Print ``document`` as JSON where ``output`` is ``json``, else as ``to_text`` makes it.

    Raises OutputError when standard output does not take it, BrokenPipeError when its reader went away.
    """
    text = json.dumps(document, indent=2, allow_nan=False) if output == "json" else to_text(document)
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write the output: {error.strerror}", hint="the command itself was carried out"
        ) from None
