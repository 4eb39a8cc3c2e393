"""The ``prunecca`` command."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from ..text import printable, take_any_terminal
from .bench import bench
from .compare import compare
from .report import report
from .reproduce import reproduce

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command(no_args_is_help=False)(reproduce)
app.command(no_args_is_help=True)(compare)
app.command(no_args_is_help=True)(report)
app.command(no_args_is_help=False)(bench)


@app.callback()
def _root() -> None:
    """Train networks, prune them, and compare their layers before and after.

    `prunecca reproduce` repeats the study of Ansuini et al. (ICPRAM 2020); without arguments it takes three minutes.
    """


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Tell what was built and what was found on this machine."""
    from ..machine.info import build_info

    found = build_info()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        typer.echo(f"{name.replace('_', ' '):<{width}}  {shown or 'none'}")


def main() -> None:
    """Entry point of the ``prunecca`` command: an error is one sentence, with PRUNECCA_DEBUG=1 also its traceback."""
    take_any_terminal()
    try:
        app(prog_name="prunecca")
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from ..errors import sentence

        if os.environ.get("PRUNECCA_DEBUG", "0") not in ("", "0"):
            raise
        typer.echo(f"prunecca: {printable(sentence(error))}", err=True)
        sys.exit(1)
