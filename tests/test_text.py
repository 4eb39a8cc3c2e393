"""Text of users stays text, on terminals of any encoding and width."""

from __future__ import annotations

import io

import pytest

from prunecca.text import console, printable, take_any_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[lr=0.1] :smile: $x$ é 猫 👩\u200d💻", "[lr=0.1] :smile: $x$ é 猫 👩\u200d💻"),
        ("a\tb\nc\x1b[31m\x07", r"a\tb\nc\x1b[31m\x07"),
        (b"\xff-x".decode("utf-8", "surrogateescape"), r"\udcff-x"),
        ("right\u202eto left", r"right\u202eto left"),
    ],
)
def test_what_is_not_seen_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"\\u732b 1.5 x 2. - > \\udcff"),
        ("latin-1", b"\\u732b 1.5 \xd7 2. - > \\udcff"),
        ("utf-8", "猫 1.5 × 2… – → \\udcff".encode()),
        ("cp1252", b"\\u732b 1.5 \xd7 2\x85 \x96 > \\udcff"),
    ],
)
def test_a_character_that_a_terminal_lacks_is_replaced(encoding, written):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    take_any_terminal({}, stream)
    stream.write("猫 1.5 × 2… – → \udcff")
    stream.flush()
    assert raw.getvalue() == written


@pytest.mark.parametrize("size", ["0", "-1", "", "wide", "²", "1", "100000000000"])
def test_an_unusable_size_of_the_terminal_is_forgotten(monkeypatch, size):
    environ = {"COLUMNS": size, "LINES": size, "HOME": "/"}
    take_any_terminal(environ, io.StringIO())
    assert environ == {"HOME": "/"}
    monkeypatch.setenv("COLUMNS", size)
    assert console().size.width >= 20


def test_a_usable_size_stays(monkeypatch):
    environ = {"COLUMNS": "120", "LINES": "50"}
    take_any_terminal(environ, io.StringIO())
    assert environ == {"COLUMNS": "120", "LINES": "50"}
    monkeypatch.setenv("COLUMNS", "50")
    assert console().width == 50


def test_a_console_prints_brackets_and_colons_as_they_are(capsys):
    from rich.table import Table

    table = Table(title="m[/x]")
    table.add_column("[bold]a")
    table.add_row("[/]:smile:")
    console().print("[lr=0.1] m[/x] :smile:")
    console().print(table)
    printed = capsys.readouterr().out
    for text in ("[lr=0.1] m[/x] :smile:", "m[/x]", "[bold]a", "[/]:smile:"):
        assert text in printed
