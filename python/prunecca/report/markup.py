"""HTML by its elements: whatever is not markup already is escaped, so that no text from data can become markup.

tag("p", "density < ", tag("b", 0.5), class_="note")   ->   <p class="note">density &lt; <b>0.5</b></p>
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources

_EMPTY = {"img", "meta", "br"}  # elements without content


class Html(str):
    """Text that is markup already."""


Content = object  # Html as it is, None as nothing, an iterable as its items, everything else as escaped text


def tag(element: str, /, *content: Content, **attributes: object) -> Html:
    """One element. In the names of attributes ``_`` stands for ``-`` and is cut at the end; None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{element}{given}>" if element in _EMPTY else f"<{element}{given}>{join(*content)}</{element}>")


def join(*content: Content) -> Html:
    """All of the content, one after the other."""
    return Html("".join(map(_piece, content)))


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    text: Sequence[int] = (0,),
) -> Html:
    """A table whose first column names the rows; it scrolls sideways where the screen is narrow.

    text: the columns that are set to the left, as text; the others are numbers.
    """

    def side(place: int) -> str | None:
        return None if place in text else "number"

    top = [tag("th", name, scope="col", class_=side(place)) for place, name in enumerate(head)]
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row") if place == 0 else tag("td", cell, class_=side(place))
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    whole = tag("table", tag("caption", tag("span", caption)), tag("thead", tag("tr", top)), tag("tbody", body))
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def picture(svg: bytes, alt: str, caption: Content, *, wide: bool) -> Html:
    """A figure with its picture inside the page."""
    source = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    paper = tag("div", tag("img", src=source, alt=alt), class_="paper", tabindex=0 if wide else None)
    return tag("figure", paper, tag("figcaption", caption), class_="wide" if wide else None)


def document(title: str, *body: Content) -> Html:
    """A whole page in English, its style inside."""
    style = resources.files(__package__).joinpath("report.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return Html(f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n")


def _piece(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Html):
        return content
    if isinstance(content, Iterable) and not isinstance(content, str | bytes):
        return join(*content)
    return html.escape(str(content))
