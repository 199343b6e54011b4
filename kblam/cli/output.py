"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from kblam.cli.streams import Stream

if TYPE_CHECKING:
    from kblam.generation import Evidence

# What a terminal may obey or what turns the order of letters round: a knowledge base, a model or a server may hold it.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

# Columns where there is no screen: more than any text has.
_UNLIMITED = 10_000_000
_SCREEN = 80  # of a terminal that does not say

# Seconds between the lines of progress where stderr is no terminal.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0


class SafeConsole(Console):
    """A console on which control characters in a text are shown and do nothing; its own styles still work.

    Lines are as wide as the screen. A file or a pipe has no width: what is a line stays one, for whoever searches it.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            yield segment if segment.control or not _CONTROLS.search(text) else segment._replace(text=visible(text))

    @property
    def has_width(self) -> bool:
        """Whether this is a screen, or COLUMNS asks for a width; FORCE_COLOR makes no screen of a pipe."""
        asked = os.environ.get("COLUMNS", "")
        if asked.isdecimal() and int(asked) > 0:
            return True
        try:
            return bool(getattr(self.file, "isatty", bool)())
        except ValueError:  # it is closed
            return False

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        found = super().size
        if self._width:  # chosen, or of COLUMNS
            return found
        return found._replace(width=found.width or _SCREEN) if self.has_width else found._replace(width=_UNLIMITED)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        Console.size.fset(self, new_size)  # type: ignore[attr-defined]

    @property
    def file(self) -> IO[str]:
        """The stream as it is now; writing to it fails with an error of ours."""
        stream: IO[str] | None = super().file
        if self._file is None and (sys.stderr if self.stderr else sys.stdout) is None:
            stream = None  # rich has one instead that takes everything, and nobody would hear of what is lost
        return Stream(stream, is_data=not self.stderr)  # type: ignore[return-value]

    @file.setter
    def file(self, new: IO[str]) -> None:
        Console.file.fset(self, new)  # type: ignore[attr-defined]


out = SafeConsole(highlight=False)
err = SafeConsole(stderr=True, highlight=False)


def visible(text: str) -> str:
    """The text with its control characters written as escapes."""
    return _CONTROLS.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def on_one_line(text: str) -> str:
    """As `visible`; ends of lines and tabs are blanks."""
    return visible(text).replace("\n", " ").replace("\t", " ")


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; any language stays readable, where the stream can hold it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # JSON has escapes of its own, so what is read back is the same.
    text = re.sub("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text)
    if not can_print(text):
        text = json.dumps(value, indent=indent)
    out.file.write(text + "\n")
    out.file.flush()


def can_print(text: str) -> bool:
    """Whether standard output has these characters."""
    try:
        text.encode(getattr(out.file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`; the bar is drawn on stderr and goes away when it is done.

    Where stderr is no terminal, or one that cannot go back in a line (TERM=dumb), a line is written now and then.
    """
    if not err.is_terminal or err.is_dumb_terminal:
        yield _ProgressLines(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def size_of(count: float) -> str:
    """Bytes in units of a thousand."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 99.5 else f"{count:.2g} {unit}"


class _ProgressLines:
    """Progress as lines: the first after some seconds, and each pause longer than the one before, up to a minute."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._pause = FIRST_PAUSE
        self._next = time.monotonic() + self._pause
        # Of the work that is under way: how much there is, and how much was done when. What came before it, such as
        # reading the sources or loading a model, says nothing about its speed.
        self._since = (-1, 0, 0.0)

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if total != self._since[0] or done < self._since[1]:
            self._since = total, done, now
        if now < self._next or not done:
            return
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._next = now + self._pause
        text = f"{self._title}: {done:,}"
        if total:
            text += f" of {total:,}"
            _, first, began = self._since
            if first < done < total:
                text += f", about {_duration((now - began) * (total - done) / (done - first))} left"
        err.print(Text(text, style="dim"), soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A spinner on stderr while something of unknown length runs."""
    with err.status(title):
        yield


def evidence_lines(evidence: Sequence[Evidence]) -> list[Text]:
    """One line per triple, as this stream can show it; one that says so where there is none."""
    from kblam.generation import drawing

    lines = drawing.evidence_lines(evidence, bars="█░" if can_print("█░") else "#.", safe=on_one_line)
    return lines or [Text("  none", style="dim")]
