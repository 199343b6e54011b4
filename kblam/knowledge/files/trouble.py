"""The bad lines of a file, gathered so that all are told at once."""

from __future__ import annotations

from pathlib import Path

from kblam.counts import many
from kblam.errors import BadLinesError, TripleFormatError, argument
from kblam.knowledge.columns import READING

_KINDS_SHOWN, _LINES_SHOWN = 10, 8
_KINDS_KEPT = 1000
# A file with more bad records is another file than was meant, and reading on would only take time.
MOST = 100_000


class EnoughTroubleError(TripleFormatError):
    """So many records are bad that the rest is not looked at."""


class Trouble:
    """Errors of single records, those with one reason together.

    Args:
        is_endless: they are left out, however many there are.
        skip: the argument that leaves them out, for the message.
    """

    def __init__(self, path: Path, *, is_endless: bool = False, skip: str | None = None) -> None:
        self.path = path
        self.is_endless = is_endless
        self._skip = skip
        self.count = 0
        self._first: TripleFormatError | None = None
        self._kinds: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, line: int | None, error: TripleFormatError) -> None:
        """Notes a record that cannot be read.

        Args:
            line: None where the source has none, and the reason says which record it is.

        Raises:
            EnoughTroubleError: there are too many.
        """
        located = TripleFormatError(error.reason, path=self.path, line=line)
        self._first = self._first or located
        self.count += 1
        if error.reason in self._kinds or len(self._kinds) < _KINDS_KEPT:
            count, lines = self._kinds.setdefault(error.reason, ([0], []))
            count[0] += 1
            if line is not None and len(lines) < _LINES_SHOWN:
                lines.append(line)
        if self.count >= MOST and not self.is_endless:
            raise EnoughTroubleError("too many bad records", path=self.path, line=line)

    def details(self) -> list[str]:
        """A text for each reason, with the lines it was found on."""
        details, told = [], 0
        for reason, ((count,), lines) in list(self._kinds.items())[:_KINDS_SHOWN]:
            told += count
            more = f" and {count - len(lines):,} more" if count > len(lines) else ""
            numbers = ", ".join(f"{line:,}" for line in lines)
            details.append(f"line{'s' if count > 1 else ''} {numbers}{more}: {reason}" if lines else reason)
        if told < self.count:
            details.append(f"and {self.count - told:,} more with other troubles")
        return details

    def error(self, end: TripleFormatError | None = None) -> TripleFormatError:
        """All of it as one error.

        Args:
            end: what made the rest of the file unreadable.
        """
        if end is not None and not self.count:
            return end
        assert self._first is not None
        if self.count == 1 and end is None:
            return self._first
        details = self.details()
        if end is None or isinstance(end, EnoughTroubleError):
            skip = self._skip or argument("skip_bad=True", "--skip-bad", READING)
            least = "" if end is None else "at least "
            message = f"{least}{many(self.count, 'record')} cannot be read ({skip} goes on without them)"
        else:
            where = "" if end.line is None else f"line {end.line:,}: "
            details.append(f"{where}{end.reason}; nothing after this can be read")
            message = f"{self.count + 1:,} troubles"
        return BadLinesError(message, details, path=self.path, line=self._first.line, count=self.count)
