"""The bad lines of a file, gathered so that all are told at once."""

from __future__ import annotations

from pathlib import Path

from kblam.errors import BadLinesError, TripleFormatError, argument

_KINDS_SHOWN, _LINES_SHOWN = 10, 8
_KINDS_KEPT = 1000


class Trouble:
    """Errors of single records, those with one reason together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._first: TripleFormatError | None = None
        self._kinds: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, line: int, error: TripleFormatError) -> None:
        """Notes a record that cannot be read."""
        located = TripleFormatError(error.reason, path=self.path, line=line)
        self._first = self._first or located
        self.count += 1
        if error.reason in self._kinds or len(self._kinds) < _KINDS_KEPT:
            count, lines = self._kinds.setdefault(error.reason, ([0], []))
            count[0] += 1
            if len(lines) < _LINES_SHOWN:
                lines.append(line)

    def details(self) -> list[str]:
        """A text for each reason, with the lines it was found on."""
        details, told = [], 0
        for reason, ((count,), lines) in list(self._kinds.items())[:_KINDS_SHOWN]:
            told += count
            more = f" and {count - len(lines):,} more" if count > len(lines) else ""
            numbers = ", ".join(f"{line:,}" for line in lines)
            details.append(f"line{'s' if count > 1 else ''} {numbers}{more}: {reason}")
        if told < self.count:
            details.append(f"and {self.count - told:,} more with other troubles")
        return details

    def error(self, end: TripleFormatError | None = None) -> TripleFormatError:
        """All of it as one error.

        Args:
            end: what made the rest of the file unreadable.
        """
        if self._first is None or (self.count == 1 and end is None):
            return end or self._first or TripleFormatError("nothing is wrong", path=self.path)
        details = self.details()
        if end is None:
            skip = argument("skip_bad=True", "--skip-bad")
            message = f"{self.count:,} records cannot be read ({skip} goes on without them)"
        else:
            where = "" if end.line is None else f"line {end.line:,}: "
            details.append(f"{where}{end.reason}; nothing after this can be read")
            message = f"{self.count + 1:,} troubles"
        assert self._first.line is not None
        return BadLinesError(message, details, path=self.path, line=self._first.line, count=self.count)
