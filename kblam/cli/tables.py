"""Texts as the screen is wide: rows are cut, lines go on below themselves; whole where there is no screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from kblam.cli.output import SafeConsole, can_print, on_one_line, out

_GAP = 2
_LEAST_ROOM = 20  # beside an indentation


class Rows:
    """Columns of texts, side by side.

    Attributes:
        is_cut: whether a text is longer than its column.

    Args:
        rows: of texts, as many in each as in `header`.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._header = header
        self._rows = [[_printable(text) for text in row] for row in rows]
        natural = [max(map(cell_len, column)) for column in zip(header, *self._rows, strict=True)]
        width = screen_width()
        self._widths = natural if width is None else fair_widths(natural, width - _GAP * (len(header) - 1))
        self.is_cut = self._widths != natural
        self._mark = "…" if can_print("…") else "..."

    def lines(self) -> Iterator[Text]:
        """The header, then the rows."""
        yield Text(self._line(self._header), style="bold")
        for row in self._rows:
            yield Text(self._line(row))

    def _line(self, texts: Sequence[str]) -> str:
        cells = [set_cell_size(self._cut(text, width), width) for text, width in zip(texts, self._widths, strict=True)]
        return (" " * _GAP).join(cells).rstrip()

    def _cut(self, text: str, width: int) -> str:
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, max(0, width - len(self._mark))).rstrip() + self._mark[:width]


def screen_width(console: SafeConsole = out) -> int | None:
    """Columns of the screen, or those that COLUMNS asks for; None for a file or a pipe, which have no width."""
    return console.width if console.has_width else None


def wrapped(text: str, console: SafeConsole = out) -> str:
    """Lines of words that are longer than the screen go on in the next one, behind their own indentation."""
    width = screen_width(console)
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def hanging(line: Text, indent: int, console: SafeConsole = out) -> Text:
    """A line that is longer than the screen goes on in the next one, behind so many blanks; longer words are cut."""
    width = screen_width(console)
    if width is None or cell_len(line.plain) <= width:
        return line
    head, rest = line.divide([indent])
    is_narrow = width - indent < _LEAST_ROOM
    blanks = " " * (_GAP if is_narrow else indent)
    pieces = list(rest.wrap(console, max(1, width - len(blanks)), overflow="fold"))
    lines = [head] if is_narrow else [head + pieces.pop(0)]
    lines += [Text(blanks) + piece for piece in pieces]
    for each in lines:
        each.rstrip()
    return Text("\n").join(lines)


def print_table(table: Table, title: str = "") -> None:
    """Prints a table within the screen; where there is none each row is whole, a line, and ends with its text."""
    if title:
        out.print(Text(wrapped(title), style="bold"), soft_wrap=True)
    if out.has_width:
        out.print(table)
        return
    for column in table.columns:
        if column.width is not None:  # chosen for a screen
            column.min_width, column.width = column.width, None
    for line in out.render_lines(table, pad=False):
        row = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        row.rstrip()
        out.print(row, soft_wrap=True)


def fair_widths(natural: Sequence[int], room: int) -> list[int]:
    """Widths that fill the room: narrow columns get what they need, wide ones share the rest alike."""
    widths = list(natural)
    left, columns = max(room, len(natural)), len(natural)
    for column in sorted(range(len(natural)), key=natural.__getitem__):
        widths[column] = min(natural[column], left // columns)
        left -= widths[column]
        columns -= 1
    return widths


def _printable(text: str) -> str:
    shown = on_one_line(text)
    if not can_print(shown):
        encoding = getattr(out.file, "encoding", None) or "utf-8"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    return shown
