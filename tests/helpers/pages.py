"""An HTML page as its reader finds it."""

import html.parser


class Page(html.parser.HTMLParser):
    """What a reader finds in the page: elements with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta", "br"):
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]
