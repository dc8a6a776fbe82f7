"""Reading a page as a browser would: its elements, texts and data."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """Every element as (tag, attributes), ids, and the text inside each id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements, self.text, self._open = [], {"": ""}, []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if name := found.get("id"):
            self.text[name] = ""
        if tag not in VOID:
            self._open.append((tag, found.get("id")))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> closed by </{tag}>"
        # Elements side by side are words of their own.
        if tag not in ("style", "script"):
            self.handle_data(" ")

    def handle_data(self, data):
        if self._open and self._open[-1][0] in ("style", "script"):
            return
        for _, name in self._open:
            if name:
                self.text[name] += data
        self.text[""] += data

    def all(self, tag, kind=None):
        """Attributes of the elements of a tag, and maybe of a class."""
        return [
            found
            for name, found in self.elements
            if name == tag and (kind is None or kind in (found.get("class") or "").split())
        ]


def words(text):
    return " ".join(text.split())
