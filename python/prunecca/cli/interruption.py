"""How a command ends that is interrupted: one sentence and exit code 130."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import typer

from .. import _interrupt
from ..text import printable


@contextlib.contextmanager
def interruptible(sentence: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C, or the SIGTERM that ends a batch job, ends the command with a sentence made at that moment."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    _interrupt.stop_answering()
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{printable(sentence())}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
