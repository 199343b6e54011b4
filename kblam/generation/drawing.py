"""Evidence as lines on a terminal, in one style wherever it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from kblam.counts import many
from kblam.generation.evidence import Evidence
from kblam.knowledge import Source

BAR_WIDTH = 20
# Columns before a fact: a bar and its figure.
INDENT = 2 + BAR_WIDTH + len(" 1.00  ")
LEAST_SHOWN = 0.005
# Of a triple, and characters of a quote.
SOURCES_SHOWN, QUOTE_SHOWN = 2, 200
# What the number behind a bar is.
SHARE = "share of the attention"


def evidence_lines(
    evidence: Sequence[Evidence],
    *,
    least: float = LEAST_SHOWN,
    bars: str = "█░",
    safe: Callable[[str], str] = str,
) -> list[Text]:
    """One line a triple: a bar of its share of the attention, the share, the fact; below it a line for each source.

    The fact has the words that the answer was made from; where the knowledge base says something else by now, so
    does the line.

    Args:
        evidence: of an answer.
        least: a smaller share is left out; by default what rounds to nothing.
        bars: the characters of a full and an empty piece.
        safe: makes a stored text fit for the terminal.
    """
    lines = []
    for item in evidence:
        if item.mass < least:
            continue
        filled = round(item.mass * BAR_WIDTH)
        line = Text("  ")
        line.append(bars[0] * filled, style="green")
        line.append(bars[1] * (BAR_WIDTH - filled), style="dim")
        line.append(f" {item.mass:4.2f}  ")
        line.append(f"the {safe(item.triple.property)} of {safe(item.triple.name)}", style="bold")
        line.append(f": {safe(item.triple.value)}")
        if item.changed:
            line.append("  (changed meanwhile)", style="yellow")
        lines.append(line)
        lines += _source_lines(item.triple.sources, safe)
    return lines


def _source_lines(sources: Sequence[Source], safe: Callable[[str], str]) -> list[Text]:
    """The first documents that say a fact, each with its words."""
    told = []
    for source in sources[:SOURCES_SHOWN]:
        quote = " ".join(source.quote.split())
        quote = quote if len(quote) <= QUOTE_SHOWN else quote[:QUOTE_SHOWN] + "..."
        told.append(f'{source}: "{quote}"')
    if more := len(sources) - len(told):
        told.append(f"and {many(more, 'more source')}")
    return [Text(" " * INDENT + safe(line), style="dim") for line in told]
