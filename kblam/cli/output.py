"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from kblam.generation import Evidence

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BAR_WIDTH = 20
LEAST_SHOWN = 0.005


def print_json(value: Any) -> None:
    """One JSON document on stdout; any language stays readable."""
    out.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`; the bar is drawn on stderr and goes away when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A spinner on stderr while something of unknown length runs."""
    with err.status(title):
        yield


def evidence_lines(evidence: Sequence[Evidence]) -> list[Text]:
    """One line per triple: a bar of its attention mass, then the fact. What rounds to nothing is left out."""
    lines = []
    for item in evidence:
        if item.mass < LEAST_SHOWN:
            continue
        filled = round(item.mass * BAR_WIDTH)
        line = Text("  ")
        line.append("█" * filled, style="green")
        line.append("░" * (BAR_WIDTH - filled), style="dim")
        line.append(f" {item.mass:4.2f}  ")
        line.append(f"the {item.triple.property} of {item.triple.name}", style="bold")
        line.append(f": {item.triple.value}")
        lines.append(line)
    return lines or [Text("  none", style="dim")]
