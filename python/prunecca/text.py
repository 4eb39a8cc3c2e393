"""Names and paths of users as text, never as markup: on terminals of any encoding and width, in figures and tables."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import MutableMapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LEAST = {"COLUMNS": 20, "LINES": 2}  # of which something can be read
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, half of a pair, line and paragraph ends
_JOINER = "\u200d"  # between the parts of one emoji
# What we and rich write beyond ASCII, in one character where a column of a table depends on it.
_PLAIN = {
    **dict.fromkeys("–—−━─╸╺", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    **{"…": ".", "²": "2", "×": "x", "→": ">", "≥": ">=", "≤": "<=", "±": "+-", "µ": "u", "•": "*", "█": "#"},
}
_HANDLER = "prunecca.plain"


def printable(text: object) -> str:
    """The text with every character escaped that is not seen: control characters, bytes that are no UTF-8.

    Example:
        >>> from prunecca.text import printable
        >>> printable("a\\tb")
        'a\\\\tb'
    """
    return "".join(
        c.encode("unicode_escape").decode() if c != _JOINER and unicodedata.category(c) in _HIDDEN else c
        for c in str(text)
    )


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: square brackets and colons are no markup."""
    from rich.console import Console

    environ = {name: value for name, value in os.environ.items() if _usable(name, value)}
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, _environ=environ)


def take_any_terminal(environ: MutableMapping[str, str] = os.environ, *streams: IO[str]) -> None:
    """Let nothing about the terminal end a command: a width of 0 is forgotten, characters it lacks are replaced.

    Args:
        environ: from which unusable sizes are removed.
        streams: that are written to; none: standard output and error.
    """
    for name in _LEAST:
        if not _usable(name, environ.get(name)):
            environ.pop(name, None)
    codecs.register_error(_HANDLER, _replaced)
    for stream in streams or (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # None is a stream of a test, or no stream at all
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _usable(name: str, value: str | None) -> bool:
    """Whether a variable is no size of the terminal, or one that can be meant."""
    if name not in _LEAST or value is None:
        return True
    return value.isascii() and value.isdigit() and _LEAST[name] <= int(value) <= 10_000


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end
